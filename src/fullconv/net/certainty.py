"""How sure labels are: the probabilities of scores, calibrated, by NumPy alone.

Torch's threads would be woken for them, and then spin for a while in the way of those that work on
the next image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# A label whose probability is lower is unsure: more than one in four of such labels are wrong. It
# is the middle of what two classes can have, 0.5 to 1.
UNSURE = 0.75
BAND = 1 << 22  # scores of pixels that there are at a time: 16 MiB of float32, as a rule


def unsure_share(views: Sequence[NDArray[np.float32]], temperature: float) -> float:
    """Return the share of labels that are unsure, 0..1: whose probability is below `UNSURE`.

    Args:
        views: the scores of each view, classes x h x w, which all count.
        temperature: of the probabilities.
    """
    tops = [top_probabilities(scores, temperature).ravel() for scores in views]
    return 1 - float((np.concatenate(tops) >= UNSURE).mean())


def top_probabilities(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return just the highest calibrated probability of scores classes x ..., of shape "..."."""
    top: NDArray[np.float32] = 1 / _masses(scores, temperature).sum(0)
    return top


def all_probabilities(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return the calibrated probabilities of scores classes x ..., of that shape."""
    masses = _masses(scores, temperature)
    masses /= masses.sum(0)
    return masses


def _masses(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return what probabilities are proportional to: 1 for the highest."""
    with np.errstate(invalid="ignore"):  # of infinite scores; the result is NaN
        below = scores - scores.max(0)
        below /= np.float32(temperature)
    masses: NDArray[np.float32] = np.exp(below, out=below)
    return masses
