"""What annotations say is found where it is, taken for what it is, or told: never mixed up."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
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
from fullconv.base.images import ImageReader
from fullconv.base.palette import voc_palette
from fullconv.base.progress import Reporter
from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder
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


def test_lists_may_begin_with_a_byte_order_mark(source, tmp_path):
    """As Notepad and PowerShell write them."""
    pair(source / "voc", "JPEGImages/x.jpg", "SegmentationClass/x.png")
    lists = source / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("x\n", encoding="utf-8-sig")
    assert [*converted(source / "voc", tmp_path)[1]] == ["val/x"]
    save_image(source / "yolo" / "images" / "x.png", (10, 20))
    for path, text in {
        "data.yaml": "train: train.txt\nnames: [car, road]\n",
        "train.txt": "./images/x.png\n",
        "labels/x.txt": "1 0 0 0.5 0 0.5 0.5 0 0.5\n",
    }.items():
        (source / "yolo" / path).parent.mkdir(exist_ok=True)
        (source / "yolo" / path).write_text(text, encoding="utf-8-sig")
    done = convert(source / "yolo", tmp_path / "yolo")
    assert done.classes == ("background", "car", "road")
    assert done.notes == ("1 classes have no pixels: car",)


def coco_of(source, *names, **more):
    """Write a COCO file of images that are wholly car, road, car and so on."""
    content = coco([], **more)
    content["images"] = [
        {"id": at, "file_name": name, "height": 6, "width": 8} for at, name in enumerate(names)
    ]
    content["annotations"] = [
        square(1 + at % 2, 0, 0, 9, image_id=at) for at, _ in enumerate(names)
    ]
    save_json(source / "x.json", content)


def images_at(source, *places):
    for place in places:
        save_image(source / place, (6, 8), colour=(len(place), 0, 0))


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("/home/ann/project/pictures/a.png", "photos/a.png"),
        ("C:\\Users\\ann\\a.png", "photos/a.png"),
        ("https://host/bucket/a.png", "photos/a.png"),
        ("../pictures/a.png", "photos/a.png"),
        ("a.png", "photos/deep/a.png"),
        ("train2017/a.png", "images/a.png"),
        ("images/a.png", "data/a.png"),
        ("/home/ann/project/b/a.png", "images/b/a.png images/c/a.png"),
        ("project/b/a.png", "b/a.png c/a.png"),
        ("b/a.png", "images/b/a.png a.png c/a.png"),
        ("a.png", "images/a.png masks/a.png"),
        ("images/a.png", "images/a.png a.png"),
    ],
)
def test_images_that_moved_are_found(source, tmp_path, name, here):
    images_at(source, *here.split())
    coco_of(source, name)
    converted(source, tmp_path)
    (found,) = (tmp_path / "out" / "images").rglob("*.png")
    assert found.read_bytes() == (source / here.split()[0]).read_bytes()


@pytest.mark.parametrize(
    ("name", "here", "told"),
    [
        ("seqB/1.png", "images/seqA/1.png", r"1 images that are missing \(seqB/1\.png\)"),
        ("seqB/1.png", "seqA/1.png seqC/1.png", r"1 images that are missing \(seqB/1\.png\)"),
        ("/d/seqB/1.png", "seqA/1.png seqC/1.png", r"1 images that are missing \(1\.png\)"),
        ("seqB/1.png", "1.png seqA/1.png", "1 images that are missing"),
        ("1.png", "a/1.png b/1.png", r"1 images that several files may be \(a/1.png, b/1.png\)"),
        ("a/1.png", "x/a/1.png y/a/1.png", r"several files may be \(x/a/1.png, y/a/1.png\)"),
    ],
)
def test_an_image_of_other_folders_is_none_of_these(source, tmp_path, name, here, told):
    images_at(source, *here.split())
    coco_of(source, name)
    with pytest.raises(FullconvError, match=told):
        converted(source, tmp_path)


def test_splits_tell_images_of_the_same_name(source, tmp_path):
    images_at(source, "images/train2017/1.png", "images/val2017/1.png")
    for split in ("train", "val"):
        coco_of(source, "1.png")
        (source / "annotations").mkdir(exist_ok=True)
        (source / "x.json").rename(source / "annotations" / f"instances_{split}.json")
    converted(source, tmp_path)
    for split in ("train", "val"):
        (found,) = (tmp_path / "out" / "images" / split).rglob("*.png")
        wanted = source / "images" / f"{split}2017" / "1.png"
        assert found.read_bytes() == wanted.read_bytes()


def test_splits_tell_them_apart_whatever_the_folder_of_annotations(source, tmp_path):
    images_at(source, "pictures/train/1.png", "pictures/val/1.png")
    coco_of(source, "1.png")
    (source / "coco").mkdir()
    (source / "x.json").rename(source / "coco" / "instances_val.json")
    converted(source, tmp_path)
    (found,) = (tmp_path / "out" / "images" / "val").rglob("*.png")
    assert found.read_bytes() == (source / "pictures" / "val" / "1.png").read_bytes()


def test_an_image_that_two_annotations_take_is_neithers(source, tmp_path):
    images_at(source, "photos/1.png", "photos/2.png")
    coco_of(source, "/d/seqA/1.png", "/d/seqB/1.png", "2.png", "/d/seqC/1.png")
    told = r"3 annotations that share an image \(photos/1\.png, …\)"
    with pytest.raises(FullconvError, match=told):
        converted(source, tmp_path)
    _, found = converted(source, tmp_path, skip=True)
    assert [*found] == ["train/photos/2"]
    assert not (tmp_path / "out" / "images" / "train" / "photos" / "1.png").exists()


@pytest.mark.parametrize("name", ["/home/ann/seqB/1.png", "../seqB/1.png"])
def test_what_is_found_by_its_name_alone_is_said(source, tmp_path, name):
    images_at(source, "seqA/1.png")
    coco_of(source, name)
    done, _ = converted(source, tmp_path)
    told = "1 images were found by their names alone, in other folders than their annotations say: "
    assert f"{told}seqA/1.png" in done.notes
    (source / "x.json").unlink()
    labelme_at(source / "seqB" / "1.json", "1.png")
    again = convert(source, tmp_path / "again")
    assert f"{told}seqA/1.png" in again.notes


def labelme_at(path, image_path):
    save_json(path, {"imagePath": image_path, "shapes": [], "imageHeight": 6, "imageWidth": 8})


def test_labelme_mixes_up_no_images_either(source, tmp_path):
    images_at(source, "photos/seqA/1.png")
    labelme_at(source / "seqB" / "1.json", "1.png")
    labelme_at(source / "seqC" / "1.json", "..\\..\\pictures\\1.png")
    with pytest.raises(FullconvError, match="2 annotations that share an image"):
        converted(source, tmp_path)
    images_at(source, "photos/seqB/1.png", "photos/seqC/1.png")
    with pytest.raises(FullconvError, match=r"has 1 images that are missing \(pictures/1\.png\)"):
        converted(source, tmp_path)
    labelme_at(source / "seqC" / "1.json", "1.png")
    converted(source, tmp_path)
    for folder in ("seqB", "seqC"):
        found = tmp_path / "out" / "images" / "train" / folder / "1.png"
        assert found.read_bytes() == (source / "photos" / folder / "1.png").read_bytes()


def test_label_studio_and_cvat_mix_up_no_images_either(source, tmp_path):
    images_at(source, "seqA/1.png", "seqC/1.png")
    save_json(
        source / "label_studio" / "x.json",
        [{"data": {"image": "/data/local-files/?d=d/seqB/1.png"}, "annotations": []}],
    )
    (source / "annotations.xml").write_text(
        '<annotations><image name="seqB/1.png" width="8" height="6"/></annotations>'
    )
    told = {"label_studio/x.json": "several files may be", "annotations.xml": "are missing"}
    for file, words in told.items():
        images_at((source / file).parent, "seqA/1.png", "seqC/1.png")
        with pytest.raises(FullconvError, match=f"has 1 images that {words}"):
            converted(source / file, tmp_path)


def test_more_classes_than_fit_are_told_at_once(source, tmp_path):
    images_at(source, "x.png")
    content = coco([square(1, 0, 0, 2), square(300, 3, 3, 2)], [f"c{at}" for at in range(300)])
    save_json(source / "x.json", content)
    progress = Stages()
    with pytest.raises(FullconvError) as error:
        convert(source, tmp_path / "out", reporter=progress)
    told = "has 301 classes; at most 255 fit 8-bit masks; name those wanted by --classes, or put"
    assert f"{source}: {told}" in str(error.value)
    assert not progress.said
    classes = ClassSettings(classes=("background", "c0", "c299"))
    _, found = converted(source, tmp_path, classes=classes)
    assert np.unique(found["train/x"]).tolist() == [0, 1, 2]


class Stages(Reporter):
    """Keeps what is begun."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def bar(self, total, title, unit="images"):
        self.said.append(title)
        return super().bar(total, title, unit=unit)


