"""The paper's nets against OpenCV's DNN module, which runs Caffe's files by code of its own."""

from __future__ import annotations

import gc
import math
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import caffe_nets
import cv2
import numpy as np
import pytest
import torch
from caffe_nets import CaffeNet, Weights, Widths
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import fullconv
from fullconv.net.fcn import FCN
from fullconv.net.weights.caffemodel import read_layers
from fullconv.papers.blueprint import Blueprint
from fullconv.papers.convert import caffe_names, load_layers

Image = NDArray[np.uint8] | NDArray[np.float32]
Scores = NDArray[np.floating[Any]]
SIZES = ((1, 1), (33, 47), (65, 81), (97, 130))
TRUE_SIZE = (33, 47)  # seconds each; of sizes, narrow nets tell as much
# A net of each kind: of one head, on another trunk, of two heads, of two trunks.
# The others are the same topologies, which narrow nets go through name by name.
TRUE_NETS = ("voc-fcn8s", "voc-fcn-alexnet", "siftflow-fcn16s", "nyud-fcn32s-color-hha")
MEANS = {
    "voc": (104.00699, 116.66877, 122.67892),
    "siftflow": (114.578, 115.294, 108.353),
    "pascalcontext": (104.007, 116.669, 122.679),
    "nyud": (116.190, 97.203, 92.318),
    "hha": (132.431, 94.076, 118.477),
    "depth": (7.844,),
}
NARROW_VGG16, NARROW_CAFFENET = Widths((8, 8, 12, 16, 16), 32), Widths((8, 12, 12, 12, 12), 32)


def narrow(name: str) -> CaffeNet:
    return caffe_nets.paper_net(name, NARROW_CAFFENET if "alexnet" in name else NARROW_VGG16)


