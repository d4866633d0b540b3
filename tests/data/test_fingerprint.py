"""The fingerprint of a split, against counting by hand and the upper bounds of `data bounds`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from dataset_folders import GEOMETRY, labels, write_dataset, write_rich
from PIL import Image

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.data import folder as folder_module
from fullconv.data.check import check_folder
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import CachedSplit
from fullconv.measure.bounds import upper_bounds


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    return write_rich(tmp_path / "rooms", train=5)


def test_headers_tell_sizes_and_channels(rich: Path) -> None:
    found = Fingerprint.of(DatasetFolder(rich).split("train", ("color", "depth")))
    assert found.images == 5 and found.sizes == {(8, 10): 4, (5, 13): 1}
    assert found.size_of["train1"] == (5, 13)
    assert found.median_size == (8, 10)
    assert found.channels == {"color": 3, "depth": 1}
    assert not found.labels and not found.thinness


def test_pixels_are_counted(rich: Path) -> None:
    split = DatasetFolder(rich).split("train")
    found = Fingerprint.of(split).with_pixels(split)
    sizes = [(5, 13) if seed == 1 else (8, 10) for seed in range(5)]
    masks = [labels(seed + 200, sizes[seed], len(GEOMETRY)) for seed in range(5)]
    counts = found.labels["geo"]
    for label in range(256):
        showing = [mask for mask in masks if (mask == label).any()]
        assert counts.pixels[label] == sum((mask == label).sum() for mask in masks)
        assert counts.images[label] == len(showing)
        assert counts.beside[label] == sum((mask != 255).sum() for mask in showing)


def test_thinness_is_what_data_bounds_finds(rich: Path) -> None:
    split = DatasetFolder(rich).split("train")
    found = Fingerprint.of(split).with_pixels(split, (2, 3, 8))
    for head, by_side in upper_bounds(split, (2, 3, 8)).items():
        assert list(found.thinness[head]) == [2, 3, 8]
        for side, metrics in by_side.items():
            drawn = found.thinness[head][side]
            np.testing.assert_allclose(drawn.iu, metrics.iu)
            assert drawn.mean_iu == pytest.approx(metrics.mean_iu)


def test_nothing_labelled_is_thin_by_nan(tmp_path: Path) -> None:
    root = write_dataset(tmp_path)
    for path in (root / "masks/train").iterdir():
        Image.fromarray(np.full((8, 10), 255, np.uint8)).save(path)
    split = DatasetFolder(root).split("train")
    found = Fingerprint.of(split).with_pixels(split)
    assert np.isnan(found.thinness["labels"][8].mean_iu)
    assert found.to_dict()["drawn"]["labels"][8] is None


def test_its_plain_form_is_yaml(rich: Path) -> None:
    split = DatasetFolder(rich).split("train")
    values = Fingerprint.of(split).with_pixels(split).to_dict()
    assert values["sizes"] == {"8x10": 4, "5x13": 1}
    assert values["labels"]["sem"]["images"] == {0: 5, 1: 5, 2: 5, 255: 5}
    assert yaml.safe_load(yaml.safe_dump(values)) == values


def test_each_header_and_each_mask_is_read_once(tmp_path: Path, monkeypatch) -> None:
    """By the check, the pixel part and the cache together."""
    root = write_dataset(tmp_path, train=4)
    opened: list[Path] = []
    original = ImageReader._opened

    def noted(self: ImageReader, path: Path, **how: bool):
        opened.append(path)
        return original(self, path, **how)

    monkeypatch.setattr(ImageReader, "_opened", noted)
    train = DatasetFolder(root).split("train")
    found = Fingerprint.of(train)
    assert sorted(opened) == sorted((root / "images/train").iterdir())
    opened.clear()
    found = found.with_pixels(train)
    kept = CachedSplit(train, 1 << 20, sizes=found.size_of)
    assert sorted(opened) == sorted((root / "masks/train").iterdir())
    opened.clear()
    for index in range(4):
        assert kept[index].name == f"train{index}"
    assert len(opened) == 8


def test_a_wrong_mask_is_an_error(rich: Path) -> None:
    Image.fromarray(np.full((8, 10), 9, np.uint8)).save(rich / "masks/train/train2.png")
    split = DatasetFolder(rich).split("train")
    with pytest.raises(FullconvError, match=r"train2\.png: the mask has value 9"):
        Fingerprint.of(split).with_pixels(split)


def test_the_check_gives_one_a_split(rich: Path) -> None:
    for quick in (True, False):
        report = check_folder(rich, quick=quick)
        found, split = report.split("train"), DatasetFolder(rich).split("train", ("color",))
        assert found.size_of == Fingerprint.of(split).size_of
        assert bool(found.labels) != quick
        counts = found.with_pixels(split).labels["sem"]
        if not quick:
            assert (counts.pixels == found.labels["sem"].pixels).all()
            assert (counts.beside == found.labels["sem"].beside).all()


def test_of_many_masks_some_are_read(tmp_path: Path, monkeypatch) -> None:
    root = write_dataset(tmp_path, train=9)
    split = DatasetFolder(root).split("train")
    monkeypatch.setattr("fullconv.data.fingerprint.MASKS_COUNTED", 3)
    monkeypatch.setattr("fullconv.data.fingerprint.MASKS_DRAWN", 1)
    found = Fingerprint.of(split).with_pixels(split, (4,))
    assert found.images == 9 and found.labels["labels"].images[0] == 3
    (first,) = upper_bounds(split.few(1), (4,))["labels"].values()
    assert found.thinness["labels"][4].mean_iu == pytest.approx(first.mean_iu)
    assert folder_module.evenly_chosen(9, 3) == [0, 4, 8]
