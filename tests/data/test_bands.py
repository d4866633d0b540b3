"""Datasets of bands: names, values that are kept, gaps, and what is measured."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
from dataset_folders import labels
from PIL import Image
from rasters import write
from torch import nn

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.data.check import check_folder
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.info import DatasetInfo
from fullconv.data.ranges import Spread
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.surgery import show_colours, with_channels

SIZE = (8, 10)


def folder_of(root, images, yaml="show: [1, 2, 3]", **options):
    """Write a dataset of bands, images being H x W x bands."""
    root.mkdir()
    (root / "dataset.yaml").write_text(f"name: x\nclasses: [a, b, c]\n{yaml}\n")
    for at, image in enumerate(images):
        path = root / f"images/{'val' if at else 'train'}/{at}.tif"
        write(path, np.moveaxis(image, 2, 0), **options)
        mask = root / f"masks/{path.parent.name}/{at}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels(at, image.shape[:2])).save(mask)
    return root


def random(bands, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, 250, (*SIZE, bands)).astype(dtype)


def told(action, *arguments):
    with pytest.raises(FullconvError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("bands", [1, 3, 4, 7])
def test_every_band_keeps_its_values(tmp_path, bands, dtype):
    images = [random(bands, dtype, seed) for seed in range(2)]
    show = "show: [1, 1, 1]" if bands < 3 else "show: [3, 2, 1]"
    folder = DatasetFolder(folder_of(tmp_path / "a", images, show))
    read = folder.split("train", ("bands",))[0].image
    assert read.dtype == (np.uint8 if dtype == "u1" else np.float32)
    np.testing.assert_array_equal(read, images[0])  # the fourth byte is no transparency
    assert folder.input("bands").bands == tuple(f"band {at + 1}" for at in range(bands))
    assert not check_folder(tmp_path / "a").errors


def test_bands_are_called_as_yaml_says_or_the_file(tmp_path):
    root = folder_of(tmp_path / "a", [random(4)] * 2)
    names = ("blue & green", "red", "edge", "nir")
    with rasterio.open(root / "images/train/0.tif", "r+") as raster:
        raster.descriptions = names
    assert DatasetFolder(root).input("bands").bands == names
    (root / "dataset.yaml").write_text("name: x\nclasses: [a, b, c]\nbands: [w, x, y, z]\n")
    found = DatasetFolder(root).input("color")  # which stands for the first
    assert (found.bands, found.show) == (("w", "x", "y", "z"), (1, 2, 3))
    info = DatasetInfo.model_validate({"name": "x", "classes": ["a", "b"], "show": [4, 3, 2]})
    assert DatasetInfo.model_validate(info.to_dict()) == info
    assert info.inputs == {"bands": "images"} and "inputs" not in info.to_dict()


@pytest.mark.parametrize(
    ("yaml", "line"),
    [
        ("bands: [a, b]", "key 'bands': names 2 bands, but the images of"),
        ("show: [5, 1, 2]", "key 'show': band 5, but the images of"),
        ("bands: [a, b, c, d]\nshow: [5, 1, 2]", "key 'show': band 5 of 4"),
        ("bands: [a, b, c, a]", "key 'bands': names a band twice"),
        ("show: [1, 2]", "key 'show"),
        ("show: [0, 1, 2]", "key 'show"),
        ("inputs: {color: images}\nshow: [1, 2, 3]", "'color' is read as red, green and blue"),
    ],
)
def test_wrong_bands_are_told(tmp_path, yaml, line):
    root = folder_of(tmp_path / "a", [random(4)] * 2, yaml)
    assert line in told(lambda: DatasetFolder(root).input("color"))


def test_gaps_are_nan_and_their_labels_ignored(tmp_path):
    image = random(4, np.float32)
    image[2:4, 3:5] = -9999  # no band has data
    image[6, 6, 1] = image[6, 7, 2] = -9999
    image[7, 7, 0] = np.nan
    root = folder_of(tmp_path / "a", [image, image], nodata=-9999)
    split = DatasetFolder(root).split("train", ("bands",))
    found = split[0]
    expected = np.where(image == -9999, np.nan, image)
    np.testing.assert_array_equal(found.image, expected)
    gaps = np.isnan(expected).all(2)
    assert gaps.sum() == 4
    np.testing.assert_array_equal(found.labels[0], np.where(gaps, 255, labels(0, SIZE)))
    measured = Fingerprint.of(split).with_pixels(split)
    spread = measured.spreads["bands"]
    np.testing.assert_allclose(spread.mean, np.nanmean(expected, (0, 1), np.float64))
    np.testing.assert_allclose(spread.std, np.nanstd(expected, (0, 1), np.float64))
    assert measured.to_dict()["bands"]["bands"]["mean"] == list(spread.mean)
    image[0, 0, 0] = np.inf
    root = folder_of(tmp_path / "b", [image, image], nodata=-9999)
    assert "1 of its values are no numbers" in told(
        lambda: DatasetFolder(root).split("train", ("bands",))[0]
    )


def test_integers_may_have_gaps_too(tmp_path):
    image = random(4, np.uint16) + 1
    image[:2] = 0
    root = folder_of(tmp_path / "a", [image, image], nodata=0)
    sample = DatasetFolder(root).split("train", ("bands",))[0]
    assert np.isnan(sample.image[:2]).all() and (sample.labels[0, :2] == 255).all()
    np.testing.assert_array_equal(sample.image[2:], image[2:])


def test_spreads_of_parts_are_that_of_the_whole():
    values = np.random.default_rng(0).normal(500, 3, (40, 30, 3))
    values[:5, :5, 1] = np.nan
    values[..., 2] = 7
    both = Spread.of(values[:13]) + Spread.of(values[13:])
    np.testing.assert_allclose(both.mean, np.nanmean(values, (0, 1)))
    np.testing.assert_allclose(both.std[:2], np.nanstd(values, (0, 1))[:2])
    assert both.std[2] == 1  # and nothing is divided by 0


def test_the_net_sees_gaps_as_means_and_people_as_black():
    own = Preprocessing(
        scale=1.0, mean=(10.0, 20.0, 30.0, 40.0), std=(1.0, 2.0, 3.0, 4.0),
        bands={"bands": ("a", "b", "c", "d")}, show=(4, 2, 1),
    )  # fmt: skip
    image = torch.tensor([10.0, 24.0, float("nan"), 36.0])[:, None, None]
    assert own(image).flatten().tolist() == [0, 2, 0, -1]
    shown = own.shown(image.permute(1, 2, 0).numpy()).tolist()
    assert shown == [[[76, 229, 127]]]  # -1, 2 and 0 deviations
    gap = np.full((1, 1, 4), np.nan, np.float32)
    assert own.shown(gap).tolist() == [[[0, 0, 0]]]
    assert Preprocessing.from_dict(own.to_dict()) == own
    assert own.reader().every_band and not Preprocessing().reader().every_band
    with pytest.raises(ValueError, match="shown bands"):
        Preprocessing.from_dict({**own.to_dict(), "show": [5, 1, 2]})


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_filters_of_colours_go_to_the_bands_that_are_shown(order):
    torch.manual_seed(0)
    colours = nn.Conv2d(3, 2, 3)
    filters = dict(zip(order, colours.weight.detach().unbind(1), strict=True))
    layer = with_channels(colours, 5)
    show_colours(layer, (4, 3, 1), order)
    for place, colour in ((3, "R"), (2, "G"), (0, "B")):
        assert layer.weight[:, place].equal(filters[colour])
    mean = colours.weight.detach().mean(1)
    for place in (1, 4):
        torch.testing.assert_close(layer.weight.detach()[:, place], mean)
    before = layer.weight.detach().clone()
    show_colours(layer, (1, 1, 1))
    assert layer.weight.equal(before)


def test_colours_are_read_as_before():
    assert ImageReader().every_band is False
