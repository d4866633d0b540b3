"""Convolutions that normalise along the way: the same values, gradients and running statistics."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fullconv.kernels import openmp
from fullconv.net.rewrites import quicker_convolutions
from fullconv.net.rewrites.quicker_convolutions import QuickConvolution
from fullconv.net.rewrites.quicker_layers import QuickDropout, plain_layers, quicken
from fullconv.net.rewrites.quicker_norms import Clamped, FusedNorm

LAST = torch.channels_last
pytestmark = pytest.mark.skipif(not openmp.has_torch_threads(), reason="other threads than GNU's")


class Layers(nn.Module):
    """What trunks are made of: depthwise, strided, dilated, residual, shared, tapped."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm0, self.relu0 = nn.BatchNorm2d(8), nn.ReLU6(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False)
        self.norm1, self.relu1 = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.nothing = nn.Identity()
        self.project = nn.Conv2d(8, 6, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 12, 3, 1, 2, dilation=2, groups=2, bias=False)
        self.norm3, self.twice = nn.BatchNorm2d(12, momentum=0.3), nn.ReLU()
        self.narrow = nn.Conv2d(12, 6, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 4, 3, padding="same", bias=False)
        self.norm5, self.scores = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        x = self.relu0(self.norm0(self.stem(x)))
        x = self.nothing(self.relu1(self.norm1(self.depthwise(x))))
        tapped = self.norm2(self.project(x))
        x = self.norm4(self.narrow(self.twice(self.norm3(self.wide(tapped)))))
        x = self.twice(tapped + x)
        return self.scores(self.norm5(self.last(x))), tapped


def made(seed=0):
    torch.manual_seed(seed)
    net = Layers().to(memory_format=LAST).train()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.5)
    return fx.symbolic_trace(net)


def learnt(net, images, *, bf16=False):
    """Return scores, the image's gradient, all others, and the buffers, in float64."""
    net.zero_grad()
    images = images.clone().contiguous(memory_format=LAST).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        outs = net(images)
    kinds = [out.dtype for out in outs]
    drawn = torch.Generator().manual_seed(1)
    aims = [torch.randn(out.shape, generator=drawn, dtype=torch.float64) for out in outs]
    sum((out.double() * aim).sum() for out, aim in zip(outs, aims, strict=True)).backward()
    found = {f"out{place}": out for place, out in enumerate(outs)} | {"image": images.grad}
    found |= {name: weight.grad for name, weight in net.named_parameters()}
    found |= dict(net.named_buffers())
    return {name: value.detach().double() for name, value in found.items()}, kinds


def off(found, exact):
    return max(
        float((found[name] - value).norm() / (value.norm() + 1e-3)) for name, value in exact.items()
    )


@pytest.mark.parametrize("most", [1 << 22, 200])
@pytest.mark.parametrize("bf16", [False, True])
def test_as_torch_but_for_rounding(monkeypatch, most, bf16):
    monkeypatch.setattr(quicker_convolutions, "MOST_AT_ONCE", most)
    images = torch.randn(3, 3, 26, 34)
    plain, net = made(), made()
    exact, _ = learnt(deepcopy(plain).double(), images.double())
    quicken(net)
    assert [net.norm0.deferred, net.norm1.deferred, net.norm2.deferred] == [True, True, False]
    assert [net.norm3.deferred, net.norm4.deferred] == [True, False]
    assert net.depthwise.before == (net.norm0,) and net.depthwise.after == (net.norm1,)
    assert type(net.relu0) is type(net.relu1) is type(net.twice) is Clamped
    assert type(net.last) is nn.Conv2d and net.scores.before == (net.norm5,)
    ours, kinds = learnt(net, images, bf16=bf16)
    theirs, plain_kinds = learnt(plain, images, bf16=bf16)
    assert kinds == plain_kinds and ours.keys() == theirs.keys() == exact.keys()
    assert off(ours, exact) <= (1.5 * off(theirs, exact) if bf16 else 1e-4)
    assert off(ours, exact) < 0.2


def test_again_and_again_and_after_a_copy():
    images = torch.randn(2, 3, 17, 17)
    plain, net = made(), quicken(made())
    for _ in range(3):
        theirs, _ = learnt(plain, images)
        ours, _ = learnt(net, images)
        assert off(ours, theirs) < 1e-4
        net = deepcopy(net)
        assert net.depthwise.before[0] is net.norm0  # not the original's
        assert net.norm0.stood[0].weight is net.norm0.weight


