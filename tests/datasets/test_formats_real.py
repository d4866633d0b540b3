"""Files that the tools' own libraries wrote (tests/fixtures/formats/make.py), converted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.base.fill import as_ring, covered
from fullconv.base.images import ImageReader
from fullconv.base.shapes import run_lengths
from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder
from fullconv.datasets.convert import ConvertSettings, convert
from fullconv.datasets.formats.classes import ClassSettings
from fullconv.datasets.formats.pixels import coco_mask, coco_text

FIXTURES = Path(__file__).parents[1] / "fixtures" / "formats"
SIZE = (24, 32)
CLASSES = ClassSettings(classes=("background", "car", "road"))
FOLDERS = {
    "labelme": ("labelme", {"train": 2}),
    "label-studio": ("Label Studio", {"train": 2}),
    "label-studio-png": ("Label Studio's PNGs", {"train": 2}),
    "supervisely": ("Supervisely", {"train": 2}),
    "pycocotools": ("COCO", {"train": 2}),
    "datumaro-coco_instances": ("COCO", {"train": 1, "val": 1}),
    "datumaro-cvat": ("CVAT for images 1.1", {"train": 1, "val": 1}),
    "datumaro-voc_segmentation": ("Pascal VOC, colours", {"train": 1, "val": 1}),
}


def truth(name):
    return np.asarray(Image.open(FIXTURES / f"truth-{name}.png"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_labels_are_those_drawn(folder, tmp_path):
    # Supervisely's polygons were drawn from pixel to pixel.
    fill = None if folder == "supervisely" else "centres"
    done = convert(FIXTURES / folder, tmp_path / "out", ConvertSettings(classes=CLASSES, fill=fill))
    assert (done.format, done.counts) == FOLDERS[folder]
    assert done.classes == ("background", "car", "road")
    masks = sorted((tmp_path / "out" / "masks").rglob("*.png"))
    assert [path.stem for path in masks] == ["a", "b"]
    for path in masks:
        np.testing.assert_array_equal(ImageReader().mask(path), truth(path.stem))
    assert not check_folder(tmp_path / "out").errors
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_labelme_by_its_own_rule_covers_the_outline(tmp_path):
    convert(FIXTURES / "labelme", tmp_path / "out", ConvertSettings(classes=CLASSES, fill=None))
    found = ImageReader().mask(tmp_path / "out" / "masks" / "train" / "a.png")
    wanted = truth("a").copy()
    road = wanted[12:23, 2:31]
    road[road == 0] = 2  # one row and one column more
    np.testing.assert_array_equal(found, wanted)


def test_the_images_are_the_same_files(tmp_path):
    convert(FIXTURES / "pycocotools", tmp_path / "out")
    for name in ("a.png", "b.png"):
        original = FIXTURES / "pycocotools" / "images" / name
        assert (tmp_path / "out" / "images" / "train" / name).read_bytes() == original.read_bytes()
    assert len(DatasetFolder(tmp_path / "out").listing("train").samples) >= 1


def oracle(key):
    return json.loads((FIXTURES / "pycocotools" / "oracle.json").read_text())[key]


def pixels_of(indices):
    found = np.zeros(SIZE[0] * SIZE[1], bool)
    found[indices] = True
    return found.reshape(SIZE)


@pytest.mark.parametrize("case", oracle("masks"))
def test_run_lengths_both_ways_as_pycocotools(case):
    wanted = pixels_of(case["pixels"])
    np.testing.assert_array_equal(coco_mask(case["counts"], SIZE), wanted)
    assert coco_text(run_lengths(wanted)) == case["counts"]


@pytest.mark.parametrize("case", json.loads((FIXTURES / "cvat-sdk" / "oracle.json").read_text()))
def test_masks_of_cvat_as_its_sdk(case, tmp_path):
    *runs, left, top, right, bottom = case["points"]
    box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
    places = " ".join(f'{name}="{value}"' for name, value in box.items())
    height, width = SIZE
    (tmp_path / "annotations.xml").write_text(
        f'<annotations><image id="0" name="x.png" width="{width}" height="{height}">'
        f'<mask label="car" rle="{", ".join(map(str, runs))}" {places} z_order="0"/>'
        "</image></annotations>"
    )
    Image.new("RGB", (width, height)).save(tmp_path / "x.png")
    convert(tmp_path, tmp_path / "out", ConvertSettings(classes=CLASSES))
    found = ImageReader().mask(tmp_path / "out" / "masks" / "train" / "x.png")
    np.testing.assert_array_equal(found == 1, pixels_of(case["pixels"]))


@pytest.mark.parametrize("case", oracle("polygons"))
def test_polygons_of_whole_pixels_as_pycocotools(case):
    y, x, box = covered([as_ring(np.reshape(case["points"], (-1, 2)))], SIZE)
    found = np.zeros(SIZE, bool)
    found[y : y + box.shape[0], x : x + box.shape[1]] = box
    np.testing.assert_array_equal(found, pixels_of(case["pixels"]))
