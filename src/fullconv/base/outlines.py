"""A label map as polygons of few points, whose neighbours share their sides exactly."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.fill import Ring, covered
from fullconv.base.shapes import polygons

_OUTSIDE = -1
_PASSES = 3  # after which specks are left that only have specks beside them

Points = NDArray[np.int64]  # of corners of pixels, n x 2, x and y


class LabelledRegion(NamedTuple):
    """A part of a label map that hangs together over the sides of its pixels.

    Attributes:
        label: what its pixels have.
        rim: its outer ring.
        holes: the inner ones.
    """

    label: int
    rim: Ring
    holes: tuple[Ring, ...]


def without_specks(labels: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """Return a label map, H x W, whose regions of fewer pixels got the label above or left of them.

    What surrounds a speck, or lies above its topmost pixel, takes it; at the upper border what lies
    to its left, and in the corner nothing.
    """
    labels = labels.copy()
    size = (labels.shape[0], labels.shape[1])
    for _ in range(_PASSES):
        changed = False
        for label in np.unique(labels).tolist():
            for region in polygons(labels == label):
                rings = [region.rim, *region.holes]
                if abs(sum(map(_area, rings))) >= least:
                    continue
                x, y = region.rim[0].tolist()
                if y == x == 0:
                    continue
                found = covered([ring.astype(np.float64) for ring in rings], size)
                box = labels[found.y :, found.x :][: found.pixels.shape[0], : found.pixels.shape[1]]
                box[found.pixels] = labels[y - 1, x] if y else labels[y, x - 1]
                changed = True
        if not changed:
            break
    return labels


def outlines(labels: NDArray[np.uint8], tolerance: float) -> list[LabelledRegion]:
    """Return the regions of a label map, H x W, those with the larger rims first.

    A line between two labels is thinned once, from the point where a third one begins to the next
    one; so both have the same points, and no gap or overlap comes between them.

    Args:
        labels: the map.
        tolerance: how far, in pixels, a point that is left out may lie from the line without it. 0
            leaves out only those on straight lines.
    """
    corners = _junctions(labels)
    found = [
        LabelledRegion(
            label,
            _thinned(region.rim, corners, tolerance),
            tuple(
                ring
                for hole in region.holes
                if len(ring := _thinned(hole, corners, tolerance)) >= 3
            ),
        )
        for label in np.unique(labels).tolist()
        for region in polygons(labels == label)
    ]
    drawable = [region for region in found if len(region.rim) >= 3]
    return sorted(drawable, key=lambda region: -abs(_area(region.rim)))


def _area(ring: NDArray[np.int64] | Ring) -> float:
    """Return the area within a ring, negative for a hole."""
    x, y = ring.astype(np.float64).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def _junctions(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark the corners of pixels, H + 1 x W + 1, where lines between labels meet or turn back.

    There three labels meet, or two that touch in the corner alone; also the image's own corners.
    """
    around = np.pad(labels.astype(np.int16), 1, constant_values=_OUTSIDE)
    four = np.stack((around[:-1, :-1], around[:-1, 1:], around[1:, :-1], around[1:, 1:]))
    ordered = np.sort(four, axis=0)
    different = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    touching = (four[0] == four[3]) & (four[1] == four[2]) & (four[0] != four[1])
    marked: NDArray[np.bool_] = (different >= 3) | touching
    marked[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return marked


def _thinned(ring: Points, junctions: NDArray[np.bool_], tolerance: float) -> Ring:
    """Thin a ring between its junctions."""
    points = _each_step(ring)
    fixed = np.flatnonzero(junctions[points[:, 1], points[:, 0]])
    if not len(fixed):  # begin where its neighbour does, too
        fixed = np.array([np.lexsort((points[:, 0], points[:, 1]))[0]])
    points = np.roll(points, -fixed[0], axis=0)
    ends = [*(fixed - fixed[0]).tolist(), len(points)]
    closed = np.concatenate((points, points[:1]))
    parts = [_line(closed[begin : end + 1], tolerance)[:-1] for begin, end in pairwise(ends)]
    return np.concatenate(parts).astype(np.float64)


def _each_step(ring: Points) -> Points:
    """Return a ring's points at each pixel's corner on the way."""
    steps = np.roll(ring, -1, axis=0) - ring
    lengths = np.abs(steps).sum(1)
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    along = np.arange(lengths.sum()) - before
    moved: Points = np.repeat(ring, lengths, axis=0)
    moved += np.repeat(np.sign(steps), lengths, axis=0) * along[:, None]
    return moved


def _line(points: Points, tolerance: float) -> Points:
    """Thin a line (Douglas and Peucker), the same whichever end it is begun from."""
    backwards = tuple(points[-1].tolist()) < tuple(points[0].tolist())
    is_ring = bool((points[0] == points[-1]).all())
    if is_ring:  # its direction tells which side it is seen from
        backwards = _area(points) < 0
    line = points[::-1] if backwards else points
    kept = np.zeros(len(line), bool)
    kept[[0, -1]] = True
    todo = [(0, len(line) - 1)]
    while todo:
        begin, end = todo.pop()
        if end - begin < 2:
            continue
        distances = _distances(line[begin + 1 : end], line[begin], line[end])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = begin + 1 + farthest
            kept[middle] = True
            todo += [(begin, middle), (middle, end)]
    thin = line[kept]
    return thin[::-1] if backwards else thin


def _distances(points: Points, begin: Points, end: Points) -> NDArray[np.float64]:
    """Return the distances of points from the line from `begin` to `end`."""
    along = (end - begin).astype(np.float64)
    length = float(np.hypot(*along))
    x, y = (points - begin).T
    if not length:
        from_begin: NDArray[np.float64] = np.hypot(x, y)
        return from_begin
    found: NDArray[np.float64] = np.abs(along[0] * y - along[1] * x) / length
    return found
