"""The dataset folder: what dataset.yaml may say, how files pair up, what val is without a val."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from dataset_folders import (
    CLASSES,
    GEOMETRY,
    RICH,
    add_sample,
    depth,
    labels,
    picture,
    write_dataset,
    write_rich,
    write_yaml,
)
from PIL import Image

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder
from fullconv.data.info import DatasetInfo, HeadInfo, read_info


def refusal(action, *args) -> str:
    with pytest.raises(FullconvError) as caught:
        action(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_a_dataset_reads_as_it_was_written(tmp_path):
    folder = DatasetFolder(write_dataset(tmp_path / "d"))
    assert folder.info.name == "tiny" and folder.info.classes == CLASSES
    assert folder.info.ignore_index == 255 and folder.info.palette is None
    assert folder.splits == ("train", "val", "test") and not folder.held_out
    split = folder.split("test")
    assert split.name == "test" and len(split) == 2
    assert [sample.name for sample in split.samples] == ["test0", "test1"]
    read = split[1]
    assert read.name == "test1"
    np.testing.assert_array_equal(read.image, picture(2001))
    np.testing.assert_array_equal(read.labels, labels(2001)[None])
    with pytest.raises(IndexError):
        split[2]


def test_suffixes_of_any_case_nested_folders_and_hidden_files(tmp_path):
    write_yaml(tmp_path)
    suffixes = [".JPG", ".jpeg", ".PNG", ".bmp", ".webp", ".tif", ".TIFF"]
    for seed, suffix in enumerate(suffixes):
        add_sample(tmp_path, "train", f"city.a/{seed}.b", seed, suffix)
    add_sample(tmp_path, "train", "0.b", 99)  # the same stem in another folder is another name
    (tmp_path / "images/train/._0.b.png").write_bytes(b"left by a Mac")
    (tmp_path / "images/train/city.a/notes.txt").write_text("not an image")
    train, val = (DatasetFolder(tmp_path).listing(split) for split in ("train", "val"))
    assert train.missing == () and train.orphans == ()
    assert train.strangers == (tmp_path / "images/train/city.a/notes.txt",)
    names = {sample.name: sample for sample in (*train.samples, *val.samples)}
    assert set(names) == {"0.b", *(f"city.a/{seed}.b" for seed in range(len(suffixes)))}
    assert names["city.a/0.b"].images == (tmp_path / "images/train/city.a/0.b.JPG",)
    assert names["city.a/0.b"].masks == (tmp_path / "masks/train/city.a/0.b.png",)


def test_a_folder_that_is_no_dataset(tmp_path):
    for path, problem in ((tmp_path, "has no dataset.yaml"), (tmp_path / "gone", "is no folder")):
        message = refusal(DatasetFolder, path)
        assert f"{path}: {problem}" in message
        assert "images/<split>/NAME.jpg" in message and "masks/<split>/NAME.png" in message


NAMES_256 = [f"c{i}" for i in range(256)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [a\nclasses: {", "is not valid YAML"),
        ("name: 2024-99-99\nclasses: [a]", "is not valid YAML"),
        ("\tname: a", "line 1"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        ("", "should be keys and values"),
        ("- road\n- tree", "should be keys and values"),
        ("name: a", "key 'classes': is missing"),
        ("classes: [a, b]", "key 'name': is missing"),
        ("name: a\nclasses: []", "key 'classes': is empty"),
        ("name: a\nclasses: road", "key 'classes': should be a list"),
        ("name: a\nclasses: {0: road, 1: tree}", "key 'classes': should be a list"),
        ("name: a\nclasses: [road, tree, road]", "key 'classes': names 'road' twice"),
        ("name: a\nclasses: [road, '']", "key 'classes': has an empty class name"),
        ("name: a\nclasses: [yes, no]", "key 'classes[0]': should be text but is True; put it in"),
        (yaml.safe_dump({"name": "a", "classes": NAMES_256}), "has 256 classes; at most 255"),
        ("name: a\nclasses: [r, t]\npalette: [[0, 0, 0]]", "key 'palette': has 1 colours for 2"),
        ("name: a\nclasses: [r]\npalette: [[0, 0, 256]]", "key 'palette[0][2]'"),
        ("name: a\nclasses: [r]\npalette: [[0, 0]]", "key 'palette[0][2]': is missing"),
        ("name: a\nclasses: [r, t]\nignore_index: 1", "key 'ignore_index': 1 is also the id of"),
        ("name: a\nclasses: [r, t]\nignore_index: 256", "key 'ignore_index': should be less"),
        ("name: a\nclasses: [r, t]\nignore_index: -1", "key 'ignore_index'"),
        (
            "name: a\nclasses: [r]\nignore_idx: 9",
            "key 'ignore_idx': is unknown; did you mean ignore_index? (known: name, inputs, heads, "
            "bands, show, ignore_index, classes, palette, unscored)",
        ),
        ("name: a\nclasses: [r, t]\nunscored: [s]", "key 'unscored': 's' is none of the classes"),
        ("name: a\nclasses: [r, t]\nunscored: [t, r]", "key 'unscored': names every class"),
        ("name: a\nclasses: [r]\ninputs: {}", "key 'inputs': is empty; name at least one"),
        ("name: a\nclasses: [r]\ninputs: [images]", "key 'inputs': should be keys and values"),
        ("name: a\nclasses: [r]\ninputs:", "key 'inputs': should be keys and values"),
        ("name: a\nclasses: [r]\ninputs: {1: i}", "key 'inputs[1]': should be text but is 1"),
        ("name: a\nclasses: [r]\ninputs: {a.b: c}", "key 'inputs.a.b': may hold letters, digits"),
        ("name: a\nclasses: [r]\ninputs: {../b: c}", "key 'inputs.../b': may hold letters"),
        ("name: a\nclasses: [r]\ninputs: {c: 3}", "key 'inputs.c': should be text but is 3"),
        ("name: a\nclasses: [r]\ninputs: {c: ..}", "key 'inputs.c': '..' should be the name of a"),
        ("name: a\nclasses: [r]\ninputs: {c: /etc}", "key 'inputs.c': '/etc' should be"),
        ("name: a\nclasses: [r]\ninputs: {c: a/b}", "key 'inputs.c': 'a/b' should be"),
        ("name: a\nclasses: [r]\ninputs: {c: 'a\\b'}", "key 'inputs.c': 'a\\\\b' should be"),
        ("name: a\nclasses: [r]\ninputs: {c: 'C:a'}", "key 'inputs.c': 'C:a' should be"),
        ("name: a\nclasses: [r]\ninputs: {c: ''}", "key 'inputs.c': '' should be"),
        ("name: a\nclasses: [r]\ninputs: {c: .git}", "key 'inputs.c': '.git' should be"),
        ('name: a\nclasses: [r]\ninputs: {c: "a\\0"}', "key 'inputs.c': 'a\\x00' should be"),
        ("name: a\nclasses: [r]\ninputs: {c: x, d: X}", "the folder 'x' serves 2 times"),
        ("name: a\nclasses: [r]\ninputs: {c: masks}", "the folder 'masks' serves 2 times"),
        (
            "name: a\nheads: {s: {masks: m, classes: [r]}, t: {masks: m, classes: [r]}}",
            "the folder 'm' serves 2 times; give each input and each head its own",
        ),
        ("name: a\nheads: {}", "key 'heads': is empty; name at least one"),
        ("name: a\nheads:", "key 'heads': should be keys and values"),
        ("name: a\nheads: {s: [r, t]}", "key 'heads.s': should be keys and values: masks, classes"),
        ("name: a\nheads: {s: {classes: [r]}}", "key 'heads.s.masks': is missing"),
        ("name: a\nheads: {s: {masks: m}}", "key 'heads.s.classes': is missing"),
        ("name: a\nheads: {labels: {masks: m}}", "key 'heads.labels.classes': is missing"),
        ("name: a\nheads: {s: {masks: ../m, classes: [r]}}", "key 'heads.s.masks': '../m' should"),
        ("name: a\nheads: {s: {masks: m, classes: [r, r]}}", "key 'heads.s.classes': names 'r' tw"),
        (
            "name: a\nheads: {s: {masks: m, classes: [r], palette: [[0, 0, 0], [1, 1, 1]]}}",
            "key 'heads.s.palette': has 2 colours for 1 classes",
        ),
        (
            "name: a\nheads: {s: {masks: m, classes: [r], palete: []}}",
            "key 'heads.s.palete': is unknown; did you mean palette? (known: masks, classes, palet",
        ),
        (
            "name: a\nheads: {s: {masks: m, classes: [r]}, t: {masks: n, classes: [r, v]}}\n"
            "ignore_index: 1",
            "key 'ignore_index': 1 is also the id of class 'v' of head 't'; use 2 or more",
        ),
        (
            "name: a\nclasses: [r]\nheads: {s: {masks: m, classes: [r]}}",
            "key 'classes': stands beside 'heads'; write it into each head instead",
        ),
        (
            "name: a\nclasses: [r, t]\nclasses: [t, r]",
            "key 'classes' stands twice, in lines 2 and 3",
        ),
        ("name: a\nheads: {s: {masks: m, masks: n, classes: [r, t]}}", "key 'masks' stands twice"),
        (f"name: a\nclasses: {'[' * 3000}", "nested deeper than"),
        (f"name: a\nclasses: [{'x' * 9000}, {'x' * 9000}]", "names 'xxx"),
        (f"name: a\nclasses: [a, b]\n{'x' * 900}: 3", "is unknown"),
        (f"name: a\nclasses: [a, b]\ninputs: {{{'.' * 900}: 3}}", "may hold letters"),
        ("name: a\nclasses: [r, t]\noffset: 255", "key 'offset': makes 256 the value of the last"),
        ("name: a\nclasses: [r, t]\noffset: -1", "key 'offset'"),
        ("name: a\nclasses: [r, t]\nignore_index: 0", "if 'r' has 1 in the masks, offset: 1"),
        ('name: a\nclasses: [r, "a\\eb"]', "key 'classes[1]': 'a\\x1bb' holds '\\x1b'"),
        ('name: a\nclasses: [r, "a\\nb"]', "key 'classes[1]': 'a\\nb' holds '\\n'"),
        ('name: a\nclasses: [r, "\\ud800"]', "key 'classes[1]': "),
        ('name: "\\0"\nclasses: [r, t]', "key 'name': "),
    ],
)
def test_a_wrong_yaml_is_refused_by_file_key_and_problem(tmp_path, text, problem):
    (tmp_path / "dataset.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(DatasetFolder, tmp_path)
    assert str(tmp_path / "dataset.yaml") in message
    assert problem in message
    assert len(message) < 800 and message.isprintable()


def test_255_classes_and_a_palette_are_allowed(tmp_path):
    values = {"name": "é", "classes": NAMES_256[:255], "palette": [[i, 0, 255] for i in range(255)]}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    info = DatasetFolder(tmp_path).info
    assert info.palette[254] == (254, 0, 255) and len(info.classes) == 255
    assert not info.foreign(np.arange(256, dtype=np.uint8)).any()


def shifted(root: Path, by: int) -> None:
    """Store every class id of a dataset's masks as `by` more, and half of what is ignored as 0."""
    for path in (root / "masks").rglob("*.png"):
        ids = np.asarray(Image.open(path)).astype(int)
        stored = np.where(ids == 255, np.where(np.arange(ids.shape[1]) % 2, 0, 255), ids + by)
        Image.fromarray(stored.astype(np.uint8)).save(path)


