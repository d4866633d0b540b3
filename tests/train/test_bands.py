"""A net learns from all bands; what three of them don't show, three don't teach."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from rasters import PLACE, write
from training import trained

from fullconv.train.recipe import read_recipe

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
TRAIN = 48  # images
MEANS = (400, 3000, 90)  # of the fourth band, by class


def scene(seed, size=(48, 160)):  # wide: a seam one pixel off costs each half little
    """Labels of two halves, and four bands: three of noise, and one that tells them."""
    random = np.random.default_rng(seed)
    halves = random.permutation(3)[:2]
    labels = np.tile(halves.repeat(size[1] // 2), (size[0], 1)).astype(np.uint8)
    bands = random.normal(800, 200, (4, *size))
    bands[3] = np.array(MEANS)[labels] + random.normal(0, 20, size)
    return labels, bands.clip(0, 65535)


def dataset(root, bands, dtype):
    """Write scenes of the first or all bands."""
    root.mkdir()
    show = f"[{min(bands, 4)}, 3, 2]"
    (root / "dataset.yaml").write_text(f"name: x\nclasses: [a, b, c]\nshow: {show}\n")
    for at in range(TRAIN + 4):
        labels, values = scene(at)
        split = "train" if at < TRAIN else "val"
        write(root / f"images/{split}/{at}.tif", values[:bands].astype(dtype), **PLACE)
        (root / f"masks/{split}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(root / f"masks/{split}/{at}.png")
    return root


def mean_iu(root, out, epochs=20):
    recipe = read_recipe(
        "default",
        (f"epochs={epochs}", "batch_size=4", "workers=0", "precision=fp32", "magnify=1", "lr=3e-3"),
    )
    asked = {"data": root, "model": "fcn4s", "backbone": "resnet18", "weights": "none"}
    folder = trained(out, {**asked, "recipe": recipe})
    return folder, json.loads((folder / "metrics.json").read_text())["mean_iu"]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    root = tmp_path_factory.mktemp("bands")
    return *mean_iu(dataset(root / "data", 4, np.uint16), root / "run"), root


def test_a_class_that_only_the_fourth_band_shows_is_learnt(four, tmp_path):
    folder, found, root = four
    assert found > 0.95, found
    _, without = mean_iu(dataset(tmp_path / "data", 3, np.uint16), tmp_path / "run", 3)
    assert without < 0.5
    about = json.loads((folder / "config.json").read_text())["preprocessing"]
    assert about["bands"] == {"bands": ["band 1", "band 2", "band 3", "band 4"]}
    assert about["show"] == [4, 3, 2]
    values = np.concatenate(
        [scene(at)[1].astype(np.uint16).reshape(4, -1) for at in range(TRAIN)], 1
    )
    np.testing.assert_allclose(np.divide(about["mean"], about["scale"]), values.mean(1), rtol=1e-6)
    np.testing.assert_allclose(np.divide(about["std"], about["scale"]), values.std(1), rtol=1e-6)
    record = yaml.safe_load((root / "run/recipe.yaml").read_text())
    np.testing.assert_allclose(record["spreads"]["bands"][0], values.mean(1))
