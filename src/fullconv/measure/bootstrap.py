"""How far metrics would move with other images: bootstrap intervals over the images of a split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

ROUNDS = 2000
COVERED = 0.95
PORTION = 1 << 21  # numbers that are drawn at a time, of 16 bytes: not 2000 for each image
MEASURES = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


@dataclass(frozen=True)
class Interval:
    """Where a figure lies in 95 of 100 draws of images; NaN where there is nothing to measure."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Values) -> Interval:
        """Return that of the figure in each round."""
        known = values[~np.isnan(values)]
        if not known.size:
            return cls(float("nan"), float("nan"))
        tail = (1 - COVERED) / 2
        low, high = np.quantile(known, (tail, 1 - tail))
        return cls(float(low), float(high))


class ImageCounts:
    """What the metrics of a split are made of, for each of its images.

    An image's row is, for each class, how many of its pixels are right, truly of it, and predicted.
    """

    def __init__(self) -> None:
        self._rows: list[NDArray[np.int64]] = []

    def add(self, confusion: NDArray[np.int64]) -> None:
        """Add an image by its confusion matrix, truth in rows."""
        self._rows.append(np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)]))

    def rounds(self, rounds: int = ROUNDS) -> NDArray[np.float64]:
        """Return rounds x 3 x classes: the sums over as many images, drawn with replacement.

        The same images are drawn for every model: their differences are those on the same images.
        """
        images = np.stack(self._rows, dtype=np.float64)
        number = len(images)
        random, shares = np.random.default_rng(0), np.full(number, 1 / number)
        sums = np.empty((rounds, *images.shape[1:]))
        step = max(PORTION // number, 1)
        for at in range(0, rounds, step):
            some = sums[at : at + step]
            drawn = random.multinomial(number, shares, len(some)).astype(np.float64)
            some[:] = np.tensordot(drawn, images, 1)  # whole numbers: exact in any order
        return sums


def measures(sums: NDArray[Any], unscored: Collection[int] = ()) -> dict[str, Values]:
    """Return the four metrics of each round, and "iu": rounds x classes (see `Metrics`)."""
    right, true, predicted = np.moveaxis(sums, 1, 0)
    scored = ~np.isin(np.arange(right.shape[1]), list(unscored))
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy, iu = right / true, right / (true + predicted - right)
        weighted = np.where(true > 0, true * iu, 0).sum(1) / true.sum(1)
        pixel = right.sum(1) / true.sum(1)
    return {
        "pixel_accuracy": pixel,
        "mean_accuracy": _mean(accuracy[:, scored]),
        "mean_iu": _mean(iu[:, scored]),
        "frequency_weighted_iu": weighted,
        "iu": iu,
    }


def _mean(values: Values) -> Values:
    """Return the means of rows over what is not NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        found: Values = np.where(known, values, 0).sum(1) / known.sum(1)
    return found
