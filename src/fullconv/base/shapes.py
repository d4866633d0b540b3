"""A mask of pixels as run lengths, or as polygons along the pixels' sides; exact both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Ring = NDArray[np.int64]  # corners x 2: x to the right and y down, in pixels; not closed


class Polygon(NamedTuple):
    """What hangs together over the sides of its pixels.

    On its way round, each ring has the region to its right: `rim` runs clockwise on the screen,
    `holes` against that. Each begins at its topmost corner, of these the leftmost. Rings may touch
    one another in single corners, but none touches itself.

    Attributes:
        rim: corners of the outer ring, n x 2, x and y; the first one is not repeated.
        holes: likewise.
    """

    rim: Ring
    holes: tuple[Ring, ...]


def run_lengths(mask: Mask) -> list[int]:
    """Return how many pixels in turn are not, and are, of a mask H x W, column by column.

    So does COCO without compression: the first number is of pixels outside, if only 0.
    """
    values = mask.ravel(order="F")
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    first = [0] if values.size and values[0] else []
    ends = np.array([*first, *changes.tolist(), values.size])
    return [int(length) for length in np.diff(ends, prepend=0)]


def mask_of_runs(lengths: Sequence[int], size: tuple[int, int]) -> Mask:
    """Return the mask H x W of which these are the `run_lengths`.

    Raises:
        ValueError: a length is negative, or they are not as many pixels as there are in `size`.
    """
    if any(length < 0 for length in lengths) or sum(lengths) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(lengths)} pixels for {size[0]} x {size[1]}")
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape(size, order="F")


def polygons(mask: Mask) -> list[Polygon]:
    """Return the regions of a mask H x W, in the order of their topmost, leftmost corners.

    Sides lie between the corners of a row of them in pairs, the first with the second, and likewise
    in a column: that gives the rings, without a walk along the pixels.
    """
    corners = _Corners.of(mask)
    found: list[list[Ring]] = []  # of each region the rim, and its holes
    region_of = np.zeros(len(corners.places), np.int64)
    for ring, is_rim in corners.rings(mask):
        rim_or_holes = [corners.places[loop, ::-1] for loop in corners.loops(ring)]
        if is_rim:
            region_of[ring] = len(found)
            found.append(rim_or_holes)
        else:
            region = region_of[corners.left_of(mask, *corners.places[ring[0]])]
            region_of[ring] = region
            found[region] += rim_or_holes
    return [Polygon(rim, tuple(holes)) for rim, *holes in found]


@dataclass(frozen=True)
class _Corners:
    """Where the sides of a mask's regions turn.

    Where two pixels touch in a corner alone there are two: first that to whose left a side ends,
    then that to whose right one begins.

    Attributes:
        places: y and x, n x 2, sorted so.
        by_column: their indices, sorted by x, then y.
        keys: what they are sorted by there.
    """

    places: NDArray[np.int64]
    by_column: NDArray[np.int64]
    keys: NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask) -> _Corners:
        """Find the corners of a mask."""
        around = np.pad(mask, 1)
        upper_left, upper_right = around[:-1, :-1], around[:-1, 1:]
        lower_left, lower_right = around[1:, :-1], around[1:, 1:]
        odd = upper_left ^ upper_right ^ lower_left ^ lower_right
        touching = (upper_left == lower_right) & (upper_right == lower_left)
        touching &= upper_left != upper_right
        places = np.argwhere(odd | touching)
        doubled = touching[tuple(places.T)]
        places = np.repeat(places, 1 + doubled, axis=0)
        # Of two in a place, one has the side above: if the pixels lie at the upper left and the
        # lower right, it is that with the side to the left.
        is_second = np.zeros(len(places), bool)
        is_second[1:] = (places[1:] == places[:-1]).all(1)
        is_lower = touching[tuple(places.T)] & (is_second ^ lower_left[tuple(places.T)])
        keys = places[:, 1] * len(around) + places[:, 0]
        by_column = np.lexsort((is_lower, keys))
        return cls(places, by_column, keys[by_column])

    def rings(self, mask: Mask) -> Iterator[tuple[list[int], bool]]:
        """Yield each ring's corners in turn, and whether it is a rim; from the top."""
        count = len(self.places)
        across = (np.arange(count) ^ 1).tolist()
        along = np.empty(count, np.int64)
        along[self.by_column] = self.by_column[across]
        ways = across, along.tolist()
        # At its topmost, leftmost corner a rim has its region at the lower right, a hole has not.
        rims = np.pad(mask, ((0, 1), (0, 1)))[tuple(self.places.T)].tolist()
        seen = bytearray(count)
        for start in range(count):
            if seen[start]:
                continue
            first, second = ways if rims[start] else ways[::-1]
            ring, at = [start], first[start]
            while at != start:
                ring.append(at)
                at = (second if len(ring) % 2 == 0 else first)[at]
            for corner in ring:
                seen[corner] = 1
            yield ring, rims[start]

    def loops(self, ring: list[int]) -> list[list[int]]:
        """Divide a ring where it touches itself; the loop with its first corner comes first.

        The others lie inside of a rim, as holes do; or they are parts of a hole.
        """
        loops: list[list[int]] = []
        path: list[int] = []
        met: dict[tuple[int, ...], int] = {}  # where in the path a place is
        places = dict(zip(ring, map(tuple, self.places[ring].tolist()), strict=True))
        for corner, place in places.items():
            if place in met:
                loop = path[met[place] :]
                del path[met[place] :]
                for each in loop:
                    del met[places[each]]
                first = loop.index(min(loop))
                loops.append(loop[first:] + loop[:first])
            met[place] = len(path)
            path.append(corner)
        return [path, *loops]

    def left_of(self, mask: Mask, y: int, x: int) -> int:
        """Return a corner of the side that the region above a hole's first corner begins with."""
        outside = np.flatnonzero(~mask[y - 1, :x])
        begins = int(outside[-1]) + 1 if len(outside) else 0
        key = begins * (mask.shape[0] + 2) + y - 1
        return int(self.by_column[np.searchsorted(self.keys, key, side="right") - 1])
