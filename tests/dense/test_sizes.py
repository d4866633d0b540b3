"""Classifiers that ask for the image's size, and the layers of many families."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nets import Staged, classifier
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from fullconv import FCN, FullconvError, convolutionalize, load
from fullconv.dense.grids import NotConvolutionalError, layer_grids
from fullconv.dense.tracing import UntraceableError


class SameConv(nn.Conv2d):
    """TensorFlow's padding: as much as the size needs, the odd cell at the far end."""

    def forward(self, x):
        height, width = x.shape[-2:]
        (k, _), (s, _) = self.kernel_size, self.stride
        down, across = (
            max((math.ceil(size / s) - 1) * s + k - size, 0) for size in (height, width)
        )
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride)


def checked(_, x):
    assert x.shape[-1] == 8, "as a position embedding's length"
    if x.ndim != 4:
        raise ValueError("no map")
    if x.shape[2] > 8 or x.shape[3] > 8:
        raise ValueError("too large")
    torch._assert(x.shape[-1] % 8 == 0, "of windows")
    return x


def never_pooled(_, x):
    if x.shape[-1] < 4:  # as timm's VGG guards its 7 x 7 layer
        x = F.adaptive_avg_pool2d(x, 4)
    return x


def every_axis(_, x):
    sizes = list(x.shape)
    return x.view(*[size for size in sizes])  # noqa: C416


