from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_folders import write_rich
from PIL import Image

from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.train.losses import HEAVIEST, class_weights


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
    split = DatasetFolder(root).split("train", ("depth",), ("geo", "sem"))
    found = Fingerprint.of(split).with_pixels(split)
    geo_weights, sem_weights = class_weights(found, split.heads, "balanced")
    ratio = {head: np.median(each) / each for head, each in frequencies.items()}
    assert sem_weights.tolist() == pytest.approx([*ratio["sem"], HEAVIEST])
    assert ratio["geo"][1] > HEAVIEST
    expected = [ratio["geo"][0], HEAVIEST, HEAVIEST, ratio["geo"][2]]
    assert geo_weights.tolist() == pytest.approx(expected)
    for softened, balanced in zip(
        class_weights(found, split.heads, "softened"), (geo_weights, sem_weights), strict=True
    ):
        assert softened.square().tolist() == pytest.approx(balanced.tolist())


def test_of_many_masks_some_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_rich(tmp_path, train=4)
    for index, fill in enumerate((0, 1, 1, 2)):
        mask = np.full((8, 10), fill, np.uint8)
        mask[:2] = 0
        Image.fromarray(mask).save(root / "masks" / "train" / f"train{index}.png")
    split = DatasetFolder(root).split("train", ("depth",), ("sem",))
    monkeypatch.setattr("fullconv.data.fingerprint.MASKS_COUNTED", 2)
    found = Fingerprint.of(split).with_pixels(split)
    (of_ends,) = class_weights(found, split.heads, "balanced")
    frequencies = np.array([100 / 160, 60 / 80])  # of the first and the last mask
    expected = np.median(frequencies) / frequencies
    assert of_ends.tolist() == pytest.approx([expected[0], HEAVIEST, expected[1]])
