#!/usr/bin/env python3
"""A cat, a parrot and a hot dog, and where two classifiers see them: one picture.

    python docs/heatmaps.py PHOTOS WEIGHTS [OUT]

PHOTOS holds cat.jpg, parrot.jpg and hot_dog.jpg; WEIGHTS mobilenet_v2.safetensors and
squeezenet1_0.safetensors. OUT is build/docs/heatmaps.jpg unless it is given.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from fullconv.base.files import replacing
from fullconv.base.images import ImageReader
from fullconv.net.classifiers import build_classifier
from fullconv.net.heat import DenseClassifier, imagenet_classes, matching
from fullconv.report.heat import heat_picture

PHOTOS = {"cat": ("tabby", "cat"), "parrot": ("macaw",), "hot_dog": ("hot dog",)}
CLASSIFIERS = ("mobilenet_v2", "squeezenet1_0")
HEIGHT, GAP = 420, 16  # pixels


def main(photos: Path, weights: Path, out: Path = Path("build/docs/heatmaps.jpg")) -> None:
    """Draw the picture."""
    names = imagenet_classes()
    rows = []
    for name in CLASSIFIERS:
        dense = DenseClassifier(*build_classifier(name, weights / f"{name}.safetensors"))
        row = []
        for photo, wanted in PHOTOS.items():
            image = ImageReader().image(photos / f"{photo}.jpg")
            classes = sorted({label for each in wanted for label in matching(each, names)})
            drawn = heat_picture(image, dense.heat(image, classes), f"{name}: {', '.join(wanted)}")
            row.append(drawn.resize((drawn.width * HEIGHT // drawn.height, HEIGHT)))
        rows.append(row)
    width = max(sum(each.width + GAP for each in row) for row in rows) + GAP
    page = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) + GAP), "white")
    for number, row in enumerate(rows):
        left = GAP
        for each in row:
            page.paste(each, (left, GAP + number * (HEIGHT + GAP)))
            left += each.width + GAP
    with replacing(out) as temporary:
        page.save(temporary, "JPEG", quality=90)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
