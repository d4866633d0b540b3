"""What annotations say is found where it is, taken for what it is, or told: never mixed up."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml
from annotation_folders import (
    SIZE,
    coco,
    converted,
    labelme_source,
    save_image,
    save_json,
    save_mask,
    shape,
    square,
)

from fullconv.base.errors import FullconvError
from fullconv.datasets.convert import ConvertSettings, convert
from fullconv.datasets.formats.classes import ClassSettings


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("where", [".", ".."])
@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_a_file_by_a_relative_path(source, tmp_path, monkeypatch, kind, where):
    if kind == "coco":
        save_image(source / "x.png", (6, 8))
        save_json(source / "x.json", coco([square(1, 1, 1, 2)]))
    else:
        labelme_source(source, [shape("car", "rectangle", [1, 1], [3, 3])])
    monkeypatch.chdir(source if where == "." else tmp_path)
    file = (source / "x.json").relative_to(source if where == "." else tmp_path)
    done, found = converted(file, tmp_path)
    assert done.counts == {"train": 1}
    assert np.argwhere(found["train/x"] == 1).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_labels_of_cvat_are_not_called_as_their_attributes(source, tmp_path):
    save_image(source / "x.png", (6, 8))
    attribute = "<attribute><name>occlusion</name><values>no\nyes</values></attribute>"
    (source / "annotations.xml").write_text(
        "<annotations><meta><task><labels>"
        "<label><name>car</name><color>#ff0000</color><type>any</type>"
        f"<attributes>{attribute}</attributes></label>"
        "<label><name>road</name><color>#00ff00</color><attributes></attributes></label>"
        '</labels></task></meta><image id="0" name="x.png" width="8" height="6">'
        '<box label="car" xtl="1" ytl="1" xbr="3" ybr="3" z_order="0">'
        '<attribute name="occlusion">no</attribute></box></image></annotations>'
    )
    done, found = converted(source, tmp_path, classes=ClassSettings(background="ignore"))
    assert done.classes == ("car", "road")
    assert found["train/x"][1, 1] == 0
    info = yaml.safe_load((tmp_path / "out" / "dataset.yaml").read_text())
    assert info["palette"] == [[255, 0, 0], [0, 255, 0]]


def pair(source, image, mask, value=1):
    save_image(source / image)
    save_mask(source / mask, np.full(SIZE, value, np.uint8))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("images/0_L.jpg", "masks/0_L.png"), ("images/0_R.jpg", "masks/0_R.png")),
        (("images/0_L.jpg", "masks/0_L_mask.png"), ("images/0_R.jpg", "masks/0_R_mask.png")),
        (("images/a_rgb.png", "masks/a_rgb.png"), ("images/b_rgb.png", "masks/b.png")),
        (("images/a_rgb.png", "masks/a_gt.png"), ("images/b.png", "masks/b_gt.png")),
        (("0_L.jpg", "0_L_mask.png"), ("0_R.jpg", "0_R_mask.png")),
        (("a_rgb.jpg", "a_mask.png"), ("b_rgb.jpg", "b_rgb_mask.png")),
    ],
)
def test_masks_are_paired_with_their_own_images(source, tmp_path, first, second):
    pair(source, *first, 1)
    pair(source, *second, 2)
    done, found = converted(source, tmp_path)
    assert done.classes == ("1", "2")
    assert [labels[0, 0] for labels in found.values()] == [0, 1]


@pytest.mark.parametrize("names", ["images/{}.jpg masks/{}.png", "{}.jpg {}_mask.png"])
def test_what_has_no_partner_is_told_or_left_out(source, tmp_path, names):
    image, mask = names.split()
    for name in "ab":
        pair(source, image.format(name), mask.format(name))
    for name in "cd":
        save_image(source / image.format(name))
    for name in "xyz":
        save_mask(source / mask.format(name))
    told = (
        f"2 images without a mask ({image.format('c')}, {image.format('d')}); 3 masks without an "
        f"image ({mask.format('x')}, {mask.format('y')}, {mask.format('z')})"
    )
    with pytest.raises(FullconvError, match=re.escape(f"{told}; repair that, or leave it out")):
        converted(source, tmp_path)
    done, found = converted(source, tmp_path, skip=True)
    assert [*found] == ["train/a", "train/b"]
    assert [f"left out: {line}" for line in told.split("; ")] == [*done.notes[:2]]


def test_of_two_masks_of_an_image_one_is_told(source, tmp_path):
    pair(source, "images/a.jpg", "masks/a.png")
    save_mask(source / "masks" / "a_label.png")
    with pytest.raises(FullconvError, match=r"1 masks without an image \(masks/a_label\.png\)"):
        converted(source, tmp_path)


def test_a_dataset_folder_is_divided_whole_or_says_what_it_lacks(source, tmp_path):
    for name in "abcd":
        pair(source, f"images/train/{name}.jpg", f"masks/train/{name}.png")
    save_mask(source / "masks" / "train" / "idle.png")
    (source / "dataset.yaml").write_text("name: d\nclasses: [a, b, c]\n")
    settings = {"shares": (0.5, 0.5, 0.0)}
    done, _ = converted(source, tmp_path, **settings)
    assert "left out: 1 files that belong to no image (see data check)" in done.notes
    for name in "ef":
        save_image(source / "images" / "train" / f"{name}.jpg")
    told = "2 images without a mask (images/train/e.jpg, images/train/f.jpg)"
    with pytest.raises(FullconvError, match=re.escape(told)):
        convert(source, tmp_path / "again", ConvertSettings(**settings))
    again = convert(source, tmp_path / "again", ConvertSettings(**settings, skip=True))
    assert again.counts == {"train": 2, "val": 2}
    assert f"left out: {told}" in again.notes


def test_names_that_voc_lists_without_a_mask_are_told(source, tmp_path):
    pair(source, "JPEGImages/x.jpg", "SegmentationClass/x.png")
    lists = source / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("x\ny\n")
    done, found = converted(source, tmp_path)
    assert [*found] == ["val/x"]
    assert "left out: 1 listed images without a mask: y" in done.notes
