"""Layouts of folders that are recognised, and what becomes of their labels."""

from __future__ import annotations

import base64
import io
import json
import zipfile

import numpy as np
import pytest
import yaml
from annotation_folders import (
    LABELS,
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
from PIL import Image

from fullconv.base.errors import FullconvError
from fullconv.base.palette import palette_image, voc_palette
from fullconv.datasets.convert import ConvertSettings, convert
from fullconv.datasets.formats.cityscapes import CLASSES as CITYSCAPES
from fullconv.datasets.formats.classes import ClassSettings


def one(source, tmp_path, **settings):
    done, masks = converted(source, tmp_path, **settings)
    (labels,) = masks.values()
    return done.classes, labels.tolist()


def coloured(labels=LABELS):
    return np.array(voc_palette(), np.uint8)[np.where(labels == 255, 0, labels)]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_voc_with_a_palette_and_a_list(source, tmp_path):
    save_image(source / "JPEGImages" / "x.jpg")
    save_image(source / "JPEGImages" / "unlisted.jpg")
    masks = source / "SegmentationClass"
    masks.mkdir()
    palette_image(LABELS, voc_palette(), None).save(masks / "x.png")
    save_mask(masks / "unlisted.png")
    lists = source / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("x\n")
    done, found = converted(source, tmp_path)
    assert done.classes[:3] == ("background", "aeroplane", "bicycle")
    assert found["val/x"].tolist() == LABELS.tolist()
    info = yaml.safe_load((tmp_path / "out" / "dataset.yaml").read_text())
    assert info["palette"][1] == [128, 0, 0]


def test_cvat_segmentation_mask_as_a_zip(source, tmp_path):
    colours = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
    labels = np.where(LABELS == 255, 0, LABELS)
    save_image(source / "JPEGImages" / "x.png")
    save_mask(source / "SegmentationClass" / "x.png", colours[labels])
    (source / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:250,50,83::\ncar:51,221,255::\n"
    )
    archive = tmp_path / "task.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in source.rglob("*.*"):
            opened.write(path, path.relative_to(source))
    classes, found = one(archive, tmp_path)
    assert classes == ("background", "road", "car")
    assert found == labels.tolist()


@pytest.fixture
def coco_source(source):
    save_image(source / "images" / "x.png", (6, 8))
    annotations = [square(1, 1, 1, 2), square(2, 0, 0, 4), square(1, 5, 2, 2, iscrowd=1)]
    save_json(source / "annotations" / "instances_val.json", coco(annotations))
    return source


def test_coco_the_smaller_is_seen_and_crowds_are_ignored(coco_source, tmp_path):
    done, found = converted(coco_source, tmp_path)
    assert done.classes == ("background", "car", "road")
    assert found["val/x"].tolist() == [
        [2, 2, 2, 2, 0, 0, 0, 0],
        [2, 1, 1, 2, 0, 0, 0, 0],
        [2, 1, 1, 2, 0, 255, 255, 0],
        [2, 2, 2, 2, 0, 255, 255, 0],
        [0] * 8,
        [0] * 8,
    ]


@pytest.mark.parametrize(("overlap", "seen"), [("later", 2), ("earlier", 1), ("smaller", 1)])
def test_overlaps_as_asked(coco_source, tmp_path, overlap, seen):
    _, found = converted(coco_source, tmp_path, overlap=overlap)
    assert found["val/x"][1, 1] == seen


def test_a_file_alone_is_taken_too(coco_source, tmp_path):
    save_json(coco_source / "annotations" / "captions.json", {"images": [], "annotations": []})
    done, _ = converted(coco_source / "annotations" / "instances_val.json", tmp_path)
    assert (done.format, done.counts) == ("COCO", {"val": 1})


def test_coco_panoptic(source, tmp_path):
    save_image(source / "val" / "x.jpg")
    segments = np.array([[1, 1, 300, 300], [0, 70_000, 70_000, 1]])
    rgb = np.stack([segments % 256, segments // 256 % 256, segments // 65536], -1)
    save_mask(source / "panoptic_val" / "x.png", rgb.astype(np.uint8))
    info = [
        {"id": 1, "category_id": 2},
        {"id": 300, "category_id": 1},
        {"id": 70_000, "category_id": 1, "iscrowd": 1},
    ]
    annotation = {"image_id": 7, "file_name": "x.png", "segments_info": info}
    content = coco([annotation], file_name="x.jpg", height=2, width=4)
    save_json(source / "panoptic_val.json", content)
    classes, found = one(source, tmp_path)
    assert classes == ("car", "road")
    assert found == [[1, 1, 0, 0], [255, 255, 255, 1]]


def test_roboflow_coco_without_the_name_of_the_project(source, tmp_path):
    content = coco([square(2, 0, 0, 4)], ("things", "car"), file_name="x.png")
    content["categories"][1]["supercategory"] = "things"
    save_json(source / "valid" / "_annotations.coco.json", content)
    save_image(source / "valid" / "x.png", (6, 8))
    done, found = converted(source, tmp_path)
    assert done.classes == ("background", "car")
    assert [*found] == ["val/x"]


def test_roboflow_semantic_masks(source, tmp_path):
    save_image(source / "train" / "x_jpg.rf.1.jpg")
    save_mask(source / "train" / "x_jpg.rf.1_mask.png", np.where(LABELS == 255, 0, LABELS))
    (source / "train" / "_classes.csv").write_text(
        "Pixel Value, Class\n0, background\n1, car\n2, b\n"
    )
    done, found = converted(source, tmp_path)
    assert done.classes == ("background", "car", "b")
    assert found["train/x_jpg.rf.1"][0].tolist() == [0, 1, 2, 2]


def test_ultralytics_polygons(source, tmp_path):
    save_image(source / "images" / "train" / "x.png", (10, 20))
    save_image(source / "images" / "val" / "y.png", (10, 20))
    labels = source / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "x.txt").write_text("1 0 0 0.5 0 0.5 0.5 0 0.5\n")
    (source / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: car, 1: road}\n"
    )
    done, found = converted(source / "data.yaml", tmp_path)
    assert done.classes == ("background", "car", "road")
    assert found["train/x"][:5, :10].tolist() == [[2] * 10] * 5
    assert (found["train/x"] == 2).sum() == 50
    assert not found["val/y"].any()
    assert "1 images have no regions: y" in done.notes


def test_ultralytics_masks(source, tmp_path):
    save_image(source / "images" / "train" / "x.png")
    save_mask(source / "masks" / "train" / "x.png")
    (source / "data.yaml").write_text("train: images/train\nmasks_dir: masks\nnames: [a, b, c]\n")
    assert one(source, tmp_path) == (("a", "b", "c"), LABELS.tolist())


def test_boxes_are_no_masks(source, tmp_path):
    save_image(source / "images" / "x.png")
    (source / "labels").mkdir()
    (source / "labels" / "x.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (source / "data.yaml").write_text("train: images\nnames: [a]\n")
    with pytest.raises(FullconvError, match="boxes instead of polygons"):
        converted(source, tmp_path)


@pytest.mark.parametrize("kind", ["labelIds.png", "labelTrainIds.png", "polygons.json"])
def test_cityscapes(source, tmp_path, kind):
    save_image(source / "leftImg8bit" / "val" / "ulm" / "ulm_0_leftImg8bit.png")
    truth = source / "gtFine" / "val" / "ulm" / f"ulm_0_gtFine_{kind}"
    if kind == "polygons.json":
        road = [[0, 0], [2, 0], [2, 2], [0, 2]]
        objects = [
            {"label": "road", "polygon": road},
            {"label": "car", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]},
            {"label": "cargroup", "polygon": [[3, 1], [4, 1], [4, 2], [3, 2]]},
        ]
        save_json(truth, {"imgHeight": 2, "imgWidth": 4, "objects": objects})
    elif kind == "labelIds.png":
        save_mask(truth, np.array([[26, 7, 0, 3], [7, 7, 4, 26]], np.uint8))
    else:
        save_mask(truth, np.array([[13, 0, 255, 255], [0, 0, 255, 13]], np.uint8))
    done, found = converted(source, tmp_path)
    assert done.classes == tuple(name for name, _, _ in CITYSCAPES)
    assert found["val/ulm/ulm_0"].tolist() == [[13, 0, 255, 255], [0, 0, 255, 13]]


def test_ade20k_whose_0_is_no_class(source, tmp_path):
    save_image(source / "images" / "training" / "x.jpg")
    save_image(source / "images" / "validation" / "y.jpg")
    for split, name in (("training", "x"), ("validation", "y")):
        save_mask(source / "annotations" / split / f"{name}.png", LABELS % 255)
    (source / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
        "1\t.1\t9\t9\t1\twall, partition\n2\t.1\t9\t9\t1\tsky\n"
    )
    done, found = converted(source, tmp_path)
    assert done.classes == ("wall", "sky")
    assert done.counts == {"train": 1, "val": 1}
    assert found["val/y"].tolist() == [[255, 0, 1, 1], [255, 0, 0, 255]]


def test_mmsegmentation_by_number_mapped_and_ignored(source, tmp_path):
    save_image(source / "img_dir" / "train" / "x.jpg")
    save_mask(source / "ann_dir" / "train" / "x.png")
    classes = ClassSettings(mapping={"1": "car", "2": "road"}, ignore=("0",))
    found = one(source, tmp_path, classes=classes)
    assert found == (("car", "road"), [[255, 0, 1, 1], [255, 0, 0, 255]])


def test_colours_that_are_discovered_or_listed(source, tmp_path):
    save_image(source / "images" / "x.jpg")
    save_mask(source / "masks" / "x.png", coloured())
    done, found = converted(source, tmp_path)
    assert done.classes == ("#000000", "#008000", "#800000")
    assert found["train/x"].tolist() == [[0, 2, 1, 1], [0, 2, 2, 0]]
    assert "--map #000000=NAME" in done.notes[0]
    table = tmp_path / "colours.csv"
    table.write_text("name,r,g,b\nvoid,0,0,0\ncar,128,0,0\nroad,0,128,0\n")
    settings = ClassSettings(ignore=("void",))
    again = convert(source, tmp_path / "two", ConvertSettings(table=table, classes=settings))
    assert again.classes == ("car", "road")
    info = yaml.safe_load((tmp_path / "two" / "dataset.yaml").read_text())
    assert info["palette"] == [[128, 0, 0], [0, 128, 0]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_foreground_masks_by_suffix(source, tmp_path, suffix):
    save_image(source / "x.jpg")
    save_mask(source / f"x_mask{suffix}", np.where(LABELS == 1, 255, 0).astype(np.uint8))
    classes, found = one(source, tmp_path)
    assert classes == ("background", "foreground")
    assert found == (LABELS == 1).astype(int).tolist()


def test_masks_that_were_jpegs(source, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    save_image(source / "images" / "x.jpg", (90, 90))
    save_mask(source / "masks" / "x.png", noise)
    with pytest.raises(FullconvError, match="no mask of classes, or was altered"):
        converted(source, tmp_path)


def png_of(mask):
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_every_shape_of_labelme(source, tmp_path):
    shapes = [
        shape("_background_", "rectangle", [0, 0], [20, 20]),
        shape("circle", "circle", [10, 10], [13, 14]),
        shape("line", "line", [0, 0], [19, 0]),
        shape("strip", "linestrip", [0, 19], [10, 19], [19, 19]),
        shape("mask", "mask", [3, 7], [4, 8], mask=png_of(np.ones((2, 2)))),
        shape("point", "point", [10, 10]),
        shape("__ignore__", "rectangle", [12, 3], [10, 2]),
    ]
    done, found = converted(labelme_source(source, shapes), tmp_path)
    assert done.classes == ("background", "circle", "line", "mask", "point", "strip")
    labels = found["train/x"]
    assert (labels == 3).sum() == 4 and (labels[7:9, 3:5] == 3).all()
    assert (labels == 4).sum() == pytest.approx(np.pi * 25, abs=6)
    assert (labels == 255).sum() == 2
    assert labels[0, 5] == 2 and labels[19, 5] == 5


def test_dataset_folders_are_divided_anew(source, tmp_path):
    for at in range(40):
        save_image(source / "images" / "train" / f"{at // 4}_{at % 4}.png")
        labels = np.full(SIZE, at // 20, np.uint8)
        save_mask(source / "masks" / "train" / f"{at // 4}_{at % 4}.png", labels)
    (source / "dataset.yaml").write_text("name: d\nclasses: [a, b]\n")
    settings = {"shares": (0.6, 0.2, 0.2), "group_by": r"^(\d+)_"}
    done, found = converted(source, tmp_path, **settings)
    assert done.counts == {"train": 24, "val": 8, "test": 8}
    groups = {}
    for place, labels in found.items():
        split, name = place.split("/")
        groups.setdefault(name.split("_")[0], set()).add(split)
        done.counts[split, int(labels[0, 0])] = done.counts.get((split, int(labels[0, 0])), 0) + 1
    assert all(len(splits) == 1 for splits in groups.values())
    assert done.counts["val", 0] == done.counts["val", 1] == 4
    again = convert(source, tmp_path / "again", ConvertSettings(**settings))
    assert again.counts == {"train": 24, "val": 8, "test": 8}


def test_nothing_that_is_known(source, tmp_path):
    (source / "notes.txt").write_text("hello")
    with pytest.raises(FullconvError, match=r"it holds 1 \.txt; looked for .*labelme"):
        converted(source, tmp_path)
    with pytest.raises(FullconvError, match="no such folder or file"):
        converted(source / "missing", tmp_path)


def test_what_is_wrong_is_told_together_or_left_out(coco_source, tmp_path):
    content = coco(
        [
            square(1, 0, 0, 4),
            {"image_id": 7, "category_id": 1, "segmentation": [[0, 0, 1, 1]]},
            {
                "image_id": 7,
                "category_id": 2,
                "segmentation": {"size": [6, 8], "counts": [10**12]},
            },
            {"image_id": 9, "category_id": 77, "segmentation": [[0, 0, 1, 1, 1, 0]]},
        ]
    )
    content["images"] += [
        {"id": 8, "file_name": "gone.png", "height": 6, "width": 8},
        {"id": 9, "file_name": "z.png", "height": 6, "width": 8},
        {"id": 10, "file_name": "w.png", "height": 60, "width": 80},
    ]
    for name in "zw":
        save_image(coco_source / "images" / f"{name}.png", (6, 8))
    save_json(coco_source / "annotations" / "instances_val.json", content)
    with pytest.raises(FullconvError) as error:
        converted(coco_source, tmp_path)
    for words in (
        "damaged annotations (instances_val.json: a polygon of 2 points",
        "1 images that are missing (gone.png)",
        "1 images of another size than their annotations' (w.png: 8 x 6",
        "leave it out by --skip",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_classes_that_are_not_asked_for(coco_source, tmp_path):
    settings = {"classes": ClassSettings(classes=("background", "car"))}
    with pytest.raises(FullconvError, match=r"1 classes that are not asked for \(road\)"):
        converted(coco_source, tmp_path, **settings)
    done, found = converted(coco_source, tmp_path, skip=True, **settings)
    assert done.classes == ("background", "car")
    assert done.notes == ("left out: 1 classes that are not asked for (road)",)
    assert found["val/x"][0, 0] == 0


def test_names_are_mapped_and_the_background_ignored(coco_source, tmp_path):
    classes = ClassSettings(mapping={"car": "thing", "road": "thing"}, background="ignore")
    done, found = converted(coco_source, tmp_path, classes=classes)
    assert done.classes == ("thing",)
    assert set(np.unique(found["val/x"])) == {0, 255}
    with pytest.raises(FullconvError, match=r"--map cra: is no class of .*did you mean car"):
        convert(
            coco_source,
            tmp_path / "b",
            ConvertSettings(classes=ClassSettings(mapping={"cra": "x"})),
        )


def test_a_folder_that_is_there_is_not_touched(coco_source, tmp_path):
    out = tmp_path / "out"
    save_image(out / "mine.png")
    with pytest.raises(FullconvError, match="exists already"):
        convert(coco_source, out)
    assert [path.name for path in out.iterdir()] == ["mine.png"]


def test_hostile_files_are_told_in_a_line(source, tmp_path):
    deep = source / "deep"
    deep.mkdir()
    (deep / "x.json").write_text("[" * 100_000)
    with pytest.raises(FullconvError, match="nested deeper"):
        converted(deep, tmp_path)
    laughs = source / "laughs"
    laughs.mkdir()
    (laughs / "annotations.xml").write_text(
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;">]>'
        "<annotations><version>&m;</version></annotations>"
    )
    with pytest.raises(FullconvError, match="declares entities"):
        converted(laughs, tmp_path)
    cut = source / "cut"
    cut.mkdir()
    (cut / "annotations.xml").write_text("<annotations><image")
    with pytest.raises(FullconvError, match="damaged XML"):
        converted(cut, tmp_path)


@pytest.mark.parametrize(
    "content", [[], {"shapes": 3}, {"shapes": [{"label": 1}]}, {"shapes": [{"points": [1]}]}]
)
def test_labelme_files_that_are_damaged(source, tmp_path, content):
    save_image(source / "x.png")
    text = json.dumps(content) if content else '["shapes"]'
    (source / "x.json").write_text(text)
    with pytest.raises(FullconvError):
        converted(source, tmp_path)


def label_studio_pngs(source, tasks):
    size = (20, 30)
    for name in ("a", "b"):
        save_image(source / f"{name}.png", size)
    if tasks:
        save_json(source / "project.json", tasks)
    for name, box in (
        ("task-7-annotation-1-by-me@home-tag-road-0", (0, 0, 20, 30)),  # not the last annotation
        ("task-7-annotation-2-by-me@home-tag-road-0", (10, 0, 20, 30)),
        ("task-7-annotation-2-by-me@home-tag-road-1", (0, 0, 2, 30)),
        ("task-7-annotation-2-by-me@home-tag-car-wide-0", (12, 5, 16, 15)),
        ("task-9-annotation-3-by-1-tag-road-0", (5, 5, 20, 30)),
    ):
        mask = np.zeros(size, np.uint8)
        top, left, bottom, right = box
        mask[top:bottom, left:right] = 255
        Image.fromarray(mask).save(source / f"{name}.png")


def test_label_studios_pngs_beside_the_tasks(source, tmp_path):
    tasks = [
        {"id": 9, "image": "/data/upload/1/0123abcd-b.png", "tag": [], "annotator": 1},
        {"id": 7, "image": "/data/local-files/?d=photos/a.png", "tag": []},
    ]
    label_studio_pngs(source, tasks)
    done, found = converted(source, tmp_path)
    assert (done.format, done.classes) == (
        "Label Studio's PNGs",
        ("background", "car-wide", "road"),
    )
    wanted = np.zeros((20, 30), np.uint8)
    wanted[10:], wanted[:2] = 2, 2
    wanted[12:16, 5:15] = 1
    np.testing.assert_array_equal(found["train/a"], wanted)
    assert (found["train/b"] == 2).sum() == 15 * 25


@pytest.mark.parametrize("tasks", [None, [{"id": 9, "image": "b.png"}]])
def test_label_studios_pngs_without_the_tasks(source, tmp_path, tasks):
    label_studio_pngs(source, tasks)
    with pytest.raises(FullconvError, match="no JSON tells the image of task 7"):
        converted(source, tmp_path)
