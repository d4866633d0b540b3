"""Exact tiles: the coarse scores of a large image, worked out window by window.

A tile begins at a multiple of the coarsest stride, so that each of its cells is a cell of the whole
image; and it reaches as far around the cells that are taken of it as they see. What is taken
depends on nothing outside the tile, and so is what the whole image would give.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import TYPE_CHECKING

from torch import Tensor

from fullconv.geometry import SkipGeometry
from fullconv.net.head import Size

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN, Pixels
    from fullconv.predict.scenes import Scene


@dataclass(frozen=True)
class Span:
    """A tile along one axis.

    Attributes:
        pixels: what the net is given.
        cells: the coarse cells of the whole image that are taken of it.
        first: which of its own cells is the first of them.
    """

    pixels: range
    cells: range
    first: int


def spans(geometry: SkipGeometry, size: int, most: int) -> list[Span] | None:
    """Divide an axis into tiles.

    Args:
        geometry: of the net, along this axis.
        size: of the image in pixels.
        most: how many pixels a tile may have.

    Returns:
        None where that can't be: a layer depends on the whole image, or a single cell on more
        pixels.
    """
    count = geometry.fused[-1].cells(geometry.covering_size(size))
    found: list[Span] = []
    first = 0
    while first < count:
        start = _span(geometry, size, first, first)
        if start is None:
            return None

        def length(last: int, first: int = first) -> int:
            span = _span(geometry, size, first, last)
            assert span is not None
            return len(span.pixels)

        stop = bisect_right(range(first, count), most, key=length) + first
        if stop == first:
            return None
        span = _span(geometry, size, first, stop - 1)
        assert span is not None
        found.append(span)
        first = stop
    return found


def _span(geometry: SkipGeometry, size: int, first: int, last: int) -> Span | None:
    """Return the tile of some cells, the last one included."""
    seen = geometry.pixels_of_cells(first, last, size)
    if seen is None:
        return None
    coarsest = geometry.grids[0].stride
    begin = seen[0] // coarsest * coarsest
    cells_before = begin * geometry.pixels.stride // geometry.fused[-1].stride
    return Span(range(begin, seen[1] + 1), range(first, last + 1), first - cells_before)


@dataclass(frozen=True)
class Tiles:
    """A division of images of one size into tiles.

    Attributes:
        rows, columns: along each axis.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def of(cls, net: FCN, size: Size, most: int) -> Tiles | None:
        """Divide images of a size (H, W) into tiles of `most` pixels; None where that can't be."""
        side = isqrt(most)
        height = min(side, size[0]) if size[0] <= size[1] else most // min(side, size[1])
        rows = spans(net.vertical, size[0], max(height, 1))
        columns = spans(net.horizontal, size[1], max(most // max(height, 1), 1))
        return cls(tuple(rows), tuple(columns)) if rows and columns else None

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        """Yield the tiles, down and across."""
        return product(self.rows, self.columns)

    @property
    def largest(self) -> Size:
        """Height and width, in pixels, that no tile exceeds."""
        rows, columns = (
            max(len(each.pixels) for each in axis) for axis in (self.rows, self.columns)
        )
        return rows, columns

    def coarse(
        self, scene: Scene, engine: Callable[[Pixels], Mapping[str, Tensor]], *, mirrored: bool
    ) -> dict[str, Tensor]:
        """Return the coarse scores of a scene, 1 x C x h x w by head.

        Args:
            scene: of the size that this is a division of.
            engine: gives those of a tile.
            mirrored: whether they are of its left-right mirror.
        """
        whole: dict[str, Tensor] = {}
        shape = (self.rows[-1].cells.stop, self.columns[-1].cells.stop)
        for down, across in self:
            for name, scores in engine(read(scene, down.pixels, across.pixels, mirrored)).items():
                if name not in whole:
                    whole[name] = scores.new_empty(*scores.shape[:2], *shape)
                taken = scores[..., _taken(down), _taken(across)]
                whole[name][..., _slice(down.cells), _slice(across.cells)] = taken
        return whole


def read(scene: Scene, rows: range, columns: range, mirrored: bool) -> Pixels:
    """Read a window of a scene, or of its left-right mirror."""
    if not mirrored:
        return scene.read(rows, columns)
    width = scene.size[1]
    pixels = scene.read(rows, range(width - columns.stop, width - columns.start))
    return pixels[:, ::-1]


def _slice(cells: range) -> slice:
    return slice(cells.start, cells.stop)


def _taken(span: Span) -> slice:
    return slice(span.first, span.first + len(span.cells))