@pytest.mark.parametrize("keys", ["offset: 1\n", "offset: 1\nignore_index: 0\n"])
def test_masks_whose_classes_begin_at_1_as_ade20ks(tmp_path, keys):
    """0 is ignored and 1 is the first class, by what trains, measures and checks alike."""
    plain, other = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b")
    shifted(other, 1)
    with (other / "dataset.yaml").open("a") as file:
        file.write(keys)
    expected, split = DatasetFolder(plain).split("train"), DatasetFolder(other).split("train")
    for index in range(len(split)):
        assert (split[index].labels == expected[index].labels).all()
        assert (split.labels(index) == expected.labels(index)).all()
    info = DatasetFolder(other).info
    assert info.ignore_index == 255 and info.to_dict()["offset"] == 1
    assert info.describe_ids() == "3 classes (1..3, 0 and 255 = ignore)"
    found, known = check_folder(other), check_folder(plain)
    assert found.errors == found.warnings == ()
    for one, two in zip(found.splits, known.splits, strict=True):
        assert (one.labels["labels"].pixels == two.labels["labels"].pixels).all()
        assert (one.labels["labels"].beside == two.labels["labels"].beside).all()
    Image.fromarray(np.full((8, 10), 4, np.uint8)).save(other / "masks/train/train0.png")
    told = "value 4 (80 pixels) but the dataset has 3 classes (1..3, 0 and 255 = ignore)"
    assert told in refusal(split.__getitem__, 0)
    assert told in check_folder(other).errors[0]


