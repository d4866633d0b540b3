"""What a run achieved: all that is to be said of it at its end, without reading it again."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fullconv.net.folder import METRICS
from fullconv.train import checkpoint
from fullconv.train.plan import Plan
from fullconv.train.settings import TrainSettings
from fullconv.train.state import Row

if TYPE_CHECKING:
    from fullconv.train.stage import Stage
    from fullconv.train.state import TrainingState


@dataclass(frozen=True)
class Trained:
    """What the training of one net achieved.

    Attributes:
        name: of the net.
        folder: its model folder.
        plan: of the training.
        seconds: how long it took.
        rows: of log.csv.
        metrics: what the net that was kept achieved on val, as in metrics.json.
        per_image: name and mean IU of each val image by that net.
    """

    name: str
    folder: Path
    plan: Plan
    seconds: float
    rows: tuple[Row, ...]
    metrics: Mapping[str, Any]
    per_image: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, stage: Stage, state: TrainingState) -> Self:
        """Return what a stage achieved that has just ended."""
        return cls(
            stage.name,
            stage.folder,
            state.plan,
            round(state.seconds, 2),
            tuple(state.rows),
            state.metrics,
            tuple(state.per_image),
        )

    @classmethod
    def earlier(cls, name: str, folder: Path, noted: Mapping[str, Any]) -> Self:
        """Return what a stage achieved that ended in an earlier process.

        Args:
            name: of the net.
            folder: its model folder.
            noted: its plan and seconds in recipe.yaml.
        """
        metrics = read_metrics(folder)
        last = folder / "last.pt"  # large: removed by some to save room
        per_image = checkpoint.load(last)["per_image"] if last.exists() else []
        plan, seconds = Plan.from_dict(noted["plan"]), noted["seconds"]
        rows = read_log(folder / "log.csv")
        return cls(name, folder, plan, seconds, rows, metrics, tuple(map(tuple, per_image)))


@dataclass(frozen=True)
class Outcome:
    """What a run achieved.

    Attributes:
        out: the run folder.
        settings: of the run, with what its nets see; its data are where they are now.
        splits: of the dataset.
        stages: what each training achieved, in their order.
    """

    out: Path
    settings: TrainSettings
    splits: tuple[str, ...]
    stages: tuple[Trained, ...]

    @property
    def last(self) -> Trained:
        """The net that was asked for."""
        return self.stages[-1]

    @property
    def folder(self) -> Path:
        """The model folder of the net that was asked for."""
        return self.last.folder

    @property
    def report(self) -> Path:
        """The page of what was learnt."""
        return self.out / "report.html"


def read_log(path: Path) -> tuple[Row, ...]:
    """Read a log.csv; what was not measured is None."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        )


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read what an earlier process noted of the net that it kept in a model folder."""
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text("utf-8"))
    return metrics
