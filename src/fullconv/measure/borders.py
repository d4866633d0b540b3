"""How well labels follow the borders of what is there: boundary IU, and accuracy near borders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.measure.metrics import mean_present

Mask = NDArray[np.bool_]

WIDTHS = (1, 2, 4, 8, 16, 32)  # pixels from a border that still count, in each direction
DIAGONAL_SHARE = 0.02  # how wide a class's boundary is, of the image's diagonal


@dataclass(frozen=True)
class Borders:
    """What was measured, fractions in 0..1; NaN where there is nothing to measure.

    Attributes:
        boundary_iu: per class (Cheng et al., 2021): the intersection over union of those of its
            true and its predicted pixels that lie within 2% of the image's diagonal from where the
            class ends; over all images.
        trimap: the share of right pixels among those within a width of a true border (Kohli et
            al., 2009; the paper's section 5 speaks of it), by that width in pixels.
        unscored: ids of the classes that the mean leaves out.
    """

    boundary_iu: NDArray[np.float64]
    trimap: dict[int, float]
    unscored: tuple[int, ...] = ()

    @property
    def mean_boundary_iu(self) -> float:
        """The mean over classes; those of neither truth nor prediction, and unscored, left out."""
        scored = ~np.isin(np.arange(len(self.boundary_iu)), self.unscored)
        return mean_present(self.boundary_iu[scored])


class BorderCounter:
    """Counts what `Borders` is made of, exactly, image by image."""

    def __init__(self, num_classes: int, unscored: tuple[int, ...] = ()) -> None:
        self._classes, self._unscored = num_classes, unscored
        self._both, self._any = (np.zeros(num_classes, np.int64) for _ in range(2))
        self._right, self._near = (np.zeros(len(WIDTHS), np.int64) for _ in range(2))

    def update(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        """Count an image's labels, H x W; a pixel whose truth is no class is left out."""
        known = truth < self._classes
        width = max(1, round(DIAGONAL_SHARE * math.hypot(*truth.shape)))
        for label in np.union1d(np.unique(truth[known]), np.unique(predicted[known])):
            true = _edge(truth == label, known, width)
            found = _edge((predicted == label) & known, known, width)
            self._both[label] += np.count_nonzero(true & found)
            self._any[label] += np.count_nonzero(true | found)
        right, borders = truth == predicted, _borders(truth, known)
        for place, distance in enumerate(WIDTHS):
            near = _spread(borders, distance - 1) & known
            self._near[place] += np.count_nonzero(near)
            self._right[place] += np.count_nonzero(near & right)

    def borders(self) -> Borders:
        """Return what was counted so far."""
        with np.errstate(invalid="ignore"):
            iu, trimap = self._both / self._any, self._right / self._near
        return Borders(iu, dict(zip(WIDTHS, trimap.tolist(), strict=True)), self._unscored)


def _edge(mask: Mask, known: Mask, width: int) -> Mask:
    """Return what of a mask lies within `width` pixels of its outside, or of the image's.

    What isn't known is not outside: nobody can be wrong there.
    """
    outside = np.pad(known & ~mask, 1, constant_values=True)
    found: Mask = mask & _spread(outside, width)[1:-1, 1:-1]
    return found


def _borders(truth: NDArray[Any], known: Mask) -> Mask:
    """Return the pixels beside one of another class; what is no class has no border."""
    found = np.zeros(truth.shape, bool)
    for one, other in (
        (np.s_[1:, :], np.s_[:-1, :]),
        (np.s_[:, 1:], np.s_[:, :-1]),
    ):
        differ = (truth[one] != truth[other]) & known[one] & known[other]
        found[one] |= differ
        found[other] |= differ
    return found


def _spread(mask: Mask, distance: int) -> Mask:
    """Return the pixels at most `distance` rows and columns from a mask's.

    The steps are as many as the distance has binary digits.
    """
    for axis in (0, 1):
        mask, reached = mask.copy(), 0
        while reached < distance:
            step = min(max(reached, 1), distance - reached)
            moved = mask.copy()
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            moved[tuple(ahead)] |= mask[tuple(behind)]
            moved[tuple(behind)] |= mask[tuple(ahead)]
            mask, reached = moved, reached + step
    return mask