def test_an_offset_by_head(tmp_path):
    root = write_rich(tmp_path)
    text = (root / "dataset.yaml").read_text()
    (root / "dataset.yaml").write_text(text.replace("{masks: masks,", "{masks: masks, offset: 5,"))
    shifted(root, 5)
    split = DatasetFolder(root).split("train")
    assert (split.labels(0)[0] == labels(0)).all()
    assert (split.labels(0)[1] == labels(200, count=len(GEOMETRY))).all()
    info = DatasetFolder(root).info
    assert info.describe_ids("sem") == "3 classes (5..7, 0..4 and 255 = ignore)"
    assert DatasetInfo.model_validate(info.to_dict()) == info


def test_255_classes_that_begin_at_1():
    info = DatasetInfo(name="a", classes=tuple(NAMES_256[:255]), offset=1)
    values = np.arange(256, dtype=np.uint8)
    assert not info.foreign(values).any()
    assert info.label_ids(values).tolist() == [255, *range(255)]
    assert info.describe_ids() == "255 classes (1..255, 0 = ignore)"


def test_foreign_ids_are_those_that_mean_nothing():
    info = DatasetInfo(name="a", classes=("x", "y"), ignore_index=7)
    foreign = info.foreign(np.arange(256, dtype=np.uint8))
    assert set(np.flatnonzero(~foreign)) == {0, 1, 7}


