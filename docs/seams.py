#!/usr/bin/env python3
"""Seams: the labels of averaged overlapping windows beside those of exact tiles.

    python docs/seams.py runs/street/fcn8s docs/seams.png

A street of the demo is labelled whole; by windows of 512 pixels that overlap by half, whose
probabilities are averaged, as other libraries do it; and by exact tiles. Pixels whose labels are
not those of the whole image are drawn red.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fullconv import load
from fullconv.base.files import replacing
from fullconv.base.palette import palette_image
from fullconv.demo.streets import draw_scene
from fullconv.export.verified import REFERENCE
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN
from fullconv.predict.engines import build
from fullconv.predict.labeller import Labeller
from fullconv.predict.tiles import Tiles

SIZE = (1024, 1536)
WINDOW, TILE = 512, 768
RED = (220, 30, 30)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", help="a model folder of one head")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    net = load(asked.model).eval()
    image = draw_scene(asked.seed, "test", 0, SIZE)[0]
    label = Labeller(net, build(net, REFERENCE))
    tiles = Tiles.sized(net, SIZE, (TILE, TILE))
    if tiles is None:
        raise SystemExit(f"{asked.model}: has no tiles of {TILE} pixels")
    with torch.inference_mode():
        whole = next(iter(label(image).values()))
        exact = next(iter(label.labels(label.views(image, tiles), SIZE).values()))
        averaged = of_windows(net, image)
    shown = {"whole": whole, "averaged windows": averaged, "exact tiles": exact}
    with replacing(asked.picture) as temporary:
        drawn(net, image, shown).savefig(temporary, format="png", dpi=110)


def of_windows(net: FCN, image: Pixels) -> NDArray[np.uint8]:
    """Return the labels by averaged probabilities of windows that overlap by half."""
    height, width = image.shape[:2]
    total = np.zeros((net.num_classes, height, width), np.float32)
    for top in range(0, height - WINDOW // 2, WINDOW // 2):
        for left in range(0, width - WINDOW // 2, WINDOW // 2):
            part = image[top : top + WINDOW, left : left + WINDOW]
            (coarse,) = net.coarse_of_image(part).values()
            scores = net.upsample(coarse, (part.shape[0], part.shape[1]))
            total[:, top : top + WINDOW, left : left + WINDOW] += scores[0].softmax(0).numpy()
    labels: NDArray[np.uint8] = total.argmax(0).astype(np.uint8)
    return labels


def drawn(net: FCN, image: Pixels, shown: dict[str, NDArray[np.uint8]]) -> Figure:
    """Return the photograph, the labels of each way, and where they are not the whole image's."""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    whole = shown["whole"]
    axes[1, 0].imshow(image)
    axes[1, 0].set_title("the image")
    for column, (name, labels) in enumerate(shown.items()):
        axes[0, column].imshow(palette_image(labels, net.palette).convert("RGB"))
        axes[0, column].set_title(f"labels: {name}")
        if column:
            other = labels != whole
            faint = 255 - (255 - image) // 4
            faint[other] = RED
            axes[1, column].imshow(faint)
            axes[1, column].set_title(f"not those of the whole image: {other.mean():.2%}")
    for each in axes.flat:
        each.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
