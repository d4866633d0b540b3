"""Preprocessing of nets with other inputs than colour, against numpy on pixels last."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fullconv import Preprocessing
from fullconv.base.images import ImageReader
from fullconv.base.stored import ValueRange

RGBD = Preprocessing(
    "BGR", 1.0, (116.19, 97.203, 92.318, 7.844), (1.0, 2.0, 4.0, 0.5), logarithmic=(3,)
)


def colour_and_depth(seed=0):
    """Return float32 H x W x 4: bytes as RGB, and millimetres of which some are unknown (0)."""
    random = np.random.default_rng(seed)
    colour = random.integers(0, 256, (5, 7, 3)).astype(np.float32)
    depth = random.integers(1, 2**16, (5, 7, 1)).astype(np.float32)
    depth.flat[:3] = 0
    return np.concatenate([colour, depth], -1)


def prepared(preprocessing, pixels):
    return preprocessing(torch.from_numpy(pixels).movedim(-1, -3)).movedim(-3, -1).numpy()


def test_colours_are_turned_and_depth_is_its_logarithm_at_the_end():
    pixels = colour_and_depth()
    bgrd = pixels[..., [2, 1, 0, 3]].astype(np.float64)
    bgrd[..., 3] = np.log(np.where(bgrd[..., 3] < 1, 1, bgrd[..., 3]))
    expected = (bgrd - np.array(RGBD.mean)) / np.array(RGBD.std)
    np.testing.assert_allclose(prepared(RGBD, pixels), expected, rtol=1e-5, atol=1e-5)
    assert prepared(RGBD, pixels)[0, 0, 3] == pytest.approx(-7.844 / 0.5)
    assert prepared(RGBD, np.stack([pixels, pixels])).shape == (2, 5, 7, 4)


def test_only_the_first_three_of_six_bytes_are_turned():
    pixels = np.random.default_rng(1).integers(0, 256, (3, 4, 6), np.uint8)
    both = Preprocessing("BGR", 1.0, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (1.0,) * 6)
    expected = pixels[..., [2, 1, 0, 3, 4, 5]].astype(np.float32) - np.arange(1, 7)
    np.testing.assert_array_equal(prepared(both, pixels), expected)


def test_one_channel_alone():
    depth = Preprocessing(scale=1.0, mean=(2.0,), std=(1.0,), logarithmic=(0,))
    pixels = np.array([[[1.0], [np.e**3]]], np.float32)
    np.testing.assert_allclose(prepared(depth, pixels)[..., 0], [[-2.0, 1.0]], rtol=1e-6)


def test_json_names_logarithmic_channels_only_where_there_are_some():
    assert Preprocessing.from_dict(json.loads(json.dumps(RGBD.to_dict()))) == RGBD
    assert RGBD.to_dict()["logarithmic"] == [3]
    keys = ["channels", "scale", "mean", "std", "input_size"]  # those of format 1's config.json
    assert list(Preprocessing().to_dict()) == keys


def test_a_logarithmic_channel_that_there_is_not_is_refused():
    for channel in (4, -1):
        with pytest.raises(ValueError, match="logarithmic channels"):
            Preprocessing.from_dict({**RGBD.to_dict(), "logarithmic": [channel]})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mean": [0, float("nan"), 0]}, "not finite"),
        ({"scale": float("inf")}, "not finite"),
        ({"std": [1, 0, 1]}, "not positive"),
        ({"scale": 0}, "not positive"),
        ({"input_size": 0}, "not positive"),
        ({"input_size": 4097}, "an input_size of 4097: at most 4096 are read"),
    ],
)
def test_values_that_would_spoil_every_image(values, told):
    with pytest.raises(ValueError, match=told):
        Preprocessing.from_dict(values)


def test_ranges_travel_with_the_weights():
    known = Preprocessing(ranges={"color": (0.0, 1020.0), "depth": (412.0, 9870.0)})
    assert known.to_dict()["ranges"] == {"color": [0.0, 1020.0], "depth": [412.0, 9870.0]}
    assert Preprocessing.from_dict(json.loads(json.dumps(known.to_dict()))) == known
    assert "ranges" not in Preprocessing().to_dict()
    assert known.reader(ImageReader(99)) == ImageReader(99, ValueRange(0, 1020))
    assert Preprocessing().reader(ImageReader(99)) == ImageReader(99)
    assert hash(known) == hash(Preprocessing())


@pytest.mark.parametrize("ends", [[5, 5], [9, 1], [0, float("inf")], [1], "ab", 3])
def test_a_range_that_is_none_is_refused(ends):
    with pytest.raises(ValueError):
        Preprocessing.from_dict({**Preprocessing().to_dict(), "ranges": {"color": ends}})
