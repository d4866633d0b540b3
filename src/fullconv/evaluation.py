"""Measuring a net on a split, at the images' own resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fullconv.data.folder import first_few
from fullconv.errors import FullconvError
from fullconv.metrics import ConfusionMatrix, Metrics
from fullconv.pipeline import ahead
from fullconv.predict.labels import label_image

if TYPE_CHECKING:
    from fullconv.data.folder import Split
    from fullconv.data.loading import CachedSplit
    from fullconv.fcn import FCN
    from fullconv.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """What a net achieved on a split.

    Attributes:
        metrics: over the confusion matrix of the whole split.
        images: how many there were.
        per_image: name and mean IU of each image, over the classes in its truth or prediction;
            NaN where everything is ignored.
    """

    metrics: Metrics
    images: int
    per_image: tuple[tuple[str, float], ...]


def evaluate(
    net: FCN,
    split: Split | CachedSplit,
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    bar: Progress | None = None,
) -> Evaluation:
    """Label every image of `split` at native resolution, one at a time, and measure the labels.

    The net is moved to `device`, and its training mode is restored afterwards. `bar` advances by
    one per image. Reading goes on in the background.

    Raises:
        FullconvError: an image or mask can't be read; the message names it.
    """
    net.to(device)
    total = ConfusionMatrix(net.num_classes)
    per_image: list[tuple[str, float]] = []
    for name, image, (truth,) in ahead(split.__getitem__, range(len(split))):
        own = ConfusionMatrix(net.num_classes)
        own.update(truth, label_image(net, image, bf16=bf16))
        total.counts += own.counts
        per_image.append((name, own.metrics().mean_iu))
        if bar is not None:
            bar.advance(note=f"mean IU {total.metrics().mean_iu:.3f}")
    return Evaluation(total.metrics(), len(per_image), tuple(per_image))


def check_same_classes(model: Sequence[str], data: Sequence[str]) -> None:
    """Refuse to measure a model on a dataset whose classes aren't its own, in its own order.

    Raises:
        FullconvError: their numbers differ, or else the first names that do.
    """
    if len(model) != len(data):
        raise FullconvError(
            f"the model has {len(model)} classes ({first_few(model)}) but the dataset {len(data)} "
            f"({first_few(data)}); evaluate it on data with its own classes"
        )
    for label, (mine, theirs) in enumerate(zip(model, data, strict=True)):
        if mine != theirs:
            raise FullconvError(
                f"class {label} is {mine!r} in the model but {theirs!r} in the dataset; the "
                "classes in dataset.yaml must be the model's, in the same order"
            )
