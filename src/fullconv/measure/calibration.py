"""Probabilities that mean what they say: a temperature for a head's scores.

Trained nets are too sure as a rule: of the pixels to whose class they give 0.9, fewer than nine in
ten are right. Dividing all scores by one number, the temperature, before the softmax mends most of
that and changes no label (Guo et al., "On Calibration of Modern Neural Networks", 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST, MOST = 0.05, 20.0  # temperatures: beyond, probabilities are as good as 0 and 1, or all equal
BINS = 15
DIGITS = 4  # of a temperature after the point
PRECISE = 1e-11  # of the slope, far below what is rounded
ROUNDS = 100


@dataclass(frozen=True)
class Fit:
    """A temperature and what it is worth.

    Attributes:
        temperature: from 0.05 to 20, four digits after the point; 1 where nothing tells it.
        pixels: how many it was fitted on.
        error_before, error_after: expected calibration errors of these pixels (see
            `calibration_error`) at temperature 1 and at this one; NaN without pixels.
        note: why the temperature is no minimum, in a few words; empty if it is one.
    """

    temperature: float
    pixels: int
    error_before: float
    error_after: float
    note: str = ""


def fit_temperature(scores: Tensor, truth: Tensor) -> Fit:
    """Find the temperature that makes what is true most likely.

    It minimises the mean negative log-likelihood of ``softmax(scores / temperature)``, in float64.

    Args:
        scores: of pixels, N x classes.
        truth: the class of each, N integers.
    """
    scores = scores.double()
    temperature, note = _most_likely(scores, truth.long())
    errors = [_error_at(each, scores, truth) for each in (1.0, temperature)]
    return Fit(temperature, len(scores), errors[0], errors[1], note)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Return the expected calibration error of N labels, 0..1; NaN if there are none.

    That is how far the mean probability of labels and the share of right ones are apart, within
    each of 15 equal intervals of probability, on average over all labels.

    Args:
        confidence: the probability that each label was given, N.
        right: whether it is right, N.
    """
    if not len(confidence):
        return math.nan
    interval = (confidence * BINS).long().clamp(0, BINS - 1)
    apart = torch.zeros(BINS, dtype=torch.float64, device=confidence.device)
    apart.index_add_(0, interval, confidence.double() - right.double())
    return float(apart.abs().sum() / len(confidence))


def _error_at(temperature: float, scores: Tensor, truth: Tensor) -> float:
    confidence, labels = (scores / temperature).softmax(1).max(1)
    return calibration_error(confidence, labels == truth)


def _most_likely(scores: Tensor, truth: Tensor) -> tuple[float, str]:
    """Return the best temperature for float64 scores and, if it is no minimum, why."""
    if not len(scores):
        return 1.0, "no labelled pixels"
    if not scores.isfinite().all():
        return 1.0, "scores that are not finite"
    scores = scores - scores.amax(1, keepdim=True)  # which changes no probability
    if not scores.any():
        return 1.0, "scores that tell no classes apart"
    if _slope(scores, truth, 1 / LEAST) <= 0:
        return LEAST, "as sure as allowed: hardly a label is wrong"
    if _slope(scores, truth, 1 / MOST) >= 0:
        return MOST, "as unsure as allowed: the scores tell nothing of the truth"
    return round(_minimum(scores, truth), DIGITS), ""


def _minimum(scores: Tensor, truth: Tensor) -> float:
    """Return the temperature that makes the truth most likely, by L-BFGS in its logarithm."""
    logarithm = torch.zeros((), dtype=scores.dtype, device=scores.device, requires_grad=True)
    search = torch.optim.LBFGS(
        [logarithm],
        max_iter=ROUNDS,
        tolerance_grad=PRECISE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = F.cross_entropy(scores * (-logarithm).exp(), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        search.step(closure)  # type: ignore[no-untyped-call]
    return float(logarithm.detach().exp().clamp(LEAST, MOST))


def _slope(scores: Tensor, truth: Tensor, inverse: float) -> float:
    """Return the derivative of the mean negative log-likelihood by the temperature's inverse."""
    mean = ((scores * inverse).softmax(1) * scores).sum(1)
    return float((mean - scores.gather(1, truth[:, None])[:, 0]).mean())
