"""A raster of 40,000 x 40,000 pixels through `fullconv predict`: memory, and time a pixel.

    python -m benchmarks.speed.gigapixel [--side 40000] [--engine openvino --precision bf16]

The raster is drawn as it is written, block by block: an RGB GeoTIFF. A MobileNetV2 FCN-8s of 21
classes (random weights) labels it in a process of its own, with --memory 0.9GB; in another goes
a folder of photographs of 1,024 x 1,024, cut from it, as PNGs. Each process is measured from its
start to its end, the time of getting ready (that of a raster of 64 x 64) taken off.

Expected: the highest resident memory of the process is below 2 GiB, and a pixel takes at most 1.25
times as long as one of the photographs.
Results: benchmarks/results/gigapixel.csv and gigapixel-machine.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin
from rasterio.windows import Window

from benchmarks.frame import Results, arguments, in_own_process
from fullconv.net.fcn import FCN

SIDE, BLOCK, PHOTO, PHOTOS = 40_000, 512, 1024, 24
CLASSES = 21
MEMORY = "0.9GB"
RUN = "--run"  # a process of its own does


def main() -> None:
    """Measure, or run one command and tell what it took."""
    parser = arguments(__doc__)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--memory", default=MEMORY)
    if sys.argv[1:2] == [RUN]:  # whose options are fullconv's
        print(json.dumps(taken(sys.argv[2:])))
        return
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), asked.side, asked.engine, asked.precision, asked.memory)
    identity = {"side": str(asked.side), "engine": asked.engine, "precision": asked.precision}
    Results("gigapixel").add(identity, found)


def measured(folder: Path, side: int, engine: str, precision: str, memory: str) -> dict[str, str]:
    """Return the columns of a row."""
    torch.manual_seed(0)
    net = FCN("mobilenet_v2", 8, CLASSES)
    for score in net.scores.values():
        assert isinstance(score, torch.nn.Conv2d)
        torch.nn.init.normal_(score.weight, std=0.1)
    net.save_pretrained(folder / "model")
    draw(folder / "large.tif", side)
    draw(folder / "small.tif", 64)
    cut(folder / "large.tif", folder / "photos", min(PHOTOS, (side // PHOTO) ** 2))
    options = ("--engine", engine, "--precision", precision, "--memory", memory)

    def run(source: str, *more: str) -> dict[str, float]:
        words = ("predict", str(folder / "model"), str(folder / source))
        out = ("--out", str(folder / "out" / source), "--quiet")
        line = in_own_process(__spec__.name, RUN, *words, *out, *options, *more)
        return dict(json.loads(line))

    ready = run("small.tif", "--format", "tif")["seconds"]
    photos, large = run("photos"), run("large.tif", "--format", "tif")
    pixels = len(list((folder / "photos").iterdir())) * PHOTO**2
    times = [
        (each["seconds"] - ready) / count * 1e9
        for each, count in ((large, side**2), (photos, pixels))
    ]
    return {
        "mib": f"{large['mib']:.0f}",
        "seconds": f"{large['seconds']:.0f}",
        "ns_a_pixel": f"{times[0]:.1f}",
        "ns_a_pixel_of_photos": f"{times[1]:.1f}",
        "ratio": f"{times[0] / times[1]:.2f}",
    }


def taken(words: list[str]) -> dict[str, float]:
    """Run fullconv; return its highest memory in MiB and its seconds."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "fullconv", *words], check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - begun
    highest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": seconds, "mib": highest}


def draw(path: Path, side: int) -> None:
    """Write a raster of soft noise, a row of blocks at a time."""
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", tiled=True,
        blockxsize=BLOCK, blockysize=BLOCK, compress="lzw", photometric="RGB", crs="EPSG:32633",
        transform=from_origin(500_000, 5_000_000, 0.1, 0.1), BIGTIFF="IF_SAFER",
    ) as raster:  # fmt: skip
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                height, width = min(BLOCK, side - top), min(BLOCK, side - left)
                block = np.moveaxis(soft_noise(top * side + left)[:height, :width], 2, 0)
                raster.write(block, window=Window(left, top, width, height))


def soft_noise(seed: int) -> NDArray[np.uint8]:
    """Return a block of smooth colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (17, 17, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((BLOCK, BLOCK), Image.Resampling.BILINEAR))


def cut(source: Path, folder: Path, count: int) -> None:
    """Cut photographs out of a raster."""
    folder.mkdir()
    with rasterio.open(source) as raster:
        for index in range(count):
            across = max(raster.width // PHOTO, 1)
            window = Window(index % across * PHOTO, index // across * PHOTO, PHOTO, PHOTO)
            photo = np.moveaxis(raster.read(window=window), 0, 2)
            Image.fromarray(photo).save(folder / f"{index}.png")


if __name__ == "__main__":
    main()
