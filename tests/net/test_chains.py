"""Layers that train in chains: the values, gradients and statistics of the layers themselves."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fullconv import FCN
from fullconv.dense.tracing import trace
from fullconv.net.rewrites import chained, chains
from fullconv.net.rewrites.chained import ChainedLayers, quicken
from fullconv.net.trunk import Trunk


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    monkeypatch.setattr(chained, "LEAST", 0)


def separable() -> nn.Sequential:
    """Every kind of link: padding of one side, strided depthwise, clamped below, and both ways."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8, momentum=0.3),
        nn.ReLU6(inplace=True),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        nn.BatchNorm2d(8, eps=0.01),
        nn.ReLU(inplace=True),
        nn.Identity(),
        nn.MaxPool2d(3, 1, 1),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.BatchNorm2d(6),
    )


def plain_convolutions() -> nn.Sequential:
    """VGG's kind: no normalisation, windows after windows, an activation at the end."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
    )


class Branching(nn.Module):
    """A residual block whose ReLU stands in three places, after margins on two sides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 6, 3, padding=1)
        self.one, self.two, self.relu = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.relu(self.one(self.first(F.pad(x, (0, 1, 0, 1)))))
        return self.relu(stem + self.relu(self.two(self.second(stem))))


def frozen() -> nn.Sequential:
    net = separable()
    for layer in (net[1], net[9]):
        layer.running_mean.uniform_(-1, 1)
        layer.running_var.uniform_(0.5, 2)
        layer.eval()
    net[3].weight.requires_grad_(False)
    return net


def without_memory() -> nn.Sequential:
    net = separable()
    net[1] = nn.BatchNorm2d(8, track_running_stats=False)
    net[4] = nn.BatchNorm2d(8, affine=False)
    net[9] = nn.BatchNorm2d(6, momentum=None)
    return net


def prepared(make, chained=True):
    torch.manual_seed(0)
    net = make().train()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.affine:
                layer.weight.uniform_(-2, 2)
                layer.bias.uniform_(-1, 3)
    modes = [(layer, layer.training) for layer in net.modules()]
    traced = trace(net, 16)
    for layer, mode in modes:
        layer.training = mode
    return net, ChainedLayers(traced) if chained else traced


def passed(run, net, images, bf16=False):
    """Return what comes out twice, the gradients, and the state afterwards."""
    images = images.clone().requires_grad_()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = run(images)
    random = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=random, dtype=torch.float64)
    (out.double() * weights).sum().backward()
    gradients = {name: each.grad for name, each in net.named_parameters()}
    return out, {"images": images.grad, **gradients}, net.state_dict()


def pictures(dtype=torch.float64):
    random = torch.Generator().manual_seed(2)
    images = 3 * torch.randn(5, 3, 13, 18, generator=random) + 1
    return images.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("at_once", [1, 3000, 10**9])
@pytest.mark.parametrize("make", [separable, plain_convolutions, Branching, frozen, without_memory])
def test_chains_are_their_layers(make, at_once, monkeypatch):
    monkeypatch.setattr(chains, "AT_ONCE", at_once)
    net, layers = prepared(make, chained=False)
    exact = passed(layers, net.double(), pictures())
    net, run = prepared(make)
    assert run.chains
    ours = passed(run, net.double(), pictures())
    torch.testing.assert_close(ours[0], exact[0], rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(ours[1:], exact[1:], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("make", [separable, plain_convolutions])
def test_in_bfloat16_they_are_as_near_as_the_layers(make, monkeypatch):
    monkeypatch.setattr(chains, "AT_ONCE", 3000)
    net, layers = prepared(make, chained=False)
    true = passed(layers, net.double(), pictures())[1]
    net, layers = prepared(make, chained=False)
    theirs = passed(layers, net, pictures(torch.float32), bf16=True)
    net, run = prepared(make)
    ours = passed(run, net, pictures(torch.float32), bf16=True)
    assert ours[0].dtype == torch.bfloat16
    for name, value in true.items():
        if value.norm() < 1e-9:  # a bias that is normalised away
            continue
        own, their = ours[1][name], theirs[1][name]
        assert own.dtype == torch.float32
        own_off, their_off = ((each - value).norm() / value.norm() for each in (own, their))
        assert own_off <= max(1.3 * their_off, 0.01), name


def test_what_is_kept_is_what_windows_gave():
    net, run = prepared(separable)
    out = run(pictures(torch.float32))[0].grad_fn.next_functions[0][0]
    kept = [sum(part.numel() for part in values or ()) for _, values in out.kept]
    assert kept == [0, 5 * 8 * 7 * 9, 5 * 8 * 4 * 5, 5 * 8 * 4 * 5, 5 * 6 * 4 * 5]
    assert net[0].weight.grad is None


def test_a_gradient_is_worked_out_once():
    _, run = prepared(separable)
    loss = run(pictures(torch.float32)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="worked out before"):
        loss.backward()


def test_one_value_a_channel_is_too_few():
    _, run = prepared(separable)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        run(torch.randn(1, 3, 2, 2))


def test_a_layer_with_a_hook_runs_by_itself():
    net, layers = prepared(separable, chained=False)
    seen = []
    net[4].register_forward_hook(lambda *_: seen.append(0))
    run = ChainedLayers(layers)
    assert [len(chain.links) for chain, _ in run.chains.values()] == [2, 3]
    run(pictures(torch.float32))
    assert seen == [0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "timm:tf_efficientnet_lite0"])
def test_a_whole_net_learns_the_same(name):
    """Losses of a few steps lie on those of the layers; names, order and layers stay."""
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = FCN(name, 8, 3).to(torch.double, memory_format=torch.channels_last).train()
    ours = quicken(deepcopy(plain))
    assert list(ours.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 64, 96).double().contiguous(memory_format=torch.channels_last)
    truth = (images[:, 0] > 0).long() + (images[:, 1] > 0)
    losses: list[list[float]] = []
    for net in (plain, ours):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
        losses.append([])
        for _ in range(3):
            loss = F.cross_entropy(net(images), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for key, value in plain.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-5)


def test_a_net_is_evaluated_and_stored_by_its_layers(tmp_path):
    net = quicken(FCN("mobilenet_v2", 8, 3)).train()
    twin = net.for_inference()
    assert twin.trunk.trained is None and net.trunk.trained is not None
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images), twin(images), rtol=0, atol=0)
    net.save_pretrained(tmp_path)
    assert "Conv2d" in (tmp_path / "config.json").read_text()
    assert isinstance(net.trunk, Trunk)


def test_small_images_go_through_the_layers(monkeypatch):
    monkeypatch.setattr(chained, "LEAST", 13 * 18 + 1)
    _, run = prepared(separable)
    assert not hasattr(run(pictures(torch.float32)).grad_fn, "kept")
    monkeypatch.setattr(chained, "LEAST", 13 * 18)
    assert run(pictures(torch.float32)).grad_fn is not None
