"""Exact tiles: the coarse scores of a large image, worked out window by window.

A tile begins at a multiple of the coarsest stride, so that each of its cells is a cell of the whole
image; and it reaches as far around the cells that are taken of it as they see. What is taken
depends on nothing outside the tile, and so is what the whole image would give.

Only where it is asked for, a tile reaches less far, or its net depends on the whole image. Such
tiles are approximate, and know it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import TYPE_CHECKING

from fullconv.geometry import SkipGeometry
from fullconv.net.described import Size

if TYPE_CHECKING:
    from torch import Tensor

    from fullconv.net.described import Pixels
    from fullconv.net.fcn import FCN
    from fullconv.predict.scenes import Scene


@dataclass(frozen=True)
class Reach:
    """How far tiles reach around the cells that are taken of them.

    Attributes:
        margin: pixels; None: as far as they see.
        sliding: whether to go by what layers slide over, though some depend on the whole image.
    """

    margin: int | None = None
    sliding: bool = False


EXACT = Reach()


@dataclass(frozen=True)
class Span:
    """A tile along one axis.

    Attributes:
        pixels: what the net is given.
        cells: the coarse cells of the whole image that are taken of it.
        first: which of its own cells is the first of them.
        exact: whether they depend on no other pixels.
    """

    pixels: range
    cells: range
    first: int
    exact: bool = True

    @property
    def taken(self) -> slice:
        """Which of the tile's own cells are taken of it."""
        return slice(self.first, self.first + len(self.cells))


def spans(geometry: SkipGeometry, size: int, most: int, reach: Reach = EXACT) -> list[Span] | None:
    """Divide an axis into tiles.

    Args:
        geometry: of the net, along this axis.
        size: of the image in pixels.
        most: how many pixels a tile may have.
        reach: of the tiles.

    Returns:
        None where that can't be: a layer depends on the whole image, or a single cell on more
        pixels.
    """
    if not (reach.sliding or geometry.bounded):
        return None
    found: list[Span] = []
    count = _count(geometry, size)
    first = 0
    while first < count:

        def length(last: int, first: int = first) -> int:
            return len(_span(geometry, size, range(first, last + 1), reach).pixels)

        stop = bisect_right(range(first, count), most, key=length) + first
        if stop == first:
            return None
        found.append(_span(geometry, size, range(first, stop), reach))
        first = stop
    return found


def least_tile(geometry: SkipGeometry, size: int, reach: Reach = EXACT) -> int:
    """Return how many pixels along an axis a tile must have at least."""
    each = (range(cell, cell + 1) for cell in range(_count(geometry, size)))
    return max(len(_span(geometry, size, cells, reach).pixels) for cells in each)


def _count(geometry: SkipGeometry, size: int) -> int:
    """Return how many coarse cells an image of `size` pixels has."""
    return geometry.fused[-1].cells(geometry.covering_size(size))


def _span(geometry: SkipGeometry, size: int, cells: range, reach: Reach) -> Span:
    """Return the tile of some cells, one at least."""
    seen = geometry.pixels_of_cells(cells[0], cells[-1], size, sliding=True)
    assert seen is not None
    low, high = seen
    if reach.margin is not None:
        under = geometry.pixels_under_cells(cells[0], cells[-1], size)
        low, high = max(low, under[0] - reach.margin), min(high, under[1] + reach.margin)
    coarsest = geometry.grids[0].stride
    begin = low // coarsest * coarsest
    cells_before = begin * geometry.pixels.stride // geometry.fused[-1].stride
    exact = geometry.bounded and begin <= seen[0] and high == seen[1]
    return Span(range(begin, high + 1), cells, cells[0] - cells_before, exact)


@dataclass(frozen=True)
class Tiles:
    """A division of images of one size into tiles.

    Attributes:
        rows, columns: along each axis.
        most: height and width in pixels that a tile may have.
        reach: of the tiles.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    most: Size
    reach: Reach = EXACT

    @classmethod
    def of(cls, net: FCN, size: Size, area: int, reach: Reach = EXACT) -> Tiles | None:
        """Divide images of a size (H, W) into tiles of `area` pixels; None where that can't be."""
        side = isqrt(area)
        height = min(side, size[0]) if size[0] <= size[1] else area // min(side, size[1])
        height = max(height, 1)
        return cls.sized(net, size, (height, max(area // height, 1)), reach)

    @classmethod
    def sized(cls, net: FCN, size: Size, most: Size, reach: Reach = EXACT) -> Tiles | None:
        """Divide images of a size into tiles of a size at `most`; None where that can't be."""
        rows = spans(net.vertical, size[0], most[0], reach)
        columns = spans(net.horizontal, size[1], most[1], reach)
        return cls(tuple(rows), tuple(columns), most, reach) if rows and columns else None

    @property
    def exact(self) -> bool:
        """Whether their scores are those of the whole image."""
        return all(span.exact for span in (*self.rows, *self.columns))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.rows) * len(self.columns)

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
                taken = scores[..., down.taken, across.taken]
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
