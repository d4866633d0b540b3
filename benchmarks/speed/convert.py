"""`fullconv data convert` on large sets: seconds and the highest memory, by the number of images.

    python -m benchmarks.speed.convert [--images 1250 2500 5000] [--side 64]

draws COCO sets of JPEGs of `--side` pixels a side, with four polygons each (20,000 annotations of
5,000 images), and converts each in a process of its own. `mib_added` is what the conversion takes
beyond the process as it is when everything is imported.

Expected: seconds grow as the number of images does, and memory by no more than the annotations
themselves take as Python's objects (a few KiB each), whatever the images' size.
Results: benchmarks/results/convert.csv and convert-machine.json.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.frame import Results, Row, arguments, highest_memory, in_own_process
from fullconv.datasets.convert import convert

A_PICTURE = 4  # annotations
CLASSES = ("road", "car", "sky", "tree", "sign")


def main() -> None:
    """Measure every number of images in its own process, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1250, 2500, 5000])
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--convert", type=Path, help="convert this set alone, and print the row")
    given = parser.parse_args()
    if given.convert is not None:
        print(json.dumps(converted(given.convert)))
        return
    rows = []
    for count in given.images:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder) / "coco", count, given.side)
            words = ("--convert", str(Path(folder) / "coco"))
            found = json.loads(in_own_process("benchmarks.speed.convert", *words))
            rows.append({"images": str(count), "annotations": str(A_PICTURE * count), **found})
    Results("convert").replace(rows)


def draw(folder: Path, count: int, side: int) -> None:
    """Write a COCO set of noise and random polygons of 12 corners."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for index in range(count):
        name = f"{index:06d}.jpg"
        Image.fromarray(random.integers(0, 256, (side, side, 3)).astype(np.uint8)).save(
            folder / "images" / name
        )
        images.append({"id": index, "file_name": name, "height": side, "width": side})
        for _ in range(A_PICTURE):
            angles = np.sort(random.random(12)) * 2 * np.pi
            centre, radius = random.random(2) * side, side * (0.1 + 0.2 * random.random())
            ring = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": 1 + int(random.integers(len(CLASSES))),
                    "iscrowd": 0,
                    "segmentation": [ring.clip(0, side).round(2).ravel().tolist()],
                }
            )
    categories = [{"id": 1 + at, "name": name} for at, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def converted(source: Path) -> Row:
    """Convert a set; return how long it took and what memory."""
    with tempfile.TemporaryDirectory() as folder:
        before, begun = highest_memory(), time.perf_counter()
        convert(source, Path(folder) / "data")
        spent, highest = time.perf_counter() - begun, highest_memory()
    return {
        "seconds": f"{spent:.1f}",
        "mib": f"{highest:.0f}",
        "mib_added": f"{highest - before:.0f}",
    }


if __name__ == "__main__":
    main()
