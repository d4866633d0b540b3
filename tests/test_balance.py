from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_folders import write_rich
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import CachedSplit
from fullconv.train.balance import HEAVIEST, class_weights


def test_each_head_has_its_own_weights(tmp_path: Path) -> None:
    root = write_rich(tmp_path, train=2)
    masks = {
        "masks": (np.zeros((8, 10), np.uint8), np.full((5, 13), 255, np.uint8)),
        "masks_geo": (np.zeros((8, 10), np.uint8), np.full((5, 13), 3, np.uint8)),
    }
    sem, geo = masks["masks"], masks["masks_geo"]
    sem[0][:, 8:] = 1  # 64 of class 0, 16 of class 1
    sem[1][0, :4] = 0  # 4 of class 0 alone; class 2 never
    geo[0][0, 0] = 1  # 79 of class 0 and one of class 1; class 3 fills the other image
    for folder, arrays in masks.items():
        for index, array in enumerate(arrays):
            Image.fromarray(array).save(root / folder / "train" / f"train{index}.png")
    frequencies = {"sem": np.array([68 / 84, 16 / 80]), "geo": np.array([79 / 80, 1 / 80, 1.0])}
    split = CachedSplit(DatasetFolder(root).split("train", ("depth",), ("geo", "sem")), 1 << 20)
    geo_weights, sem_weights = class_weights(split, "balanced")
    ratio = {head: np.median(each) / each for head, each in frequencies.items()}
    assert sem_weights.tolist() == pytest.approx([*ratio["sem"], 1.0])
    assert ratio["geo"][1] > HEAVIEST
    expected = [ratio["geo"][0], HEAVIEST, 1.0, ratio["geo"][2]]
    assert geo_weights.tolist() == pytest.approx(expected)
    for softened, balanced in zip(
        class_weights(split, "softened"), (geo_weights, sem_weights), strict=True
    ):
        assert softened.square().tolist() == pytest.approx(balanced.tolist())