def test_a_split_that_is_not_there_or_empty(tmp_path):
    root = write_dataset(tmp_path / "d")
    shutil.rmtree(root / "images/test")
    assert "has no split 'test' (images/test); there are train, val" in refusal(
        DatasetFolder(root).split, "test"
    )
    (root / "images/test").mkdir()
    assert "split 'test' has no images; put some into images/test" in refusal(
        DatasetFolder(root).split, "test"
    )
    write_yaml(tmp_path / "bare")
    assert "there is none" in refusal(DatasetFolder(tmp_path / "bare").split, "train")


def test_missing_masks_are_listed_and_counted(tmp_path):
    root = write_dataset(tmp_path / "d", train=9)
    for index in range(7):
        (root / f"masks/train/train{index}.png").unlink()
    message = refusal(DatasetFolder(root).split, "train")
    assert "7 images of split 'train' have no mask in masks/train" in message
    assert "train0.png, train1.png, train2.png and 4 more" in message


def test_extra_masks_do_not_matter_for_reading(tmp_path):
    root = write_dataset(tmp_path / "d")
    (root / "images/train/train0.png").unlink()
    assert len(DatasetFolder(root).split("train")) == 3


def test_two_images_of_one_name_are_refused(tmp_path):
    root = write_dataset(tmp_path / "d")
    Image.fromarray(picture(5)).save(root / "images/train/train1.jpg")
    message = refusal(DatasetFolder(root).split, "train")
    assert "train1.jpg, train1.png have the same name; rename or remove one" in message


def test_ids_outside_the_classes_are_named_and_counted(tmp_path):
    root = write_dataset(tmp_path / "d")
    path = root / "masks/val/val1.png"
    ids = np.asarray(Image.open(path)).copy()
    ids[3:5] = 66
    Image.fromarray(ids).save(path)
    split = DatasetFolder(root).split("val")
    assert split[0].name == "val0"
    message = refusal(split.__getitem__, 1)
    assert f"{path}: the mask has value 66 (20 pixels)" in message
    assert "the dataset has 3 classes (0..2, 255 = ignore)" in message


