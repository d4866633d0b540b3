"""One image through a net: its labels, and the net as it was."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from colour_net import ColourNet, FarColourNet

from fullconv.base.errors import FullconvError


def test_labelling_leaves_modes_and_no_graph():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    net = ColourNet().train()
    net.dropout.eval()
    (labels,) = net.label(pixels).values()
    assert (labels.dtype, labels.shape) == (np.uint8, (5, 7))
    assert (labels == pixels.argmax(-1)).all()
    assert (net.training, net.score.training, net.dropout.training) == (True, True, False)
    assert (net.label(pixels[:, ::-1])["labels"] == labels[:, ::-1]).all()
    pixels.setflags(write=False)  # as arrays of PIL images are; torch would warn
    with warnings.catch_warnings(action="error"):
        net.label(pixels)


def test_labels_of_several_heads_are_one_array_each():
    random = np.random.default_rng(0)
    image = np.concatenate(
        [random.integers(0, 256, (5, 7, 3)), random.integers(0, 2000, (5, 7, 1))], 2
    )
    labels = FarColourNet().train().label(image.astype(np.float32))
    assert list(labels) == ["sem", "geo"]
    assert (labels["sem"] == image[..., :3].argmax(-1)).all()
    assert (labels["geo"] == (image[..., 3] > 1000)).all()


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 5), [[1]], None, 7])
def test_what_is_no_image_is_refused_by_its_kind(image):
    with pytest.raises(FullconvError) as caught:
        ColourNet().predict(image)
    assert str(caught.value) == (
        f"an image is a path, a PIL image or a NumPy array, not a {type(image).__name__}"
    )


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0,), (4, 5), (4, 5, 4)])
def test_empty_and_misshapen_arrays_are_refused(shape):
    with pytest.raises(FullconvError, match="an image array must be uint8, H x W x 3; this is"):
        ColourNet().predict(np.zeros(shape, np.uint8))