def space_to_depth(_, x):
    n, c, h, w = x.size()
    x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).contiguous()
    return x.view(n, c * 4, h // 2, w // 2)


def global_context(s, x):
    n, c, h, w = x.shape
    weights = F.softmax(s.layers[0](x).reshape(n, 1, h * w), dim=-1).unsqueeze(3)
    return x + (x.reshape(n, c, h * w).unsqueeze(1) @ weights).view(n, c, 1, 1)


def split_attention(s, x):
    n, c, h, w = x.shape
    parts = x.reshape(n, 2, c // 2, h, w)
    weights = s.layers[0](parts.sum(1).mean((2, 3), keepdim=True)).view(n, 2, c // 2).softmax(1)
    return s.layers[1]((parts * weights.reshape(n, 2, c // 2, 1, 1)).sum(dim=1))


def selective_kernels(s, x):
    x = torch.stack([s.layers[0](x), s.layers[1](x)], dim=1)
    return (x * x.sum(1).mean((2, 3), keepdim=True).unsqueeze(1).sigmoid()).sum(dim=1)


def focus(s, x):
    parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
    return s.layers[0](torch.cat(parts, 1))


def conv(before, after, kernel=1, **options):
    return nn.Conv2d(before, after, kernel, **options)


# name: (middle, layers, stride of the last map, its offset, whether each cell sees a part only)
MIDDLES = {
    "asserts and raises": (checked, [], 8, 0, True),
    "a condition that larger images answer alike": (never_pooled, [], 8, 0, True),
    "a view by all sizes": (every_axis, [], 8, 0, True),
    "padding by size": (
        lambda s, x: s.layers[0](x),
        [SameConv(8, 8, 3, stride=2)],
        16,
        4,
        True,
    ),
    "space to depth": (
        lambda s, x: s.layers[0](space_to_depth(s, x)),
        [conv(32, 8)],
        16,
        2,
        True,
    ),
    "every second row and column": (focus, [conv(32, 8)], 16, 2, True),
    "global context": (global_context, [conv(8, 1)], 8, 0, False),
    "split attention": (split_attention, [conv(4, 8), conv(4, 8)], 8, 0, False),
    "selective kernels": (
        selective_kernels,
        [conv(8, 8, 3, padding=1), conv(8, 8, 3, padding=2, dilation=2)],
        8,
        0,
        False,
    ),
    "softmax of channels": (lambda _, x: x * x.softmax(1), [], 8, 0, True),
    "normalised channels": (lambda _, x: F.normalize(x, dim=1), [], 8, 0, True),
    "an axis put in and out": (lambda _, x: x.unsqueeze(-1).squeeze(4), [], 8, 0, True),
}


@pytest.mark.parametrize("case", MIDDLES)
def test_layers_of_many_families(case):
    torch.manual_seed(0)
    make, layers, stride, offset, bounded = MIDDLES[case]
    net = Staged(make, *layers).eval()
    images = torch.randn(2, 3, 32, 32)
    dense = convolutionalize(net, 32)
    with torch.no_grad():
        torch.testing.assert_close(dense(images)[:, :, 0, 0], net(images), atol=1e-6, rtol=1e-5)
        assert dense(torch.randn(1, 3, 64, 48)).shape[2:] == (1 + 32 // stride, 1 + 16 // stride)
        if make is not focus:  # which itself takes even sizes only
            dense(torch.randn(1, 3, 67, 45))
    grid = layer_grids(dense)[next(n for n in dense.graph.nodes if n.name == "last_1")]
    assert (grid.vertical.stride, grid.vertical.bounded) == (stride, bounded)
    assert grid.horizontal.offset == offset


@pytest.mark.parametrize("case", [name for name, (*_, bounded) in MIDDLES.items() if bounded])
def test_each_cell_sees_what_its_grid_says(case):
    """The gradient of one cell of the last map reaches the pixels of its field, and no others."""
    torch.manual_seed(0)
    make, layers, *_ = MIDDLES[case]
    net = convolutionalize(Staged(make, *layers).eval(), 32)
    node = next(n for n in net.graph.nodes if n.name == "last_1")
    grid = layer_grids(net)[node].vertical
    module = torch.fx.GraphModule(net, net.graph)
    next(iter(reversed(module.graph.nodes))).args = (
        next(n for n in module.graph.nodes if n.name == "last_0"),
    )
    module.recompile()
    images = torch.randn(1, 3, 160, 160, requires_grad=True)
    cells = module(images)
    row = cells.shape[2] // 2
    cells[0, :, row, row].square().sum().backward()
    seen = images.grad[0].abs().sum((0, 2)).nonzero().flatten()
    ends = grid.stride * row + grid.first, grid.stride * row + grid.last
    assert (int(seen[0]), int(seen[-1])) == ends


REFUSED = {
    "larger images are pooled": (
        lambda _, x: F.avg_pool2d(x, 1) if x.shape[-1] > 8 else x,
        UntraceableError,
        r"larger images go through other layers, as it asks .* in .*<lambda> line \d+",
    ),
    "padded to one size": (
        lambda _, x: F.pad(x, (0, 10 - x.shape[-1], 0, 0)),
        UntraceableError,
        "test_sizes line .*: its padding depends on the image's size",
    ),
    "several images": (
        lambda _, x: x.relu() if x.shape[0] > 2 else x,
        UntraceableError,
        "other layers, as it asks",
    ),
    "a number of cells": (
        lambda _, x: x / int(x.shape[2]),
        UntraceableError,
        "other layers",
    ),
    "attention": (
        lambda _, x: (
            F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3)
            .transpose(1, 2)
            .view(x.shape)
        ),
        NotConvolutionalError,
        r"layer flatten: a view .* mixes up .* for scaled_dot_product_attention.*test_sizes line",
    ),
    "positions weighed against each other": (
        lambda _, x: (x @ x.transpose(2, 3).softmax(1)) @ x,
        NotConvolutionalError,
        r"layer matmul: it weighs positions against each other \(attention\)",
    ),
    "windows": (
        lambda _, x: (
            x.view(-1, 8, x.shape[2] // 4, 4, x.shape[3] // 4, 4)
            .permute(0, 2, 4, 3, 5, 1)
            .reshape(-1, 16, 8)
            .view(x.shape)
        ),
        NotConvolutionalError,
        "layer reshape: a view from .* mixes up the image axes",
    ),
    "a softmax along the width": (
        lambda _, x: x.softmax(-1),
        NotConvolutionalError,
        "layer softmax: a softmax runs along an image axis",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_module_line_and_reason(case):
    middle, kind, reason = REFUSED[case]
    with pytest.raises(kind, match=reason) as refusal:
        convolutionalize(Staged(middle).eval(), 32)
    assert "\n" not in str(refusal.value)


# name: strides that it has
FAMILIES = {
    "vgg11": (32, 16, 8, 4, 2),
    "tf_efficientnet_lite0": (32, 16, 8, 4, 2),
    "tf_mobilenetv3_small_minimal_100": (32, 16, 8, 4, 2),
    "resnest14d": (32, 16, 8, 4, 2),
    "skresnet18": (32, 16, 8, 4, 2),
    "gcresnet33ts": (32, 16, 8, 4, 2),
    "tresnet_m": (32, 16, 8, 4),
    "test_mambaout": (32, 16, 8, 4, 2),
    "test_efficientnet_evos": (32, 16, 8, 4, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.startswith("test") else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_families_of_timm(name):
    """The benchmark over all families writes docs/timm.md; these are of different kinds."""
    net = classifier(f"timm:{name}")
    size = net.pretrained_cfg["input_size"][-1]
    images = torch.randn(1, 3, size, size)
    dense = convolutionalize(net, size)
    with torch.no_grad():
        torch.testing.assert_close(dense(images)[:, :, 0, 0], net(images), rtol=1e-4, atol=1e-5)
    fcn = FCN(net, stride=32, num_classes=3).eval()
    with torch.no_grad():
        assert fcn(torch.randn(1, 3, 97, 70)).shape == (1, 3, 97, 70)


@pytest.mark.parametrize(
    "hook",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_a_hook_computes(hook):
    """Torch can't copy them; told in a line that says what to do, which helps."""
    net = Staged(lambda _, x: x)
    hook(net.last[0])
    net(torch.randn(1, 3, 32, 32))
    for make in (lambda: convolutionalize(net, 32), lambda: FCN(net, stride=4, num_classes=2)):
        with pytest.raises(
            FullconvError, match=r"layer last\.0 computes its weight in a hook"
        ) as told:
            make()
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_classifier_in_another_precision(dtype):
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    net = FCN(Staged(lambda _, x: x).to(dtype), stride=4, num_classes=2).eval()
    assert {each.dtype for each in net.parameters()} == {dtype}
    assert net.predict(image).shape == (40, 50)


@pytest.mark.parametrize("make", ["permuted", "orthogonal"])
def test_weights_of_any_memory_are_saved(tmp_path, make):
    net = Staged(lambda s, x: s.layers[0](x), nn.Conv2d(8, 8, 1)).eval()
    if make == "permuted":
        kernel = torch.randn(1, 1, 8, 8).permute(3, 2, 0, 1)
        net.layers[0].weight = nn.Parameter(kernel)
    else:
        torch.nn.utils.parametrizations.orthogonal(net.layers[0])
    fcn = FCN(net, stride=4, num_classes=2).eval()
    fcn.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 40, 30)
    with torch.no_grad():
        classifier = None if make == "permuted" else net
        assert load(tmp_path, classifier=classifier)(images).equal(fcn(images))
