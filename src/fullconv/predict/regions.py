"""A label map as polygons along the sides of its pixels, each with its size and probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.base.outlines import outlines
from fullconv.predict.geotiff import CERTAIN, UNKNOWN

Geometries = NDArray[np.object_]  # of shapely

# Bytes that polygons take for each pixel, side between labels and region, and if simplified.
PIXEL, SIDE, REGION, SIMPLIFIED = 11, 48, 2200, 3800
FIXED = 48 << 20  # bytes that any do
COUNTED = 1 << 20  # pixels that are summed up at a time, or as many as there are regions


@dataclass(frozen=True)
class Regions:
    """The parts of a label map that hang together over the sides of their pixels.

    Attributes:
        outlines: n polygons (shapely), x to the right and y down, in pixels.
        labels: ids, int64 n.
        pixels: how many each has, int64 n, before it was simplified.
        probabilities: the mean of its pixels' labels', float64 n; NaN where there is none.
    """

    outlines: Geometries
    labels: NDArray[np.int64]
    pixels: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def regions_of(
    labels: NDArray[np.uint8],
    *,
    ignore_index: int = 255,
    least: int = 0,
    simplify: float = 0.0,
    sure: NDArray[np.uint8] | None = None,
) -> Regions:
    """Return the regions of a label map, H x W, but for what is to be ignored.

    Unsimplified, they give the map back: each pixel's centre lies in one polygon, of its label.

    Args:
        labels: the map.
        ignore_index: what is no label.
        least: regions of fewer pixels become part of the largest one beside them, if there is one.
        simplify: corners are left out whose triangle with those beside them is smaller than this,
            squared, in pixels; those of a line between two regions in both, so that no gap comes
            between them. 0: none.
        sure: the probabilities of the labels, H x W, `CERTAIN` for 1 and `UNKNOWN` for none.
    """
    import shapely

    whole = _merged(labels, ignore_index, least) if least > 1 else labels
    polygons, ids = _noded(whole) if simplify else _traced(whole, whole != ignore_index)
    pixels, probabilities = _measured(polygons, whole, whole == labels, sure)
    if simplify and len(polygons):
        polygons = shapely.coverage_simplify(polygons, simplify, simplify_boundary=False)
    kept = ids != ignore_index
    return Regions(polygons[kept], ids[kept], pixels[kept], probabilities[kept])


def bytes_for(labels: NDArray[np.uint8], *, simplify: bool = False) -> int:
    """Return about how many bytes the regions of a label map, H x W, take while they are made."""
    sides = regions = 0
    for top in range(len(labels)):  # a region has a pixel that differs from those above and left
        row, above = labels[top], labels[max(top - 1, 0)]
        below, beside = row != above, row[1:] != row[:-1]
        sides += int(np.count_nonzero(below)) + int(np.count_nonzero(beside))
        regions += int(np.count_nonzero(below[1:] & beside))
    of_regions = (SIMPLIFIED if simplify else REGION) * regions
    return FIXED + PIXEL * labels.size + SIDE * sides + of_regions


def _merged(labels: NDArray[np.uint8], ignore_index: int, least: int) -> NDArray[np.uint8]:
    """Give small regions the label of the largest one beside them, never of what is ignored."""
    from rasterio.features import sieve

    merged: NDArray[np.uint8] = sieve(labels, least, mask=labels != ignore_index, connectivity=4)
    return merged


def _traced(
    labels: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> tuple[Geometries, NDArray[np.int64]]:
    """Return the polygons of a mask's pixels, whose corners are those where a side turns."""
    import shapely
    from rasterio.features import shapes

    polygons, ids = list[Any](), list[int]()
    for outline, label in shapes(labels, mask, connectivity=4):
        rim, *holes = outline["coordinates"]
        polygons.append(shapely.Polygon(rim, holes))
        ids.append(int(label))
    return _array(polygons), np.array(ids, np.int64)


def _noded(labels: NDArray[np.uint8]) -> tuple[Geometries, NDArray[np.int64]]:
    """Return polygons that have a corner also where a third one touches a line between two."""
    import shapely

    found = outlines(labels, 0)
    polygons = [shapely.Polygon(region.rim, region.holes) for region in found]
    return _array(polygons), np.array([region.label for region in found], np.int64)


def _array(polygons: list[Any]) -> Geometries:
    """Return an array of polygons, which numpy would look into."""
    found = np.empty(len(polygons), np.object_)
    found[:] = polygons
    return found


def _measured(
    polygons: Geometries,
    labels: NDArray[np.uint8],
    same: NDArray[np.bool_],
    sure: NDArray[np.uint8] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count the pixels of each polygon, and average the probabilities of those labelled `same`."""
    from rasterio.features import rasterize

    count = len(polygons)
    if not count:
        return np.zeros(0, np.int64), np.zeros(0)
    numbers = rasterize(
        zip(polygons, range(1, count + 1), strict=True), labels.shape, dtype="int32"
    )
    pixels, known, total = (np.zeros(count + 1) for _ in range(3))
    step = max(max(COUNTED, count) // labels.shape[1], 1)
    for rows in (slice(top, top + step) for top in range(0, len(labels), step)):
        own = numbers[rows].ravel()
        pixels += np.bincount(own, minlength=count + 1)
        if sure is not None:
            value = sure[rows].ravel()
            counted = (value != UNKNOWN) & same[rows].ravel()
            known += np.bincount(own, counted, count + 1)
            total += np.bincount(own, np.where(counted, value, 0), count + 1)
    mean = np.divide(total, CERTAIN * known, out=np.full(count + 1, np.nan), where=known > 0)
    return pixels[1:].astype(np.int64), mean[1:]
