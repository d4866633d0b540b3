"""Boundary IU and accuracy near borders, against their definitions pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fullconv.measure.borders import WIDTHS, BorderCounter


def blobs(seed: int, size: tuple[int, int], classes: int) -> np.ndarray:
    """Labels in patches, with some ignored."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, classes, (-(-size[0] // 5), -(-size[1] // 7)))
    labels = np.kron(cells, np.ones((5, 7)))[: size[0], : size[1]].astype(np.uint8)
    labels[random.random(size) < 0.05] = 255
    return labels


def near_outside(mask: np.ndarray, known: np.ndarray, width: int) -> np.ndarray:
    """The mask's pixels whose square of `width` leaves it or the image, ignored ones apart."""
    found = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        rows, columns = (
            range(row - width, row + width + 1),
            range(column - width, column + width + 1),
        )
        inside = rows[0] >= 0 and columns[0] >= 0 and rows[-1] < len(mask)
        inside = inside and columns[-1] < mask.shape[1]
        found[row, column] = not (inside and (mask | ~known)[np.ix_(rows, columns)].all())
    return found


@pytest.mark.parametrize("size", [(31, 44), (60, 90), (1, 9)])
def test_boundary_iu_is_its_definition(size: tuple[int, int]) -> None:
    pairs = [(blobs(seed, size, 3), blobs(seed + 9, size, 3) % 3) for seed in (0, 1)]
    counter = BorderCounter(3)
    width = max(1, round(0.02 * math.hypot(*size)))
    both, either = np.zeros(3), np.zeros(3)
    for truth, found in pairs:
        counter.update(truth, found)
        for label in range(3):
            known = truth != 255
            one = near_outside(truth == label, known, width)
            other = near_outside((found == label) & known, known, width)
            both[label] += (one & other).sum()
            either[label] += (one | other).sum()
    with np.errstate(invalid="ignore"):
        assert np.allclose(counter.borders().boundary_iu, both / either, equal_nan=True)


def test_accuracy_near_borders_is_its_definition() -> None:
    truth, found = blobs(3, (40, 52), 3), blobs(4, (40, 52), 3) % 3
    found[:, :20] = np.where(truth[:, :20] < 3, truth[:, :20], 0)
    beside = np.zeros(truth.shape, bool)
    for row, column in np.ndindex(truth.shape):
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            r, c = row + down, column + right
            if 0 <= r < 40 and 0 <= c < 52 and max(truth[row, column], truth[r, c]) < 3:
                beside[row, column] |= truth[row, column] != truth[r, c]
    counter = BorderCounter(3)
    counter.update(truth, found)
    places = np.argwhere(beside)
    for width in WIDTHS:
        near = np.zeros(truth.shape, bool)
        for row, column in places:
            rows = slice(max(row - width + 1, 0), row + width)
            near[rows, max(column - width + 1, 0) : column + width] = True
        near &= truth < 3
        assert counter.borders().trimap[width] == pytest.approx((truth == found)[near].mean())


def test_what_is_right_is_right_at_borders_too() -> None:
    truth = blobs(0, (30, 40), 3)
    counter = BorderCounter(4, unscored=(1,))
    counter.update(truth, np.where(truth < 3, truth, 0))
    found = counter.borders()
    assert math.isnan(found.boundary_iu[3])
    assert found.mean_boundary_iu == 1
    assert set(found.trimap.values()) == {1.0}


def test_an_image_of_one_class_has_no_borders() -> None:
    counter = BorderCounter(2)
    counter.update(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8))
    assert all(map(math.isnan, counter.borders().trimap.values()))
    assert counter.borders().boundary_iu[0] == 1
