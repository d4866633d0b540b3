"""Shift-and-stitch and à trous against the definition: the net run on every window by itself."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from nets import Headed
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fullconv.papers
from fullconv.base.errors import FullconvError
from fullconv.dense.grids import layer_grids
from fullconv.dense.layers import convolutionalize
from fullconv.dense.tracing import trace
from fullconv.geometry import Grid
from fullconv.papers.dense_scores import a_trous, shift_and_stitch


class PlainNet(nn.Module):
    """An unpadded classifier of every kind of layer: 24 x 24 pixels to 5 scores, stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)  # called at two strides
        self.first, self.second = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.dense = nn.Linear(6 * 2 * 2, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(F.relu(self.first(images)))
        maps = self.pool(F.relu(self.norm(self.second(maps))))
        return self.dense(F.avg_pool2d(maps, 2).flatten(1))


def _random(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for value in (*module.parameters(), *module.buffers()):
        if value.is_floating_point():
            nn.init.uniform_(value, 0.1, 0.5) if value.dim() < 2 else nn.init.normal_(value)
    return module.double().eval()


def _dense(classifier: nn.Module, size: int) -> fx.GraphModule:
    return convolutionalize(_random(classifier), size)


def _every_window(classifier: nn.Module, images: Tensor, size: int) -> Tensor:
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # N, 3, h, w, size, size
    n, channels, height, width = windows.shape[:4]
    stacked = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, size, size)
    return classifier(stacked).reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _last(net: fx.GraphModule) -> Grid:
    return list(layer_grids(net).values())[-1].vertical


@torch.no_grad()
def test_both_equal_the_classifier_on_every_window() -> None:
    net = PlainNet()
    dense = _dense(net, 24)
    images = torch.randn(2, 3, 45, 39, dtype=torch.float64)
    expected = _every_window(net, images, 24)
    assert expected.std() > 0.1
    stitched = shift_and_stitch(dense, images, 8)
    torch.testing.assert_close(stitched, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(a_trous(dense)(images), expected, rtol=1e-11, atol=1e-11)


HEADS = {
    "a flattened map": lambda self, x: self.layers[0](x.flatten(1)),
    "an average": lambda self, x: F.linear(x.mean((2, 3)), self.matrix, self.vector),
    "a maximum": lambda self, x: F.linear(x.amax((2, 3)), self.matrix, self.vector),
    "strided maxima": lambda self, x: F.linear(
        F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2), 1).flatten(1), self.matrix, self.vector
    ),
}


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_every_head_of_a_convolutionalised_classifier(head: str) -> None:
    net = Headed(HEADS[head], nn.Linear(8 * 49, 4))
    dense = _dense(net, 32)
    grid = _last(dense)
    images = torch.randn(1, 3, 48, 41, dtype=torch.float64)
    expected = _every_window(dense, images, grid.receptive_field)
    assert expected.std() > 0.01
    stitched = shift_and_stitch(dense, images, grid.stride)
    torch.testing.assert_close(stitched, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(a_trous(dense)(images), expected, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_padded_nets_agree_inside_and_only_there() -> None:
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 2, 3, 1, 1)]
    net = trace(_random(nn.Sequential(*layers)), 32)
    images = torch.randn(1, 3, 40, 52, dtype=torch.float64)
    stitched, dense = shift_and_stitch(net, images, 4), a_trous(net)(images)
    assert stitched.shape == dense.shape == (1, 2, 40, 52)
    grid = _last(net)
    start = grid.stride - 1 - grid.first  # the largest shift leaves these cells out of the padding
    inside = (..., slice(start, 40 - grid.last), slice(start, 52 - grid.last))
    assert stitched[inside].numel() > 0
    torch.testing.assert_close(stitched[inside], dense[inside], rtol=1e-11, atol=1e-11)
    assert (stitched - dense).abs().max() > 1e-3


def test_a_trous_sees_as_much_at_every_pixel_and_leaves_the_net_alone() -> None:
    net = _dense(PlainNet(), 24)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    dense = a_trous(net)
    old, new = _last(net), _last(dense)
    assert (old.stride, new.stride) == (8, 1)
    assert (old.first, old.last) == (new.first, new.last) == (0, 23)
    assert list(dense.state_dict()) == list(before)
    torch.testing.assert_close(net.state_dict(), before)
    assert net(torch.zeros(1, 3, 36, 36, dtype=torch.float64)).shape[2:] == (2, 2)
    dense(torch.zeros(1, 3, 30, 30, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in dense.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())


class Twice(nn.Module):
    """Calls one convolution at two strides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(F.max_pool2d(self.conv(images), 2))


class Squeezed(nn.Module):
    """Weighs its maps by their means over the image."""

    def forward(self, images: Tensor) -> Tensor:
        return images * images.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Twice(), "conv can't be dilated: it works at two strides"),
        (Squeezed(), "it looks at the whole image"),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.GroupNorm(1, 3)), "layer 1 .*whole image"),
        (nn.Conv2d(3, 3, 3, padding="same"), "padding is 'same'"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), "reflect"),
        (nn.Sequential(nn.LPPool2d(2, 2)), "layer 0 .*LPPool2d"),
        (nn.Sequential(nn.ReflectionPad2d(1)), "layer 0 .*ReflectionPad2d"),
        (nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), "leave the padding out"),
    ],
)
def test_what_has_no_a_trous_twin_is_refused_by_name(net: nn.Module, message: str) -> None:
    wrapped = net if not isinstance(net, nn.Conv2d) else nn.Sequential(net)
    with pytest.raises(FullconvError, match=message):
        a_trous(trace(wrapped, 16))


@torch.no_grad()
def test_functional_layers_and_explicit_padding() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 1, 3, 3))

        def forward(self, images: Tensor) -> Tensor:
            maps = F.conv2d(images, self.weight.abs(), None, 2, groups=3)
            maps = F.pad(maps, (-1, -1, 0, -1))  # crops what lies two pixels further out
            maps = F.max_pool2d(F.avg_pool2d(maps, 3, 2), kernel_size=2, stride=1)
            return F.conv2d(maps, self.weight, stride=1, groups=3)

    net = trace(_random(Functional()), 40)
    images = torch.randn(1, 3, 40, 37, dtype=torch.float64)
    stitched = shift_and_stitch(net, images, 4)
    assert stitched.std() > 0.01
    torch.testing.assert_close(a_trous(net)(images), stitched, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_pooling_that_rounds_up_has_cells_beyond_and_equal_ones_before() -> None:
    pools = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, ceil_mode=True)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), pools[0], nn.Conv2d(4, 4, 2), pools[1])
    net = trace(_random(layers), 12)
    images = torch.randn(1, 3, 23, 26, dtype=torch.float64)
    stitched, dense = shift_and_stitch(net, images, 4), a_trous(net)(images)
    height, width = dense.shape[2:]
    assert stitched.shape[2] > height == 23 - _last(net).receptive_field + 1
    torch.testing.assert_close(stitched[..., :height, :width], dense, rtol=1e-11, atol=1e-11)


def test_no_module_beside_it_bears_the_name_of_a_function_in_it():
    """Else `from fullconv.paper import NAME` would give now the one, now the other."""
    for module in pkgutil.iter_modules(fullconv.papers.__path__, "fullconv.papers."):
        loaded = importlib.import_module(module.name)
        assert not hasattr(loaded, module.name.rpartition(".")[2])
