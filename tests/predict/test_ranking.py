"""Which images come first: by hand, and by properties that any such ranking has."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.predict.ranking import LEAST_SHARE, Seen, already_labelled, rank, rarity_weights


def seen(degrees, unsure_mass, mass=(0.5, 0.5), predicted=(0.5, 0.5)):
    angle = math.radians(degrees)
    return Seen(
        float(np.sum(unsure_mass)),
        *(np.array(each, np.float32) for each in (unsure_mass, mass, predicted)),
        np.array([math.cos(angle), math.sin(angle)], np.float32),
    )


def test_by_hand():
    # Both classes are as common: an image is worth its unsure share. Chords of a circle: that of
    # 60 degrees is 1, of 90 the root of 2, of 30 is 0.5176.
    images = [seen(90, (0.1, 0)), seen(0, (0.5, 0)), seen(0, (0.4, 0)), seen(60, (0, 0.3))]
    found = rank(images, [], 4)
    assert [each.at for each in found] == [1, 3, 0, 2]
    assert [each.distance for each in found] == pytest.approx([2, 1, 0.5176, 0], abs=1e-4)
    assert [each.score for each in found] == pytest.approx([1, 0.3, 0.05176, 0], abs=1e-4)
    assert [each.unsure for each in found] == pytest.approx([0.5, 0.3, 0.1, 0.4])


def test_what_is_labelled_is_a_place_to_be_far_from():
    images = [seen(0, (0.5, 0)), seen(60, (0.3, 0)), seen(90, (0.2, 0))]
    found = rank(images, [seen(0, (0, 0))], 3)
    # The first image is labelled; of the others 60 degrees has 0.3 x 1, 90 has 0.2 x 1.414.
    assert [each.at for each in found] == [1, 2]
    assert already_labelled(images, [seen(0, (0, 0))]).tolist() == [True, False, False]
    nearer = rank(images[1:], [seen(40, (0, 0))], 1)
    assert nearer[0].at == 1  # 0.2 x 0.845 against 0.3 x 0.347
    assert nearer[0].score == pytest.approx(0.2 * 2 * math.sin(math.radians(25)), abs=1e-4)


def test_rare_classes_weigh_more():
    common, rare = (0.2, 0, 0), (0, 0, 0.2)
    shares = (0.6, 0.3, 0.1)
    images = [
        seen(0, common, shares, (0.6, 0.4, 0)),
        seen(60, rare, shares, (0.5, 0.49, 0.01)),
    ]
    weights = rarity_weights(images)
    assert weights.tolist() == pytest.approx([math.sqrt(0.5), 1, math.sqrt(3)])
    first, second = rank(images, [], 2)
    assert (first.at, second.at) == (1, 0)
    assert first.score == pytest.approx(2 * 0.2 * math.sqrt(3))
    assert (first.rarest, second.rarest) == (2, 1)  # of what is predicted at all
    assert first.rarest_share == pytest.approx(0.01)


def test_a_class_that_is_hardly_there_has_a_bounded_weight():
    weights = rarity_weights([seen(0, (0, 0, 0), (0.8, 0.2, 0))])
    assert weights[2] == pytest.approx(math.sqrt(0.2 / LEAST_SHARE))


@given(
    st.lists(
        st.tuples(st.integers(0, 17), st.floats(0, 1)).map(lambda each: (5 * each[0], each[1])),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 30),
)
def test_properties(given_images, count):
    images = [seen(degrees, (unsure, 0)) for degrees, unsure in given_images]
    found = rank(images, [], count)
    indices = [each.at for each in found]
    assert len(set(indices)) == len(indices) == min(count, len(images))
    scores = [each.score for each in found]
    assert all(after <= before + 1e-6 for before, after in pairwise(scores))
    # No angle comes twice before every angle came once, however sure the net is of an image.
    angles = [given_images[index][0] for index in indices]
    different = len({degrees for degrees, _ in given_images})
    assert len(set(angles[:different])) == min(count, different)
