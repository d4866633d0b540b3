"""Temperatures, against other minimisers and logits whose temperature is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fullconv.measure.calibration import (
    LEAST,
    MOST,
    calibration_error,
    fit_temperature,
)
from fullconv.net.certainty import top_probabilities
from fullconv.net.head import probabilities


def drawn(count=20_000, classes=5, spread=2.0, seed=0):
    """Return scores and truths that were drawn by their very probabilities."""
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(count, classes, generator=generator)
    return scores, torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]


def likelihood(scores, truth, temperature):
    """Return the mean negative log-likelihood by torch's own loss."""
    return float(F.cross_entropy(scores.double() / temperature, truth))


@pytest.mark.parametrize("known", [0.1, 0.5, 1.0, 3.0, 12.0])
def test_a_known_temperature_is_found_again(known):
    scores, truth = drawn()
    fit = fit_temperature(scores * known, truth)
    assert fit.temperature == pytest.approx(known, rel=0.02)  # as near as 20,000 draws tell
    assert (fit.pixels, fit.note) == (20_000, "")
    assert fit.error_after < 0.01
    if known not in (0.5, 1.0):
        assert fit.error_before > 5 * fit.error_after


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 60),
    classes=st.integers(2, 6),
    spread=st.sampled_from([0.01, 0.3, 1.0, 5.0, 100.0]),
    agreement=st.sampled_from([0.0, 0.3, 0.8]),
)
def test_it_is_the_minimum_within_the_bounds(seed, count, classes, spread, agreement):
    """By scipy's bounded search; and the likelihood never gets worse."""
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(spread * random.normal(size=(count, classes)))
    truth = torch.from_numpy(random.integers(classes, size=count))
    truth = torch.where(torch.from_numpy(random.random(count) < agreement), scores.argmax(1), truth)
    found = optimize.minimize_scalar(
        lambda logarithm: likelihood(scores, truth, math.exp(logarithm)),
        bounds=(math.log(LEAST), math.log(MOST)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    fit = fit_temperature(scores, truth)
    assert LEAST <= fit.temperature <= MOST
    ours = likelihood(scores, truth, fit.temperature)
    assert ours <= found.fun + 1e-5 * max(1.0, found.fun)  # four digits are kept of ours
    assert ours <= likelihood(scores, truth, 1.0) + 1e-12


def test_degenerate_scores_end_at_the_bounds_or_stay_at_one():
    right = torch.eye(3).repeat(4, 1)
    truth = torch.arange(3).repeat(4)
    fit = fit_temperature(right, truth)
    assert (fit.temperature, fit.note) == (LEAST, "as sure as allowed: hardly a label is wrong")
    assert fit.error_after < 1e-6 < fit.error_before
    fit = fit_temperature(right, (truth + 1) % 3)
    assert fit.temperature == MOST and "nothing of the truth" in fit.note
    cases = {
        "no labelled pixels": torch.empty(0, 3),
        "scores that tell no classes apart": torch.full((12, 3), 7.5),
        "scores that are not finite": right.where(right == 0, math.nan),
    }
    for note, scores in cases.items():
        fit = fit_temperature(scores, truth[: len(scores)])
        assert (fit.temperature, fit.note) == (1.0, note)
    assert math.isnan(fit_temperature(torch.empty(0, 3), truth[:0]).error_before)
    one = fit_temperature(torch.randn(12, 1), torch.zeros(12))
    assert (one.temperature, one.error_before) == (1.0, 0.0)


def test_large_scores_do_not_overflow():
    scores, truth = drawn(2000)
    assert fit_temperature(scores * 10 + 1e5, truth).temperature == pytest.approx(10, rel=0.06)
    assert fit_temperature(scores * 1e6, truth).temperature == MOST


def test_half_precision_is_fitted_in_full():
    scores, truth = drawn(4000)
    exact = fit_temperature(scores.half().double(), truth)
    assert fit_temperature(scores.half(), truth) == exact


def test_the_calibration_error_of_a_worked_example():
    """Two labels of 0.9 (interval 14 of 15), one right; two of 0.55 (interval 9), both right."""
    confidence = torch.tensor([0.9, 0.91, 0.55, 0.56])
    right = torch.tensor([True, False, True, True])
    expected = 0.5 * abs(0.905 - 0.5) + 0.5 * abs(0.555 - 1.0)
    assert calibration_error(confidence, right) == pytest.approx(expected)
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0
    assert math.isnan(calibration_error(torch.empty(0), torch.empty(0, dtype=torch.bool)))


def test_an_overconfident_net_is_mended():
    """Its labels are right as often as another's, but it is three times as sure."""
    scores, truth = drawn(seed=1)
    before, after = (probabilities(3 * scores, each) for each in (1.0, 3.0))
    errors = [calibration_error(p.amax(1), p.argmax(1) == truth) for p in (before, after)]
    assert errors[0] > 0.05
    assert errors[1] < 0.01
    assert before.argmax(1).equal(after.argmax(1))
    torch.testing.assert_close(after, scores.softmax(1))


def test_top_probabilities_are_those_of_the_softmax():
    scores = 5 * torch.randn(4, 6, 7, generator=torch.Generator().manual_seed(0))
    top = torch.from_numpy(top_probabilities(scores.numpy(), 0.7))
    torch.testing.assert_close(top, (scores / 0.7).softmax(0).amax(0))
    assert top_probabilities(np.float32([[1e6], [-1e6]]), 1e-3).tolist() == [1.0]
    odd = top_probabilities(np.float32([[np.nan, np.inf], [1, np.inf]]), 1.0)
    assert np.isnan(odd).all()
