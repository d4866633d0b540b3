"""Strided depthwise convolutions: the same values and gradients, in bfloat16 as well as may be."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from fullconv import FCN
from fullconv.train.strided import StridedDepthwise, quicken


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
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (5, 2, 2, 1), (3, (2, 3), 0, 2)]
)
@pytest.mark.parametrize("size", [(13, 16), (7, 7)])
def test_values_and_gradients(kernel, stride, padding, dilation, size, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=bias)
    exact, ours, theirs = (deepcopy(layer) for _ in range(3))
    features = torch.randn(2, 6, *size)
    expected = gradients(exact.double(), features.double(), bf16=False)
    actual = gradients(quicken(nn.Sequential(ours)), features, bf16=True)
    plain = gradients(theirs, features, bf16=True)
    assert type(ours) is StridedDepthwise and actual[0].dtype == plain[0].dtype == torch.bfloat16
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


def test_only_strided_depthwise_layers_change_and_names_stay():
    net = FCN("mobilenet_v2", 8, 3)
    names = list(net.state_dict())
    before = {name for name, m in net.named_modules() if type(m) is nn.Conv2d}
    quicken(net)
    changed = {name for name, m in net.named_modules() if isinstance(m, StridedDepthwise)}
    assert len(changed) == 4 and changed < before
    for name, layer in net.named_modules():
        if name in changed:
            assert layer.groups == layer.in_channels and layer.stride == (2, 2)
    assert list(net.state_dict()) == names
    plain = quicken(
        nn.Sequential(
            nn.Conv2d(4, 8, 3, 2, groups=4),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.Conv2d(1, 1, 3, 2),
            nn.Conv2d(4, 4, 3, 2, padding=1, padding_mode="reflect", groups=4),
        )
    )
    assert all(type(layer) is nn.Conv2d for layer in plain)
