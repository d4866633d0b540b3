"""Layers that keep less for the backward pass: the same values and gradients."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import fx, nn

from fullconv.kernels.openmp import has_torch_threads
from fullconv.net.rewrites import quicker_convolutions, sliced_convolutions
from fullconv.net.rewrites.quicker_convolutions import QuickConvolution
from fullconv.net.rewrites.quicker_layers import lay_out, plain_layers, quicken
from fullconv.net.rewrites.quicker_norms import Clamped, FusedNorm
from fullconv.net.rewrites.quicker_pools import DeferredReLU, FrugalMaxPool
from fullconv.net.rewrites.sliced_convolutions import SlicedConvolution

LAST = torch.channels_last
pytestmark = pytest.mark.skipif(not has_torch_threads(), reason="other threads than GNU's")


def processor(monkeypatch, capability):
    """Let torch take this processor for one of a capability."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def traced(*layers):
    """Return layers, one after the other, as a graph."""
    return fx.symbolic_trace(nn.Sequential(*layers))


def passed(net, features, *, bf16=False, like=None):
    """Return the result and all gradients, and how many bytes but weights were kept.

    The gradient to the result is random, and as coarse as another dtype if that is given.
    """
    kept, weights = {}, {weight.data_ptr() for weight in net.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    features = features.clone(memory_format=torch.preserve_format).requires_grad_()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        out = net(1 * features)
    drawn = torch.Generator().manual_seed(1)
    out.backward(torch.randn(out.shape, generator=drawn).to(like or out.dtype).to(out.dtype))
    return [out, features.grad, *(weight.grad for weight in net.parameters())], sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(
    "windows", [(2,), (3,), ((2, 1),), (3, 2), (3, 2, 1), (3, 1, 1), ((2, 3), (1, 2)), (2, 3)]
)
@pytest.mark.parametrize("size", [(9, 11), (8, 12), (3, 3)])
def test_poolings_are_torch_s_bit_for_bit(size, windows, ceil, dtype):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.MaxPool2d(*windows, ceil_mode=ceil))
    features = torch.randint(-2, 3, (2, 17, *size)).to(dtype).contiguous(memory_format=LAST)
    ours = quicken(deepcopy(plain))
    assert type(ours[0]) is FrugalMaxPool
    (own, kept), (_, as_much) = passed(ours, features), passed(plain, features)
    their, _ = passed(plain, features.float(), like=dtype)  # torch rounds each of bfloat16's sums
    assert all(a.equal(b.to(dtype)) for a, b in zip(own, their, strict=True))
    assert kept == their[0].numel() < as_much  # a byte a result
    assert ours(features).equal(plain(features))  # where no gradient is wanted