def test_a_mask_of_another_size_is_refused(tmp_path):
    root = write_dataset(tmp_path / "d")
    Image.new("L", (9, 8)).save(root / "masks/val/val0.png")
    message = refusal(DatasetFolder(root).split("val").__getitem__, 0)
    mask, image = (root / kind / "val/val0.png" for kind in ("masks", "images"))
    assert f"{mask}: is 9 x 8 but its image {image} is 10 x 8; make them" in message
    assert refusal(DatasetFolder(root).split("val").labels, 0) == message


def test_max_pixels_bounds_what_a_split_reads(tmp_path):
    root = write_dataset(tmp_path / "d")
    assert "10 x 8 pixels are more than the 79" in refusal(
        DatasetFolder(root, ImageReader(79)).split("val").__getitem__, 0
    )
    assert DatasetFolder(root, ImageReader(80)).split("val")[0].labels.size == 80


def names(root, split) -> set[str]:
    return {sample.name for sample in DatasetFolder(root).split(split).samples}


def test_without_val_a_stable_tenth_of_train_is_held_out(tmp_path):
    write_yaml(tmp_path)
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)

    def add(numbers) -> None:
        for number in numbers:
            for kind in ("images", "masks"):
                (tmp_path / kind / "train" / f"{number}.png").touch()

    add(range(0, 600, 2))
    assert DatasetFolder(tmp_path).held_out
    assert DatasetFolder(tmp_path).splits == ("train", "val")
    train, val = names(tmp_path, "train"), names(tmp_path, "val")
    assert not train & val and len(train | val) == 300
    assert 15 <= len(val) <= 45
    add(range(1, 600, 2))
    assert names(tmp_path, "train") & (train | val) == train
    assert names(tmp_path, "val") & (train | val) == val
    assert names(tmp_path, "val") > val


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_images_leave_one_on_either_side(tmp_path, count):
    for trial in range(20):
        root = tmp_path / str(trial)
        write_yaml(root)
        for index in range(count):
            add_sample(root, "train", f"{trial}-{index}", index)
        assert names(root, "train") and names(root, "val")
        assert len(names(root, "train") | names(root, "val")) == count


def test_one_image_can_not_be_shared(tmp_path):
    write_yaml(tmp_path)
    add_sample(tmp_path, "train", "only", 0)
    assert names(tmp_path, "train") == {"only"}
    assert "one image is too few" in refusal(DatasetFolder(tmp_path).split, "val")


def test_a_test_set_alone_holds_nothing_out(tmp_path):
    write_yaml(tmp_path)
    add_sample(tmp_path, "test", "a", 0)
    folder = DatasetFolder(tmp_path)
    assert folder.splits == ("test",) and not folder.held_out


def rewrite(root, *pairs: tuple[str, str]) -> None:
    """Change the text of dataset.yaml."""
    path = root / "dataset.yaml"
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_inputs_and_heads_read_in_the_order_asked_for(tmp_path):
    folder = DatasetFolder(write_rich(tmp_path / "d"))
    assert list(folder.info.inputs) == ["color", "depth", "hha"]
    assert list(folder.info.heads) == ["sem", "geo"]
    sem, geo = labels(2001), labels(2201, count=len(GEOMETRY))
    plain = folder.split("test")[1]
    assert plain.image.dtype == np.uint8
    np.testing.assert_array_equal(plain.image, picture(2001))
    np.testing.assert_array_equal(plain.labels, [sem, geo])
    split = folder.split("test", ("depth", "hha", "color"), ("geo",))
    assert [each.channels for each in split.inputs.values()] == [1, 3, 3]
    assert list(split.heads) == ["geo"] and split.heads["geo"].classes == GEOMETRY
    read = split[1]
    assert read.image.dtype == np.float32 and read.labels.dtype == np.uint8
    expected = [depth(2001)[..., None], picture(2101), picture(2001)]
    np.testing.assert_array_equal(read.image, np.concatenate(expected, 2))
    np.testing.assert_array_equal(read.labels, geo[None])
    bytes_alone = folder.split("test", ["hha"], ["geo", "sem"])[0]
    assert bytes_alone.image.dtype == np.uint8
    np.testing.assert_array_equal(bytes_alone.image, picture(2100))
    np.testing.assert_array_equal(bytes_alone.labels[1], labels(2000))
    assert folder.split("train", ["depth"]).size(1) == (5, 13)
    sample = split.samples[1]
    assert sample.images == tuple(
        folder.root / kind / "test/test1.png" for kind in ("depth", "hha", "images")
    )
    assert sample.masks == (folder.root / "masks_geo/test/test1.png",)


