"""The paper's four metrics, over one confusion matrix of a whole split (paper, section 5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ConfusionMatrix:
    """Counts pixels by true class (rows) and predicted class (columns), exactly, in int64.

    Attributes:
        counts: int64 array (classes, classes).
        unscored: ids of the classes that the means leave out.
    """

    def __init__(self, num_classes: int, unscored: Collection[int] = ()) -> None:
        self.num_classes, self.unscored = num_classes, unscored
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        """Count the pixels of integer arrays of equal shape.

        A pixel whose truth is not a class id (ignored, 255 as a rule) is left out. A predicted id
        must be a class id: ValueError otherwise.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {truth.shape}, prediction {predicted.shape}")
        valid = (truth >= 0) & (truth < self.num_classes)
        rows, columns = truth[valid].astype(np.int64), predicted[valid].astype(np.int64)
        if columns.size and not 0 <= columns.min() <= columns.max() < self.num_classes:
            raise ValueError(f"predicted ids must lie in 0..{self.num_classes - 1}")
        cells = np.bincount(rows * self.num_classes + columns, minlength=self.num_classes**2)
        self.counts += cells.reshape(self.num_classes, self.num_classes)

    def metrics(self) -> Metrics:
        """Return the four metrics of what was counted so far."""
        return Metrics.of(self.counts, self.unscored)


@dataclass(frozen=True)
class Metrics:
    """The paper's metrics, fractions in 0..1; NaN where there is nothing to measure.

    A class absent from both truth and prediction has IU NaN and is left out of the means; one
    that is predicted but absent from truth has IU 0 and counts in mean IU, unless it is unscored.
    Unscored classes (such as those that a test set never shows) have an IU but count neither in
    mean accuracy nor in mean IU; the other two metrics are over all pixels and know no exceptions.

    Attributes:
        confusion: the int64 confusion matrix, truth in rows.
        iu: intersection over union per class.
        unscored: ids of the classes that the means leave out, in rising order.
    """

    confusion: NDArray[np.int64]
    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    iu: NDArray[np.float64]
    unscored: tuple[int, ...] = ()

    @classmethod
    def of(cls, confusion: NDArray[np.int64], unscored: Collection[int] = ()) -> Metrics:
        """Compute the metrics of a confusion matrix, truth in rows.

        The classes with the ids `unscored` are left out of the means.
        """
        scored = ~np.isin(np.arange(len(confusion)), list(unscored))
        right = np.diag(confusion).astype(np.float64)
        truth = confusion.sum(1).astype(np.float64)
        union = truth + confusion.sum(0) - right
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy, iu = right / truth, right / union
            pixel_accuracy = right.sum() / truth.sum()
            weighted = (truth[truth > 0] * iu[truth > 0]).sum() / truth.sum()
        return cls(
            confusion=confusion.copy(),
            pixel_accuracy=float(pixel_accuracy),
            mean_accuracy=mean_present(accuracy[scored]),
            mean_iu=mean_present(iu[scored]),
            frequency_weighted_iu=float(weighted),
            iu=iu,
            unscored=tuple(sorted(set(unscored))),
        )

    def to_dict(self, split: str, images: int, classes: Sequence[str]) -> dict[str, Any]:
        """Return the contents of metrics.json; what there was nothing to measure for is None.

        The key "unscored" is there only if classes are.
        """
        unscored = [classes[label] for label in self.unscored]
        return {
            "split": split,
            "images": images,
            "pixel_accuracy": _number(self.pixel_accuracy),
            "mean_accuracy": _number(self.mean_accuracy),
            "mean_iu": _number(self.mean_iu),
            "frequency_weighted_iu": _number(self.frequency_weighted_iu),
            "iu": {name: _number(value) for name, value in zip(classes, self.iu, strict=True)},
            **({"unscored": unscored} if unscored else {}),
            "confusion": self.confusion.tolist(),
        }


def mean_present(values: NDArray[np.float64]) -> float:
    """Return the mean of what is not NaN; NaN, without a warning, where nothing is."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
