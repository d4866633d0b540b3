"""The optimizer's groups, and what it notes of each weight."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from fullconv.kernels.openmp import has_torch_threads
from fullconv.net.fcn import FCN
from fullconv.net.upscore import Upscore
from fullconv.train import optimizer as optimizers
from fullconv.train.optimizer import FrugalAdamW, load_optimizer, make_optimizer
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe
from fullconv.train.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")
on_torch_threads = pytest.mark.skipif(
    not has_torch_threads(), reason="torch runs on other threads, or numba is not installed"
)


def test_decay_spares_biases_norms_and_upscores() -> None:
    net = FCN("shufflenet_v2_x0_5", 8, 3, learn_last_upscore=True)
    decayed, spared = (group["params"] for group in make_optimizer(net, Recipe()).param_groups)
    upscores = {p for m in net.modules() if isinstance(m, Upscore) for p in m.parameters()}
    assert len(upscores) == 3
    assert upscores <= set(spared)
    assert all(p.ndim == 4 for p in decayed)
    assert all(p.ndim == 1 for p in set(spared) - upscores)
    assert len(decayed) + len(spared) == len(list(net.parameters()))
    assert make_optimizer(net, Recipe()).param_groups[1]["weight_decay"] == 0


def test_frozen_upscores_are_not_in_the_optimizer(net: FCN) -> None:
    groups = make_optimizer(net, Recipe()).param_groups
    held = {p for group in groups for p in group["params"]}
    assert net.upscores["4-1"].weight not in held
    assert net.upscores["8-4"].weight in held


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_doubled_biases(net: FCN, optimizer: str) -> None:
    names = {parameter: name for name, parameter in net.named_parameters()}
    recipe = Recipe(optimizer=optimizer, lr=0.5, weight_decay=0.25, doubled_biases="all")
    for doubled in ("none", "all", "scores"):
        recipe = recipe.model_copy(update={"doubled_biases": doubled})
        plan = Plan(steps=3, steps_per_epoch=1, validate_every=1, crop=(16, 24))
        state = TrainingState.start(net, recipe, plan)
        found = {
            names[parameter]: (group["lr"], group["weight_decay"])
            for group in state.optimizer.param_groups
            for parameter in group["params"]
        }
        biases = {name: rates for name, rates in found.items() if name.endswith("bias")}
        of_scores = {name for name in biases if "scores" in name}
        assert (len(biases), len(of_scores)) == (4, 2)
        for name, rates in found.items():
            if "upscores" in name:
                assert rates == (0.5, 0.0)
            elif name not in biases:
                assert rates == (0.5, 0.25)
            elif doubled == "none":
                assert rates == (0.5, 0.0)
            elif doubled == "scores" and name not in of_scores:
                assert rates == (0.5, 0.25)
            else:
                assert rates == (1.0, 0.0)
        state.set_learning_rate(0.125)
        rates = {group["lr"] for group in state.optimizer.param_groups}
        assert rates == ({0.125} if doubled == "none" else {0.125, 0.25})


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_moments_lie_as_the_weights_of_whatever_processor_goes_on(optimizer: str) -> None:
    recipe = Recipe(optimizer=optimizer, lr=0.1)
    plan = Plan(steps=3, steps_per_epoch=1, validate_every=1, crop=(16, 24))
    drawn = torch.Generator().manual_seed(0)
    net = FCN("shufflenet_v2_x0_5", 32, 3)
    gradients = [
        [torch.randn(each.shape, generator=drawn) for each in net.parameters()] for _ in range(2)
    ]

    def step(state: TrainingState, own: list[torch.Tensor]) -> None:
        for parameter, gradient in zip(state.net.parameters(), own, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        state.optimizer.step()

    state = TrainingState.start(net, recipe, plan)
    step(state, gradients[0])
    saved = deepcopy(state.to_dict(torch.device("cpu")))
    other = FCN("shufflenet_v2_x0_5", 32, 3).to(memory_format=torch.channels_last)
    resumed = TrainingState.start(other, recipe, plan)
    resumed.restore(saved, torch.device("cpu"))
    for each in (state, resumed):
        step(each, gradients[1])
    pairs = list(zip(net.parameters(), other.parameters(), strict=True))
    assert any(one.stride() != same.stride() for one, same in pairs)
    for one, same in pairs:
        torch.testing.assert_close(same, one, rtol=1e-6, atol=1e-7)


class Task(nn.Module):
    """A small problem, whose weights but for a bias are very large ones here."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 1)
        self.asked, self.told = torch.randn(16, 3, 7, 7), torch.randn(16, 4, 5, 5)

    def learn(self, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
        """Make steps and return their losses."""
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            result = self.second(torch.tanh(self.first(self.asked)))
            loss = (result - self.told).square().mean()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        return losses


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call weights large from 30 on: those of both layers of the task, but no biases."""
    monkeypatch.setattr(optimizers, "LARGE", 30)


RECIPE = Recipe(lr=0.01)


@on_torch_threads
@pytest.mark.usefixtures("large")
def test_moments_in_bfloat16_learn_as_well() -> None:
    curves, nets = [], []
    for precision in ("fp32", "bf16"):
        task = Task()
        curves.append(task.learn(make_optimizer(task, RECIPE, precision), 200))
        nets.append(task)
    plain, frugal = (torch.tensor(each) for each in curves)
    assert plain[-1] < 0.9 * plain[0]
    assert ((plain - frugal).abs() < 0.003 * plain).all()  # cut off, they are 0.007 apart
    assert not nets[0].first.weight.equal(nets[1].first.weight)


@on_torch_threads
@pytest.mark.usefixtures("large")
def test_large_weights_have_moments_in_bfloat16_and_keep_their_gradients() -> None:
    task = Task()
    optimizer = make_optimizer(task, RECIPE, "bf16")
    task.learn(optimizer, 1)
    for weights in task.parameters():
        expected = torch.bfloat16 if weights.numel() >= 30 else torch.float32
        assert {optimizer.state[weights][name].dtype for name in optimizers.MOMENTS} == {expected}
        assert weights.grad is not None and weights.grad.abs().sum() > 0


@on_torch_threads
@pytest.mark.usefixtures("large")
def test_moments_in_bfloat16_fade_as_slowly_as_they_should() -> None:
    task = Task()
    both = [make_optimizer(task, RECIPE, each) for each in ("fp32", "bf16")]
    weights = task.first.weight
    for step in range(300):
        weights.grad = torch.full_like(weights, 1.0 if step < 10 else 1e-3)
        for optimizer in both:
            optimizer.step()
    plain, frugal = (each.state[weights]["exp_avg_sq"].double().mean() for each in both)
    assert frugal / plain == pytest.approx(1, abs=0.02)  # by the nearest it would stay at 1.3


def test_other_weights_go_by_torch() -> None:
    task, other = Task(), Task()
    optimizer = make_optimizer(task, RECIPE, "bf16")
    assert isinstance(optimizer, FrugalAdamW)
    task.learn(optimizer, 5)
    other.learn(make_optimizer(other, RECIPE), 5)
    for one, same in zip(task.parameters(), other.parameters(), strict=True):
        assert one.equal(same)


@pytest.mark.usefixtures("large")
def test_without_torch_threads_all_go_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "has_torch_threads", lambda: False)
    task = Task()
    optimizer = make_optimizer(task, RECIPE, "bf16")
    task.learn(optimizer, 1)
    assert optimizer.state[task.first.weight]["exp_avg"].dtype == torch.float32


@on_torch_threads
@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_resumed_training_goes_on_exactly(layout: torch.memory_format) -> None:
    task = Task()
    optimizer = make_optimizer(task, RECIPE, "bf16")
    task.learn(optimizer, 3)
    other = deepcopy(task).to(memory_format=layout)
    resumed = make_optimizer(other, RECIPE, "bf16")
    load_optimizer(resumed, deepcopy(optimizer.state_dict()))
    for each, old in zip(other.parameters(), task.parameters(), strict=True):
        for name in optimizers.MOMENTS:
            moment, before = resumed.state[each][name], optimizer.state[old][name]
            assert moment.dtype == before.dtype and moment.stride() == each.stride()
            assert moment.equal(before)
    assert type(resumed.state_dict()["state"][0]["step"]) is torch.Tensor
    if layout == torch.contiguous_format:  # else other places in memory draw other numbers
        task.learn(optimizer, 3)
        other.learn(resumed, 3)
        for one, same in zip(task.parameters(), other.parameters(), strict=True):
            assert one.equal(same)


@on_torch_threads
@pytest.mark.usefixtures("large")
def test_a_training_of_an_earlier_version_goes_on() -> None:
    task = Task()
    before = make_optimizer(task, RECIPE)
    assert type(before) is AdamW
    task.learn(before, 3)
    optimizer = make_optimizer(task, RECIPE, "bf16")
    load_optimizer(optimizer, before.state_dict())
    for weights in (task.first.weight, task.second.weight):
        for name in optimizers.MOMENTS:
            expected = before.state[weights][name].bfloat16()
            assert optimizer.state[weights][name].equal(expected)
    losses = task.learn(optimizer, 20)
    assert losses[-1] < losses[0]
    assert int(optimizer.state[task.first.weight]["step"]) == 23


@on_torch_threads
@pytest.mark.usefixtures("large")
def test_a_gradient_may_lie_otherwise_than_its_weights() -> None:
    tasks = Task(), Task()
    for task in tasks:
        for weights in task.parameters():
            torch.manual_seed(weights.numel())
            weights.grad = torch.randn(weights.shape)
    weights = tasks[1].first.weight
    gradient = weights.grad
    assert gradient is not None
    weights.grad = gradient.contiguous(memory_format=torch.channels_last)
    for task in tasks:
        make_optimizer(task, RECIPE, "bf16").step()
    assert weights.equal(tasks[0].first.weight)
