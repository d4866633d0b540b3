"""Predictions as drafts: what each tool's files give when they are converted back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fullconv.base.images import ImageReader
from fullconv.datasets.convert import ConvertSettings, convert
from fullconv.datasets.drafts import WRITERS, DraftSettings, regions
from fullconv.datasets.formats.classes import ClassSettings
from fullconv.datasets.formats.draft import Draft

CLASSES = ("road", "car", "sky", "tree")


def blobs(size=(96, 128)):
    """Draw regions with a hole, an island in it, and neighbours at slanted borders."""
    y, x = np.indices(size)
    labels = np.where(y + 0.3 * x > 70, 0, 2).astype(np.uint8)
    labels[np.hypot(y - 40, x - 50) < 25] = 3
    labels[np.hypot(y - 40, x - 50) < 15] = 1
    labels[np.hypot(y - 38, x - 52) < 7] = 0
    labels[5, 5] = 1
    return labels


def mean_iu(one, other):
    ius = [
        ((one == at) & (other == at)).sum() / ((one == at) | (other == at)).sum()
        for at in np.unique(one)
    ]
    return np.mean(ius)


@pytest.mark.parametrize("tool", [name for name, _ in WRITERS])
def test_drafts_read_back(tool, tmp_path):
    labels = blobs()
    photo = tmp_path / "photos" / "x.png"
    photo.parent.mkdir()
    Image.fromarray(np.stack([labels] * 3, -1)).save(photo)
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    drafted = regions(labels, CLASSES, DraftSettings(tool))
    assert sum(len(region.rim) for region in drafted) < 250
    dict(WRITERS)[tool]([Draft("x", photo, labels.shape, drafted)], CLASSES, drafts)
    if tool in ("cvat", "label-studio"):  # whose files name images of their own storage
        shutil.copy(photo, drafts)
    settings = ConvertSettings(classes=ClassSettings(classes=CLASSES, background="ignore"))
    convert(drafts, tmp_path / "out", settings)
    (mask,) = (tmp_path / "out" / "masks").rglob("*.png")
    found = ImageReader().mask(mask)
    assert not (found == 255).any()  # no gaps
    assert mean_iu(labels, found) > 0.97
    assert found[5, 5] == 2  # a speck


@pytest.mark.slow
def test_predict_drafts_with_confidence(command_line, random_model, tmp_path, capsys):
    photo = tmp_path / "photos" / "x.png"
    photo.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)).save(photo)
    out = tmp_path / "out"
    words = ("--out", out, "--engine", "torch", "--scores", "--format", "coco", "--quiet")
    assert command_line("predict", random_model, photo.parent, *words) == 0
    assert f"drafts of 1 images for coco in {out / 'drafts'}" in capsys.readouterr().out
    content = json.loads((out / "drafts" / "annotations.json").read_text())
    assert [each["name"] for each in content["categories"]] == ["red", "green", "[blue]"]
    assert content["images"][0]["file_name"] == "../../photos/x.png"
    assert content["annotations"]
    assert all(1 / 3 - 0.1 < each["score"] <= 1 for each in content["annotations"])


def test_an_image_that_is_labelled_as_a_raster_has_confidences(
    command_line, random_model, tmp_path
):
    pixels = np.random.default_rng(0).integers(0, 255, (7, 9, 3), np.uint8)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("large.tif", "small.png"):
        image = Image.fromarray(pixels.repeat(10, 0).repeat(10, 1))
        image.crop((0, 0, 90 if name == "large.tif" else 50, 70)).save(photos / name)
    found = {}
    for most in (6000, 7000):  # the larger one goes by windows, and is held whole
        out = tmp_path / f"{most}"
        words = ("--out", out, "--engine", "torch", "--scores", "--format", "coco", "--quiet")
        asked = ("--max-pixels", most)
        assert command_line("predict", random_model, photos, *words, *asked) == 0
        content = json.loads((out / "drafts" / "annotations.json").read_text())
        large = {x["id"] for x in content["images"] if x["file_name"].endswith("large.tif")}
        assert len(content["images"]) == 2
        found[most] = [
            (each["category_id"], each["area"], each["score"])
            for each in content["annotations"]
            if each["image_id"] in large
        ]
    assert (tmp_path / "6000/scores/large.tif").exists()
    assert (tmp_path / "7000/scores/large.npy").exists()
    by_windows, whole = np.array(found[6000]), np.array(found[7000])
    np.testing.assert_allclose(by_windows, whole, atol=0.01)


def test_a_tool_that_is_not_known(command_line, random_model, tmp_path, capsys):
    words = ("--out", tmp_path / "out", "--format", "paint")
    assert command_line("predict", random_model, tmp_path, *words) == 2
    assert "format 'paint': is none of png, tif, geojson, gpkg, labelme" in capsys.readouterr().err
