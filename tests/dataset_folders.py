"""Small dataset folders for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("road", "tree", "sky")


def write_yaml(root: Path, classes: tuple[str, ...] = CLASSES) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.yaml").write_text(f"name: tiny\nclasses: [{', '.join(classes)}]\n")


def picture(seed: int, size: tuple[int, int] = (8, 10)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def labels(seed: int, size: tuple[int, int] = (8, 10), count: int = len(CLASSES)) -> np.ndarray:
    """Random ids, all of 0..count-1 and 255 among them."""
    ids = np.random.default_rng(seed).integers(0, count, size, dtype=np.uint8)
    ids.flat[: count + 1] = [*range(count), 255]
    return ids


def add_sample(root: Path, split: str, name: str, seed: int, suffix: str = ".png") -> None:
    for kind, pixels, ending in (("images", picture, suffix), ("masks", labels, ".png")):
        path = root / kind / split / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(path)


def write_dataset(root: Path, train: int = 4, val: int = 2, test: int = 2) -> Path:
    """A sound dataset folder of random pictures, no two alike."""
    write_yaml(root)
    for offset, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        for index in range(count):
            add_sample(root, split, f"{split}{index}", 1000 * offset + index)
    return root
