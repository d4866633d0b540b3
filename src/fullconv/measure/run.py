"""Evaluation from a model and a dataset folder to the metrics: what every front end calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.runtime import pick_device
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import Evaluation, evaluate, split_for
from fullconv.net.fcn import FCN, load


@dataclass(frozen=True)
class Settings:
    """What to measure, on what, and how.

    Attributes:
        model: a model folder, a Hub id, or a net.
        data: dataset folder.
        split: its split.
        device: "auto", "cpu", "cuda" or "mps".
        tta: whether to look at each image's mirror, too.
        reader: reads images and masks.
        trust: whether the model may cost what it may (see `fullconv.load`).
    """

    model: str | Path | FCN
    data: Path
    split: str = "test"
    device: str = "auto"
    tta: bool = False
    reader: ImageReader = ImageReader()
    trust: bool = False


@dataclass(frozen=True)
class Measured:
    """What a model achieved.

    Attributes:
        net: the model.
        evaluation: its metrics by head.
        unscored: by head, names of the classes that the means leave out.
    """

    net: FCN
    evaluation: Evaluation
    unscored: Mapping[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of metrics.json."""
        return self.evaluation.to_dict(self.net)


def run(settings: Settings, reporter: Reporter = SILENT) -> Measured:
    """Measure a model on a split of a dataset, in float32.

    Args:
        settings: what to do.
        reporter: is told how the work goes.

    Raises:
        FullconvError: the model, the dataset or the split isn't there, they don't fit each other,
            or an image or mask can't be read.
    """
    device = pick_device(settings.device)
    folder = DatasetFolder(settings.data, settings.reader)
    if isinstance(settings.model, FCN):
        net = settings.model
    else:
        net = load(settings.model, trust=settings.trust)
    images = split_for(net, folder, settings.split)
    with reporter.bar(len(images), f"evaluate {settings.split}") as bar:
        result = evaluate(net, images, device=device, tta=settings.tta, bar=bar)
    unscored = {name: tuple(info.unscored) for name, info in images.heads.items()}
    return Measured(net, result, unscored)
