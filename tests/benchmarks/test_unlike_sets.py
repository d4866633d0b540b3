from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fullconv.data.check import CheckReport, check_folder
from fullconv.data.folder import SPLITS, DatasetFolder
from fullconv.measure.metrics import ConfusionMatrix

unlike_sets = importlib.import_module("benchmarks.datasets.unlike_sets")

COUNTS, SIZE = (5, 2, 2), (144, 128)
SETS = [replace(each, counts=COUNTS, size=SIZE) for each in unlike_sets.unlike_sets()]
OWN = [each for each in SETS if each.info.name != "street"]  # whose scenes test_synth.py knows
by_name = pytest.mark.parametrize(
    "small",
    [
        pytest.param(each, marks=() if each in OWN else pytest.mark.slow, id=each.info.name)
        for each in SETS
    ],
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that hold the sets."""
    root = tmp_path_factory.mktemp("unlike")
    for small in SETS:
        small.write(root / small.info.name)
    return root


def checked(folder: Path) -> CheckReport:
    return check_folder(folder)


def pixels(report: CheckReport, split: str) -> np.ndarray:
    """Pixels per label id in a split."""
    (own,) = (each for each in report.splits if each.name == split)
    return own.labels["labels"].pixels


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@by_name
def test_a_folder_is_sound_and_shows_every_class(small: object, folders: Path) -> None:
    """Of `data check`: sizes fit, ids are valid, no picture is in two splits."""
    report = checked(folders / small.info.name)
    assert report.errors == report.warnings == ()
    assert [sum(split.sizes.values()) for split in report.splits] == list(COUNTS)
    assert all(set(split.sizes) == {SIZE} for split in report.splits)
    assert pixels(report, "train")[: len(small.info.classes)].all()
    beyond = pixels(report, "train")[len(small.info.classes) :]
    assert not beyond.any() or small.info.name == "street"  # whose bonnets have no class


@by_name
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    small: object, folders: Path, tmp_path: Path
) -> None:
    np.random.seed(1)  # numpy's global state must not matter
    replace(small, counts=(1, 1, 0)).write(tmp_path / "same")
    replace(small, counts=(1, 0, 0)).write(tmp_path / "other", seed=1)
    same, other = files_of(tmp_path / "same"), files_of(tmp_path / "other")
    before = files_of(folders / small.info.name)
    assert len(same) == 5 and same.items() <= before.items()
    assert [name for name in other if other[name] == before[name]] == ["dataset.yaml"]


@by_name
def test_the_splits_show_other_scenes(small: object) -> None:
    images = [small.draw(0, split, index, SIZE)[0] for split in SPLITS for index in range(2)]
    assert len({image.tobytes() for image in images}) == len(images)


def test_about_a_hundredth_is_defect_and_some_images_have_none() -> None:
    (defect,) = (each for each in SETS if each.info.name == "defect")
    shares = [defect.draw(0, "train", index, SIZE)[1].mean() for index in range(24)]
    assert 0.003 < np.mean(shares) < 0.03
    assert shares.count(0) in range(1, 10)
    assert max(shares) < 0.06


def test_vehicles_and_trees_are_tiny_and_rare(folders: Path) -> None:
    counts = pixels(checked(folders / "fields"), "train")
    land = unlike_sets.Land
    assert counts[land.VEHICLE] < counts[land.TREE] < 0.05 * counts.sum()
    assert counts[land.VEHICLE] < 0.01 * counts.sum()


@pytest.mark.parametrize("small", OWN, ids=lambda each: each.info.name)
def test_colour_alone_does_not_tell_the_class(small: object, folders: Path) -> None:
    """The best label for each of 16x16x16 colours, learnt on train, fails on test."""
    folder, count = DatasetFolder(folders / small.info.name), len(small.info.classes)
    votes, confusion = np.zeros((4096, count), np.int64), ConfusionMatrix(count)
    for split in ("train", "test"):
        for _, image, (labels,) in folder.split(split):
            colours = (image // 16).astype(np.int64) @ (256, 16, 1)
            if split == "train":
                np.add.at(votes, (colours, labels), 1)
            else:
                confusion.update(labels, votes.argmax(axis=1)[colours])
    assert confusion.metrics().mean_iu < (0.55 if count == 2 else 0.45)


def test_what_is_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = [replace(each, counts=(1, 1, 1), size=(64, 64)) for each in SETS]
    monkeypatch.setattr(unlike_sets, "unlike_sets", lambda: tiny)
    unlike_sets.write_missing(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(s.info.name for s in SETS)
    mine = tmp_path / "cells" / "masks" / "train" / "cells_0000.png"
    mine.write_text("edited")
    (tmp_path / "defect" / "dataset.yaml").unlink()  # as of a command that was cut short
    unlike_sets.write_missing(tmp_path)
    assert mine.read_text() == "edited"
    assert checked(tmp_path / "defect").errors == ()


def test_the_contact_sheet_shows_image_and_mask_side_by_side(folders: Path) -> None:
    folder = DatasetFolder(folders / "defect")
    sheet = np.asarray(unlike_sets.contact_sheet([folder], rows=1))
    _, image, (labels,) = folder.split("train")[0]
    coloured = np.array(folder.info.palette, np.uint8)[labels]
    ((row, column),), ((same_row, further),) = places(sheet, image), places(sheet, coloured)
    assert row == same_row and further >= column + SIZE[1]


def places(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Row and column of each place in the sheet that shows the picture."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)[:, :, 0]
    alike = np.argwhere((windows[:, :, 0, 0] == picture[0, 0]).all(-1))
    return [(row, column) for row, column in alike if np.array_equal(windows[row, column], picture)]