@pytest.mark.parametrize(
    ("label", "classes", "told"),
    [
        ("car\n", None, r"'car\\n' holds '\\n', which is no character that can be shown"),
        ("  ", None, "has an empty class name"),
        ("a", ("a", "b", "a"), "names 'a' twice"),
    ],
)
def test_classes_that_are_no_names_are_a_line(source, tmp_path, label, classes, told):
    labelme_source(source, [shape(label, "rectangle", [0, 0], [2, 2])])
    with pytest.raises(FullconvError) as error:
        converted(source, tmp_path, classes=ClassSettings(classes=classes))
    assert re.search(told, str(error.value)) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def folder_of(source, about, values, images="images/train/{}.tif", masks="masks"):
    """Write a dataset folder of four images of some values."""
    for at in range(4):
        path = source / images.format(at)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            tifffile.imwrite(path, values + at, photometric="minisblack", planarconfig="contig")
        else:
            Image.fromarray(values + at).save(path)
        save_mask(source / masks / "train" / f"{at}.png")
    (source / "dataset.yaml").write_text(yaml.safe_dump(about))


ABC = {"classes": ["a", "b", "c"]}
BANDS = {
    "name": "fields",
    **ABC,
    "bands": ["b", "g", "r", "nir", "swir"],
    "show": [3, 2, 1],
    "unscored": ["c"],
    "ignore_index": 255,
}
FLOATS = {"name": "heat", **ABC, "bands": ["t", "p"], "ignore_index": 255}
DEPTH = {
    "name": "rooms",
    "inputs": {"depth": "depth"},
    "heads": {"sem": {**ABC, "masks": "masks_sem", "palette": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}},
    "ignore_index": 255,
}


