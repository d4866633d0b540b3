"""Nets to export whose every class wins somewhere, and what they label without any export."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import NarrowVGG
from torch import nn

from fullconv.export.run import ExportSettings, export
from fullconv.net.fcn import FCN
from fullconv.predict.engines import is_installed

FORMATS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(not is_installed(engine), reason=f"needs {engine}"),
        id=name,
    )
    for name, engine in (("onnx", "onnxruntime"), ("openvino", "openvino"))
]
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}
SIZES = ((1, 1), (2, 3), (33, 70), (64, 64), (65, 127), (161, 97))


def photo(size, seed=0, channels=3):
    """Return an image with structure at every scale, as photographs have."""
    random = np.random.default_rng(seed)
    noise = sum(
        np.kron(
            random.normal(size=(-(-size[0] // k), -(-size[1] // k), channels)), np.ones((k, k, 1))
        )[: size[0], : size[1]]
        for k in (1, 4, 16, 64)
    )
    return (128 + 40 * noise).clip(0, 255).astype(np.uint8)


def scored_net(trunk=None, stride=8, classes=4, **arguments):
    """Return a net with random scores, none of which wins everywhere."""
    torch.manual_seed(stride)
    if "heads" not in arguments:
        arguments["num_classes"] = classes
    made = FCN(trunk or NarrowVGG(), stride, **arguments).eval()
    for _, head in made.heads.items():
        for layer in head.scores.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
    channels = sum(made.inputs.values())
    truth = by_hand(made, photo((96, 130), channels=channels)[None])
    with torch.no_grad():
        for name, head in made.heads.items():
            scores, deviation = truth[name], float(truth[name].std())
            for stage in head.scores.values():
                for layer in stage.modules():
                    if isinstance(layer, nn.Conv2d):
                        layer.weight /= deviation
            layer = next(
                each
                for each in head.scores[str(made.taps[0].stride)].modules()
                if isinstance(each, nn.Conv2d)
            )
            count = max(len(arguments.get("inputs", "x")), 1)
            late = arguments.get("fusion") == "late"
            layer.bias -= scores.mean((0, 2, 3)) / deviation * (count if late else 1)
    return made


def by_hand(net, images):
    """Return the scores of images N x H x W x C by head, nothing of the exports used."""
    x = net.preprocessing(torch.from_numpy(images).permute(0, 3, 1, 2))
    with torch.no_grad():
        scores = net(x)
    return scores if isinstance(scores, dict) else dict.fromkeys(net.heads, scores)


def exported(net, out, form, **options):
    return export(ExportSettings(net, form, out / f"net{SUFFIX[form]}", **options))
