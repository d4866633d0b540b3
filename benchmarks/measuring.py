"""What a trained model is worth, as the benchmarks of accuracy report it."""

from __future__ import annotations

import json
from pathlib import Path

from fullconv.base.progress import progress
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import evaluate
from fullconv.measure.metrics import Metrics
from fullconv.net.fcn import load


def on_test(model: Path, data: Path, name: str, *, tta: bool = False) -> Metrics:
    """Return the metrics of a model folder on the test split; `name` stands at the progress bar."""
    split = DatasetFolder(data).split("test")
    with progress(len(split), f"{name} on test") as bar:
        return evaluate(load(model), split, bar=bar, tta=tta).metrics


def val_mean_iu(model: Path) -> float:
    """Return the mean IU on val that a model folder was kept for."""
    metrics = json.loads((model / "metrics.json").read_text())
    return float(metrics["mean_iu"])
