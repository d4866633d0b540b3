"""Which pixels a polygon covers: by pixel centres, or its outline too, as PIL draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Fill = Literal["centres", "outline"]
Ring = NDArray[np.float64]  # corners x 2: x to the right and y down, in pixels; not closed

_AT_ONCE = 1 << 20  # crossings of sides with rows of pixels
_MOST = 1 << 30  # crossings of a polygon
_FARTHEST = 1e7  # pixels from the image's corner that a corner may lie


class Covered(NamedTuple):
    """The pixels that something covers, in the box around them.

    Attributes:
        y: row of the image of the box's first row.
        x: column likewise.
        pixels: bool H x W of the box, which lies inside the image.
    """

    y: int
    x: int
    pixels: NDArray[np.bool_]


NOTHING = Covered(0, 0, np.zeros((0, 0), bool))


def as_ring(points: Sequence[Sequence[float]] | NDArray[np.float64]) -> Ring:
    """Return points, n x 2, as a ring.

    Raises:
        ValueError: fewer than 3 points, no pairs of finite numbers, or far from any image.
    """
    try:
        ring = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        raise ValueError("a polygon whose points are no pairs of numbers") from None
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise ValueError("a polygon whose points are no pairs of numbers")
    if len(ring) < 3:
        raise ValueError(f"a polygon of {len(ring)} points; it needs 3")
    if not (np.abs(ring) <= _FARTHEST).all():
        raise ValueError("a polygon with a point far from the image, or at none")
    return ring


def covered(rings: Sequence[Ring], size: tuple[int, int], fill: Fill = "centres") -> Covered:
    """Return the pixels of an image that lie inside an odd number of rings.

    Pixel (x, y) is the square from there to (x + 1, y + 1). By "centres" it is covered where its
    centre is inside; of a centre on a side, the pixel to its right or below counts. By "outline"
    corners are the centres of pixels, and the pixels on the sides count, too: PIL draws so, and
    labelme with it; of several rings only what the later ones have more than their sides is cut
    out. The square from (10, 10) to (20, 20) is 100 pixels by the first and 121 by the second.

    Args:
        rings: a polygon, then its holes.
        size: height and width of the image.
        fill: the rule.

    Raises:
        ValueError: it has more sides by rows than any drawn by people.
    """
    corners = np.concatenate(rings)
    margin = 1 if fill == "outline" else 0
    left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int).tolist()
    right, bottom = (np.ceil(corners.max(0)) + margin).astype(int).tolist()
    right, bottom = min(right, size[1]), min(bottom, size[0])
    if left >= right or top >= bottom:
        return NOTHING
    box = _Box(top, left, bottom, right)
    pixels = _by_outline(rings, box) if fill == "outline" else _by_centres(rings, box)
    return Covered(top, left, pixels)


class _Box(NamedTuple):
    """Rows and columns of pixels, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int


def _by_centres(rings: Sequence[Ring], box: _Box) -> NDArray[np.bool_]:
    """Turn at each crossing of a side with the line through a row's centres.

    Corners are not moved into the box: of a side that two polygons share, rounding would make two.
    """
    height, width = box.bottom - box.top, box.right - box.left
    turns = np.zeros(height * (width + 1), np.uint8)
    for rows, columns in _crossings(rings, box):
        places = rows * (width + 1) + columns
        found, times = np.unique(places, return_counts=True)
        turns[found] ^= (times & 1).astype(np.uint8)
    by_row = turns.reshape(height, width + 1)[:, :width]
    return np.bitwise_xor.accumulate(by_row, axis=1).astype(bool)


def _crossings(
    rings: Sequence[Ring], box: _Box
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield rows and the first columns whose centres are not left of the side, within the box.

    A side from y0 to y1 crosses the rows whose centres are at y0 or more, and less than y1.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    upwards = starts[:, 1] > ends[:, 1]
    upper, lower = np.where(upwards[:, None], (ends, starts), (starts, ends))
    first = np.clip(np.ceil(upper[:, 1] - 0.5), box.top, box.bottom).astype(np.int64)
    counts = np.clip(np.ceil(lower[:, 1] - 0.5), box.top, box.bottom).astype(np.int64) - first
    crossing = np.flatnonzero(counts > 0)
    if counts[crossing].sum() > _MOST:
        raise ValueError(f"a polygon of {len(starts):,} points, all across the image")
    parts = np.cumsum(counts[crossing]) // _AT_ONCE
    for part in np.unique(parts):
        sides = crossing[parts == part]
        times = counts[sides]
        side = np.repeat(sides, times)
        before = np.repeat(np.cumsum(times) - times, times)
        rows = first[side] + np.arange(len(side)) - before
        (x0, y0), (x1, y1) = upper[side].T, lower[side].T
        x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(x - 0.5), box.left, box.right).astype(np.int64)
        yield rows - box.top, columns - box.left


def _by_outline(rings: Sequence[Ring], box: _Box) -> NDArray[np.bool_]:
    canvas = Image.new("1", (box.right - box.left, box.bottom - box.top))
    draw = ImageDraw.Draw(canvas)
    for at, ring in enumerate(rings):
        points = (ring - (box.left, box.top)).ravel().tolist()
        draw.polygon(points, fill=int(at == 0), outline=1)
    return np.array(canvas, bool)