def photographs(net: CaffeNet, height: int, width: int) -> dict[str, Image]:
    """Return patches of colour under noise, H x W x C bytes, and of depth, in millimetres."""
    random = np.random.default_rng(height * width)
    images = {}
    for name, channels in net.inputs.items():
        patches = random.normal(0, 50, (height // 12 + 2, width // 12 + 2, channels))
        smooth = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
        values = smooth.reshape(height, width, channels)
        values += random.normal(115, 15, values.shape)
        images[name] = np.clip(values, 0, 255).astype(np.uint8)
        if name == "depth":
            images[name] = 500 + 50 * images[name].astype(np.float32)
    return images


def caffe_inputs(name: str, images: Mapping[str, Image]) -> dict[str, Image]:
    """Preprocess as the facts say: BGR, HHA as it is, the depth's logarithm; less their means."""
    prepared = {}
    for kind, image in images.items():
        if kind == "color":
            values, mean = image[..., ::-1], MEANS[name.partition("-")[0]]
        else:
            values, mean = np.log(image) if kind == "depth" else image, MEANS[kind]
        values = np.float32(values) - np.float32(mean)
        prepared[kind] = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
    return prepared


class OpenCV:
    """A net as OpenCV reads it from a prototxt and a caffemodel."""

    def __init__(self, net: CaffeNet, weights: Weights, folder: Path, *, v1: bool = False) -> None:
        self.outputs = net.outputs
        prototxt, self.caffemodel = folder / "net.prototxt", folder / "net.caffemodel"
        prototxt.write_text(net.prototxt())
        caffe_nets.write_caffemodel(self.caffemodel, net, weights, v1=v1)
        self.engine = cv2.dnn.readNetFromCaffe(str(prototxt), str(self.caffemodel))
        self.engine.enableWinograd(False)  # an approximation of 3x3 convolutions

    def __call__(self, images: Mapping[str, Image]) -> dict[str, Scores]:
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
        images = caffe_inputs(name, photographs(net, *size))
        expected = reference(doubles, torch.from_numpy(images["color"].astype(np.float64)))
        assert_same(run(images), {"labels": expected.numpy()}, tolerance=1e-5)


def test_opencv_has_the_sizes_of_the_facts(tmp_path):
    """500 -> 698, 349, 175, 88, 44, 22 -> 16 coarse cells -> 544 upscored -> 500."""
    net = narrow("voc-fcn32s")
    run = OpenCV(net, caffe_nets.random_weights(net.layers, 0), tmp_path)
    layers = "conv1_1 pool1 pool2 pool3 pool4 pool5 score_fr upscore score".split()
    run.outputs = {layer: layer for layer in layers}
    maps = run(caffe_inputs(net.name, photographs(net, 60, 500)))
    widths = [each.shape[3] for each in maps.values()]
    assert widths == [698, 349, 175, 88, 44, 22, 16, 544, 500]


def assert_same(
    actual: Mapping[str, Scores],
    expected: Mapping[str, Scores],
    tolerance: float = 1e-4,
    what: str = "",
) -> None:
    """Compare scores relative to the largest, and labels but where two scores nearly tie."""
    assert actual.keys() == expected.keys()
    for head, scores in expected.items():
        assert actual[head].shape == scores.shape
        allowed = tolerance * np.abs(scores).max()
        assert np.abs(actual[head] - scores).max() <= allowed, (what, head)
        second, first = np.sort(scores, axis=1)[:, -2:].swapaxes(0, 1)
        same = actual[head].argmax(1) == scores.argmax(1)
        assert (same | (first - second < allowed)).all(), (what, head)


# --- fullconv against OpenCV ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "v1"),
    [
        *(
            pytest.param(name, False, marks=() if name in TRUE_NETS else pytest.mark.slow)
            for name in caffe_nets.NAMES
        ),
        ("voc-fcn-alexnet", True),
        pytest.param("voc-fcn8s", True, marks=pytest.mark.slow),
        pytest.param("nyud-fcn32s-color-hha", True, marks=pytest.mark.slow),
    ],
)
def test_narrow_nets_agree(name, v1, tmp_path):
    """The paper's topologies and classes on few channels, with upscores as if learned."""
    net = narrow(name)
    weights = {**caffe_nets.random_weights(net.layers, 0), **caffe_nets.random_diagonals(net, 1)}
    run = OpenCV(net, weights, tmp_path, v1=v1)
    fcn = narrow_fcn(name)
    load_layers(fcn, caffe_names(fcn), read_layers(run.caffemodel), run.caffemodel)
    for size in SIZES:
        images = photographs(net, *size)
        expected = run(caffe_inputs(name, images))
        assert_same(fullconv_scores(fcn, images), expected)
        if size == SIZES[-1]:
            assert all(len(np.unique(scores.argmax(1))) > 2 for scores in expected.values())


@pytest.mark.slow
def test_true_nets_agree(tmp_path, command_line):
    """All in one test, so that there is one net of 134 million parameters at a time."""
    shared = {
        name: caffe_nets.random_weights(caffe_nets.trunk(name), 0, tmp_path / f"{name}.npy")
        for name in ("voc-fcn32s", "voc-fcn-alexnet")
    }
    for name in TRUE_NETS:
        net = caffe_nets.paper_net(name)
        weights = caffe_nets.weights_on(net, shared.get(name) or shared["voc-fcn32s"])
        images = photographs(net, *TRUE_SIZE)
        run = OpenCV(net, weights, tmp_path)
        expected = run(caffe_inputs(name, images))
        model, caffemodel = tmp_path / name, run.caffemodel
        del run, weights  # gigabytes
        assert command_line("convert", caffemodel, "--net", name, "--out", model) == 0
        caffemodel.unlink()
        fcn = fullconv.load(model)
        shutil.rmtree(model)
        assert_same(fullconv_scores(fcn, images), expected, what=name)
        del fcn
        gc.collect()  # a traced net refers to itself


def fullconv_scores(net: FCN, images: Mapping[str, Image]) -> dict[str, Scores]:
    pixels = np.concatenate(list(images.values()), axis=2).transpose(2, 0, 1)[None]
    with torch.no_grad():
        scores = net.eval()(net.preprocessing(torch.from_numpy(pixels)))
    return {head: of_head.numpy() for head, of_head in net.by_head(scores).items()}


def narrow_fcn(name: str) -> FCN:
    """Build a net of the paper on a narrow classifier with Caffe's names."""
    if "alexnet" in name:
        return Blueprint.of_paper(name).build(trunk=narrow_caffenet(NARROW_CAFFENET))
    skips = {16: "pool4", 8: "pool3"}
    return Blueprint.of_paper(name).build(trunk=narrow_vgg16(NARROW_VGG16), skips=skips)


def narrow_vgg16(widths: Widths) -> nn.Sequential:
    layers, channels = OrderedDict[str, nn.Module](), 3
    for block, (width, depth) in enumerate(zip(widths.convolutions, (2, 2, 3, 3, 3), strict=True)):
        for index in range(1, depth + 1):
            layers[f"conv{block + 1}_{index}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{block + 1}_{index}"] = nn.ReLU()
            channels = width
        layers[f"pool{block + 1}"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(layers | dense_layers(49 * channels, widths.dense))


def narrow_caffenet(widths: Widths) -> nn.Sequential:
    c1, c2, c3, c4, c5 = widths.convolutions
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, c1, 11, stride=4),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm1=nn.LocalResponseNorm(5),
        conv2=nn.Conv2d(c1, c2, 5, padding=2, groups=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm2=nn.LocalResponseNorm(5),
        conv3=nn.Conv2d(c2, c3, 3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(c3, c4, 3, padding=1, groups=2),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(c4, c5, 3, padding=1, groups=2),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(3, 2, ceil_mode=True),
    )
    return nn.Sequential(layers | dense_layers(36 * c5, widths.dense))


def dense_layers(features: int, width: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict[str, nn.Module](
        flatten=nn.Flatten(),
        fc6=nn.Linear(features, width),
        relu6=nn.ReLU(),
        drop6=nn.Dropout(0.5),
        fc7=nn.Linear(width, width),
        relu7=nn.ReLU(),
        drop7=nn.Dropout(0.5),
        fc8=nn.Linear(width, 10),
    )
