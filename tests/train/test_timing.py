"""Time: plans follow the pace, and precision is chosen by measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from coloured_scenes import write_scenes
from dataset_folders import write_dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from training import (
    SimulatedClock,
    changed,
    stage_on,
    weights_of,
)

from fullconv.data.loading import Batch
from fullconv.net.fcn import FCN
from fullconv.train.evaluators import validation_loss
from fullconv.train.plan import SLACK, Pace, Plan
from fullconv.train.recipe import Recipe
from fullconv.train.state import TrainingState
from fullconv.train.step import Objective
from fullconv.train.timing import fitted_to_machine

pytestmark = pytest.mark.usefixtures("one_thread")


@given(
    step=st.floats(0.01, 10),
    validation=st.floats(0.01, 100),
    seconds=st.floats(1, 10_000),
    per_epoch=st.integers(1, 200),
    every=st.integers(1, 10),
)
def test_fitted_steps_stay_within_the_time(
    step: float, validation: float, seconds: float, per_epoch: int, every: int
) -> None:
    pace = Pace(step, validation)
    plan = Plan(1, per_epoch, every, (8, 8))
    steps = pace.steps_within(seconds, plan)
    fitted = Plan(steps, per_epoch, every, (8, 8))
    assert steps == 1 or pace.seconds(fitted) <= seconds * (1 + 1e-9)
    if steps > 1:  # and use it: a few more steps and validations would not fit
        more = Plan(steps + 1 + per_epoch * every, per_epoch, every, (8, 8))
        assert pace.seconds(more) > seconds


def test_the_plan_follows_the_pace(net: FCN) -> None:
    """A machine turns slow, then fast: the steps are fitted each time, and the time is kept."""
    plan, clock = Plan(50, 10, 2, (8, 8), seconds=100 / SLACK), SimulatedClock()
    state = TrainingState.start(net, Recipe(), plan, clock)
    state.pace = Pace(2.0, 1.0)
    plans = []
    while state.step < state.plan.steps:
        taken = 2.0 if state.step < 10 else 4.0 if state.step < 15 else 0.5
        clock.pass_(taken)
        state.advance(0.0)
        if state.plan.validates(state.step):
            clock.pass_(1.0)
            state.tick()
        state.keep_in_time()
        plans.append(state.plan.steps)
    assert plans[8] == pytest.approx(48, abs=3)
    assert 30 < plans[14] < 40
    assert plans[-1] == pytest.approx(15 + (100 - 10 * 2 - 5 * 4 - 5) / 0.5, rel=0.1)
    assert 95 < state.seconds <= 102
    assert state.plan.done(state.step) == pytest.approx(1)


def test_without_a_limit_the_plan_stays(net: FCN) -> None:
    clock = SimulatedClock()
    state = TrainingState.start(net, Recipe(), Plan(50, 10, 2, (8, 8)), clock)
    clock.pass_(1e6)
    state.advance(0.0)
    state.keep_in_time()
    assert state.plan == Plan(50, 10, 2, (8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_calibration_changes_neither_net_nor_generators(
    net: FCN,
    tmp_path: Path,
    optimizer: str,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fullconv.train.optimizer.LARGE", 30)
    recipe = Recipe(lr=1.0, optimizer=optimizer, precision=precision)
    stage = stage_on(write_scenes(tmp_path), tmp_path / "out", recipe=recipe)
    plan = Plan(1000, 1, 50, (16, 24))
    weights, random = weights_of(net), torch.get_rng_state()
    fitted, pace = fitted_to_machine(stage, net, plan)
    assert not changed(net, weights)
    assert all(each.grad is None for each in net.parameters())
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert fitted.steps == 1000
    assert pace.step > 0
    assert pace.validation > 0
    limited = Plan(1000, 1, 50, (16, 24), seconds=5.0)
    assert fitted_to_machine(stage, net, limited)[0].steps != 1000


def test_steps_are_timed_on_the_weights_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = FCN("shufflenet_v2_x0_5", 32, 3)
    tried: list[Any] = []

    def step(objective: Objective, *_: Any) -> float:
        tried.append(objective.net)
        return 0.0

    monkeypatch.setattr("fullconv.train.timing.take_step", step)
    stage = stage_on(write_scenes(tmp_path), tmp_path / "out")
    fitted_to_machine(stage, net, Plan(1000, 1, 50, (16, 24)))
    assert tried[0] is not net
    assert {*tried[0].parameters()} == {*net.parameters()}
    copied, kept = ({id(each) for each in some.buffers()} for some in (tried[0], net))
    assert kept and not copied & kept


@pytest.mark.slow
def test_precision_is_chosen_by_measurement(
    net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower, clock = {"fp32": 0.03, "bf16": 0.02}, SimulatedClock()
    taken: set[str] = set()
    images: set[tuple[str, int]] = set()

    def step(objective: Objective, optimizer: Optimizer, batch: Batch, *_: Any) -> float:
        assert isinstance(optimizer, AdamW) == (len(batch.parts[0].images) == 8)
        taken.add(objective.precision)
        images.add((objective.precision, len(batch.parts[0].images)))
        clock.pass_(slower[objective.precision])
        return 0.0

    def able(bf16: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})

    monkeypatch.setattr("fullconv.train.timing.take_step", step)
    able(True)
    root = write_scenes(tmp_path)
    auto = stage_on(root, tmp_path / "out", clock=clock)
    plan = Plan(1000, 1, 50, (16, 24))
    assert fitted_to_machine(auto, net, plan)[0].precision == "bf16"
    assert auto.recipe.batch_size == 8
    assert images == {("fp32", 2), ("bf16", 2), ("bf16", 8)}  # float32 takes no memory of eight
    assert fitted_to_machine(auto, net, Plan(20, 1, 50, (16, 24)))[0].precision == "fp32"
    taken.clear()
    able(False)  # what is emulated is not even timed
    assert fitted_to_machine(auto, net, plan)[0].precision == "fp32"
    assert taken == {"fp32"}
    able(True)
    slower["bf16"] = 0.029  # faster, but not worth it
    assert fitted_to_machine(auto, net, plan)[0].precision == "fp32"
    fixed = stage_on(root, tmp_path / "out", recipe=Recipe(precision="bf16"), clock=clock)
    assert fitted_to_machine(fixed, net, plan)[0].precision == "bf16"


def test_validation_loss_is_the_mean_over_valid_pixels(net: FCN, tmp_path: Path) -> None:
    stage = stage_on(write_dataset(tmp_path, val=3), tmp_path / "out")
    total, pixels = 0.0, 0
    net.eval()
    for index in range(3):
        image = torch.from_numpy(stage.data.val[index].image).permute(2, 0, 1)[None]
        labels = torch.from_numpy(stage.data.val[index].labels).long()
        scores = net(net.preprocessing(image)).detach()
        total += float(F.cross_entropy(scores, labels, ignore_index=255, reduction="sum"))
        pixels += int((labels != 255).sum())
    net.train()
    assert validation_loss(net, stage.data.val) == pytest.approx(total / pixels, rel=1e-5)
    assert net.training


def test_a_moment_s_delay_does_not_count_for_every_image_of_a_validation(
    net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, taken = SimulatedClock(), iter([9.0, 5.0, 0.1, 0.2])
    stage = stage_on(write_scenes(tmp_path), tmp_path / "out", clock=clock)
    monkeypatch.setattr("fullconv.train.timing.take_step", lambda *_: clock.pass_(0.03) or 0.0)
    monkeypatch.setattr(FCN, "label", lambda *_: clock.pass_(next(taken)))
    pace = fitted_to_machine(stage, net, Plan(50, 1, 50, (16, 24)))[1]
    assert pace.validation == pytest.approx(0.1 * len(stage.data.val))
