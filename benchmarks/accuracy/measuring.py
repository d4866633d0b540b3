"""What a trained model is worth, as the benchmarks of accuracy report it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.base.progress import Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import evaluate
from fullconv.measure.metrics import Metrics
from fullconv.net.fcn import load
from fullconv.train.outcome import Outcome
from fullconv.train.run import run
from fullconv.train.state import Row


@dataclass(frozen=True)
class Model:
    """What a run achieved, in the words of the results.

    Attributes:
        outcome: of the run.
        name: stands at progress bars.
    """

    outcome: Outcome
    name: str

    @classmethod
    def trained(cls, out: Path, asked: Mapping[str, Any], name: str) -> Model:
        """Train what `run` is asked for into the folder `out`, or what is left of it."""
        return cls(run(out, asked, resume=True, reporter=Reporter()), name)

    def on_test(self, *, tta: bool = False) -> Metrics:
        """Measure it on the test split, with left-right flips or without."""
        split = DatasetFolder(self.outcome.settings.data).split("test")
        with Reporter().bar(len(split), f"{self.name} on test") as bar:
            return evaluate(load(self.folder), split, bar=bar, tta=tta).metrics

    @property
    def folder(self) -> Path:
        """Its model folder."""
        return self.outcome.folder

    @property
    def log(self) -> tuple[Row, ...]:
        """The rows of log.csv."""
        return self.outcome.last.rows

    @property
    def val_mean_iu(self) -> str:
        """The mean IU on val that it was kept for."""
        return f"{self.outcome.last.metrics['mean_iu']:.4f}"

    @property
    def minutes(self) -> str:
        """How long the training of all its stages took."""
        return f"{sum(stage.rows[-1]['seconds'] or 0 for stage in self.outcome.stages) / 60:.1f}"

    @property
    def epochs(self) -> str:
        """Passes over the training images."""
        return f"{self.log[-1]['epoch']:g}"

    def by_class(self, metrics: Metrics) -> str:
        """Write the IU of each class."""
        classes = load(self.folder).classes
        return ", ".join(f"{name} {iu:.3f}" for name, iu in zip(classes, metrics.iu, strict=True))