class Watch(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen += func is F.batch_norm
        return func(*args, **(kwargs or {}))


def test_evaluation_frozen_norms_and_whoever_watches_go_by_torch():
    images = torch.randn(2, 3, 17, 17)
    plain, net = made(), quicken(made())
    for each in (plain, net):
        each.norm1.eval()
        each.norm3.eval()
    theirs, _ = learnt(plain, images)
    assert off(learnt(net, images)[0], theirs) < 1e-4
    plain.eval(), net.eval()
    for ours, theirs in zip(net(images), plain(images), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)

    plain.train(), net.train()
    with Watch() as watch:
        ours, _ = learnt(net, images)
    assert watch.seen == 6
    assert off(ours, learnt(plain, images)[0]) < 1e-4


def test_a_trunk_that_does_not_learn():
    images = torch.randn(2, 3, 17, 17)
    found = []
    for net in (made(), quicken(made())):
        for name, weight in net.named_parameters():
            weight.requires_grad_(name.startswith(("norm1", "narrow", "norm4", "scores")))
        first, second = net(images.contiguous(memory_format=LAST))
        (first.pow(3).sum() + second.pow(3).sum()).backward()
        found.append({n: w.grad.double() for n, w in net.named_parameters() if w.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert off(found[1], found[0]) < 1e-4


def test_one_value_a_channel_is_refused_as_by_torch():
    with pytest.raises(ValueError, match="more than 1 value"):
        quicken(made())(torch.randn(1, 3, 2, 2))


def test_nothing_is_fused_across_hooks_or_where_several_read():
    net = made()
    net.relu0.register_forward_hook(lambda *_: None)
    net.depthwise.register_full_backward_hook(lambda *_: None)
    quicken(net)
    assert type(net.depthwise) is nn.Conv2d and type(net.relu0) is nn.ReLU6
    assert not net.norm0.deferred and net.norm1.deferred


def test_without_torch_s_threads_normalisations_stay(monkeypatch):
    monkeypatch.setattr(openmp, "runtime", lambda: None)
    images, net = torch.randn(2, 3, 17, 17), quicken(made())
    kinds = {type(layer) for layer in net.modules()}
    assert not kinds & {FusedNorm, Clamped} and nn.BatchNorm2d in kinds
    assert QuickConvolution in kinds  # of the slow gradient
    ours, theirs = (learnt(each, images, bf16=True)[0] for each in (net, made()))
    assert off(ours, theirs) < 0.3


class Crossed(nn.Module):
    """One ReLU is called on another map between a normalisation and its own call."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 4, 1, bias=False) for _ in range(2))
        self.norm1, self.norm2, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU()
        self.third, self.fourth = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        first, second = self.norm1(self.first(x)), self.norm2(self.second(x))
        first, second = self.relu(first), self.relu(second)
        return self.third(first), self.fourth(second)


def test_a_relu_called_on_something_else_in_between():
    torch.manual_seed(0)
    plain = fx.symbolic_trace(Crossed().train())
    ours, images = quicken(deepcopy(plain)), torch.randn(2, 3, 5, 6)
    assert ours.norm1.relu == () or ours.norm2.relu == ()
    assert off(learnt(ours, images)[0], learnt(plain, images)[0]) < 1e-4
    plain.eval(), ours.eval()
    assert all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(ours(images), plain(images), strict=True)
    )


@pytest.mark.parametrize("how", ["frozen", "watched"])
def test_gradients_are_quick_without_fused_normalisations(how):
    net, images = quicken(made()), torch.randn(2, 3, 26, 34)
    if how == "frozen":
        net.norm0.eval()
        net.norm1.eval()
    seen = []
    net.depthwise.forward, forward = (
        lambda x: seen.append(forward(x)) or seen[-1],
        net.depthwise.forward,
    )
    with Watch() if how == "watched" else nullcontext():
        learnt(net, images, bf16=True)
    assert type(seen[0].grad_fn).__name__ == "_ConvolutionBackward"


def test_a_front_that_does_not_learn_is_not_paid_for(monkeypatch):
    net = quicken(made())
    for layer in (net.stem, net.norm0):
        layer.requires_grad_(requires_grad=False)
    asked, real = [], quicker_convolutions._gradients

    def noted(*given):
        asked.append(given[-1])
        return real(*given)

    monkeypatch.setattr(quicker_convolutions, "_gradients", noted)
    out, _ = net(torch.randn(2, 3, 17, 17).contiguous(memory_format=LAST))
    out.sum().backward()
    assert asked[-1] == (False, True)


def test_nothing_is_left_unfinished(monkeypatch):
    works, begin = [], quicker_convolutions._Work.__init__
    monkeypatch.setattr(
        quicker_convolutions._Work,
        "__init__",
        lambda self, *given, **named: works.append(self) or begin(self, *given, **named),
    )
    net = quicken(made())
    learnt(net, torch.randn(2, 3, 17, 17))
    net.stem.weight.requires_grad_(requires_grad=False)
    net(torch.randn(2, 3, 17, 17).contiguous(memory_format=LAST))[0].sum().backward()
    assert len(works) == 12 and all(work.unfinished is None for work in works)


def test_several_forwards_before_a_backward():
    first, second = (torch.randn(2, 3, 17, 17) for _ in range(2))
    found = []
    for net in (made(), quicken(made())):
        scores = [net(images.contiguous(memory_format=LAST))[0] for images in (first, second)]
        with torch.no_grad():
            net.eval()
            net(first)
            net.train()
            net(second.contiguous(memory_format=LAST))
        (scores[0].pow(3).sum() + scores[1].pow(3).sum()).backward()
        found.append({n: w.grad.double() for n, w in net.named_parameters() if w.grad is not None})
    assert off(found[1], found[0]) < 1e-4


def test_second_derivatives_are_refused():
    net = quicken(made())
    images = torch.randn(2, 3, 17, 17).contiguous(memory_format=LAST).requires_grad_()
    (gradient,) = torch.autograd.grad(net(images)[0].pow(2).sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_weights_of_other_precisions_go_by_torch():
    images = torch.randn(2, 3, 17, 17)
    for dtype in (torch.bfloat16, torch.float64):
        plain, net = made().to(dtype), quicken(made().to(dtype))
        ours, theirs = (each(images.to(dtype)) for each in (net, plain))
        assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
    with torch.autocast("cpu", torch.float16):
        ours, theirs = (each(images) for each in (quicken(made()), made()))
    assert all(torch.allclose(a, b, atol=0.05) for a, b in zip(ours, theirs, strict=True))


def test_plain_layers_come_back():
    net = made()
    before = {name: type(layer) for name, layer in net.named_modules()}
    kept = dict(net.named_parameters())
    quicken(net)
    learnt(net, images := torch.randn(2, 3, 17, 17))
    with plain_layers(net):
        assert {name: type(layer) for name, layer in net.named_modules()} == before
        assert all(weight is kept[name] for name, weight in net.named_parameters())
        assert net.norm0.num_batches_tracked == 1
    plain = made()
    for _ in range(2):
        theirs, _ = learnt(plain, images)
    assert off(learnt(net, images)[0], theirs) < 1e-4


def test_normalisations_of_timm_s_that_clamp():
    timm = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), timm.BatchNormAct2d(8, act_layer=nn.ReLU6))
    other = nn.Sequential(nn.Conv2d(3, 8, 1), timm.BatchNormAct2d(8, act_layer=nn.SiLU))
    ours = quicken(deepcopy(plain))
    assert type(ours[1]) is FusedNorm and ours[1].bounds == (0, 6)
    assert type(quicken(other)[1]) is timm.BatchNormAct2d
    images = torch.randn(2, 3, 7, 9).contiguous(memory_format=LAST)
    assert torch.allclose(ours(images), plain(images), atol=1e-6)
    with plain_layers(ours):
        assert type(ours[1]) is timm.BatchNormAct2d and type(ours[1].act) is nn.ReLU6


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_as_often_as_asked(layout, dtype):
    torch.manual_seed(0)
    layer = QuickDropout(0.3)
    ones = torch.ones(3, 7, 301, 5, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    out = layer(ones)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    share = float((out == 0).double().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / ones.numel()) ** 0.5
    kept = out.detach()[out != 0]
    assert kept.eq(torch.ones(1, dtype=dtype).div(1 - 0.3)).all()
    out.sum().backward()
    assert ones.grad.equal(out.detach())
    for axis in range(4):  # no regular pattern
        others = [each for each in range(4) if each != axis]
        shares = (out == 0).double().mean(others)
        assert (shares - 0.3).abs().max() < 5 * (0.21 * out.shape[axis] / out.numel()) ** 0.5
    assert not layer(ones).equal(out)
    assert layer.eval()(ones) is ones
