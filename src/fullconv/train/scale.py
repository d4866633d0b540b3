"""How large a net is to see the images of a dataset: magnified, as they are, or reduced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from fullconv.base.errors import FullconvError
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.transforms import default_magnification, default_reductions
from fullconv.net.arguments import COLOR_ONLY, most_magnification
from fullconv.train.settings import TrainSettings

DRAWN_WELL = 0.85  # the mean IU below which a net's cells are too coarse for the masks
DRAWN_POORLY = 0.77  # that below which finer cells are worth four times the work
COARSEST_JUDGED = 8  # coarser nets are to see what the FCN-8s sees that they are compared with
MOST_DETAILED = 2560 * 2560  # pixels of an image that is magnified for finer cells

Judge = Callable[[DatasetFolder, tuple[str, ...]], Fingerprint]


def judged(folder: DatasetFolder, inputs: tuple[str, ...]) -> Fingerprint:
    """Return the fingerprint of the training images as a net of `inputs` sees them."""
    split = folder.split("train", inputs)
    return Fingerprint.of(split).with_pixels(split)


def told(scale: Fraction) -> str:
    """Tell a scale, of images."""
    if scale == 1:
        return "as they are"
    return f"magnified x{scale}" if scale > 1 else f"reduced to {scale}"


def scale_for(settings: TrainSettings, folder: DatasetFolder, judge: Judge = judged) -> Fraction:
    """Return how large a new net is to see images: as the recipe says, else as suits them.

    Args:
        settings: of the run.
        folder: the dataset.
        judge: tells its fingerprint, which is asked for only where it decides.

    Raises:
        FullconvError: images are to be seen both larger and smaller.
    """
    recipe = settings.recipe
    magnify, reduce = recipe.magnify, recipe.reduce
    if (magnify or 1) > 1 and (reduce or 1) > 1:
        raise FullconvError(
            "magnify or reduce: a net sees images larger or smaller, not both; --set one of them"
        )
    decided = magnify is not None and (reduce is not None or magnify > 1)
    if decided or settings.blueprint.fixed or folder.info.inputs.keys() != COLOR_ONLY.keys():
        # Distances are not to be mixed, and models of one dataset are to go together.
        return Fraction(magnify or 1, reduce or 1)
    found = judge(folder, tuple(COLOR_ONLY))
    if magnify is None:
        most = most_magnification(settings.stride) if reduce in (None, 1) else 1
        magnify = _magnification(found, settings.stride, most)
    if reduce is None:
        free = magnify == 1 and recipe.learn_upscores != "all"
        reduce = _reduction(found, settings.stride) if free else 1
    return Fraction(magnify, reduce)


def _magnification(found: Fingerprint, stride: int, most: int) -> int:
    """Return how far images of a size are magnified, more than that where cells are too coarse."""
    height, width = found.median_size
    factors = [default_magnification(height, width, most)]
    stride = min(stride, COARSEST_JUDGED)
    most = min(most, most_magnification(stride))
    while 2 * factors[-1] <= most and (2 * factors[-1]) ** 2 * height * width <= MOST_DETAILED:
        factors.append(2 * factors[-1])
    if len(factors) == 1:
        return factors[0]
    drawn = _drawn(found, [stride // factor for factor in factors])
    # "not below", for nan, where nothing is labelled, is no reason to magnify
    enough = (each for each in factors if not drawn[stride // each] < DRAWN_POORLY)
    return next(enough, factors[-1])


def _reduction(found: Fingerprint, stride: int) -> int:
    """Return how far images may be reduced so that a net can still draw what their masks hold."""
    factors = default_reductions(*found.median_size)
    if len(factors) == 1:
        return 1
    drawn = _drawn(found, [stride * factor for factor in factors])
    return max((each for each in factors if drawn[stride * each] >= DRAWN_WELL), default=1)


def _drawn(found: Fingerprint, cells: Sequence[int]) -> dict[int, float]:
    """Return the mean IU to which cells of each size could draw the masks, of heads the least."""
    by_head = found.thinness.values()
    return {cell: min(of_head[cell].mean_iu for of_head in by_head) for cell in cells}
