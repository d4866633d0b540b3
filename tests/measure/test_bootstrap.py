"""Intervals over the images of a split, against the metrics of splits drawn one by one."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from fullconv.measure.bootstrap import MEASURES, ImageCounts, Interval, measures
from fullconv.measure.metrics import Metrics


def confusions(images: int) -> np.ndarray:
    random = np.random.default_rng(0)
    found = random.integers(0, 50, (images, 4, 4)) + 200 * np.eye(4, dtype=np.int64)
    found[:, 3] = found[:, :, 3] = 0  # a class that is nowhere
    return found


def test_each_round_is_a_split_of_images_drawn_again() -> None:
    images = confusions(7)
    counts = ImageCounts()
    for each in images:
        counts.add(each)
    found = measures(counts.rounds(20), unscored=(1,))
    random = np.random.default_rng(0)
    for at, drawn in enumerate(random.multinomial(7, np.full(7, 1 / 7), 20)):
        expected = Metrics.of(np.tensordot(drawn, images, 1), (1,))
        for name in MEASURES:
            assert found[name][at] == pytest.approx(getattr(expected, name))
        assert np.allclose(found["iu"][at], expected.iu, equal_nan=True)


def test_memory_does_not_grow_as_images_times_rounds() -> None:
    """And what is drawn in portions are the same numbers, to the last digit."""
    number, rounds = 5000, 2000  # of which 16 bytes each would be 153 MiB
    images = np.resize(confusions(10), (number, 4, 4))
    counts = ImageCounts()
    for each in images:
        counts.add(each)
    tracemalloc.start()
    found = counts.rounds(rounds)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 80 << 20
    drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), rounds)
    right = drawn @ images.diagonal(axis1=1, axis2=2)
    assert np.array_equal(found[:, 0], right)


def test_intervals_narrow_with_images() -> None:
    widths = []
    for number in (10, 1000):
        counts = ImageCounts()
        for each in np.resize(confusions(10), (number, 4, 4)):
            counts.add(each)
        span = Interval.of(measures(counts.rounds())["mean_iu"])
        widths.append(span.high - span.low)
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.25)


def test_nothing_to_measure() -> None:
    span = Interval.of(np.full(5, np.nan))
    assert math.isnan(span.low)
    assert math.isnan(span.high)
    assert Interval.of(np.array([0.5, np.nan])) == Interval(0.5, 0.5)