@pytest.mark.parametrize(
    ("about", "values", "folders"),
    [
        (BANDS, np.arange(40, dtype=np.uint16).reshape(*SIZE, 5), {}),
        (FLOATS, np.arange(16, dtype=np.float32).reshape(*SIZE, 2), {}),
        (
            DEPTH,
            np.arange(8, dtype=np.uint16).reshape(SIZE),
            {"images": "depth/train/{}.png", "masks": "masks_sem"},
        ),
    ],
)
def test_a_dataset_folder_stays_what_it_is(source, tmp_path, about, values, folders):
    folder_of(source, about, values, **folders)
    out = tmp_path / "out"
    done = convert(source, out, ConvertSettings(shares=(0.5, 0.25, 0.25)))
    assert done.counts == {"train": 2, "val": 1, "test": 1}
    assert yaml.safe_load((out / "dataset.yaml").read_text()) == about
    assert {path.name for path in out.iterdir()} == {path.name for path in source.iterdir()}
    assert not check_folder(out).errors
    was, now = DatasetFolder(source), DatasetFolder(out)
    name = next(iter(was.info.inputs))
    assert now.input(name) == was.input(name)
    for split in now.splits:
        for sample in now.listing(split).samples:
            original = was.images / "train" / sample.images[0].name
            assert sample.images[0].read_bytes() == original.read_bytes()


