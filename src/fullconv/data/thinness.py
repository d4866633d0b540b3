"""How thin the things of a mask are: what is left of it when it is drawn in coarse cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NOTHING = 255  # never the id of a class


@dataclass(frozen=True)
class Drawn:
    """How well cells of one size can draw the masks of a head (see `coarsened`).

    Attributes:
        iu: intersection over union of each class; NaN where it occurs nowhere.
        mean_iu: their mean, of the classes that are scored and occur; NaN if none does.
    """

    iu: tuple[float, ...]
    mean_iu: float

    @classmethod
    def of(cls, counts: NDArray[np.int64], scored: Sequence[bool]) -> Drawn:
        """Compute from `drawn_counts`, summed over masks; `scored` tells which classes count."""
        truth, drawn, right = counts.astype(np.float64)
        with np.errstate(invalid="ignore"):
            iu = right / (truth + drawn - right)
        present = iu[np.asarray(scored) & ~np.isnan(iu)]
        return cls(tuple(iu.tolist()), float(present.mean()) if present.size else float("nan"))


def coarsened(labels: NDArray[np.uint8], factor: int, num_classes: int) -> NDArray[np.uint8]:
    """Downsample labels by a factor and enlarge them back: each cell has one label.

    Cells are squares of factor x factor pixels, counted from the top left; the last ones may reach
    beyond the image. A cell's label is that of its central pixel. Where that pixel is ignored or
    outside the image, and among the four central ones of an even factor, it is that of the
    labelled pixel nearest to the cell's exact centre, the first in reading order if several are.
    Ignored pixels get their cell's label too, as a prediction has one everywhere; only a cell in
    which nothing is labelled has none.

    Args:
        labels: uint8 H x W; ids of `num_classes` and above are ignored, as by the metrics.
        factor: side of a cell in pixels, 1 or more.
        num_classes: at most 255.

    Returns:
        uint8 H x W.
    """
    height, width = labels.shape
    rows, columns = -(-height // factor), -(-width // factor)
    padding = ((0, rows * factor - height), (0, columns * factor - width))
    cells = np.pad(labels, padding, constant_values=_NOTHING)
    cells = cells.reshape(rows, factor, columns, factor).swapaxes(1, 2)
    middle = (factor - 1) // 2
    coarse = cells[:, :, middle, middle].copy()
    unlabelled = coarse >= num_classes
    if unlabelled.any():
        coarse[unlabelled] = _nearest_to_centre(cells[unlabelled], num_classes)
    enlarged: NDArray[np.uint8] = coarse.repeat(factor, 0).repeat(factor, 1)[:height, :width]
    return enlarged


def _nearest_to_centre(cells: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    """Return of each cell (N, factor, factor) the labelled pixel that is nearest to its centre."""
    factor = cells.shape[-1]
    down, right = np.divmod(np.arange(factor * factor), factor)
    centre = (factor - 1) / 2
    nearest_first = np.argsort((down - centre) ** 2 + (right - centre) ** 2, kind="stable")
    ordered = cells.reshape(len(cells), -1)[:, nearest_first]
    first_labelled = (ordered < num_classes).argmax(-1)[:, np.newaxis]
    found: NDArray[np.uint8] = np.take_along_axis(ordered, first_labelled, -1)[:, 0]
    return found


def drawn_counts(
    labels: NDArray[np.uint8], sides: Iterable[int], num_classes: int
) -> dict[int, NDArray[np.int64]]:
    """Compare labels with themselves, coarsened to cells of each size.

    Args:
        labels: uint8 H x W; ids of `num_classes` and above are ignored.
        sides: of the cells in pixels.
        num_classes: at most 255.

    Returns:
        By side, int64 (3, classes): the pixels that are of a class, that are drawn as it, and that
        are both.
    """
    truth = pixels_by_id(labels)[:num_classes]
    counts = {}
    for side in sides:
        coarse = coarsened(labels, side, num_classes)
        drawn = pixels_by_id(coarse, labels < num_classes)[:num_classes]
        right = pixels_by_id(labels, labels == coarse)[:num_classes]
        counts[side] = np.stack([truth, drawn, right])
    return counts


def pixels_by_id(
    labels: NDArray[np.uint8], among: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Count the pixels of each id in uint8 H x W, all or those `among`: int64 (256,)."""
    from PIL import Image  # np.bincount would make int64 of every pixel

    mask = None if among is None else Image.fromarray(among.view(np.uint8))
    return np.array(Image.fromarray(labels).histogram(mask), np.int64)
