"""Short trainings: whole runs, and stages and steps without one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import Batch, CachedSplit, Part
from fullconv.net.fcn import FCN
from fullconv.train.optimizer import make_optimizer
from fullconv.train.recipe import Recipe
from fullconv.train.run import run
from fullconv.train.stage import Stage, TrainingData
from fullconv.train.step import Objective, take_step


def trained(out: Path, asked: Mapping[str, Any], **options: Any) -> Path:
    """Run a training; return the model folder of its last net."""
    return run(out, asked, **options).folder


def stage_on(root: Path, folder: Path, *, recipe: Recipe | None = None, **options: Any) -> Stage:
    """Return a stage on the dataset `root` whose net is made elsewhere."""
    data = DatasetFolder(root)
    train, val = (CachedSplit(data.split(name), 1 << 24) for name in ("train", "val"))
    feed = TrainingData(data.info, train, val, Fingerprint.of(data.split("train")))

    def start() -> FCN:
        raise AssertionError("the net is made elsewhere")

    return Stage(
        "fcn4s", feed, recipe or Recipe(), folder, torch.device("cpu"), start=start, **options
    )


def stepped(
    net: FCN,
    batch: Batch,
    recipe: Recipe,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    **options: Any,
) -> float:
    """Make a step with a net that is in training mode, or not; return the loss."""
    objective = Objective(net, recipe, **options)
    return take_step(objective, optimizer or make_optimizer(net, recipe), batch)


def random_batch(
    count: int = 4, seed: int = 0, size: tuple[int, int] = (16, 24), *, heads: int = 1
) -> Batch:
    """Return one part of random images, whose labels are 0 to 2 or ignored."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, *size), generator=random).byte()
    labels = torch.randint(4, (count, heads, *size), generator=random).byte()
    labels[labels == 3] = 255
    labels[0, :, :10] = 255  # so that the images count differently
    return Batch([Part(images, labels)], [f"image{index}" for index in range(count)])


def gradient(net: FCN, some: Batch, recipe: Recipe, **options: Any) -> Tensor:
    """Return what a step of plain descent at rate 1 takes from the parameters."""
    moved = deepcopy(net)
    plain = recipe.model_copy(update={"optimizer": "sgd", "lr": 1.0, "clip": None})
    plain = plain.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})
    stepped(moved, some, plain, **options)
    pairs = zip(net.parameters(), moved.parameters(), strict=True)
    return torch.cat([(one - other).detach().reshape(-1) for one, other in pairs])


def in_parts(whole: Batch, size: int) -> Batch:
    """Return a batch whose only part is cut into parts of `size` images."""
    (part,) = whole.parts
    parts = zip(part.images.split(size), part.labels.split(size), strict=True)
    return Batch([Part(*each) for each in parts], whole.names)


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all that a net has learnt."""
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Return the names of what is no longer as it was before."""
    return {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }


class SmallClassifier(nn.Module):
    """A small classifier without normalisation: strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return N x 5 scores."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


@dataclass
class SimulatedClock:
    """A clock on which nothing takes time but what is said to."""

    now: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)

    def __call__(self) -> float:
        """Tell the time in seconds."""
        return self.now

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
