"""Measuring a net on a split, at the images' own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from fullconv.base.errors import FullconvError, few_named
from fullconv.base.pipeline import ahead
from fullconv.measure.metrics import ConfusionMatrix, Metrics, mean_present

if TYPE_CHECKING:
    from fullconv.base.progress import Progress
    from fullconv.data.folder import DatasetFolder, Split
    from fullconv.data.loading import CachedSplit
    from fullconv.net.described import Described, Labels, Pixels
    from fullconv.net.fcn import FCN

    Label = Callable[[Pixels], Mapping[str, Labels]]


@dataclass(frozen=True)
class Evaluation:
    """What a net achieved on a split.

    Attributes:
        split: its name.
        heads: by the name of each head, over the confusion matrix of the whole split.
        images: how many there were.
        per_image: name and mean IU of each image, over the classes in its truth or prediction and
            averaged over the heads; NaN where everything is ignored.
    """

    split: str
    heads: Mapping[str, Metrics]
    images: int
    per_image: tuple[tuple[str, float], ...]

    @property
    def metrics(self) -> Metrics:
        """Those of the only head.

        Raises:
            FullconvError: there are several.
        """
        if len(self.heads) > 1:
            raise FullconvError(f"there are metrics of several heads: {', '.join(self.heads)}")
        return next(iter(self.heads.values()))

    @property
    def mean_iu(self) -> float:
        """Mean IU, averaged over the heads; NaN where there was nothing to measure."""
        return _mean_iu(self.heads.values())

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return what was achieved on the images of all parts of a split."""
        first, *others = parts
        if not others:
            return first
        heads = {
            name: Metrics.of(
                np.sum([part.heads[name].confusion for part in parts], axis=0), metrics.unscored
            )
            for name, metrics in first.heads.items()
        }
        per_image = tuple(chain.from_iterable(part.per_image for part in parts))
        return cls(first.split, heads, len(per_image), per_image)

    def to_dict(self, net: Described) -> dict[str, Any]:
        """Return the contents of metrics.json; `net` is what was measured."""
        contents = {
            name: self.heads[name].to_dict(self.split, self.images, head.classes)
            for name, head in net.heads.items()
        }
        if len(contents) == 1:
            return next(iter(contents.values()))
        common = ("split", "images")
        heads = {
            name: {key: value for key, value in each.items() if key not in common}
            for name, each in contents.items()
        }
        return {"split": self.split, "images": self.images, "heads": heads}


def evaluate(
    net: FCN,
    split: Split | CachedSplit,
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    tta: bool = False,
    label: Label | None = None,
    bar: Progress | None = None,
    only: range | None = None,
) -> Evaluation:
    """Label every image of `split` at native resolution, one at a time, and measure the labels.

    The net is moved to `device`, and stays in the mode it is in. `bar` advances by
    one per image. Reading goes on in the background.

    Args:
        net: its inputs and heads are those of `split`, in the same order (see `split_for`).
        split: the images; classes that it does not score are left out of the means.
        device: where the net works.
        bf16: whether it works in bfloat16; else in float32, of which TF32 is none.
        tta: whether it looks at each image's mirror, too, and averages both probabilities.
        label: gives an image's labels by head in the net's place, such as an export of it.
        bar: shows the progress.
        only: which images, by their numbers; None: all.

    Raises:
        FullconvError: an image or mask can't be read; the message names it.
    """
    net.to(device)
    plain = partial(net.for_inference().label, bf16=bf16, tta=tta)
    return evaluate_labels(net, split, label or plain, bar, only)


def evaluate_labels(
    net: Described,
    split: Split | CachedSplit,
    label: Label,
    bar: Progress | None = None,
    only: range | None = None,
) -> Evaluation:
    """Measure the labels that anything gives the images of `split` (see `evaluate`).

    Args:
        net: what it takes and labels.
        split: the images, with those inputs and heads.
        label: gives an image's labels by head.
        bar: shows the progress.
        only: which images, by their numbers; None: all.
    """
    totals = _counters(net, split)
    per_image: list[tuple[str, float]] = []
    for name, image, truths in ahead(
        split.__getitem__, range(len(split)) if only is None else only
    ):
        predicted = label(image)
        own = _counters(net, split)
        for head, truth in zip(own, truths, strict=True):
            own[head].update(truth, predicted[head])
            totals[head].counts += own[head].counts
        per_image.append((name, _mean_iu(counter.metrics() for counter in own.values())))
        if bar is not None:
            so_far = _mean_iu(counter.metrics() for counter in totals.values())
            bar.advance(note=f"mean IU {so_far:.3f}")
    heads = {head: counter.metrics() for head, counter in totals.items()}
    return Evaluation(split.name, heads, len(per_image), tuple(per_image))


def split_for(net: Described, folder: DatasetFolder, name: str) -> Split:
    """Return a split of `folder` with what `net` needs of each image, in the net's order.

    Raises:
        FullconvError: there is no such split; or the dataset lacks an input or a head of the net,
            or has other channels or other classes; the message names them.
    """
    folder = folder.with_reader(net.preprocessing.reader(folder.reader))
    split = folder.split(name, tuple(net.inputs), tuple(net.heads))
    folder.require_inputs(net.inputs)
    for head, mine in net.heads.items():
        named = head if len(net.heads) > 1 else None
        check_same_classes(mine.classes, split.heads[head].classes, named)
    return split


def check_same_classes(model: Sequence[str], data: Sequence[str], head: str | None = None) -> None:
    """Refuse to measure a model on a dataset whose classes aren't its own, in its own order.

    Args:
        model: names of the model's classes.
        data: names of the dataset's.
        head: which head has them, where there are several.

    Raises:
        FullconvError: their numbers differ, or else the first names that do.
    """
    of = "" if head is None else f" for {head}"
    if len(model) != len(data):
        raise FullconvError(
            f"the model has {len(model)} classes{of} ({few_named(model)}) but the dataset "
            f"{len(data)} ({few_named(data)}); evaluate it on data with its own classes"
        )
    for label, (mine, theirs) in enumerate(zip(model, data, strict=True)):
        if mine != theirs:
            raise FullconvError(
                f"class {label}{of} is {mine!r} in the model but {theirs!r} in the dataset; the "
                "classes in dataset.yaml must be the model's, in the same order"
            )


def _counters(net: Described, split: Split | CachedSplit) -> dict[str, ConfusionMatrix]:
    """Return an empty confusion matrix for each head, in the order of the labels' layers."""
    return {
        name: ConfusionMatrix(
            head.num_classes, [info.classes.index(unscored) for unscored in info.unscored]
        )
        for (name, head), info in zip(net.heads.items(), split.heads.values(), strict=True)
    }


def _mean_iu(heads: Iterable[Metrics]) -> float:
    return mean_present(np.array([metrics.mean_iu for metrics in heads]))
