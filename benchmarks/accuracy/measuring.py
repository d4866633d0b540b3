"""What a trained model is worth, as the benchmarks of accuracy report it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.base.progress import Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import evaluate
from fullconv.measure.metrics import Metrics
from fullconv.net.fcn import load
from fullconv.train.outcome import read_log
from fullconv.train.run import run


@dataclass(frozen=True)
class Trained:
    """A model folder that a training left.

    Attributes:
        folder: with model, metrics.json and log.csv.
        data: the dataset folder that it was trained on.
        name: stands at progress bars.
    """

    folder: Path
    data: Path
    name: str

    @classmethod
    def by(cls, out: Path, asked: Mapping[str, Any], name: str) -> Trained:
        """Train what `run` is asked for into the folder `out`, or what is left of it."""
        outcome = run(out, asked, resume=True, reporter=Reporter())
        return cls(outcome.folder, asked["data"], name)

    def on_test(self, *, tta: bool = False) -> Metrics:
        """Measure it on the test split, with left-right flips or without."""
        split = DatasetFolder(self.data).split("test")
        with Reporter().bar(len(split), f"{self.name} on test") as bar:
            return evaluate(load(self.folder), split, bar=bar, tta=tta).metrics

    @property
    def val_mean_iu(self) -> str:
        """The mean IU on val that it was kept for."""
        metrics = json.loads((self.folder / "metrics.json").read_text())
        return f"{metrics['mean_iu']:.4f}"

    @property
    def log(self) -> tuple[dict[str, float | None], ...]:
        """The rows of log.csv."""
        return read_log(self.folder / "log.csv")

    @property
    def minutes(self) -> str:
        """How long the training took."""
        return f"{(self.log[-1]['seconds'] or 0) / 60:.1f}"

    @property
    def epochs(self) -> str:
        """Passes over the training images."""
        return f"{self.log[-1]['epoch']:g}"

    def by_class(self, metrics: Metrics) -> str:
        """Write the IU of each class."""
        classes = load(self.folder).classes
        return ", ".join(f"{name} {iu:.3f}" for name, iu in zip(classes, metrics.iu, strict=True))
