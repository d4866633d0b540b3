"""Evaluation from a model and a dataset folder to the metrics: what every front end calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.runtime import pick_device
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import Evaluation, evaluate_labels, split_for
from fullconv.net.described import Described
from fullconv.net.fcn import FCN, load

if TYPE_CHECKING:
    from fullconv.data.folder import Split
    from fullconv.measure.evaluation import Label
    from fullconv.net.described import Labels, Pixels


@dataclass(frozen=True)
class EvaluateSettings:
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

    net: Described
    evaluation: Evaluation
    unscored: Mapping[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of metrics.json."""
        return self.evaluation.to_dict(self.net)


def run(settings: EvaluateSettings, reporter: Reporter = SILENT) -> Measured:
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
    net = settings.model
    if not isinstance(net, FCN):
        net = load(net, trust=settings.trust)
    net.to(device)
    label = partial(net.for_inference().label, tta=settings.tta)
    return measured(net, folder, settings.split, label, reporter)


def measured(
    net: Described, folder: DatasetFolder, split: str, label: Label, reporter: Reporter = SILENT
) -> Measured:
    """Measure whatever labels images on a split of a dataset.

    Args:
        net: what it takes and labels.
        folder: the dataset.
        split: the name of its split.
        label: gives an image's labels by head.
        reporter: is told how the work goes.

    Raises:
        FullconvError: see `run`.
    """
    images = split_for(net, folder, split)
    label = _warning(net, images, label, reporter)
    with reporter.bar(len(images), f"evaluate {split}") as bar:
        result = evaluate_labels(net, images, label, bar)
    unscored = {name: tuple(info.unscored) for name, info in images.heads.items()}
    return Measured(net, result, unscored)


def _warning(net: Described, images: Split, label: Label, reporter: Reporter) -> Label:
    """Return `label` that, image by image in their order, warns of those unlike the training's."""
    samples, told = iter(enumerate(images.samples)), set[str]()

    def label_and_judge(image: Pixels) -> Mapping[str, Labels]:
        index, sample = next(samples)
        bits = [each.bits for each in images.headers(index)]
        for remark in net.preprocessing.remarks(image, net.inputs, bits):
            if remark not in told:
                reporter.warn(f"{sample.images[0]}: {remark}")
            told.add(remark)
        return label(image)

    return label_and_judge
