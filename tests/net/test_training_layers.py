"""Layers that train faster: the same values, and the same gradients or such as are as good."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from fullconv import FCN
from fullconv.kernels.openmp import has_torch_threads
from fullconv.net.rewrites.quicker_convolutions import QuickConvolution
from fullconv.net.rewrites.quicker_layers import FrugalReLU6, QuickDropout, plain_layers, quicken
from fullconv.net.rewrites.quicker_norms import Clamped, FusedNorm

threads = pytest.mark.skipif(not has_torch_threads(), reason="other threads than GNU's")
TWINS = {QuickConvolution, FusedNorm, Clamped, FrugalReLU6, QuickDropout}


def gradients(layer, features, bf16):
    features = features.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = layer(features)
    out.float().square().sum().backward()
    return out, features.grad, *(p.grad for p in layer.parameters())


def cleared(layer):
    layer.zero_grad()
    return layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (3, 2, 1, 1),
        (5, 2, 2, 1),
        (3, (2, 3), 0, 2),
        (5, 1, 2, 1),
        ((3, 5), 1, 0, 1),
        (3, 2, 3, 1),  # padded by more than a window reaches
        (1, 2, 0, 1),
    ],
)
@pytest.mark.parametrize("size", [(13, 16), (7, 7)])
def test_values_and_gradients(kernel, stride, padding, dilation, size, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=bias)
    exact, ours, theirs = (deepcopy(layer) for _ in range(3))
    features = torch.randn(2, 6, *size)
    expected = gradients(exact.double(), features.double(), bf16=False)
    ours = quicken(nn.Sequential(ours))[0]
    actual = gradients(ours, features, bf16=True)
    plain = gradients(theirs, features, bf16=True)
    assert type(ours) is QuickConvolution and actual[0].dtype == plain[0].dtype == torch.bfloat16
    assert actual[0].equal(plain[0])
    for own, their, true in zip(actual[1:], plain[1:], expected[1:], strict=True):
        assert own.dtype == their.dtype == torch.float32
        scale = true.abs().max()
        ours_off, theirs_off = ((each - true).abs().max() / scale for each in (own, their))
        assert ours_off <= max(1.5 * theirs_off, 0.01)
    alike = zip(
        gradients(cleared(ours), features, False), gradients(layer, features, False), strict=True
    )
    assert all(own.equal(their) for own, their in alike)


def test_a_first_layer_needs_no_gradient_to_the_image():
    layer = quicken(nn.Sequential(nn.Conv2d(3, 3, 3, 2, groups=3)))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(1, 3, 9, 9))
    out.sum().backward()
    assert layer[0].weight.grad is not None


@threads
def test_only_layers_that_gain_by_it_change_and_names_stay():
    net = FCN("mobilenet_v2", 8, 3)
    names = list(net.state_dict())
    before = {name for name, m in net.named_modules() if type(m) is nn.Conv2d}
    norms = {name for name, m in net.named_modules() if type(m) is nn.BatchNorm2d}
    quicken(net)
    changed = {name for name, m in net.named_modules() if isinstance(m, QuickConvolution)}
    assert changed == before  # the scores' for their short biases
    assert norms == {name for name, m in net.named_modules() if isinstance(m, FusedNorm)}
    assert list(net.state_dict()) == names
    plain = quicken(
        nn.Sequential(
            nn.Conv2d(4, 8, 3, 2, groups=4, bias=False),
            nn.Conv2d(4, 4, 3, groups=4, bias=False),
            nn.Conv2d(1, 1, 3, 2, bias=False),
            nn.Conv2d(4, 4, 3, 2, padding=1, padding_mode="reflect", groups=4),
        )
    )
    assert all(type(layer) is nn.Conv2d for layer in plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_relu6_gives_the_same_bits_and_keeps_nothing_twice(dtype):
    torch.manual_seed(0)
    features = 4 * torch.randn(2, 3, 20, 20, dtype=dtype)
    features.view(-1)[:4] = torch.tensor([0.0, 6.0, -0.0, float("nan")], dtype=dtype)
    gradient = torch.randn_like(features)

    def passed(layer):
        kept = set()
        start = features.clone().requires_grad_()

        def keep(tensor):
            kept.add(tensor.untyped_storage().data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = layer(1 * start)
        out.backward(gradient)
        return out, start.grad, kept

    ours, theirs = (passed(layer) for layer in (quicken(nn.Sequential(nn.ReLU6(True))), nn.ReLU6()))
    for own, their in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(own.nan_to_num(9), their.nan_to_num(9))
    assert ours[2] == {ours[0].untyped_storage().data_ptr()}


@pytest.mark.slow
@threads
def test_a_whole_net_learns_the_same_with_its_layers_exchanged():
    torch.manual_seed(0)
    plain = FCN("mobilenet_v2", 8, 3)
    ours = quicken(deepcopy(plain))
    assert sum(isinstance(layer, Clamped) for layer in ours.modules()) == 35
    images = torch.randn(2, 3, 64, 96)
    for net in (plain, ours):
        torch.manual_seed(1)
        net.double().train()(images.double()).square().sum().backward()
    for own, their in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (own.grad is None) == (their.grad is None)
        assert own.grad is None or torch.equal(own.grad, their.grad)


@threads
def test_plain_layers_stand_in_their_places_while_a_net_is_stored(tmp_path):
    net = quicken(FCN("mobilenet_v2", 8, 3))
    parameters = dict(net.named_parameters())
    with plain_layers(net):
        kinds = {type(layer) for layer in net.modules()}
        assert not kinds & TWINS
        net.save_pretrained(tmp_path)
    quick = sum(isinstance(layer, QuickConvolution) for layer in net.modules())
    assert quick == 52 + 3  # the scores, too
    assert all(own is parameters[name] for name, own in net.named_parameters())
    stored = (tmp_path / "config.json").read_text()
    assert "Conv2d" in stored and not any(kind.__name__ in stored for kind in TWINS)


def test_what_is_not_plain_is_not_stored_as_if_it_were(tmp_path):
    """A twin has no hidden way to pass for the plain layer: without the swap there is no graph."""
    quicken(FCN("mobilenet_v2", 8, 3)).save_pretrained(tmp_path)
    assert "ReLU6" not in (tmp_path / "config.json").read_text()


def test_a_layer_in_two_places_and_one_with_a_hook():
    twice = nn.ReLU6(inplace=True)
    watched, seen = nn.ReLU6(inplace=True), []
    watched.register_forward_hook(lambda *_: seen.append(0))
    net = quicken(nn.Sequential(twice, nn.Sequential(twice), watched))
    assert net[0] is net[1][0] and type(net[0]) is FrugalReLU6
    assert net[2] is watched
