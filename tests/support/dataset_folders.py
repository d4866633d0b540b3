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


GEOMETRY = ("sky", "horizontal", "vertical", "porous")
RICH = f"""
name: rich
inputs: {{color: images, depth: depth, hha: hha}}
heads:
  sem: {{masks: masks, classes: [{", ".join(CLASSES)}], unscored: [tree]}}
  geo: {{masks: masks_geo, classes: [{", ".join(GEOMETRY)}]}}
ignore_index: 255
"""


def depth(seed: int, size: tuple[int, int] = (8, 10)) -> np.ndarray:
    """Random 16-bit values, the least and the highest among them."""
    values = np.random.default_rng(seed).integers(0, 1 << 16, size, dtype=np.uint16)
    values.flat[:2] = 0, 65535
    return values


def add_scene(
    root: Path, split: str, name: str, seed: int, size: tuple[int, int] = (8, 10)
) -> None:
    """An image, its depth, its HHA and the masks of two heads, all different."""
    for folder, pixels in (
        ("images", picture(seed, size)),
        ("depth", depth(seed, size)),
        ("hha", picture(seed + 100, size)),
        ("masks", labels(seed, size)),
        ("masks_geo", labels(seed + 200, size, len(GEOMETRY))),
    ):
        path = root / folder / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_rich(root: Path, train: int = 3, val: int = 2, test: int = 2) -> Path:
    """A sound dataset folder of three inputs and two heads; train1 has a size of its own."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.yaml").write_text(RICH)
    for offset, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        for index in range(count):
            size = (5, 13) if (split, index) == ("train", 1) else (8, 10)
            add_scene(root, split, f"{split}{index}", 1000 * offset + index, size)
    return root
