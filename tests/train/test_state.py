"""The state of a training: the running average."""

from __future__ import annotations

import pytest
from torch import nn

from fullconv.net.fcn import FCN
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe
from fullconv.train.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")


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
