"""How finely a net is to see and to score the images of a dataset.

What masks hold decides how fine its cells must be. Cells become finer by skips from finer strides,
which cost little, or by showing the trunk magnified images, which costs the square of the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from fullconv.base.errors import FullconvError
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.transforms import TINY, default_magnification, default_reductions
from fullconv.net.arguments import COLOR_ONLY, NetArguments, most_magnification
from fullconv.papers.blueprint import DEFAULT_STRIDE
from fullconv.train.settings import TrainSettings

DRAWN_WELL = 0.85  # the mean IU below which a net's cells are too coarse for the masks
DRAWN_POORLY = 0.77  # that below which finer cells are worth their work
FINEST_CELL = 2  # pixels
COARSE_ENOUGH = 16  # pixels of a magnified image; its coarser cells would see little else than all
MOST_DETAILED = 2560 * 2560  # pixels of an image that is magnified for finer cells

Judge = Callable[[DatasetFolder, tuple[str, ...]], Fingerprint]


class Resolution(NamedTuple):
    """How finely a net sees and scores images.

    Attributes:
        stride: of its coarse scores, in pixels that the trunk sees.
        scale: how many times larger than they are the trunk sees images.
        coarsest: the coarsest stride that it scores, unless the recipe says; None: the trunk's.
    """

    stride: int
    scale: Fraction
    coarsest: int | None = None


def judged(folder: DatasetFolder, inputs: tuple[str, ...]) -> Fingerprint:
    """Return the fingerprint of the training images as a net of `inputs` sees them."""
    split = folder.split("train", inputs)
    return Fingerprint.of(split).with_pixels(split)


def told(scale: Fraction) -> str:
    """Tell a scale, of images."""
    if scale == 1:
        return "as they are"
    return f"magnified x{scale}" if scale > 1 else f"reduced to {scale}"


def strides_told(net: NetArguments) -> str:
    """Tell which strides a net scores."""
    return f"{net.coarsest} down to {net.stride}" if net.coarsest else f"down to {net.stride}"


def resolutions(
    settings: TrainSettings, folder: DatasetFolder, judge: Judge = judged
) -> tuple[Resolution, ...]:
    """Return how finely a new net may see and score images: as the recipe says, else as suits them.

    Several have cells of one size, the quickest first: not all trunks have a layer at its stride,
    but any has one at the last's, if the model fits it at all.

    Args:
        settings: of the run.
        folder: the dataset.
        judge: tells its fingerprint, which is asked for only where it decides.

    Raises:
        FullconvError: images are to be seen both larger and smaller.
    """
    recipe, stride = settings.recipe, settings.stride
    magnify, reduce = recipe.magnify, recipe.reduce
    if (magnify or 1) > 1 and (reduce or 1) > 1:
        raise FullconvError(
            "magnify or reduce: a net sees images larger or smaller, not both; --set one of them"
        )
    decided = magnify is not None and (reduce is not None or magnify > 1)
    if decided or settings.blueprint.fixed or folder.info.inputs.keys() != COLOR_ONLY.keys():
        # Distances are not to be mixed, and models of one dataset are to go together.
        return (Resolution(stride, Fraction(magnify or 1, reduce or 1)),)
    found = judge(folder, tuple(COLOR_ONLY))
    finer: tuple[Resolution, ...] = ()
    if magnify is None:
        larger = reduce in (None, 1)
        magnify = _magnification(found, stride, most_magnification(stride) if larger else 1)
        if larger and settings.may_be_finer:
            finer = tuple(_finer(found, stride, magnify))
    if reduce is None:
        free = magnify == 1 and recipe.learn_upscores != "all"
        reduce = _reduction(found, stride) if free else 1
    return (*finer, Resolution(stride, Fraction(magnify, reduce)))


def _magnification(found: Fingerprint, stride: int, most: int) -> int:
    """Return how far images of a size are magnified, more than that where cells are too coarse."""
    height, width = found.median_size
    factors = [default_magnification(height, width, most)]
    stride = min(stride, DEFAULT_STRIDE)  # coarser nets are to see what the FCN-8s sees
    most = min(most, most_magnification(stride))
    while 2 * factors[-1] <= most and (2 * factors[-1]) ** 2 * height * width <= MOST_DETAILED:
        factors.append(2 * factors[-1])
    return _enough(found, stride, factors)


def _finer(found: Fingerprint, stride: int, magnify: int) -> Iterator[Resolution]:
    """Yield how a net sees images less magnified and scores finer strides, in the cells it needs.

    Args:
        found: of the training images.
        stride: of the model.
        magnify: how far it would magnify images without finer strides.
    """
    height, width = found.median_size
    most = most_magnification(stride)
    factors = [default_magnification(height, width, most)]
    while stride // factors[-1] > FINEST_CELL:
        factors.append(2 * factors[-1])
    cell = stride // _enough(found, stride, factors)
    scale = default_magnification(height, width, most, TINY)
    while cell * scale < stride and scale <= magnify:
        yield Resolution(cell * scale, Fraction(scale), COARSE_ENOUGH if scale > 1 else None)
        scale *= 2


def _enough(found: Fingerprint, stride: int, factors: Sequence[int]) -> int:
    """Return the first factor by which a stride's cells get fine enough for masks, or the last."""
    if len(factors) == 1:
        return factors[0]
    drawn = _drawn(found, [stride // factor for factor in factors])
    # "not below", for nan, where nothing is labelled, is no reason for finer ones
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
