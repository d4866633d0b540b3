"""Timing a few real steps before a training: which precision, how long, how many epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch

from fullconv.base.runtime import has_bf16
from fullconv.data.loading import Batch, Part
from fullconv.train.optimizer import make_optimizer
from fullconv.train.plan import Pace, Plan
from fullconv.train.stage import Stage
from fullconv.train.state import Clock
from fullconv.train.step import take_step

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

WORTH_BF16 = 1.15  # times as fast, else fp32 it is
MOST_STEPS, ENOUGH_SECONDS = 8, 4.0  # timed per precision
SHARE = 0.03  # of a limited time, likewise
LABELLED = 3  # times, of an image
SHORT = 100  # steps; a shorter training is over before a comparison pays


def fitted_to_machine(stage: Stage, net: FCN, plan: Plan, spent: float = 0.0) -> tuple[Plan, Pace]:
    """Choose the precision that the recipe leaves open and fit the steps to the time there is.

    The steps are made on a copy of `net`, with its weights; neither these, what else it holds, nor
    torch's generators change. Gradients are gone then. Precisions are compared on a few images
    and without an optimizer's moments, for float32 may need twice the memory of the training.

    Args:
        stage: the training to come.
        net: on ``stage.device``.
        plan: what the recipe and the data alone call for.
        spent: seconds of ``plan.seconds`` that are already gone.
    """
    begun = stage.clock()
    hurried = plan.seconds is not None
    most = MOST_STEPS if hurried else min(MOST_STEPS, 1 + plan.steps // 50)
    plain, mixed = (replace(plan, precision=each) for each in ("fp32", "bf16"))
    plan = mixed if stage.recipe.precision == "bf16" else plain
    with torch.random.fork_rng(devices=[stage.device] if stage.device.type == "cuda" else []):
        # Where bfloat16 is emulated, the steps that would find it slow take minutes.
        worth_it = has_bf16(stage.device) and (hurried or plan.steps >= SHORT)
        if stage.recipe.precision == "auto" and worth_it:
            without_moments = {"optimizer": "sgd", "momentum": 0.0}
            bare = replace(stage, recipe=stage.recipe.model_copy(update=without_moments))
            with closing(stage.batches(net, plan)) as feed:
                few = _few_of(next(feed))
            tried = [_step_times(bare, net, p, most, _again(few)) for p in (plain, mixed)]
            wide, low = map(min, tried)  # in the quickest what else the machine did counts least
            plan = mixed if low * WORTH_BF16 <= wide else plain
        times = _step_times(stage, net, plan, most, stage.batches(net, plan))
        pace = Pace(sum(times) / len(times), _seconds_per_validation(stage, net))
    return plan.fitted(pace, spent=spent + stage.clock() - begun), pace


def _step_times(
    stage: Stage, net: FCN, plan: Plan, most: int, feed: Generator[Batch]
) -> list[float]:
    """Return the seconds of up to `most` steps on a copy of `net`, loading included.

    One more comes first, to warm up. A step that fails takes infinitely long.
    """
    # By a learning rate of 0 no weight changes, and VGG16's take half a gigabyte. But those that
    # several processes share would keep the hooks by which they are shared.
    kept = {} if stage.processes.count > 1 else {id(each): each for each in net.parameters()}
    trial = deepcopy(net, kept)
    optimizer = make_optimizer(trial, stage.recipe, plan.precision)
    objective = stage.objective(trial, plan)
    forward = stage.processes.spread(objective)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    try:
        return step_seconds(
            feed,
            lambda batch: take_step(objective, optimizer, batch, forward),
            plan,
            most,
            stage.clock,
        )
    except FloatingPointError:  # the training itself will say more about it
        return [math.inf]
    finally:
        trial.zero_grad()


def _few_of(batch: Batch) -> Batch:
    """Return a quarter of the images of a batch's first part, of which normalisation needs two."""
    images, labels = batch.parts[0]
    count = max(len(images) // 4, 2)
    return Batch([Part(images[:count], labels[:count])], batch.names[:count])


def _again(batch: Batch) -> Generator[Batch]:
    """Yield a batch without end."""
    while True:
        yield batch


def step_seconds(
    feed: Generator[Batch],
    step: Callable[[Batch], object],
    plan: Plan,
    most: int,
    clock: Clock = time.monotonic,
) -> list[float]:
    """Return the seconds of up to `most` steps, loading included; one more first, to warm up.

    Args:
        feed: yields batches, and is closed.
        step: is made with each.
        plan: tells how long the training may take, of which this is to take little.
        most: how many steps are timed.
        clock: by which.
    """
    times: list[float] = []
    enough = min(ENOUGH_SECONDS, SHARE * (plan.seconds or math.inf))
    with closing(feed):
        begun = clock()
        for batch in islice(feed, most + 1):
            step(batch)
            now = clock()
            times.append(now - begun)
            begun = now
            if sum(times[1:]) > enough:
                break
    return times[1:]


def _seconds_per_validation(stage: Stage, net: FCN) -> float:
    """Time the labelling of an image and multiply by how many a process labels."""
    seconds = label_seconds(partial(net.label, stage.data.val[0].image), stage.clock)
    return seconds * len(stage.data.val) / stage.processes.count


def label_seconds(label: Callable[[], object], clock: Clock = time.monotonic) -> float:
    """Return how long it takes to label an image; once more goes ahead, to warm up.

    The quickest time of several counts: a moment's delay, times all images of a validation, would
    leave no time to train.
    """
    label()
    times = []
    for _ in range(LABELLED):
        begun = clock()
        label()
        times.append(clock() - begun)
    return min(times)
