"""A dataset folder that a net can learn: the masks follow from the colours of the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dataset_folders import write_yaml
from PIL import Image

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)


def write_scenes(
    root: Path, train: int = 6, val: int = 2, size: tuple[int, int] = (32, 48), test: int = 0
) -> Path:
    """Write pictures of coloured boxes, one colour a class, with some noise."""
    write_yaml(root, ("red", "green", "blue"))
    for split, count in (("train", train), ("val", val), ("test", test)):
        for index in range(count):
            random = np.random.default_rng((index, len(split)))
            labels = boxes(random, size)
            noise = random.integers(-30, 31, (*size, 3))
            image = (COLOURS[labels] + noise).clip(0, 255).astype(np.uint8)
            for kind, pixels in (("images", image), ("masks", labels)):
                path = root / kind / split / f"{split}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def boxes(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Label ids of two boxes, on a ground."""
    labels = np.full(size, random.integers(3), np.uint8)
    for _ in range(2):
        top, left = random.integers(0, size[0] // 2), random.integers(0, size[1] // 2)
        labels[top : top + size[0] // 2, left : left + size[1] // 2] = random.integers(3)
    return labels