def test_color_stands_for_the_first_input_and_labels_for_the_only_head(tmp_path):
    root = write_rich(tmp_path / "d")
    rewrite(root, ("color: images", "photo: images"))
    folder = DatasetFolder(root)
    split = folder.split("val", ("depth", "color"))
    assert list(split.inputs) == ["depth", "color"]
    np.testing.assert_array_equal(split[0].image[..., 1:], picture(1000))
    assert "the heads sem, geo, none called 'labels'" in refusal(
        folder.split, "val", ("color",), ("labels",)
    )
    assert "the inputs photo, depth, hha, none called 'dept'; did you mean depth?" in refusal(
        folder.split, "val", ("dept",)
    )
    assert "none called 'ge'; did you mean geo?" in refusal(folder.split, "val", ("hha",), ("ge",))
    only = {"s": HeadInfo(masks="masks", classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)))}
    info = DatasetInfo(name="x", heads=only)
    assert info.head("labels") == info.head("s") == info.head() == only["s"]
    assert info.classes == ("a", "b") and info.palette[1] == (9, 9, 9)


def test_several_heads_have_no_classes_in_common(tmp_path):
    info = DatasetFolder(write_rich(tmp_path / "d")).info
    for attribute in ("classes", "palette"):
        assert "the dataset 'rich' has the heads sem, geo" in refusal(getattr, info, attribute)
    assert info.heads["geo"].classes == GEOMETRY
    assert info.heads["sem"].unscored == ("tree",) and info.heads["geo"].unscored == ()
    ids = np.arange(256, dtype=np.uint8)
    assert set(np.flatnonzero(~info.foreign(ids, "sem"))) == {0, 1, 2, 255}
    assert set(np.flatnonzero(~info.foreign(ids, "geo"))) == {0, 1, 2, 3, 255}
    assert info.describe_ids("geo") == "4 classes (0..3, 255 = ignore)"


def test_dataset_yaml_is_written_as_it_is_read(tmp_path):
    plain = DatasetInfo.plain("a", ("x", "y"), ((0, 0, 0), (1, 2, 3)), ignore_index=9)
    assert plain == DatasetInfo(
        name="a", classes=["x", "y"], palette=[[0, 0, 0], [1, 2, 3]], ignore_index=9
    )
    assert plain.to_dict() == {
        "name": "a",
        "classes": ["x", "y"],
        "palette": [[0, 0, 0], [1, 2, 3]],
        "ignore_index": 9,
    }
    assert dict(plain.inputs) == {"color": "images"}
    assert plain.heads["labels"].masks == "masks"
    assert DatasetInfo.plain("a", ("x", "y"), unscored=("y",)).to_dict()["unscored"] == ["y"]
    (tmp_path / "dataset.yaml").write_text(RICH)
    rich = read_info(tmp_path)
    assert rich.to_dict() == yaml.safe_load(RICH)
    deep = DatasetInfo(name="a", classes=("x",), inputs={"color": "images", "depth": "depth"})
    assert deep.to_dict()["inputs"] == {"color": "images", "depth": "depth"}
    assert deep.to_dict()["classes"] == ["x"]
    other = DatasetInfo(name="a", heads={"labels": HeadInfo(masks="m", classes=("x",))})
    for info in (plain, rich, deep, other):
        assert DatasetInfo.model_validate(yaml.safe_load(yaml.safe_dump(info.to_dict()))) == info


@pytest.mark.parametrize(
    ("folder", "what"),
    [("hha", "no image of the same name in hha/train"), ("masks_geo", "no mask")],
)
def test_what_is_asked_for_must_be_complete_and_nothing_else(tmp_path, folder, what):
    root = write_rich(tmp_path / "d", train=6)
    for index in range(5):
        (root / folder / "train" / f"train{index}.png").unlink()
    data = DatasetFolder(root)
    message = refusal(data.split, "train", ("color", "hha"), ("sem", "geo"))
    assert f"{root}: 5 images of split 'train' have {what}" in message
    assert f"{folder}/train (train0.png, train1.png, train2.png and 2 more)" in message
    assert len(data.split("train", ("color", "depth"), ("sem",))) == 6
    missing = data.listing("train").missing
    assert {each.image for each in missing} == {
        root / "images/train" / f"train{index}.png" for index in range(5)
    }
    assert {each.folder for each in missing} == {folder}


