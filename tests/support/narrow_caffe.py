"""The paper's nets on few channels, and the caffemodels that hold them, written by hand."""

from __future__ import annotations

import functools
from collections import OrderedDict
from pathlib import Path

import caffe_nets
import numpy as np
import pytest
import torch
from caffe_nets import CaffeNet, Widths
from torch import nn

from fullconv import FCN, FullconvError, Preprocessing
from fullconv.net.classifiers import build_classifier
from fullconv.net.weights.caffemodel import read_layers
from fullconv.papers.blueprint import PAPER_NETS
from fullconv.papers.convert import caffe_names, load_layers

NARROW = Widths((4, 4, 6, 6, 8), 10)
NARROW_ALEXNET = Widths((4, 6, 6, 6, 6), 10)


def drawn(name: str) -> CaffeNet:
    return caffe_nets.paper_net(name, NARROW_ALEXNET if name == "voc-fcn-alexnet" else NARROW)


def narrow_vgg() -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for block, (width, depth) in enumerate(zip(NARROW.convolutions, (2, 2, 3, 3, 3), strict=True)):
        for index in range(depth):
            layers[f"conv{block + 1}_{index + 1}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{block + 1}_{index + 1}"] = nn.ReLU()
            channels = width
        layers[f"pool{block + 1}"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(
        layers
        | OrderedDict(
            flatten=nn.Flatten(),
            fc6=nn.Linear(49 * channels, 10),
            relu6=nn.ReLU(),
            fc7=nn.Linear(10, 10),
            relu7=nn.ReLU(),
            fc8=nn.Linear(10, 5),
        )
    )


def narrow_alexnet() -> nn.Sequential:
    def convolution(i: int, given: int, width: int, kernel: int, **extra: int) -> OrderedDict:
        return OrderedDict(
            {f"conv{i}": nn.Conv2d(given, width, kernel, **extra), f"relu{i}": nn.ReLU()}
        )

    def pool(i: int) -> OrderedDict:
        return OrderedDict({f"pool{i}": nn.MaxPool2d(3, 2, ceil_mode=True)})

    return nn.Sequential(
        convolution(1, 3, 4, 11, stride=4)
        | pool(1)
        | convolution(2, 4, 6, 5, padding=2, groups=2)
        | pool(2)
        | convolution(3, 6, 6, 3, padding=1)
        | convolution(4, 6, 6, 3, padding=1, groups=2)
        | convolution(5, 6, 6, 3, padding=1, groups=2)
        | pool(5)
        | OrderedDict(
            flatten=nn.Flatten(),
            fc6=nn.Linear(6 * 36, 10),
            fc7=nn.Linear(10, 10),
            fc8=nn.Linear(10, 5),
        )
    )


@functools.cache
def _built(name: str) -> FCN:
    paper = PAPER_NETS[name]
    channels = sum(paper.inputs.values())
    size = 227 if "alexnet" in name else 224
    plain = Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels, input_size=size)
    return paper.build(
        trunk=narrow_alexnet() if "alexnet" in name else narrow_vgg(),
        skips={16: "pool4", 8: "pool3"} if "fcn8s" in name or "fcn16s" in name else None,
        preprocessing=plain,
    )


def narrow(name: str) -> FCN:
    """Build one of the paper's nets on few channels, every weight of which is NaN as yet."""
    net = _built(name)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.fill_(float("nan"))
    return net


def load(net: FCN, path: Path, **arguments: object) -> FCN:
    load_layers(net, caffe_names(net), read_layers(path), path, **arguments)
    return net


def written(folder: Path, net: CaffeNet, weights: dict, **how: bool) -> Path:
    path = folder / "net.caffemodel"
    caffe_nets.write_caffemodel(path, net, weights, **how)
    return path


def refusal(work, *arguments: object) -> str:
    with pytest.raises(FullconvError) as told:
        work(*arguments)
    assert "\n" not in str(told.value)
    return str(told.value)


VGG_LAYERS = """
conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3
conv5_1 conv5_2 conv5_3 fc6 fc7
""".split()


def random_net(tmp_path, name="voc-fcn8s", **how):
    drawing = drawn(name)
    weights = dict(caffe_nets.random_weights(drawing.layers, 5))
    return drawing, weights, lambda: load(narrow(name), written(tmp_path, drawing, weights, **how))


def assert_equal_states(net: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for key, value in net.state_dict().items():
        assert value.equal(expected[key]), key


def snapshot(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def googlenet(
    folder: Path, *without: str, **more: tuple[np.ndarray, ...]
) -> tuple[Path, nn.Module]:
    """Write a random GoogLeNet; return the file and the classifier."""
    torch.manual_seed(0)
    classifier, _ = build_classifier("caffe:googlenet")
    weights = {
        path.replace(".", "/"): tuple(value.detach().numpy() for value in module.parameters())
        for path, module in classifier.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    weights = {name: blobs for name, blobs in weights.items() if name not in without} | more
    layers = [caffe_nets.Layer(name, "Convolution", (), name) for name in weights]
    net = CaffeNet("GoogleNet", {"data": 3}, layers)
    return written(folder, net, weights, v1=True), classifier


ONES = np.ones((2, 2), np.float32)
