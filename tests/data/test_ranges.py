"""Which values files of more than 8 bits hold: measured by check and fingerprint alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from dataset_folders import write_dataset, write_rich
from PIL import Image

from fullconv.base.images import ImageReader
from fullconv.base.stored import ValueRange
from fullconv.data.check import check_folder
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.ranges import Extent, Range


def store(root: Path, kind: str) -> None:
    """Store the images of a dataset folder anew, grey, with the values of their red."""
    for path in (root / "images").rglob("*.png"):
        values = np.asarray(Image.open(path))[..., 0].astype(int)
        values.flat[:2] = 0, 255
        if kind == "8 bits":
            Image.fromarray(values.astype(np.uint8)).save(path)
        elif kind == "10 bits":
            Image.fromarray((values * 4).astype(np.uint16)).save(path)
        elif kind == "12 bits":
            Image.fromarray((values * 16).astype(np.uint16)).save(path)
        else:
            path.unlink()
            dtype = {"int32": np.int32, "float32": np.float32, "int16": np.int16}[kind]
            tifffile.imwrite(path.with_suffix(".tif"), values.astype(dtype))


SPANS = {"10 bits": 1020, "12 bits": 4080, "int32": 255, "float32": 255, "int16": 255}


@pytest.mark.parametrize("kind", SPANS)
def test_images_by_their_measured_range_are_those_of_8_bits(tmp_path: Path, kind: str) -> None:
    plain, other = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b")
    store(plain, "8 bits")
    store(other, kind)
    folder = DatasetFolder(other)
    split = folder.split("train")
    found = Fingerprint.of(split).with_pixels(split)
    assert found.ranges["color"].span == ValueRange(0, SPANS[kind])
    assert found.to_dict()["ranges"]["color"]["most"] == SPANS[kind]
    assert check_folder(other).split("train").ranges == found.ranges
    seen = folder.with_reader(ImageReader(span=found.ranges["color"].span)).split("train")
    expected = DatasetFolder(plain).split("train")
    for index in range(len(seen)):
        np.testing.assert_array_equal(seen[index].image, expected[index].image)
    assert not Fingerprint.of(expected).with_pixels(expected).ranges


def test_the_check_says_which_values_there_are(tmp_path: Path) -> None:
    root = write_dataset(tmp_path)
    store(root, "10 bits")
    report = check_folder(root)
    assert report.errors == () and len(report.tables()) == 3
    (cell,) = report.tables()[1].columns[3].cells
    assert cell == "0..1020 of 16 bits"
    store(root, "int32")
    assert check_folder(root, quick=True).split("train").ranges == {}
    assert check_folder(root, quick=True).split("train").bits == {"color": 32}


def test_distances_have_a_range_too(tmp_path: Path) -> None:
    root = write_rich(tmp_path)
    report = check_folder(root)
    assert set(report.split("train").ranges) == {"depth"}
    found = report.split("train").ranges["depth"]
    assert (found.least, found.most, found.bits) == (0, 65535, 16)
    split = DatasetFolder(root).split("train", ("color", "depth"))
    assert Fingerprint.of(split).with_pixels(split).ranges["depth"].most == 65535


def measured(*files: np.ndarray) -> Range:
    found = Range.of([Extent.of(values, len(files)) for values in files], 16)
    assert found is not None
    return found


def test_a_few_hot_pixels_do_not_make_all_else_black() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (100, 100)).astype(np.uint16)
    assert measured(values).span.high == values.max()
    hot = values.copy()
    hot.flat[::5000] = 65535
    found = measured(hot, values)
    assert 4000 <= found.span.high <= 4095 and found.most == 65535
    assert "of 16 bits, most of them " in str(found)


def test_values_far_from_0_begin_where_they_do() -> None:
    values = np.arange(40_000, 45_000, dtype=np.uint16)
    assert measured(values).span == ValueRange(40_000, 44_999)
    assert measured(np.arange(-300, 300, dtype=np.int16)).span == ValueRange(-300, 299)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_one_value_everywhere_has_a_range(value: int) -> None:
    span = measured(np.full((4, 4), value, np.uint16)).span
    assert span.low <= value <= span.high


def test_what_is_no_number_has_no_part_in_it() -> None:
    found = measured(np.array([[np.nan, 1, 2], [np.inf, 3, -np.inf]], np.float32))
    assert (found.least, found.most) == (1, 3)
    assert Extent.of(np.full((2, 2), np.nan), 1) is None
    assert Range.of([], 16) is None
