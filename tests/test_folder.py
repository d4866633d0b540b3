"""The dataset folder: what dataset.yaml may say, how files pair up, what val is without a val."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from dataset_folders import CLASSES, add_sample, labels, picture, write_dataset, write_yaml
from fullconv.data.folder import DatasetFolder
from fullconv.data.info import DatasetInfo
from fullconv.errors import FullconvError


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
        ("name: a\nclasses: [r]\nignore_idx: 9", "key 'ignore_idx': is unknown; did you mean"),
    ],
)
def test_a_wrong_yaml_is_refused_by_file_key_and_problem(tmp_path, text, problem):
    (tmp_path / "dataset.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(DatasetFolder, tmp_path)
    assert str(tmp_path / "dataset.yaml") in message
    assert problem in message


def test_255_classes_and_a_palette_are_allowed(tmp_path):
    values = {"name": "é", "classes": NAMES_256[:255], "palette": [[i, 0, 255] for i in range(255)]}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    info = DatasetFolder(tmp_path).info
    assert info.palette[254] == (254, 0, 255) and len(info.classes) == 255
    assert not info.foreign(np.arange(256, dtype=np.uint8)).any()


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


def test_max_pixels_bounds_what_a_split_reads(tmp_path):
    root = write_dataset(tmp_path / "d")
    assert "10 x 8 pixels are more than the 79" in refusal(
        DatasetFolder(root, max_pixels=79).split("val").__getitem__, 0
    )
    assert DatasetFolder(root, max_pixels=80).split("val")[0].labels.size == 80


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