@pytest.mark.parametrize("windows", [(2,), (2, 2, 1), (3, 2, 1)])
@pytest.mark.parametrize("before", [[], [nn.ReLU()]])
def test_poolings_of_what_is_no_number_and_of_ties(before, windows):
    nan, inf = float("nan"), float("inf")
    features = torch.tensor(
        [
            [nan, 1, 2, 2, -inf, -inf],
            [3, nan, 2, 2, -inf, -inf],
            [-1, -1, 0, nan, inf, inf],
            [-inf, -1, 0, 5, 1, 1],
        ]
    )
    features = features[None, None].contiguous(memory_format=LAST)
    plain = traced(*before, nn.MaxPool2d(*windows))
    ours, theirs = (passed(net, features)[0] for net in (quicken(deepcopy(plain)), plain))
    assert torch.equal(ours[0].nan_to_num(99), theirs[0].nan_to_num(99))
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(
    ("pool", "dtype"),
    [
        (nn.MaxPool2d(2), torch.float32),
        (nn.MaxPool2d(2), torch.bfloat16),
        (nn.MaxPool2d(3, 2, 1), torch.float32),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_relu_before_a_pooling_keeps_nothing(inplace, pool, dtype):
    torch.manual_seed(0)
    plain = traced(nn.Conv2d(3, 17, 3), nn.ReLU(inplace), pool, nn.Conv2d(17, 2, 1))
    plain.to(dtype, memory_format=LAST)
    features = torch.randn(2, 3, 11, 12).to(dtype).contiguous(memory_format=LAST)
    ours = quicken(deepcopy(plain))
    assert [type(layer) for layer in list(ours.children())[1:3]] == [DeferredReLU, FrugalMaxPool]
    (own, kept), (their, as_much) = passed(ours, features), passed(plain, features)
    assert all(a.equal(b) for a, b in zip(own, their, strict=True))
    assert kept < as_much
    for net in (ours.eval(), plain.eval()):
        net.requires_grad_(False)
    assert ours(features).equal(plain(features))  # where no gradient is wanted
    with plain_layers(ours):
        layers = list(ours.children())
        assert [type(layer) for layer in layers] == [type(layer) for layer in plain.children()]
        assert layers[1].inplace is inplace


def test_a_relu_that_others_read_or_watch_stays():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, features):
            clamped = self.relu(features)
            return self.pool(clamped).sum() + clamped.sum()

    read, watched, six = (
        fx.symbolic_trace(Read()),
        traced(nn.ReLU(), nn.MaxPool2d(2)),
        traced(nn.ReLU6(), nn.MaxPool2d(2)),
    )
    watched.get_submodule("0").register_forward_hook(lambda *_: None)
    for net in (read, watched, six):
        relu = next(net.children())
        assert next(quicken(net).children()) is relu
    assert not quicken(watched).get_submodule("1").clamps


def test_what_follows_a_pooling_may_change_its_result_in_place():
    net = quicken(nn.Sequential(nn.MaxPool2d(2), nn.ReLU(inplace=True)))
    features = torch.randn(1, 3, 4, 4).contiguous(memory_format=LAST)
    assert passed(net, features)[0][1].abs().sum() > 0


def test_other_poolings_stay():
    other = [
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(16),  # a byte tells fewer places
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(2),
    ]
    found = list(quicken(nn.Sequential(*other)))
    assert all(ours is theirs for ours, theirs in zip(found, other, strict=True))
    with pytest.raises(RuntimeError, match="too small"):
        quicken(nn.Sequential(nn.MaxPool2d(3)))(torch.randn(1, 1, 2, 2, requires_grad=True))


def test_a_relu_that_a_normalisation_takes_over_is_not_the_pooling_s():
    net = traced(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    kinds = [type(layer) for layer in quicken(net).children()]
    assert kinds[1:] == [FusedNorm, Clamped, FrugalMaxPool] and not net.get_submodule("3").clamps


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", [40, 37])
def test_slices_make_the_whole_convolution(monkeypatch, channels, bias):
    processor(monkeypatch, "AVX512")
    monkeypatch.setattr(sliced_convolutions, "LARGE", 1000)
    monkeypatch.setattr(sliced_convolutions, "SLICE", 1500)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(16, channels, 3, 2, 1, bias=bias)).to(memory_format=LAST)
    features = torch.randn(2, 16, 9, 8).contiguous(memory_format=LAST)
    ours = quicken(deepcopy(plain))
    assert type(ours[0]) is SlicedConvolution
    exact, _ = passed(deepcopy(plain).double(), features.double())
    (own, kept), (their, as_much) = (passed(net, features, bf16=True) for net in (ours, plain))
    assert kept < as_much  # no copy of the weights
    for found, torchs, true in zip(own, their, exact, strict=True):
        assert found.dtype == torchs.dtype and found.shape == true.shape
        off, torch_off = ((each.double() - true).norm() / true.norm() for each in (found, torchs))
        assert off <= 1.2 * torch_off + 1e-6
    for net in (ours, plain):
        net.zero_grad()
    full = [passed(net, features)[0] for net in (ours, plain)]
    assert all(a.equal(b) for a, b in zip(*full, strict=True))  # float32 is torch's
    with plain_layers(ours):
        assert type(ours[0]) is nn.Conv2d and ours[0].weight.shape == plain[0].weight.shape


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 21])
def test_the_gradient_to_a_short_bias_is_added_up_here(channels):
    plain = nn.Sequential(nn.Conv2d(24, channels, 1)).to(memory_format=LAST)
    features = torch.randn(2, 24, 5, 7).contiguous(memory_format=LAST)
    ours = quicken(deepcopy(plain))
    assert type(ours[0]) is (QuickConvolution if channels < 16 else nn.Conv2d)
    exact, _ = passed(deepcopy(plain).double(), features.double())
    own, _ = passed(ours, features, bf16=True)
    for found, true in zip(own, exact, strict=True):
        assert (found.double() - true).norm() <= 0.01 * true.norm()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
def test_a_large_layer_of_1_x_1_as_a_product(monkeypatch, size, bias):
    processor(monkeypatch, "AVX2")
    monkeypatch.setattr(sliced_convolutions, "LARGE", 1000)
    plain = nn.Sequential(nn.Conv2d(40, 48, 1, bias=bias)).to(memory_format=LAST)
    features = torch.randn(2, 40, *size).contiguous(memory_format=LAST)
    ours = quicken(deepcopy(plain))
    assert type(ours[0]) is SlicedConvolution
    exact, _ = passed(deepcopy(plain).double(), features.double())
    own, _ = passed(ours, features)
    for found, true in zip(own, exact, strict=True):
        assert found.dtype == torch.float32 and found.shape == true.shape
        assert (found.double() - true).norm() <= 1e-6 * true.norm()
    assert all(each.is_contiguous(memory_format=LAST) for each in own[:2])
    assert type(ours(features).grad_fn).__name__ == "PermuteBackward0"  # not a convolution's


