"""Polygons of a raster on the earth: in longitudes and latitudes, and how large they are there.

A side that is straight in the raster's system is curved on the earth, as a parallel is in UTM, and
may go over a pole or over 180 degrees. So sides are divided, as often as it makes a difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.predict.coordinates import WGS84, Coordinates, between
from fullconv.predict.regions import Geometries

DECIMALS = 9  # of a degree: a tenth of a millimetre
EXACT = 12  # decimals by which what is moved by 360 degrees meets what isn't
MOST = 64  # parts that a side is divided into at a time
EQUATOR, FLATTENING = 6_378_137.0, 1 / 298.257223563  # of WGS84, in metres
HALF_TURN, TURN, POLE = 180.0, 360.0, 90.0  # degrees


def on_earth(outlines: Geometries, crs: Any, within: float) -> Geometries:
    """Return polygons in longitudes and latitudes of WGS84, cut where these jump: at 180 degrees.

    Sides that lie where they belong stay as they are. A polygon about a pole reaches up to it.

    Args:
        outlines: n polygons (shapely), in the system's coordinates, which are right-handed.
        crs: the system.
        within: how far beside where it belongs a side may lie, in the system's units.

    Raises:
        FullconvError: coordinates can't be brought to longitudes and latitudes.
    """
    import shapely

    if not len(outlines):
        return outlines
    rings, polygon = shapely.get_rings(outlines, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points, ring = _divided(points, ring, crs, within)
    found = _degrees(points, ring, crs)
    placed: Geometries = shapely.polygons(shapely.linearrings(found, indices=ring), indices=polygon)
    ends = np.searchsorted(ring, np.arange(len(rings) + 1))
    around = np.abs(found[ends[1:] - 1, 0] - found[ends[:-1], 0]) > HALF_TURN
    beyond = np.abs(found[:, 0]).round(DECIMALS) > HALF_TURN
    for at in np.union1d(polygon[around], polygon[ring[beyond]]).tolist():
        shell, *holes = (
            _cut(found[ends[each] : ends[each + 1]], bool(shapely.is_ccw(rings[each])))
            for each in np.flatnonzero(polygon == at).tolist()
        )
        placed[at] = shell.difference(shapely.union_all(holes))
    return placed


def areas_of(outlines: Geometries) -> NDArray[np.float64]:
    """Return the areas of polygons in longitudes and latitudes, in square metres.

    They are those of the equal-area cylindrical projection, whose height is an area by radian.
    """
    import shapely

    squared = FLATTENING * (2 - FLATTENING)
    eccentricity = np.sqrt(squared)

    def plane(points: Coordinates) -> Coordinates:
        sine = np.sin(np.radians(points[:, 1]))
        height = sine / (1 - squared * sine**2) + np.arctanh(eccentricity * sine) / eccentricity
        height *= EQUATOR**2 * (1 - squared) / 2
        return np.stack([np.radians(points[:, 0]), height], 1)

    areas: NDArray[np.float64] = shapely.area(shapely.transform(outlines, plane))
    return areas


def _divided(
    points: Coordinates, ring: NDArray[np.int64], crs: Any, within: float
) -> tuple[Coordinates, NDArray[np.int64]]:
    """Divide the sides of rings until all lie where they belong."""
    while True:
        parts = _parts(points, ring, crs, within)
        if (parts == 1).all():
            return points, ring
        times = np.append(parts, 1)
        step = np.arange(times.sum()) - np.repeat(times.cumsum() - times, times)
        sides = np.append(np.diff(points, axis=0), [[0.0, 0.0]], 0)
        share = (step / np.repeat(times, times))[:, None]
        points = np.repeat(points, times, 0) + share * np.repeat(sides, times, 0)
        ring = np.repeat(ring, times)


def _parts(
    points: Coordinates, ring: NDArray[np.int64], crs: Any, within: float
) -> NDArray[np.int64]:
    """Return into how many parts each side is to be divided, by how far its middle lies off.

    That falls with the square of their number, but not over a pole, which lies far off; there
    a side is divided until it is short itself.
    """
    is_side = ring[1:] == ring[:-1]  # and no way from one ring to the next
    found, ends = _degrees(points, ring, crs), np.where(is_side[:, None], points[1:], points[:-1])
    true = between(crs, WGS84)((points[:-1] + ends) / 2)
    off = true - (found[:-1] + found[1:]) / 2
    off[:, 0] -= TURN * np.round(off[:, 0] / TURN)
    narrow = np.stack([np.cos(np.radians(true[:, 1])), np.ones(len(true))], 1)
    off, side = off * narrow, np.diff(found, axis=0) * narrow
    long, shown = np.hypot(*np.diff(points, axis=0).T), np.hypot(*side.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        beside = np.abs(off[:, 0] * side[:, 1] - off[:, 1] * side[:, 0]) / shown**2 * long
    wrong = (beside > within) | (np.hypot(*off.T) > shown / 4)
    wrong &= is_side & (long > 2 * within)
    parts = np.sqrt(np.nan_to_num(beside, nan=np.inf) / within)
    return np.where(wrong, np.ceil(np.clip(parts, 2, MOST)), 1).astype(np.int64)


def _degrees(points: Coordinates, ring: NDArray[np.int64], crs: Any) -> Coordinates:
    """Return rings in longitudes and latitudes; longitudes go on beyond 180, and don't jump."""
    found = between(crs, WGS84)(points)
    jumps = TURN * np.round(np.diff(found[:, 0]) / TURN) * (ring[1:] == ring[:-1])
    turns = np.append(0.0, jumps.cumsum())
    found[:, 0] -= turns - turns[np.searchsorted(ring, ring)]
    return found


def _cut(ring: Coordinates, counterclockwise: bool) -> Any:
    """Return what is in a ring between longitudes of -180 and 180.

    Args:
        ring: its longitudes don't jump.
        counterclockwise: whether it is in its own system: the pole that is inside is on its left.
    """
    import shapely

    turn = ring[-1, 0] - ring[0, 0]
    if abs(turn) > HALF_TURN:
        pole = POLE if (turn > 0) == counterclockwise else -POLE
        ring = np.append(ring, [[ring[-1, 0], pole], [ring[0, 0], pole]], 0)
    whole = shapely.make_valid(shapely.Polygon(ring))
    first, last = np.floor((np.array([ring[:, 0].min(), ring[:, 0].max()]) + HALF_TURN) / TURN)
    parts = []
    for at in TURN * np.arange(first, last + 1):
        inside = whole.intersection(shapely.box(at - HALF_TURN, -POLE, at + HALF_TURN, POLE))
        pieces = shapely.get_parts(inside)
        pieces = pieces[shapely.get_dimensions(pieces) == 2]
        parts += list(
            shapely.transform(pieces, lambda points, at=at: (points - [at, 0]).round(EXACT))
        )
    return shapely.union_all(parts)
