"""`fullconv data check`: each defect made for real, found, told in one line, with the exit code."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dataset_folders import (
    GEOMETRY,
    add_sample,
    depth,
    labels,
    picture,
    write_dataset,
    write_rich,
    write_yaml,
)
from image_bytes import announced, exif
from PIL import Image

import fullconv.cli
from fullconv.base.errors import FullconvError
from fullconv.base.pipeline import ahead
from fullconv.base.progress import Reporter
from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder


@pytest.fixture
def root(tmp_path) -> Path:
    return write_dataset(tmp_path / "street")


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; its exit code, output and error output."""
    monkeypatch.setattr(sys, "argv", ["fullconv", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        fullconv.cli.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def one_error(root: Path, *, quick_too: bool) -> str:
    """The only error in `root`, which the quick check finds as well or does not."""
    report = check_folder(root)
    assert len(report.errors) == 1, report.errors
    assert check_folder(root, quick=True).errors == (report.errors if quick_too else ())
    assert "\n" not in report.errors[0]
    return report.errors[0]


def test_a_sound_dataset_has_no_findings_and_right_counts(root):
    report = check_folder(root)
    assert report.errors == () and report.warnings == ()
    assert [split.name for split in report.splits] == ["train", "val", "test"]
    train = report.splits[0]
    assert train.sizes == {(8, 10): 4} and not train.held_out
    masks = [labels(seed) for seed in range(4)]
    counts = train.labels["labels"]
    for label in range(256):
        assert counts.pixels[label] == sum(int((mask == label).sum()) for mask in masks)
        assert counts.images[label] == sum(bool((mask == label).any()) for mask in masks)


def test_the_command_prints_tables_and_exits_with_0(root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    code, out, err = run(monkeypatch, capsys, "data", "check", root, "--quiet")
    assert code == 0 and err == ""
    assert re.search(r"train +4 +10 x 8 +10 x 8 +10 x 8 \(4\)", out)
    pixels = sum(int((labels(seed) == 1).sum()) for seed in range(4))
    assert re.search(rf"1 +tree +{pixels} +4 ", out)
    *tables, conclusion = out.splitlines()  # the conclusion holds a path of any length
    assert max(map(len, tables)) <= 80
    assert conclusion == f"{root}: no errors"
    assert ": no errors" in out


@pytest.mark.parametrize("name", ["[/]", "[void]", "[bold]sky", ":car:", "$x", "[link=a]", "[[x]]"])
def test_names_like_markup_are_shown_as_they_are(root, monkeypatch, capsys, name):
    """Of classes, of the dataset and of folders, in tables, findings and bars."""
    text = f"name: 'set {name}'\nclasses: ['{name}', tree, sky]\n"
    (root / "dataset.yaml").write_text(text)
    root = root.rename(root.with_name("data[old] :car: [b]x"))
    (root / "images/train/[b]list.txt").write_text("")
    monkeypatch.setenv("COLUMNS", "30")
    code, out, err = run(monkeypatch, capsys, "data", "check", root)
    assert code == 0
    assert f"set {name}\n" in out.replace(" \n", "\n") or f"set {name} " in out
    assert re.search(rf"0 +{re.escape(name)} +\d+ +4 ", out)
    assert f"warning: {root}/images/train/[b]list.txt: is passed over" in out
    assert out.splitlines()[-1] == f"{root}: no errors"
    assert f"checking {root}: " in err


def test_a_bar_shows_names_like_markup(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Reporter().bar(3, "checking data[old] [/] :car:") as bar:
        bar.advance(note="[/] [void] :car:")
        bar.say("a line [/] :car:")
    err = capsys.readouterr().err
    assert "checking data[old] [/] :car:" in err and "[/] [void] :car:" in err
    assert "a line [/] :car:" in err


def test_errors_exit_with_2_and_warnings_with_0(root, monkeypatch, capsys):
    (root / "images/train/list.txt").write_text("")
    code, out, _ = run(monkeypatch, capsys, "data", "check", root)
    assert code == 0 and "warning:" in out and "list.txt" in out and "error:" not in out
    (root / "masks/train/train0.png").unlink()
    code, out, _ = run(monkeypatch, capsys, "data", "check", root)
    assert code == 2 and ": no errors" not in out
    (line,) = [line for line in out.splitlines() if line.startswith("error:")]
    assert f"{root}/images/train/train0.png: has no mask; add train0.png to masks/train" in line


def test_no_dataset_is_one_line_and_2(tmp_path, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "data", "check", tmp_path)
    assert code == 2 and out == ""
    assert len(err.splitlines()) == 1 and "has no dataset.yaml" in err


def test_max_pixels_is_an_option(root, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "data", "check", root, "--max-pixels", 79)
    assert code == 2 and "10 x 8 pixels are more than the 79 allowed" in out


def test_extra_masks_and_masks_of_another_kind(root):
    Image.fromarray(labels(1)).save(root / "masks/val/other.png")
    line = one_error(root, quick_too=True)
    assert "masks/val/other.png: the mask belongs to no image" in line
    (root / "masks/val/other.png").rename(root / "masks/val/val0.tif")
    assert "val0.tif: the mask is no PNG" in one_error(root, quick_too=True)


def test_masks_of_another_kind_are_told_as_such_by_all(root):
    """Not that there is no mask: a person sees that there is one."""
    mask, image = root / "masks/train/train1.tif", root / "images/train/train1.png"
    Image.fromarray(labels(1)).save(mask)
    mask.with_suffix(".png").unlink()
    told = f"{mask}: the mask of {image} is no PNG; save it as 8-bit"
    assert told in one_error(root, quick_too=True)
    with pytest.raises(FullconvError, match=re.escape(told)):
        DatasetFolder(root).split("train")
    with pytest.raises(FullconvError, match=re.escape(told)):
        check_folder(root, quick=True).require_sound()


def test_many_errors_of_a_kind_are_counted(tmp_path):
    root = write_dataset(tmp_path / "d", train=100)
    shutil.rmtree(root / "masks/train")
    report = check_folder(root)
    assert len(report.errors) == 6
    assert report.errors[-1] == "and 95 more images without a mask"
    assert report.splits[0].sizes.total() == 0


def test_a_mask_of_another_size(root):
    Image.fromarray(labels(1, (8, 9))).save(root / "masks/val/val1.png")
    line = one_error(root, quick_too=True)
    image = root / "images/val/val1.png"
    assert f"masks/val/val1.png: is 9 x 8 but its image {image} is 10 x 8" in line


def test_ids_outside_the_classes(root):
    ids = labels(1)
    ids[4] = 66
    ids[5, :3] = 3
    Image.fromarray(ids).save(root / "masks/test/test0.png")
    line = one_error(root, quick_too=False)
    assert "masks/test/test0.png" in line and "3 (3 pixels), 66 (10 pixels)" in line
    assert "3 classes (0..2, 255 = ignore)" in line and "dataset.yaml" in line


def test_truncated_and_empty_and_text_images(root):
    big = picture(77, (64, 64))
    Image.fromarray(big).save(root / "images/train/train0.jpg")
    (root / "images/train/train0.png").unlink()
    Image.fromarray(labels(3, (64, 64))).save(root / "masks/train/train0.png")
    path = root / "images/train/train0.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    line = one_error(root, quick_too=False)
    assert "train0.jpg: is damaged or truncated" in line and "restore" in line
    path.write_bytes(b"")
    assert "train0.jpg: is empty (0 bytes)" in one_error(root, quick_too=True)
    path.write_text("hello")
    assert "train0.jpg: is no readable JPEG" in one_error(root, quick_too=True)


def test_a_truncated_mask(root):
    path = root / "masks/train/train0.png"
    path.write_bytes(path.read_bytes()[:60])
    assert "masks/train/train0.png: is damaged or truncated" in one_error(root, quick_too=False)


def test_a_picture_of_30000_x_30000_in_a_tiny_file(root):
    announced(root / "images/train/train0.png", 30_000, 30_000)
    line = one_error(root, quick_too=True)
    assert "train0.png: 30000 x 30000 pixels are more than the 200,000,000 allowed" in line


@pytest.mark.parametrize(
    ("mask", "advice"),
    [
        (Image.new("RGB", (10, 8)), "is RGB: store one label id per pixel"),
        (Image.fromarray(np.zeros((8, 10), np.uint16)), "is 16-bit: save the label ids as 8-bit"),
    ],
)
def test_rgb_and_16_bit_masks(root, mask, advice):
    mask.save(root / "masks/train/train2.png")
    line = one_error(root, quick_too=True)
    assert "masks/train/train2.png: the mask" in line and advice in line


def two_classes(root: Path, foreground: int) -> Path:
    write_yaml(root, ("ground", "it's"))
    for split in ("train", "val"):
        for index in range(3):
            add_sample(root, split, f"{split}{index}", index + 10 * (split == "val"))
            mask = np.where(np.eye(8, 10) > 0, foreground, 0).astype(np.uint8)
            path = root / "masks" / split / f"{split}{index}.png"
            image = Image.fromarray(mask)
            if index == 1:  # a palette mask must survive the remapping as well
                image = Image.fromarray(mask, "P")
                image.putpalette(bytes(range(256)) * 3)
            image.save(path)
    return root


@pytest.mark.parametrize("name", ["plain", "it's a folder"])
def test_masks_of_0_and_255_and_the_remapping_that_is_advised(tmp_path, name):
    root = two_classes(tmp_path / name, 255)
    line = one_error(root, quick_too=False)
    assert "hold only 0 and 255" in line and "255 means ignore" in line
    command = line[line.index("python -c") :]
    program = shlex.split(command)
    assert program[0] == "python" and len(program) == 4
    subprocess.run([sys.executable, *program[1:]], check=True, timeout=600)
    after = check_folder(root)
    assert after.errors == () and after.warnings == ()
    for split in after.splits:
        assert split.labels["labels"].pixels[:2].tolist() == [3 * 72, 3 * 8]


@pytest.mark.parametrize("foreground", [0, 255])
def test_one_class_is_an_error_that_says_how_to_have_two(tmp_path, foreground):
    root = two_classes(tmp_path / "d", foreground)
    write_yaml(root, ("it's",))
    for quick in (True, False):
        (line,) = check_folder(root, quick=quick).errors
        assert f"{root}/dataset.yaml: key 'classes': \"it's\" is the only class" in line
        assert "background is a class of its own: write [background, it's], with the ids 0" in line
        assert ("python -c" in line) == (foreground == 255 and not quick)
    write_yaml(root, ("background", "it's"))
    if foreground == 255:
        program = shlex.split(line[line.index("python -c") :])
        subprocess.run([sys.executable, *program[1:]], check=True, timeout=600)
        assert check_folder(root).errors == ()


def test_one_class_of_one_of_several_heads_is_an_error(rich):
    text = (rich / "dataset.yaml").read_text()
    (rich / "dataset.yaml").write_text(text.replace(f"[{', '.join(GEOMETRY)}]", "[sky]"))
    (line, *_) = check_folder(rich, quick=True).errors
    assert "key 'heads.geo.classes': 'sky' is the only class" in line
    assert check_folder(rich, quick=True, heads=["sem"]).errors == ()


def test_two_classes_with_ignored_pixels_are_not_mistaken(tmp_path):
    root = two_classes(tmp_path / "d", 255)
    path = root / "masks/train/train0.png"
    Image.fromarray(np.eye(8, 10, dtype=np.uint8)).save(path)
    assert check_folder(root).errors == ()


@pytest.mark.parametrize("how", ["copied", "another format", "turned by EXIF"])
def test_a_picture_in_two_splits_is_found_by_its_pixels(root, how):
    pixels = picture(0)  # that of train0
    path = root / "images/test/test1.png"
    if how == "copied":
        shutil.copy(root / "images/train/train0.png", path)
    elif how == "another format":
        path.unlink()
        path = path.with_suffix(".bmp")
        Image.fromarray(pixels).save(path)
    else:
        Image.fromarray(np.rot90(pixels, 2)).save(path, exif=exif(3))
    line = one_error(root, quick_too=False)
    assert f"{path}: is the same picture as {root / 'images/train/train0.png'}" in line
    assert "'train' and 'test'" in line and "keep it in one" in line


def test_a_picture_twice_in_one_split_is_no_error(root):
    shutil.copy(root / "images/train/train0.png", root / "images/train/train1.png")
    assert check_folder(root).errors == ()


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_image_turned_by_exif_whose_mask_is_not(root, orientation):
    path = root / "images/train/train0.png"
    Image.fromarray(picture(0)).save(path, exif=exif(orientation))
    for quick in (False, True):
        report = check_folder(root, quick=quick)
        assert len(report.warnings) == 1
        assert f"{path}: is turned by its EXIF data but" in report.warnings[0]
        assert len(report.errors) == (orientation == 6)  # then the sizes differ as well
    mask = root / "masks/train/train0.png"
    Image.fromarray(labels(0)).save(mask, exif=exif(orientation))
    assert check_folder(root).warnings == ()
    Image.fromarray(picture(0)).save(path)
    (line, *_) = check_folder(root).warnings
    assert f"{mask}: is turned by its EXIF data but {path} is not" in line


def test_empty_and_missing_splits(root):
    for kind in ("images", "masks"):
        shutil.rmtree(root / kind / "val")
        (root / kind / "val").mkdir()
    assert "images/val: holds no images; put some there" in one_error(root, quick_too=True)
    for kind in ("images", "masks"):
        (root / kind / "val").rmdir()
        shutil.rmtree(root / kind / "train")
    report = check_folder(root)
    assert report.errors == () and "images/train: is missing" in report.warnings[0]
    shutil.rmtree(root / "images")
    report = check_folder(root)
    assert "images/train: is missing; put images" in report.errors[0]
    assert f"{root}/masks/test: is not used" in report.warnings[0]


def test_one_image_leaves_nothing_for_val(tmp_path):
    write_yaml(tmp_path)
    add_sample(tmp_path, "train", "only", 0)
    assert "images/train: holds one image; val needs another" in one_error(tmp_path, quick_too=True)


def test_of_two_images_one_is_held_out(tmp_path):
    report = check_folder(write_dataset(tmp_path, train=2, val=0))
    assert report.errors == ()
    assert {split.name: split.sizes.total() for split in report.splits[:2]} == {
        "train": 1,
        "val": 1,
    }


def test_held_out_images_are_counted_in_val(tmp_path):
    root = write_dataset(tmp_path / "d", train=20, val=0)
    report = check_folder(root)
    train, val, _ = report.splits
    assert val.held_out and val.sizes.total() >= 1
    assert train.sizes.total() + val.sizes.total() == 20


def test_classes_without_a_pixel(root):
    for path in (root / "masks/val").iterdir():
        ids = np.asarray(Image.open(path)).copy()
        ids[ids == 1] = 0
        Image.fromarray(ids).save(path)
    report = check_folder(root)
    assert report.errors == () and len(report.warnings) == 1
    assert "masks/val: has no pixel of tree, which can't be measured" in report.warnings[0]
    assert check_folder(root, quick=True).warnings == ()


def test_two_images_of_one_name(root):
    Image.fromarray(picture(50)).save(root / "images/train/train1.jpg")
    line = one_error(root, quick_too=True)
    assert "train1.jpg: has the same name as train1.png; rename or remove one" in line


def test_what_is_not_used_is_told(root):
    (root / "images/validation").mkdir()
    (root / "masks/Train").mkdir()
    (root / "images/.cache").mkdir()
    Image.fromarray(picture(60)).save(root / "images/loose.jpg")
    warnings = check_folder(root).warnings
    assert len(warnings) == 3
    for path in ("images/validation", "masks/Train", "images/loose.jpg"):
        assert sum(f"{root / path}: is not used" in line for line in warnings) == 1
    assert "did you mean train?" in next(line for line in warnings if "Train" in line)


def test_links_that_lead_back_are_passed_over_and_told(root):
    for kind in ("images", "masks"):
        for name in ("loop", "twin"):
            (root / kind / "train" / name).symlink_to(root / kind / "train")
    for quick in (True, False):
        report = check_folder(root, quick=quick)
        assert report.errors == () and report.split("train").images == 4
        assert len(report.warnings) == 4
        link = root / "images/train/loop"
        assert f"{link}: leads to a folder that is searched already" in report.warnings[0]


def test_a_folder_of_links_elsewhere_is_read(root, tmp_path):
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    assert check_folder(root).errors == () == check_folder(root).warnings


def test_require_sound_is_silent_or_tells_the_first_error(root):
    check_folder(root, quick=True).require_sound()
    for index in range(2):
        (root / f"masks/train/train{index}.png").unlink()
    with pytest.raises(FullconvError, match=r"train0\.png: has no mask.*fullconv data check"):
        check_folder(root, quick=True).require_sound()


def test_quick_decodes_nothing(root, monkeypatch):
    def forbidden(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", forbidden)
    report = check_folder(root, quick=True)
    assert report.errors == () and report.splits[0].sizes == {(8, 10): 4}
    assert len(report.tables()) == 1


# Several inputs and heads ---------------------------------------------------------------------


@pytest.fixture
def rich(tmp_path) -> Path:
    return write_rich(tmp_path / "rooms")


def test_all_heads_are_counted_and_all_inputs_told(rich):
    report = check_folder(rich)
    assert report.errors == () and report.warnings == ()
    assert [(each.name, each.channels) for each in report.inputs] == [
        ("color", 3),
        ("depth", 1),
        ("hha", 3),
    ]
    train = report.splits[0]
    assert train.sizes == {(8, 10): 2, (5, 13): 1}
    sizes = [(8, 10), (5, 13), (8, 10)]
    masks = {
        "sem": [labels(seed, sizes[seed]) for seed in range(3)],
        "geo": [labels(seed + 200, sizes[seed], len(GEOMETRY)) for seed in range(3)],
    }
    for head, arrays in masks.items():
        for label in range(256):
            pixels, images = train.labels[head].pixels[label], train.labels[head].images[label]
            assert pixels == sum(int((array == label).sum()) for array in arrays)
            assert images == sum(bool((array == label).any()) for array in arrays)


def test_the_command_prints_a_table_a_head(rich, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    code, out, _ = run(monkeypatch, capsys, "data", "check", rich, "--quiet")
    assert code == 0
    assert re.search(r"depth +depth +1 \(16-bit distances\)", out)
    assert re.search(r"hha +hha +3", out)
    assert re.search(r"sem +geo *\n.*ignored +ignored", out)
    assert out.index("head sem") < out.index("head geo")
    porous = sum(int((labels(1200 + i, count=len(GEOMETRY)) == 3).sum()) for i in range(2))
    geo = out[out.index("head geo") :]
    assert re.search(rf"3 +porous +\d+ +3 +{porous} +2 ", geo)
    assert "tree" not in geo and "tree" in out
    assert len(check_folder(rich, quick=True).tables()) == 2


def test_missing_files_of_inputs_and_heads(rich):
    (rich / "depth/val/val1.png").unlink()
    line = one_error(rich, quick_too=True)
    assert f"{rich}/images/val/val1.png: has no image in depth; add one of the same name to" in line
    assert "depth/val" in line
    Image.fromarray(depth(3)).save(rich / "depth/val/val1.png")
    (rich / "masks_geo/val/val1.png").unlink()
    line = one_error(rich, quick_too=True)
    assert f"{rich}/images/val/val1.png: has no mask; add val1.png to masks_geo/val" in line


def test_only_the_inputs_and_heads_asked_for_are_checked(rich):
    """Whatever is wrong with the others."""
    (rich / "depth/val/val1.png").unlink()
    (rich / "depth/train/train0.png").write_bytes(b"")
    shutil.rmtree(rich / "masks_geo")
    for quick in (True, False):
        report = check_folder(rich, quick=quick, inputs=["hha", "color"], heads=["sem"])
        assert report.errors == () and report.splits[0].sizes.total() == 3
        assert [each.name for each in report.inputs] == ["hha", "color"]
        assert list(report.info.heads) == ["sem"]
        assert check_folder(rich, quick=quick, inputs=["color", "depth"]).errors
    assert "geo" not in report.splits[0].labels
    with pytest.raises(FullconvError, match="none called 'infrared'"):
        check_folder(rich, inputs=["infrared"])
    with pytest.raises(FullconvError, match="none called 'labels'"):
        check_folder(rich, heads=["labels"])


def test_files_that_belong_to_no_image(rich):
    Image.fromarray(depth(3)).save(rich / "depth/val/val9.png")
    line = one_error(rich, quick_too=True)
    assert f"{rich}/depth/val/val9.png: belongs to no image in {rich}/images/val" in line
    (rich / "depth/val/val9.png").rename(rich / "masks_geo/val/val9.png")
    line = one_error(rich, quick_too=True)
    assert f"{rich}/masks_geo/val/val9.png: the mask belongs to no image" in line


@pytest.mark.parametrize(
    ("folder", "kind"), [("depth", np.uint16), ("hha", np.uint8), ("masks_geo", np.uint8)]
)
def test_inputs_and_masks_of_another_size(rich, folder, kind):
    path = rich / folder / "test/test1.png"
    shape = (8, 9, 3) if folder == "hha" else (8, 9)
    Image.fromarray(np.zeros(shape, kind)).save(path)
    line = one_error(rich, quick_too=True)
    assert f"{path}: is 9 x 8 but its image {rich}/images/test/test1.png is 10 x 8" in line


def test_an_input_of_two_kinds(rich):
    shutil.copy(rich / "hha/test/test1.png", rich / "depth/test/test1.png")
    line = one_error(rich, quick_too=True)
    assert f"{rich}/depth/test/test1.png: holds colours or 8-bit grey but the first file" in line


def test_a_damaged_input_and_ids_outside_one_heads_classes(rich):
    path = rich / "depth/train/train0.png"  # the one that tells what the input holds
    path.write_bytes(path.read_bytes()[:60])
    assert f"{path}: is damaged or truncated" in one_error(rich, quick_too=False)
    shutil.copy(rich / "depth/train/train2.png", path)
    shutil.copy(rich / "masks_geo/test/test0.png", rich / "masks/test/test0.png")
    line = one_error(rich, quick_too=False)
    assert "masks/test/test0.png: the mask has value 3" in line
    assert "head 'sem' has 3 classes (0..2" in line


def test_a_damaged_first_image_has_no_size(rich):
    (rich / "images/train/train0.png").write_bytes(b"")
    assert "train0.png: is empty (0 bytes)" in one_error(rich, quick_too=True)
    assert check_folder(rich).splits[0].sizes == {(5, 13): 1, (8, 10): 1}


def test_a_further_input_turned_by_exif(rich):
    path = rich / "hha/train/train0.png"
    Image.fromarray(picture(100)).save(path, exif=exif(3))
    (line,) = check_folder(rich).warnings
    assert f"{path}: is turned by its EXIF data but {rich}/images/train/train0.png is not" in line


def test_the_same_hha_in_two_splits_is_no_picture_twice(rich):
    shutil.copy(rich / "hha/train/train0.png", rich / "hha/test/test0.png")
    assert check_folder(rich).errors == ()
    shutil.copy(rich / "images/train/train0.png", rich / "images/test/test0.png")
    assert "is the same picture as" in one_error(rich, quick_too=False)


def test_classes_without_a_pixel_by_head_unless_unscored(rich):
    for folder, label in (("masks", 1), ("masks", 2), ("masks_geo", 3)):
        for path in (rich / folder / "test").iterdir():
            ids = np.asarray(Image.open(path)).copy()
            ids[ids == label] = 0
            Image.fromarray(ids).save(path)
    report = check_folder(rich)
    assert report.errors == () and len(report.warnings) == 2
    assert "masks/test: has no pixel of sky, which" in report.warnings[0]  # tree is unscored
    assert "masks_geo/test: has no pixel of porous, which can't be measured" in report.warnings[1]
    for path in (rich / "masks/train").iterdir():
        ids = np.asarray(Image.open(path)).copy()
        ids[ids == 1] = 0
        Image.fromarray(ids).save(path)
    assert any(
        "masks/train: has no pixel of tree, which can't be learnt" in line
        for line in check_folder(rich).warnings
    )


def test_what_is_not_used_beside_further_folders(rich):
    (rich / "hha/trian").mkdir()
    Image.fromarray(labels(0)).save(rich / "masks_geo/loose.png")
    warnings = check_folder(rich).warnings
    assert len(warnings) == 2
    assert f"{rich}/hha/trian: is not used" in warnings[0] and "did you mean train?" in warnings[0]
    assert f"{rich}/masks_geo/loose.png: is not used" in warnings[1]


def test_few_images_are_read_ahead():
    """However many samples wait, only a few more than those looked at are ever in work."""
    started = 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return -item

    results = ahead(work, range(1000), 2)
    seen = []
    for result in results:
        seen.append(result)
        assert started <= len(seen) + 2 * 2 + 1
    assert seen == [-item for item in range(1000)]


@pytest.mark.realdata
def test_camvid_is_sound():
    shared = os.environ.get("FULLCONV_SHARED")
    if shared is None:
        pytest.skip("FULLCONV_SHARED names no folder")
    report = check_folder(Path(shared) / "data/camvid")
    assert report.errors == () and report.warnings == ()
    assert [split.sizes for split in report.splits] == [
        {(360, 480): 367},
        {(360, 480): 101},
        {(360, 480): 233},
    ]
    for split in report.splits:
        pixels = split.labels["labels"].pixels
        assert pixels.sum() == split.sizes.total() * 360 * 480
        assert not pixels[11:255].any()


# What is read in part, and what is not opened ---------------------------------------------------


def test_bands_that_are_left_out_are_told_by_name(root):
    pixels = np.dstack([picture(1), picture(2)[..., :1]])
    (root / "images/train/train0.png").unlink()
    path = root / "images/train/train0.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])
    for quick in (True, False):
        report = check_folder(root, quick=quick)
        assert report.errors == ()
        (line,) = report.warnings
        assert line.startswith(f"{path}: of red, green, blue, band 4 only red, green, blue are")


def test_further_inputs_of_many_bands_are_read_whole(tmp_path):
    root = write_dataset(tmp_path / "d", train=2, val=2, test=0)
    (root / "dataset.yaml").write_text(
        "name: d\nclasses: [road, tree, sky]\ninputs: {color: images, bands: bands}\n"
    )
    for path in sorted((root / "images").glob("*/*.png")):
        values = np.random.default_rng(3).integers(0, 65536, (8, 10, 5), dtype=np.uint16)
        other = root / "bands" / path.relative_to(root / "images").with_suffix(".tif")
        other.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(other, values, photometric="minisblack", planarconfig="contig")
    report = check_folder(root)
    assert report.errors == () and report.warnings == ()
    assert [each.channels for each in report.inputs] == [3, 5]
    tifffile.imwrite(other, values[..., :4], photometric="minisblack", planarconfig="contig")
    for quick in (True, False):
        (line,) = check_folder(root, quick=quick).errors
        assert "holds 4 bands but the first file of bands 5 bands" in line


@pytest.mark.skipif(os.name != "posix", reason="of POSIX")
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_pipe_named_like_an_image_or_a_mask_is_refused(root, kind):
    path = root / kind / "train/train0.png"
    path.unlink()
    os.mkfifo(path)
    for quick in (True, False):
        errors = check_folder(root, quick=quick).errors
        assert errors and str(path) in errors[0]
