"""One image through a net: its labels, and the net as it was."""

from __future__ import annotations

import warnings

import numpy as np
from colour_net import ColourNet, FarColourNet


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
