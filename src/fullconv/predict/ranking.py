"""Which of many images to label first: unsure ones, of rare classes, each unlike the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]

LEAST_SHARE = 1e-3  # of all cells: classes that are rarer weigh no more
FARTHEST = 2.0  # between vectors of length 1
SAME = 2e-3  # distance that rounding makes of none
BLOCK = 1024  # known images that all others are compared with at a time


@dataclass(frozen=True)
class Seen:
    """What a net sees of an image. Classes are those of all its heads, one head after the other.

    Attributes:
        unsure: the share of its cells whose highest probability is below `UNSURE`, 0..1; the mean
            over the heads.
        unsure_mass: the probabilities of each class, summed over those cells, as shares of all.
        mass: the same over all cells.
        predicted: the share of cells that each class gets.
        features: float32, of length 1: the mean of its coarsest features.
    """

    unsure: float
    unsure_mass: Numbers
    mass: Numbers
    predicted: Numbers
    features: Numbers


class Choice(NamedTuple):
    """An image that is to be labelled, and why.

    Attributes:
        at: the index of the image.
        score: its worth times its distance; no later choice has a higher one.
        unsure: see `Seen`.
        rarest: the class, of those that some cell gets, that is rarest in all images.
        rarest_share: of its cells.
        distance: between its features and the nearest of what is labelled or chosen before, 0 to
            2; 2 for the first where nothing is labelled.
    """

    at: int
    score: float
    unsure: float
    rarest: int
    rarest_share: float
    distance: float


def rank(images: Sequence[Seen], labelled: Sequence[Seen], count: int) -> list[Choice]:
    """Choose at most `count` images, those first from which a net would learn most.

    An image is worth its unsure share, in which a cell's rare classes weigh more: by the square
    root of how much rarer a class is than the median one. What is worth most times its distance
    from the nearest image that is labelled or chosen already comes next, so that no two that are
    the same are chosen before one that is different. Images that are labelled already are left out.

    Args:
        images: to choose from.
        labelled: what is labelled already.
        count: how many are wanted.
    """
    weights = rarity_weights([*images, *labelled])
    worths = np.array([float(weights @ each.unsure_mass) for each in images])
    features = np.stack([each.features for each in images])
    distances = _to_nearest(features, labelled)
    left = distances > 0
    chosen: list[Choice] = []
    while left.any() and len(chosen) < count:
        scores = worths * distances
        best = int(np.lexsort((-distances, -scores, ~left))[0])
        rarest = int(np.where(images[best].predicted > 0, weights, -1).argmax())
        chosen.append(
            Choice(
                best,
                float(scores[best]),
                images[best].unsure,
                rarest,
                float(images[best].predicted[rarest]),
                float(distances[best]),
            )
        )
        left[best] = False
        distances = np.minimum(distances, _distances(features, features[best]))
    return chosen


def rarity_weights(images: Sequence[Seen]) -> Numbers:
    """Return the weight of each class: the root of the median class's share over its own."""
    shares = np.mean([each.mass for each in images], axis=0)
    weights: Numbers = np.sqrt(np.median(shares) / np.maximum(shares, LEAST_SHARE))
    return weights


def already_labelled(images: Sequence[Seen], labelled: Sequence[Seen]) -> NDArray[np.bool_]:
    """Tell of each image whether it is one of those that are labelled."""
    found: NDArray[np.bool_] = (
        _to_nearest(np.stack([each.features for each in images]), labelled) == 0
    )
    return found


def _to_nearest(features: Numbers, labelled: Sequence[Seen]) -> Numbers:
    """Return the distance of each of n vectors from the nearest labelled one."""
    squares = np.full(len(features), FARTHEST**2, np.float32)
    for at in range(0, len(labelled), BLOCK):
        known = np.stack([each.features for each in labelled[at : at + BLOCK]])
        squares = np.minimum(squares, 2 - 2 * (features @ known.T).max(1))
    return _cleaned(np.sqrt(np.maximum(squares, 0)))


def _distances(features: Numbers, centre: Numbers) -> Numbers:
    return _cleaned(np.sqrt(np.square(features - centre).sum(1)))


def _cleaned(distances: Numbers) -> Numbers:
    """Return distances, none where it is but rounding."""
    cleaned: Numbers = np.where(distances < SAME, np.float32(0), distances)
    return cleaned
