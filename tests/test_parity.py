"""The paper's nets against OpenCV's DNN module, which runs Caffe's files by code of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import caffe_nets
from caffe_nets import CaffeNet, Weights, Widths

Array = NDArray[np.float32]
SIZES = ((1, 1), (33, 47), (65, 81), (97, 130))
NARROW_VGG16, NARROW_CAFFENET = Widths((8, 8, 12, 16, 16), 32), Widths((8, 12, 12, 12, 12), 32)


def narrow(name: str) -> CaffeNet:
    return caffe_nets.paper_net(name, NARROW_CAFFENET if "alexnet" in name else NARROW_VGG16)


def scene(net: CaffeNet, height: int, width: int) -> dict[str, Array]:
    """Return patches of colour under noise, as preprocessed: around 0, 1 x C x H x W an input."""
    random = np.random.default_rng(height * width)
    images = {}
    for name, channels in net.inputs.items():
        patches = random.normal(0, 50, (height // 12 + 2, width // 12 + 2, channels))
        smooth = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = smooth.reshape(height, width, channels)
        pixels += random.normal(0, 15, pixels.shape)
        images[name] = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    return images


class OpenCV:
    """A net as OpenCV reads it from a prototxt and a caffemodel."""

    def __init__(self, net: CaffeNet, weights: Weights, folder: Path, *, v1: bool = False) -> None:
        self.outputs = net.outputs
        prototxt, self.caffemodel = folder / "net.prototxt", folder / "net.caffemodel"
        prototxt.write_text(net.prototxt())
        caffe_nets.write_caffemodel(self.caffemodel, net, weights, v1=v1)
        self.engine = cv2.dnn.readNetFromCaffe(str(prototxt), str(self.caffemodel))
        self.engine.enableWinograd(False)  # an approximation of 3x3 convolutions

    def __call__(self, images: Mapping[str, Array]) -> dict[str, Array]:
        for name, image in images.items():
            self.engine.setInput(image, name)
        scores = self.engine.forward(list(self.outputs.values()))
        return dict(zip(self.outputs, scores, strict=True))


# --- what the prototxts mean, by hand ---------------------------------------------------------


def reference_fcn8s(weights: Mapping[str, tuple[Tensor, ...]], image: Tensor) -> Tensor:
    """Compute voc-fcn8s from the facts with nothing but torch's functions."""
    x, kept = image, {}
    for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, depth + 1):
            pad = 100 if (block, index) == (1, 1) else 1
            x = F.relu(F.conv2d(x, *weights[f"conv{block}_{index}"], padding=pad))
        x = kept[f"pool{block}"] = caffe_pool(x, 2)
    for name in ("fc6", "fc7"):
        x = F.relu(F.conv2d(x, *weights[name]))
    x = F.conv2d(x, *weights["score_fr"])
    for name, pool, corner in (("upscore2", "pool4", 5), ("upscore_pool4", "pool3", 9)):
        x = F.conv_transpose2d(x, *weights[name], stride=2)
        skip = F.conv2d(kept[pool], *weights[f"score_{pool}"])
        x = x + skip[..., corner : corner + x.shape[-2], corner : corner + x.shape[-1]]
    return cut(F.conv_transpose2d(x, *weights["upscore8"], stride=8), image, 31)


def reference_alexnet(weights: Mapping[str, tuple[Tensor, ...]], image: Tensor) -> Tensor:
    """Compute voc-fcn-alexnet likewise."""
    x = F.relu(F.conv2d(image, *weights["conv1"], stride=4, padding=100))
    x = caffe_norm(caffe_pool(x, 3))
    x = F.relu(F.conv2d(x, *weights["conv2"], padding=2, groups=2))
    x = caffe_norm(caffe_pool(x, 3))
    for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
        x = F.relu(F.conv2d(x, *weights[name], padding=1, groups=groups))
    x = caffe_pool(x, 3)
    for name in ("fc6", "fc7"):
        x = F.relu(F.conv2d(x, *weights[name]))
    x = F.conv2d(x, *weights["score_fr"])
    return cut(F.conv_transpose2d(x, *weights["upscore"], stride=32), image, 18)


def cut(scores: Tensor, image: Tensor, offset: int) -> Tensor:
    height, width = image.shape[-2:]
    cropped = scores[..., offset : offset + height, offset : offset + width]
    assert cropped.shape[-2:] == image.shape[-2:]
    return cropped


def caffe_pool(x: Tensor, kernel: int) -> Tensor:
    """Pool with stride 2; the size is rounded up, and a last window may be incomplete."""
    bottom, right = (2 * math.ceil((n - kernel) / 2) + kernel - n for n in x.shape[-2:])
    return F.max_pool2d(F.pad(x, (0, right, 0, bottom), value=-math.inf), kernel, 2)


def caffe_norm(x: Tensor) -> Tensor:
    """Normalise across 5 channels with alpha 1e-4 and beta 0.75."""
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    return x / (1 + 1e-4 / 5 * squares) ** 0.75


@pytest.mark.parametrize(
    ("name", "reference"), [("voc-fcn8s", reference_fcn8s), ("voc-fcn-alexnet", reference_alexnet)]
)
def test_opencv_computes_what_the_facts_say(name, reference, tmp_path):
    net = narrow(name)
    weights = {**caffe_nets.random_weights(net.layers, 0), **caffe_nets.random_diagonals(net, 1)}
    run = OpenCV(net, weights, tmp_path)
    doubles = {
        layer: tuple(torch.from_numpy(blob.astype(np.float64)) for blob in blobs)
        for layer, blobs in weights.items()
    }
    for size in SIZES:
        images = scene(net, *size)
        expected = reference(doubles, torch.from_numpy(images["color"].astype(np.float64)))
        assert_same(run(images), {"labels": expected.numpy()}, tolerance=1e-5)


def test_opencv_has_the_sizes_of_the_facts(tmp_path):
    """500 -> 698, 349, 175, 88, 44, 22 -> 16 coarse cells -> 544 upscored -> 500."""
    net = narrow("voc-fcn32s")
    run = OpenCV(net, caffe_nets.random_weights(net.layers, 0), tmp_path)
    run.outputs = {
        name: name
        for name in "conv1_1 pool1 pool2 pool3 pool4 pool5 score_fr upscore score".split()
    }
    widths = [scores.shape[3] for scores in run(scene(net, 60, 500)).values()]
    assert widths == [698, 349, 175, 88, 44, 22, 16, 544, 500]


def assert_same(
    actual: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = 1e-4
) -> None:
    """Compare scores relative to the largest, and labels but where two scores nearly tie."""
    assert actual.keys() == expected.keys()
    for head, scores in expected.items():
        assert actual[head].shape == scores.shape
        allowed = tolerance * np.abs(scores).max()
        assert np.abs(actual[head] - scores).max() <= allowed, head
        second, first = np.sort(scores, axis=1)[:, -2:].swapaxes(0, 1)
        same = actual[head].argmax(1) == scores.argmax(1)
        assert (same | (first - second < 2 * allowed)).all(), head
