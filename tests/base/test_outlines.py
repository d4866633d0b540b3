"""Label maps as polygons: exact without thinning, and without gaps or overlaps with it."""

from __future__ import annotations

import numpy as np
import pytest

from fullconv.base.fill import covered
from fullconv.base.outlines import outlines, without_specks


def painted(regions, size):
    """How often each pixel is covered, and by what last."""
    times, labels = np.zeros(size, int), np.zeros(size, np.uint8)
    for region in regions:
        y, x, pixels = covered([region.rim, *region.holes], size)
        box = slice(y, y + pixels.shape[0]), slice(x, x + pixels.shape[1])
        times[box] += pixels
        labels[box][pixels] = region.label
    return times, labels


def blobs(seed, size=(90, 120), classes=4, smooth=12):
    """A smooth random label map."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(classes, -(-size[0] // smooth) + 1, -(-size[1] // smooth) + 1))
    y, x = np.arange(size[0]) / smooth, np.arange(size[1]) / smooth
    top, left = y.astype(int), x.astype(int)
    v, u = (y - top)[:, None], x - left
    fine = (
        coarse[:, top][:, :, left] * (1 - v) * (1 - u)
        + coarse[:, top + 1][:, :, left] * v * (1 - u)
        + coarse[:, top][:, :, left + 1] * (1 - v) * u
        + coarse[:, top + 1][:, :, left + 1] * v * u
    )
    return fine.argmax(0).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_without_thinning_they_are_exact(seed):
    for labels in (
        blobs(seed),
        np.random.default_rng(seed).integers(0, 3, (13, 17), np.uint8),
    ):
        times, again = painted(outlines(labels, 0), labels.shape)
        assert (times == 1).all()
        np.testing.assert_array_equal(again, labels)


@pytest.mark.parametrize("seed", range(6))
def test_thinned_they_have_no_gaps_or_overlaps(seed):
    labels = blobs(seed)
    exact, thin = outlines(labels, 0), outlines(labels, 1.0)
    times, again = painted(thin, labels.shape)
    assert (times == 1).all()
    assert (again == labels).mean() > 0.97
    points = [sum(len(region.rim) for region in each) for each in (exact, thin)]
    assert points[1] < points[0] / 3


def test_a_hole_and_its_content_share_their_ring():
    labels = np.zeros((30, 30), np.uint8)
    y, x = np.indices(labels.shape)
    labels[np.hypot(y - 15, x - 14) < 9] = 1
    outer, inner = outlines(labels, 1.0)
    (hole,) = outer.holes
    assert {tuple(point) for point in hole} == {tuple(point) for point in inner.rim}


def test_specks_are_taken_by_what_is_above():
    labels = np.zeros((9, 9), np.uint8)
    labels[4:, :] = 1
    labels[2, 2] = 2
    labels[6, 3:5] = 2
    labels[0, 0] = 2
    clean = without_specks(labels, 4)
    assert clean[2, 2] == 0 and (clean[6, 3:5] == 1).all()
    assert clean[0, 0] == 2  # has neither above nor left
    assert (clean != labels).sum() == 3