def test_weights_of_large_kernels_lie_as_they_are_used(monkeypatch):
    processor(monkeypatch, "AVX2")
    monkeypatch.setattr(sliced_convolutions, "LARGE", 1000)
    plain = nn.Sequential(nn.Conv2d(16, 24, 7), nn.Conv2d(24, 16, 3)).to(memory_format=LAST)
    features = torch.randn(2, 16, 12, 11).contiguous(memory_format=LAST)
    ours, again = (quicken(deepcopy(plain)) for _ in range(2))
    for net in (ours, again):
        lay_out(net)
    assert [layer.weight.is_contiguous(memory_format=LAST) for layer in ours] == [False, True]
    exact, _ = passed(deepcopy(plain).double(), features.double())
    own, _ = passed(ours, features)
    for found, true in zip(own, exact, strict=True):
        assert (found.double() - true).norm() <= 1e-6 * true.norm()
    assert own[0].is_contiguous(memory_format=LAST)
    for weight in ours.parameters():  # fused optimizers pair values by their places in memory
        assert weight.grad.stride() == weight.stride()
    processor(monkeypatch, "AVX512")  # whose forward pass is torch's, whatever a weight's layout
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(again(features).float(), own[0], atol=0.05)


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        (nn.Conv2d(40, 48, 1, stride=2), torch.float32),
        (nn.Conv2d(40, 48, 1, padding=1), torch.float32),
        (nn.Conv2d(40, 48, 1), torch.float64),
    ],
)
def test_other_large_layers_go_by_torch(monkeypatch, layer, precision):
    processor(monkeypatch, "AVX2")
    monkeypatch.setattr(sliced_convolutions, "LARGE", 1000)
    layer, features = layer.to(precision), torch.randn(1, 40, 5, 5, dtype=precision)
    ours = quicken(nn.Sequential(deepcopy(layer)))
    assert type(ours[0]) is SlicedConvolution and ours(features).equal(layer(features))


@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (3, 2, 1, 1), ((1, 3), (2, 1), 0, (1, 2)), (5, 1, 2, 2), (7, 1, 0, 1)],
)
def test_gradients_by_planes_of_channels(monkeypatch, kernel, stride, padding, dilation, at_once):
    processor(monkeypatch, "AVX2")
    torch.manual_seed(0)
    monkeypatch.setattr(quicker_convolutions, "MOST_AT_ONCE", at_once)
    monkeypatch.setattr(sliced_convolutions, "LARGE", 100)
    layer = nn.Conv2d(16, 24, kernel, stride, padding, dilation)
    plain = nn.Sequential(layer).to(memory_format=LAST)
    features = torch.randn(3, 16, 12, 11).contiguous(memory_format=LAST)
    ours = quicken(deepcopy(plain))
    assert type(ours[0]) is QuickConvolution
    asked, by_torch = [], quicker_convolutions.gradients_by_torch

    def noted(gradient, *rest):
        asked.append((gradient.is_contiguous(), rest[-1]))
        return by_torch(gradient, *rest)

    monkeypatch.setattr(quicker_convolutions, "gradients_by_torch", noted)
    exact, _ = passed(deepcopy(plain).double(), features.double())
    own, _ = passed(ours, features)
    for found, true in zip(own, exact, strict=True):
        assert found.dtype == torch.float32 and found.shape == true.shape
        assert (found.double() - true).norm() <= 1e-6 * true.norm()
    assert own[1].is_contiguous(memory_format=LAST)  # what comes before reads it so
    assert all(planes for planes, (_, to_weight) in asked if to_weight)
    apart = [(False, (True, False)), (True, (False, True))]
    if max(layer.kernel_size) > 3:  # more weights than features: all images at once
        assert asked == [(True, (True, True))]
    else:
        assert asked == (3 if at_once == 1 else 1) * apart


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(16, 16, 1), nn.Conv2d(3, 16, 3), nn.Conv2d(32, 32, 3, groups=2)],
    ids=["1 x 1", "few channels", "groups"],
)
def test_other_convolutions_prefer_channels_innermost(monkeypatch, layer):
    processor(monkeypatch, "AVX2")
    assert type(quicken(nn.Sequential(layer))[0]) is nn.Conv2d


def test_a_layer_on_another_device_prefers_channels_innermost(monkeypatch):
    processor(monkeypatch, "AVX2")
    here = nn.Conv2d(16, 16, 7)
    assert quicker_convolutions.is_for_planes(here.weight, 1)
    assert not quicker_convolutions.is_for_planes(here.to("meta").weight, 1)


def test_processors_with_wide_vectors_need_no_planes(monkeypatch):
    processor(monkeypatch, "AVX512")
    assert type(quicken(nn.Sequential(nn.Conv2d(16, 16, 3)))[0]) is nn.Conv2d


def test_a_frozen_layer_in_slices(monkeypatch):
    monkeypatch.setattr(sliced_convolutions, "LARGE", 100)
    net = quicken(nn.Sequential(nn.Conv2d(4, 8, 3)))
    net[0].weight.requires_grad_(False)
    _, to_features, to_weight, to_bias = passed(net, torch.randn(1, 4, 5, 5), bf16=True)[0]
    assert to_features is not None and to_weight is None and to_bias is not None
