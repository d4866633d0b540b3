"""What exact tiles cost: pixels that the net is given, for each of the image; and seconds.

    python -m benchmarks.speed.tiles [--nets mobilenet_v2 --sides 1024 2048] [--derive]

Tiles of some sizes for an image of 10,240 x 10,240 pixels. How many times over its pixels go
through the net follows from the geometry. Measured (for MobileNetV2, torch in float32, random
weights) is the time of a tile inside the image, for each pixel that its cells stand for, as a
multiple of the time a pixel of an image of 1,024 x 1,024, from pixels to coarse scores. The same is
measured of strips (height x width), which have no margins.

Expected: what is measured is what is derived, within a fifth; of strips, at most 1.25.
Results: benchmarks/results/tiles.csv and tiles-machine.json.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.frame import Results, arguments, in_turns
from fullconv.base.runtime import keep_freed_memory
from fullconv.export.verified import REFERENCE
from fullconv.net.fcn import FCN
from fullconv.net.strips import Strip
from fullconv.predict.engines import build
from fullconv.predict.labeller import Labeller
from fullconv.predict.tiles import Tiles

NETS = ("mobilenet_v2", "squeezenet1_1", "resnet18", "vgg16", "resnet50")
SIDES = (768, 1024, 1536, 2048, 3072, 4096)
STRIPS = ("64x10000", "64x40000", "128x40000")
MEASURED = "mobilenet_v2"
IMAGE = 10_240
BASE = 1024
ROWS = 512  # by strips, in a round


def main() -> None:
    """Derive, and measure what is lacking."""
    parser = arguments(__doc__)
    parser.add_argument("--nets", nargs="*", default=NETS)
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES)
    parser.add_argument("--strips", nargs="*", default=STRIPS, metavar="HEIGHTxWIDTH")
    parser.add_argument("--derive", action="store_true", help="measure nothing")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    keep_freed_memory()
    results = Results("tiles")
    for name in asked.nets:
        torch.manual_seed(0)
        net = FCN(name, 8, 21).eval()
        for side in asked.sides:
            tiles = Tiles.sized(net, (IMAGE, IMAGE), (side, side))
            found = {"derived": f"{overhead(tiles):.2f}" if tiles else "", "measured": ""}
            if tiles and name == MEASURED and not asked.derive:
                found["measured"] = f"{measured(net, tiles, asked.rounds):.2f}"
            results.add({"net": name, "tile": str(side)}, found)
    for words in () if asked.derive else asked.strips:
        height, width = map(int, words.split("x"))
        found = {"derived": "", "measured": f"{measured_strips(height, width, asked.rounds):.2f}"}
        results.add({"net": MEASURED, "tile": words}, found)


def overhead(tiles: Tiles) -> float:
    """Return how many pixels the net is given for each of the image."""
    rows, columns = (
        sum(len(span.pixels) for span in axis) / axis[-1].pixels.stop
        for axis in (tiles.rows, tiles.columns)
    )
    return rows * columns


def measured(net: FCN, tiles: Tiles, rounds: int) -> float:
    """Return the time a pixel by tiles inside an image, as a multiple of that of a small image."""
    label = Labeller(net, build(net, REFERENCE))
    noise = np.random.default_rng(0).integers(0, 256, (*tiles.largest, 3), np.uint8)
    small = noise[:BASE, :BASE].copy() if min(noise.shape[:2]) >= BASE else noise
    inner = tiles.rows[len(tiles.rows) // 2], tiles.columns[len(tiles.columns) // 2]
    taken = [len(span.cells) * net.stride for span in inner]
    seen = noise[: len(inner[0].pixels), : len(inner[1].pixels)].copy()
    runs = {"tile": lambda: label.views(seen), "small": lambda: label.views(small)}
    times = in_turns(runs, 1, rounds)
    return times["tile"] / (taken[0] * taken[1]) / (times["small"] / small[..., 0].size)


def measured_strips(height: int, width: int, rounds: int) -> float:
    """Return the time a pixel by strips, as a multiple of that of a small image."""
    torch.manual_seed(0)
    net = FCN(MEASURED, 8, 21).eval()
    label = Labeller(net, build(net, REFERENCE))
    strips = label.engine.strips
    assert strips is not None
    image = Strip(strips, 1 << 30)
    noise = np.random.default_rng(0).integers(0, 256, (ROWS, width, 3), np.uint8)
    small = noise[:, :BASE].repeat(-(-BASE // ROWS), 0)[:BASE].copy()
    small = small.repeat(-(-BASE // small.shape[1]), 1)[:, :BASE].copy()
    tops = iter(range(0, 1 << 30, ROWS))

    def rows() -> None:
        for top in range(0, ROWS, height):
            image.add(noise[top : top + height], at_once=top + height >= ROWS)
        top = max(0, next(tops) - ROWS)  # so many are seen beyond a tile's own
        image.coarse(range(top, top + 2 * ROWS), top)  # as far as a tile sees

    times = in_turns({"strips": rows, "small": lambda: label.views(small)}, 1, rounds)
    return times["strips"] / noise[..., 0].size / (times["small"] / small[..., 0].size)


if __name__ == "__main__":
    main()