def test_the_first_input_decides_which_images_there_are(tmp_path):
    root = write_rich(tmp_path / "d")
    for folder in ("depth", "masks_geo"):
        shutil.copy(root / folder / "train/train0.png", root / folder / "train/extra.png")
    (root / "depth/train/notes.txt").touch()
    folder = DatasetFolder(root)
    assert folder.listing("train").orphans == (
        root / "depth/train/extra.png",
        root / "masks_geo/train/extra.png",
    )
    assert folder.listing("train").strangers == (root / "depth/train/notes.txt",)
    assert folder.listing("train", ("hha",), ("sem",)).orphans == ()
    assert len(folder.split("train", ("depth",), ("geo",))) == 3  # extra is no image
    (root / "hha/train/train1.png").unlink()
    message = refusal(folder.split, "train", ("hha",), ("geo",))  # nor is train1 left out
    assert "1 images of split 'train' have no image of the same name in hha/train" in message


def test_twins_in_a_further_input(tmp_path):
    root = write_rich(tmp_path / "d")
    Image.fromarray(picture(5)).save(root / "hha/train/train1.jpg")
    message = refusal(DatasetFolder(root).split, "train", ("color", "hha"))
    assert f"{root}/hha/train: train1.jpg, train1.png have the same name" in message
    assert len(DatasetFolder(root).split("train", ("color", "depth"))) == 3
    listed = DatasetFolder(root).listing("train")
    assert [sample.name for sample in listed.samples] == ["train0", "train2"]
    assert listed.missing == () and len(listed.twins) == 1


@pytest.mark.parametrize("folder", ["depth", "masks_geo"])
def test_inputs_and_masks_of_another_size_are_refused(tmp_path, folder):
    root = write_rich(tmp_path / "d")
    kind = np.uint16 if folder == "depth" else np.uint8
    Image.fromarray(np.zeros((10, 8), kind)).save(root / folder / "val/val1.png")
    split = DatasetFolder(root).split("val", ("color", "depth"))
    assert split[0].name == "val0"
    wrong, first = root / folder / "val/val1.png", root / "images/val/val1.png"
    assert f"{wrong}: is 8 x 10 but its image {first} is 10 x 8" in refusal(split.__getitem__, 1)


def test_labels_are_read_without_the_pixels_of_any_image(tmp_path):
    root = write_rich(tmp_path / "d")
    split = DatasetFolder(root).split("train", ("color", "depth"), ("geo", "sem"))
    whole = [split[index].labels for index in range(len(split))]
    for folder in ("images", "depth"):
        for path in (root / folder / "train").iterdir():
            path.write_bytes(path.read_bytes()[:60])  # the header is left
    for index, expected in enumerate(whole):
        assert np.array_equal(split.labels(index), expected)


def test_ids_outside_the_classes_of_one_head(tmp_path):
    root = write_rich(tmp_path / "d")
    path = root / "masks/val/val0.png"
    shutil.copy(root / "masks_geo/val/val0.png", path)  # its class 3 is none of sem's
    message = refusal(DatasetFolder(root).split("val").__getitem__, 0)
    count = int((labels(1200, count=len(GEOMETRY)) == 3).sum())
    assert f"{path}: the mask has value 3 ({count} pixels) but head 'sem' has 3 classes" in message
    assert refusal(DatasetFolder(root).split("val").labels, 0) == message
    assert DatasetFolder(root).split("val", heads=("geo",))[0].labels.max() == 255


