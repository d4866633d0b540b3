"""Trainings of 20 steps that are to end alike, whoever makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_folders import labels, picture, write_yaml
from PIL import Image
from safetensors.numpy import load_file

from fullconv.train.outcome import read_log
from fullconv.train.recipe import read_recipe

SETTINGS = (
    "steps=20",
    "batch_size=4",
    "precision=fp32",
    "workers=0",
    "optimizer=sgd",
    "lr=0.0005",
    "crop=64x96",
    "keep=last",
    "magnify=1",
    "validate_every=2",
    "color=0",
)


TIES = ("val_pixel_accuracy", "val_mean_iu")  # pixels of two equal scores have either label


def write_textures(root: Path) -> Path:
    """Write 11 training and 3 val images without any flat ground.

    Where features hardly vary, batch normalisation makes much of float errors.
    """
    write_yaml(root)
    for split, count in (("train", 11), ("val", 3)):
        for index in range(count):
            for kind, draw in (("images", picture), ("masks", labels)):
                path = root / kind / split / f"{split}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw(100 * len(split) + index, (64, 96))).save(path)
    return root


def asked(data: Path, *settings: str, **options: str) -> dict[str, Any]:
    return {
        "data": data,
        "weights": "none",
        "model": "fcn16s",
        "backbone": "shufflenet_v2_x0_5",
        "recipe": read_recipe("default", [*SETTINGS, *settings]),
        **options,
    }


def assert_alike(one: Path, other: Path) -> None:
    """Compare two trainings of 20 steps: weights and losses; metrics but for some ties."""
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        relative = 1e-3 if "running" in name else 0  # statistics of a few small values
        np.testing.assert_allclose(theirs[name], value, relative, 1e-5, err_msg=name)
    rows = [read_log(folder / "log.csv") for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    for expected, found in zip(*rows, strict=True):
        for column, value in expected.items():
            if column != "seconds":
                near = {"abs": 2e-3} if column in TIES else {"rel": 1e-4}
                assert found[column] == (value and pytest.approx(value, **near)), column
