"""Whether an exported file is the net that it came from, by its own runtime against torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv.base.errors import WorkFailedError
from fullconv.export.metadata import Precision
from fullconv.export.opened import OpenedExport
from fullconv.export.samples import Sample
from fullconv.net.fcn import FCN
from fullconv.net.head import probabilities
from fullconv.net.surgery import inference_twin


@dataclass(frozen=True)
class Limits:
    """What an export of some precision must reach.

    Attributes:
        labels: the least share of equal labels, of pixels whose two best scores differ by more than
            `margin`.
        margin: in shares of the largest score.
        scores: the largest difference of scores, in shares of the largest score.
        each: whether every single image must reach that; else all together.
    """

    labels: float
    margin: float
    scores: float
    each: bool = True


# Rounded weights move scores; what is quantised must keep its labels on the whole.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.9999, 1e-4, 1e-4),
    "fp16": Limits(0.99, 2e-2, 5e-2),
    "int8": Limits(0.85, 0.0, float("inf"), each=False),
}


class DisagreementError(WorkFailedError):
    """An export that is not the net that it came from.

    Attributes:
        sample: the images on which it isn't.
    """

    def __init__(self, message: str, sample: Sample) -> None:
        super().__init__(message)
        self.sample = sample


@dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Attributes:
        images: how many.
        labels: share of equal ones, of those that are not close (see `Limits`).
        scores: the largest difference, in shares of the largest score; None of mere labels.
    """

    images: int
    labels: float
    scores: float | None


@torch.no_grad()
def reference(net: FCN, sample: Sample) -> dict[str, Tensor]:
    """Return what the net scores in torch and float32, N x classes x H x W by head."""
    images = torch.from_numpy(sample.images)
    size = (images.shape[1], images.shape[2])
    coarse = net.for_inference().coarse_of_pixels(images)
    return {name: head.upsample(coarse[name], size) for name, head in net.heads.items()}


def compare(net: FCN, export: OpenedExport, samples: Iterable[Sample], limits: Limits) -> Compared:
    """Compare an export with its net on images.

    Args:
        net: on the CPU.
        export: of it, of any output.
        samples: the images.
        limits: what must be reached.

    Raises:
        DisagreementError: it isn't; the message names the images.
    """
    equal = compared = images = 0
    worst = 0.0
    last: Sample | None = None
    for sample in samples:
        found, truth = export.outputs(sample.images), reference(net, sample)
        for name, head in net.heads.items():
            scores = truth[name].numpy()
            if found[name].shape != _shape(scores, export.about.output):
                raise DisagreementError(
                    f"on {sample.name} its {export.about.output} ({name}) are of shape "
                    f"{found[name].shape}",
                    sample,
                )
            if export.about.output == "probabilities":
                expected = probabilities(truth[name], head.temperature).numpy()
            else:
                expected = scores
            same, clear = _labels(found[name], scores, limits.margin)
            share = same / max(clear, 1) if clear else 1.0
            apart = 0.0
            if export.about.output != "labels":
                apart = difference(found[name], expected)
            if limits.each and (share < limits.labels or not apart <= limits.scores):
                raise _disagreement(sample, name, share, apart, limits)
            equal, compared, worst = equal + same, compared + clear, max(worst, apart)
        images, last = images + len(sample.images), sample
    share = equal / compared if compared else 1.0
    if last is not None and share < limits.labels:
        raise _disagreement(last, ", ".join(net.heads), share, worst, limits)
    return Compared(images, share, None if export.about.output == "labels" else worst)


def _shape(scores: NDArray[Any], output: str) -> tuple[int, ...]:
    return scores.shape if output != "labels" else (scores.shape[0], *scores.shape[2:])


def _labels(found: NDArray[Any], scores: NDArray[Any], margin: float) -> tuple[int, int]:
    """Return how many labels are equal, and how many count: those that are not close."""
    labels = found if found.ndim == 3 else found.argmax(1)
    best = np.sort(scores, 1)[:, -2:]
    apart = best[:, -1] - best[:, 0] if best.shape[1] > 1 else np.full(labels.shape, np.inf)
    clear = apart > margin * _largest(scores)
    return int((labels == scores.argmax(1))[clear].sum()), int(clear.sum())


def difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return how far scores are from those expected at most, in shares of the largest of these."""
    return float(np.abs(found - expected).max()) / _largest(expected)


def _largest(scores: NDArray[Any]) -> float:
    return max(float(np.abs(scores).max()), 1.0)


def _disagreement(
    sample: Sample, head: str, share: float, apart: float, limits: Limits
) -> DisagreementError:
    if share < limits.labels:
        what = f"{share:.2%} of its labels ({head}) are torch's, not {limits.labels:.2%}"
    else:
        what = f"its scores ({head}) differ from torch's by {apart:.1e} of the largest"
    return DisagreementError(f"on {sample.name} {what}", sample)


def scores_nothing(net: FCN) -> bool:
    """Tell whether some head scores zero everywhere, as before any training: all would agree."""
    return any(
        not any(bool(weight.any()) for weight in head.scores.parameters())
        for head in net.heads.values()
    )


def with_random_scores(net: FCN) -> FCN:
    """Return a twin of a net whose heads score at random, and favour no class."""
    twin = inference_twin(net)
    random = torch.Generator().manual_seed(0)
    for head in twin.heads.values():
        for name, layer in list(head.scores.named_modules()):
            if isinstance(layer, nn.Conv2d):
                _replace(layer, random)
                del name
    return twin


def _replace(layer: nn.Conv2d, random: torch.Generator) -> None:
    weight = torch.randn(layer.weight.shape, generator=random) * layer.in_channels**-0.5
    layer.weight = nn.Parameter(weight.to(layer.weight), requires_grad=False)


def first_apart(
    expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]], limit: float
) -> str | None:
    """Return the first stage whose values differ by more than `limit` of the largest, or None."""
    for stage, values in expected.items():
        theirs = found[stage]
        if values.shape != theirs.shape or not (
            np.abs(values - theirs).max() <= limit * _largest(values)
        ):
            return stage
    return None