def test_the_first_readable_file_tells_what_an_input_holds(tmp_path):
    root = write_rich(tmp_path / "d")
    folder = DatasetFolder(root)
    assert [folder.input(name).channels for name in ("color", "depth", "hha")] == [3, 1, 3]
    (root / "depth/train/a-note.txt").write_text("no image")
    (root / "depth/train/train0.png").write_bytes(b"")
    assert folder.input("depth").channels == 1
    Image.fromarray(picture(3)).save(root / "depth/train/train1.png")
    assert folder.input("depth").channels == 3
    shutil.rmtree(root / "depth/train")
    assert folder.input("depth").channels == 1  # val's
    shutil.rmtree(root / "depth")
    assert folder.input("depth").channels == 3


def test_files_of_another_kind_than_their_input_are_refused(tmp_path):
    root = write_rich(tmp_path / "d")
    Image.fromarray(picture(7)).save(root / "depth/val/val0.png")
    Image.fromarray(depth(7)).save(root / "hha/val/val0.png")
    folder = DatasetFolder(root)
    depths, others = "16-bit grey (distances)", "colours or 8-bit grey"
    for name, own, theirs in (("depth", depths, others), ("hha", others, depths)):
        split = folder.split("val", (name,))
        for read in (split.__getitem__, split.size):
            message = refusal(read, 0)
            assert f"{root}/{name}/val/val0.png: holds {theirs} but the first file of" in message
            assert f"{name} {own}; save all its files alike" in message
        assert split[1].image.shape == (8, 10, 1 if name == "depth" else 3)


def test_the_color_input_is_rgb_whatever_its_files_hold(tmp_path):
    root = write_rich(tmp_path / "d")
    for path in (root / "images/val").iterdir():
        shutil.copy(root / "depth/val" / path.name, path)
    split = DatasetFolder(root).split("val")
    assert split.inputs["color"].channels == 3
    expected = np.rint(depth(1000) / 257).astype(np.uint8)
    np.testing.assert_array_equal(split[0].image, np.repeat(expected[..., None], 3, 2))
    assert split.size(0) == (8, 10)


def test_a_nets_inputs_must_be_the_folders(tmp_path):
    root = write_rich(tmp_path / "d")
    folder = DatasetFolder(root)
    folder.require_inputs({"color": 3})
    folder.require_inputs({"hha": 3, "depth": 1, "color": 3})
    message = refusal(folder.require_inputs, {"color": 3, "depth": 3})
    assert f"{root}/depth: the input 'depth' has 1 channel but the net's input 'depth' has 3" in (
        message
    )
    assert "call it 'color' in dataset.yaml" in message
    message = refusal(folder.require_inputs, {"hha": 1})
    assert "'hha' has 3 channels but the net's input 'hha' has 1; distances are read" in message
    assert "none called 'thermal'" in refusal(folder.require_inputs, {"thermal": 1})
    rewrite(root, ("color: images, depth: depth", "depth: depth, x: images"))
    assert "'depth' has 1 channel but the net's input 'color' has 3" in refusal(
        DatasetFolder(root).require_inputs, {"color": 3}
    )


def test_held_out_scenes_have_all_inputs_and_heads(tmp_path):
    root = write_rich(tmp_path / "d", train=30, val=0)
    folder = DatasetFolder(root)
    assert folder.held_out
    asked = ("hha", "depth"), ("geo",)
    train, val = (folder.split(name, *asked) for name in ("train", "val"))
    names = [{sample.name for sample in split.samples} for split in (train, val)]
    assert names[0] | names[1] == {f"train{i}" for i in range(30)} and not names[0] & names[1]
    assert names[1] == {sample.name for sample in folder.split("val").samples}
    index = int(val.samples[0].name.removeprefix("train"))
    np.testing.assert_array_equal(val[0].image[..., :3], picture(index + 100, val.size(0)))
    (root / "hha/train/train7.png").unlink()
    for name in ("train", "val"):  # neither gets smaller in silence
        assert "1 images of split 'train' have no image of the same name in hha/train" in refusal(
            folder.split, name, *asked
        )


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are text there")
def test_names_that_are_no_text_are_held_out_like_others(tmp_path):
    root = write_dataset(tmp_path / "d", train=4, val=0)
    for kind in ("images", "masks"):
        path = os.fsencode(root / kind / "train")
        os.rename(path + b"/train0.png", path + b"/\xff.png")  # noqa: PTH104
    folder = DatasetFolder(root)
    assert len(folder.split("train")) + len(folder.split("val")) == 4
    assert check_folder(root).errors == ()
