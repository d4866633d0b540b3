"""The state of a training: the optimizer's groups, and the running average."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from fullconv.net.fcn import FCN
from fullconv.net.upscore import Upscore
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe
from fullconv.train.state import TrainingState, make_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_the_average_forgets_its_first_weights(net: FCN) -> None:
    plan = Plan(steps=3, steps_per_epoch=1, validate_every=1, crop=(16, 24))
    state = TrainingState.start(net, Recipe(ema=0.15), plan)
    weight = net.scores["4"].bias
    expected = None
    for count, value in enumerate((1.0, 5.0, 9.0)):
        nn.init.constant_(weight, value)
        state.advance(0.0)
        decay = min(0.15, (1 + count) / (10 + count))  # 0.15 at last, 2/11 being more
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert state.evaluated.scores["4"].bias[0].item() == pytest.approx(expected)
    assert state.evaluated is not net
    assert state.evaluated.classes == net.classes


def test_average_of_batch_norm_statistics() -> None:
    net = FCN("shufflenet_v2_x0_5", 32, 3).train()
    plan = Plan(steps=3, steps_per_epoch=1, validate_every=1, crop=(16, 24))
    state = TrainingState.start(net, Recipe(ema=0.5), plan)
    for value in (1.0, 3.0):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.fill_(value)
                module.num_batches_tracked.fill_(int(value))
        state.advance(0.0)
    decay = 2 / 11
    found = next(m for m in state.evaluated.modules() if isinstance(m, nn.BatchNorm2d))
    assert float(found.running_mean[0]) == pytest.approx(decay * 1 + (1 - decay) * 3)
    assert int(found.num_batches_tracked) == 3
