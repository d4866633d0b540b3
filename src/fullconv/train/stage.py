"""A stage: the training of one net of a run, and all that it needs to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fullconv.base.processes import ALONE, Processes
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.info import DatasetInfo
from fullconv.data.loading import (
    Batch,
    Batches,
    CachedSplit,
    Share,
    TrainingDataset,
    training_batches,
)
from fullconv.data.transforms import training_transform
from fullconv.papers.blueprint import Blueprint
from fullconv.papers.patch_sampling import sampled_batches
from fullconv.train.losses import ClassWeights
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe
from fullconv.train.state import Clock, Row, TrainingState
from fullconv.train.step import Objective

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN


@dataclass(frozen=True)
class TrainingData:
    """A dataset as training uses it: with the inputs of the nets.

    Attributes:
        info: of the dataset.
        train, val: the images.
        found: the fingerprint of `train`.
        class_weights: float32 (classes,) of each head on the training's device, or None for all
            alike.
        workers: processes that prepare images.
    """

    info: DatasetInfo
    train: CachedSplit
    val: CachedSplit
    found: Fingerprint
    class_weights: ClassWeights | None = None
    workers: int = 0


@dataclass(frozen=True)
class Budget:
    """What a stage may use of its run.

    Attributes:
        share: of the recipe's epochs.
        seconds: of the time, or None where that has no limit.
        rate: factor on the learning rate.
        begun: since when the seconds count, by the stage's clock.
        nets: how many nets the whole run trains, to be told with the first of them; else 1.
    """

    share: float = 1.0
    seconds: float | None = None
    rate: float = 1.0
    begun: float = 0.0
    nets: int = 1


class Period(Enum):
    """When an evaluator is asked: at each validation, or once, when the stage has ended."""

    VALIDATION = "validation"
    END = "end"


class Evaluator(Protocol):
    """Looks at a net on val, once in a period; what it returns goes into that row of log.csv."""

    @property
    def period(self) -> Period:
        """When it is asked."""

    def __call__(self, stage: Stage, state: TrainingState) -> Row:
        """Look at the net of `state`, or at the one that was kept."""


@dataclass(frozen=True)
class Stage:
    """The training of one net.

    Attributes:
        name: of the net, such as fcn8s.
        data: what it is trained and measured on.
        recipe: the settings.
        folder: becomes the model folder and holds last.pt and log.csv.
        device: where the net is trained.
        start: builds the net as it is before its training, from what the run's settings name or
            from the stage before.
        budget: what it may use of the run.
        evaluators: what looks at the net.
        origin: noted in last.pt, to be compared when the training is continued.
        anew: whether the best so far counts no longer, because val has changed.
        note: is called when the plan is made, and when all is done (True).
        reporter: is told how it goes.
        clock: tells the time in seconds, to all processes the same.
        processes: train the net together.
    """

    name: str
    data: TrainingData
    recipe: Recipe
    folder: Path
    device: torch.device
    start: Callable[[], FCN]
    budget: Budget = Budget()
    evaluators: tuple[Evaluator, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    anew: bool = False
    note: Callable[[TrainingState, bool], None] = lambda *_: None
    reporter: Reporter = SILENT
    clock: Clock = time.monotonic
    processes: Processes = ALONE

    @property
    def stride(self) -> int:
        """The stride that the net's name tells; what it is trained on may call for a finer one."""
        return Blueprint.named(self.name).stride

    def finer(self, net: FCN) -> int:
        """Return how many times finer than its name tells a net's strides make its cells."""
        return max(self.stride // (net.stride * net.arguments.reduce), 1)

    @property
    def share(self) -> Share:
        """Which images of each step are this process's."""
        return Share(self.recipe.batch_size, self.processes)

    @property
    def last(self) -> Path:
        """The file of the training state."""
        return self.folder / "last.pt"

    def objective(self, net: FCN, plan: Plan) -> Objective:
        """Return what learns from the batches of `plan`: crops are reduced when they are cut."""
        net.train()
        learner = net if plan.crop == "whole" else net.for_reduced()
        return Objective(
            learner, self.recipe, plan.precision, self.data.class_weights, self.processes
        ).train()

    def batches(self, net: FCN, plan: Plan, start: int = 0) -> Generator[Batch]:
        """Yield this process's batches of `plan` from step `start` on, without end."""
        recipe, whole = self.recipe, plan.crop == "whole"
        transform = training_transform(
            None if plan.crop == "whole" else plan.crop,
            recipe.scale_jitter,
            recipe.flip,
            recipe.color,
            reduce=net.scale.denominator,
            ignore_index=net.ignore_index,
            inputs=net.inputs,
        )
        drawn = Batches(
            len(self.data.train),
            recipe.step_images,
            recipe.seed,
            start,
            replacement=recipe.sampling == "replacement",
            share=self.share,
        )
        batches = training_batches(
            TrainingDataset(self.data.train, transform),
            drawn,
            part=self.share.part,
            workers=plan.workers,
            device=self.device,
        )
        if recipe.sampled_cells == 1:
            return batches
        learner = net if whole else net.for_reduced()
        stride = learner.vertical.grids[0].stride // learner.vertical.pixels.stride
        return sampled_batches(batches, recipe.sampled_cells, stride, net.ignore_index)
