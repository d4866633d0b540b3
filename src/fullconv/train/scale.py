"""How large a net is to see the images of a dataset: magnified, as they are, or reduced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fullconv.data.folder import DatasetFolder, Split
from fullconv.data.transforms import default_magnification, default_reductions
from fullconv.measure.bounds import upper_bounds
from fullconv.net.arguments import COLOR_ONLY, most_magnification
from fullconv.net.fcn import Sight
from fullconv.papers.blueprint import PAPER_NETS
from fullconv.train.settings import Settings

SIZES_READ = 100  # of images, evenly chosen
MASKS_READ, PIXELS_READ = 32, 1 << 26  # at most, of all masks together; both are enough to judge by
DRAWN_WELL = 0.85  # the mean IU below which a net's cells are too coarse for the masks
DRAWN_POORLY = 0.77  # that below which finer cells are worth four times the work
COARSEST_JUDGED = 8  # coarser nets are to see what the FCN-8s sees that they are compared with
MOST_DETAILED = 2560 * 2560  # pixels of an image that is magnified for finer cells


def sight(settings: Settings, folder: DatasetFolder) -> Sight:
    """Return how a new net is to see the images: as the recipe says, else as suits them."""
    recipe = settings.recipe
    magnify, reduce = recipe.magnify, recipe.reduce
    if settings.model in PAPER_NETS or folder.info.inputs.keys() != COLOR_ONLY.keys():
        # Distances are not to be mixed, and models of one dataset are to go together.
        return Sight(magnify or 1, reduce or 1)
    split = folder.split("train")
    few = split.few(SIZES_READ)
    sizes = [few.size(index) for index in range(len(few))]
    height, width = np.median(sizes, axis=0).astype(int).tolist()
    if magnify is None:
        most = most_magnification(settings.stride) if reduce in (None, 1) else 1
        magnify = _magnification(split, settings.stride, height, width, most)
    if reduce is None:
        free = magnify == 1 and recipe.learn_upscores != "all"
        reduce = _reduction(split, settings.stride, height, width) if free else 1
    return Sight(magnify, reduce)


def few_masks(split: Split) -> Split:
    """Return a split of few samples, whose masks are soon read."""
    return split.few_pixels(MASKS_READ, PIXELS_READ)


def _magnification(split: Split, stride: int, height: int, width: int, most: int) -> int:
    """Return how far images of a size are magnified, more than that where cells are too coarse."""
    factors = [default_magnification(height, width, most)]
    stride = min(stride, COARSEST_JUDGED)
    most = min(most, most_magnification(stride))
    while 2 * factors[-1] <= most and (2 * factors[-1]) ** 2 * height * width <= MOST_DETAILED:
        factors.append(2 * factors[-1])
    if len(factors) == 1:
        return factors[0]
    drawn = _drawn(split, [stride // factor for factor in factors])
    # "not below", for nan, where nothing is labelled, is no reason to magnify
    enough = (each for each in factors if not drawn[stride // each] < DRAWN_POORLY)
    return next(enough, factors[-1])


def _reduction(split: Split, stride: int, height: int, width: int) -> int:
    """Return how far images may be reduced so that a net can still draw what their masks hold."""
    factors = default_reductions(height, width)
    if len(factors) == 1:
        return 1
    drawn = _drawn(split, [stride * factor for factor in factors])
    return max((each for each in factors if drawn[stride * each] >= DRAWN_WELL), default=1)


def _drawn(split: Split, cells: Sequence[int]) -> dict[int, float]:
    """Return the mean IU to which cells of each size could draw a few masks, of heads the least."""
    bounds = upper_bounds(few_masks(split), cells).values()
    return {cell: min(of_head[cell].mean_iu for of_head in bounds) for cell in cells}