def test_classes_of_a_dataset_folder_are_mapped(source, tmp_path):
    about = {
        "name": "d",
        "bands": ["t", "p"],
        "offset": 1,
        "ignore_index": 0,
        "classes": ["a", "b", "c"],
        "palette": [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
        "unscored": ["a", "c"],
    }
    folder_of(source, about, np.zeros((*SIZE, 2), np.float32))
    for at in range(4):
        save_mask(source / "masks" / "train" / f"{at}.png", np.array([[0, 1, 2, 3]] * 2, np.uint8))
    classes = ClassSettings(mapping={"a": "b", "c": "rest"})
    _, found = converted(source, tmp_path, classes=classes)
    assert found["train/0"].tolist() == [[255, 0, 0, 1]] * 2
    assert yaml.safe_load((tmp_path / "out" / "dataset.yaml").read_text()) == {
        "name": "d",
        "bands": ["t", "p"],
        "classes": ["b", "rest"],
        "palette": [[1, 1, 1], [2, 2, 2]],
        "unscored": ["rest"],
        "ignore_index": 255,
    }


def rgb(labels=LABELS):
    return np.array(voc_palette(), np.uint8)[labels % 255]


@pytest.mark.parametrize("coloured", [False, True])
def test_a_list_of_the_other_kind_is_refused_or_told(source, tmp_path, coloured):
    pair(source, "images/a.jpg", "masks/a.png")
    save_mask(source / "masks" / "a.png", rgb() if coloured else LABELS)
    words = "0,void\n1,road\n2,car\n" if coloured else "void,0,0,0\nroad,128,0,0\ncar,0,128,0\n"
    table = tmp_path / "list.txt"
    table.write_text(words)
    lists, hold = ("label ids", "colours") if coloured else ("colours", "label ids")
    told = f"lists {lists}, but the masks hold {hold}"
    with pytest.raises(FullconvError, match=rf"list\.txt: {told}, such as .*a\.png; list those"):
        converted(source, tmp_path, table=table)
    (source / "classes.txt").write_text(words)
    done, _ = converted(source, tmp_path)
    not_used, advice = done.notes
    assert not_used == f"{source / 'classes.txt'}: {told}; it was not used"
    assert "name them by --map" in advice


def test_a_list_that_a_format_has_no_use_for_is_refused(source, tmp_path):
    images_at(source, "x.png")
    coco_of(source, "x.png")
    table = tmp_path / "list.txt"
    table.write_text("0,void\n")
    with pytest.raises(FullconvError, match=r"--table .*list.txt: tells nothing of COCO, which"):
        converted(source, tmp_path, table=table)


def test_lists_given_for_voc_are_read_by_their_ids(source, tmp_path):
    pair(source, "JPEGImages/x.jpg", "SegmentationClass/x.png", 2)
    with pytest.raises(FullconvError, match=r"missing\.txt: can't be read as a list of classes"):
        converted(source, tmp_path, table=tmp_path / "missing.txt")
    table = tmp_path / "list.txt"
    table.write_text("2,car\n0,void\n")
    done, found = converted(source, tmp_path, table=table)
    assert done.classes == ("car", "void")
    assert not found["train/x"].any()


def panoptic(source):
    save_mask(source / "val" / "segments.png", np.full((*SIZE, 3), (1, 0, 0), np.uint8))
    info = [{"id": 1, "category_id": 1}]
    annotation = {"image_id": 7, "file_name": "segments.png", "segments_info": info}
    save_image(source / "x.png")
    save_json(source / "val.json", coco([annotation], height=2, width=4))


def ultralytics(source):
    save_image(source / "images" / "x.png")
    (source / "data.yaml").write_text("train: images\nmasks_dir: masks\nnames: [a, b, c]\n")
    save_mask(source / "masks" / "x.png")


def ultralytics_polygons(source):
    save_image(source / "images" / "x.png")
    (source / "labels").mkdir()
    (source / "labels" / "x.txt").write_text("0 0 0 1 0 1 1\n")
    (source / "data.yaml").write_text("train: images\nnames: [a]\n")


def voc(source):
    pair(source, "JPEGImages/x.png", "SegmentationClass/x.png")


def cityscapes(source):
    save_image(source / "leftImg8bit" / "val" / "ulm" / "x_leftImg8bit.png")
    save_mask(source / "gtFine" / "val" / "ulm" / "x_gtFine_labelIds.png", LABELS % 255)


def studio_pngs(source):
    save_image(source / "a.png")
    save_json(source / "project.json", [{"id": 1, "image": "a.png"}])
    save_mask(source / "task-1-annotation-1-by-1-tag-car-0.png")


def two_folders(source):
    pair(source, "images/x.png", "masks/x.png")


def own_folder(source):
    two_folders(source)
    for kind in ("images", "masks"):
        (source / kind / "x.png").rename(source / kind / "y.png")
        (source / kind / "train").mkdir()
        (source / kind / "y.png").rename(source / kind / "train" / "x.png")
    (source / "dataset.yaml").write_text("name: d\nclasses: [a, b, c]\n")


@pytest.mark.parametrize(
    "make",
    [
        panoptic, ultralytics, ultralytics_polygons, voc, cityscapes, studio_pngs, two_folders,
        own_folder,
    ],
)  # fmt: skip
def test_masks_may_have_as_many_pixels_as_asked(source, tmp_path, monkeypatch, make):
    make(source)
    most, *others = ImageReader.__init__.__defaults__
    # Whoever makes a reader of his own can't read these files.
    monkeypatch.setattr(ImageReader.__init__, "__defaults__", (1, *others))
    done = convert(source, tmp_path / "out", ConvertSettings(reader=ImageReader(most)))
    assert sum(done.counts.values()) == 1


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FULLCONV_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("verb", ["data check", "train --out {}", "evaluate {}"])
def test_max_pixels_holds_where_annotations_are_taken(command_line, source, cache, capsys, verb):
    pair(source, "images/x.png", "masks/x.png")
    words = verb.format(source.parent / "other").split()
    data = [source] if verb == "data check" else ["--data", source]
    assert command_line(*words, *data, "--quiet", "--max-pixels", 7) == 2
    assert "4 x 2 pixels are more than the 7 allowed" in capsys.readouterr().err
    assert not [*cache.rglob("dataset.yaml")]


def test_max_pixels_of_data_split(command_line, source, tmp_path):
    own_folder(source)
    words = ("data", "split", source, "--out", tmp_path / "out", "--shares", "1,0,0", "--quiet")
    assert command_line(*words, "--max-pixels", 7) == 2
    assert command_line(*words, "--max-pixels", 8) == 0


def test_what_of_coco_has_no_pixels_is_told(source, tmp_path):
    images_at(source, "x.png")
    box = {"image_id": 7, "category_id": 1, "segmentation": [], "bbox": [1, 1, 2, 2]}
    annotations = [square(2, 0, 0, 4), box, box, square(2, 0, 0, 4, image_id=99)]
    save_json(source / "x.json", coco(annotations))
    done, _ = converted(source, tmp_path)
    assert "left out: 2 annotations without polygons (car)" in done.notes
    assert "left out: 1 annotations of images that are not listed (x.json)" in done.notes


def test_what_of_label_studio_has_no_pixels_is_told(source, tmp_path):
    images_at(source, "x.png")
    common = {"original_height": 6, "original_width": 8}
    box = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["car"]}
    points = [{"x": 1, "y": 1, "width": 1, "keypointlabels": [name]} for name in ("nose", "eye")]
    results = [{"value": value, **common} for value in (box, *points)]
    task = {"data": {"image": "x.png"}, "annotations": [{"result": results}]}
    save_json(source / "x.json", [task])
    done, _ = converted(source, tmp_path)
    assert done.classes == ("background", "car")
    assert "left out: 2 keypointlabels (nose, eye)" in done.notes


def test_what_of_cvat_has_no_pixels_is_told(source, tmp_path):
    images_at(source, "x.png")
    (source / "annotations.xml").write_text(
        '<annotations><image name="x.png" width="8" height="6">'
        '<box label="road" xtl="1" ytl="1" xbr="3" ybr="3"/>'
        '<cuboid label="car" xtl1="1"/><cuboid label="car" xtl1="2"/><tag label="rain"/>'
        "</image></annotations>"
    )
    done, _ = converted(source, tmp_path)
    assert done.notes == ("left out: 2 cuboids (car)", "left out: 1 tags (rain)")
