"""All that changes while a net is trained: weights, optimizer, counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from fullconv.train import checkpoint
from fullconv.train.nets import described
from fullconv.train.optimizer import load_optimizer, make_optimizer
from fullconv.train.plan import Pace, Plan
from fullconv.train.recipe import Recipe

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

LAP = 0.05  # of a limited time passes between two fits

Clock = Callable[[], float]  # tells the time in seconds, from whenever
Row = dict[str, Any]  # of log.csv: numbers, None where not measured


@dataclass
class TrainingState:
    """The state of one net's training; all of it goes into last.pt.

    Attributes:
        net: what is trained.
        optimizer: with its own state.
        plan: how long the training is.
        average: the running average of the weights, or None.
        step: how many steps are done.
        best: the best mean IU on val so far; None before the first validation.
        metrics: what the net that was kept achieved on val, as in metrics.json.
        per_image: name and mean IU of each val image by the net that was kept.
        rows: of log.csv.
        seconds: spent on this training, in all its runs.
        pace: how fast it goes; measured again in each lap of a training of limited time.
        lap: seconds and steps since the pace was last measured; None before the first step of a
            process, which is slower.
        losses: those of the steps since the last row.
        ticked: when `seconds` was last brought up to date.
        clock: by which.
    """

    net: FCN
    optimizer: Optimizer
    plan: Plan
    average: AveragedModel | None = None
    step: int = 0
    best: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    per_image: list[tuple[str, float]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    pace: Pace = field(default_factory=lambda: Pace(0.0, 0.0))
    lap: tuple[float, int] | None = None
    losses: list[float] = field(default_factory=list)
    ticked: float = 0.0
    clock: Clock = time.monotonic

    @classmethod
    def start(
        cls, net: FCN, recipe: Recipe, plan: Plan, clock: Clock = time.monotonic
    ) -> TrainingState:
        """Begin to train `net` on the device where it is."""
        average = None
        if recipe.ema is not None:
            average = AveragedModel(net, multi_avg_fn=_averaging(recipe.ema), use_buffers=True)
        optimizer = make_optimizer(net, recipe, plan.precision)
        return cls(net, optimizer, plan, average, ticked=clock(), clock=clock)

    @property
    def evaluated(self) -> FCN:
        """The net that is evaluated and kept: the average where there is one."""
        return self.net if self.average is None else cast("FCN", self.average.module)

    def set_learning_rate(self, value: float) -> None:
        """Let the next step use the learning rate `value`; doubled biases use twice that."""
        for group in self.optimizer.param_groups:
            group["lr"] = value * group["factor"]

    def advance(self, loss: float) -> None:
        """Note that a step with this loss is done."""
        if self.average is not None:
            self.average.update_parameters(self.net)
        self.step += 1
        self.losses.append(loss)
        seconds = self.tick()
        self.lap = (0.0, 0) if self.lap is None else (self.lap[0] + seconds, self.lap[1] + 1)

    def tick(self) -> float:
        """Bring `seconds` up to date and return by how much."""
        before, self.ticked = self.ticked, self.clock()
        self.seconds += self.ticked - before
        return self.ticked - before

    def keep_in_time(self) -> None:
        """Now and then, where time is limited, fit the steps that are left to the time left."""
        limit, (seconds, steps) = self.plan.seconds, self.lap or (0.0, 0)
        if limit is None or seconds < limit * LAP or self.step >= self.plan.steps:
            return
        # Half trusted: a moment of haste or delay must not decide.
        self.pace = replace(self.pace, step=(self.pace.step + seconds / steps) / 2)
        self.lap = (0.0, 0)
        self.plan = self.plan.fitted(self.pace, self.step, self.seconds)

    def to_dict(self, device: torch.device) -> dict[str, Any]:
        """Return tensors and plain values from which `restore` continues exactly."""
        return {
            **described(self.net),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "random": checkpoint.random_state(device),
            "plan": self.plan.to_dict(),
            "pace": astuple(self.pace),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self, saved: dict[str, Any], device: torch.device) -> None:
        """Become the state that `to_dict` described, torch's generators included."""
        self.net.load_state_dict(saved["net"])
        load_optimizer(self.optimizer, saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.plan = Plan.from_dict(saved["plan"])
        self.pace = Pace(*saved["pace"])
        for name in _PLAIN:
            if name in saved:
                setattr(self, name, saved[name])
        checkpoint.restore_random_state(saved["random"], device)
        self.ticked = self.clock()


_PLAIN = ("step", "best", "metrics", "per_image", "rows", "seconds", "losses")


def _averaging(decay: float) -> Any:
    """Return the update of a running average that forgets its first, poor weights faster."""

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, 1 - now)
        else:  # counters
            for average, value in zip(averages, current, strict=True):
                average.copy_(value)

    return update
