"""Ways through a raster from the top on, a row of tiles at a time: tile by tile, or by strips.

Either says which windows it needs, in order, so that they are read ahead; and gives the coarse
scores of a row of tiles when it gets these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from fullconv.base.runtime import release_freed_memory
from fullconv.net.strips import Strip, Strips
from fullconv.predict.tiles import Tiles

if TYPE_CHECKING:
    from fullconv.net.described import Pixels


class Piece(NamedTuple):
    """A window of a raster.

    Attributes:
        rows: of pixels.
        columns: likewise.
        mirrored: whether they are of the raster's left-right mirror.
    """

    rows: range
    columns: range
    mirrored: bool


Arriving = Iterator[tuple[Piece, "Pixels"]]


class Scored(NamedTuple):
    """The coarse scores of a tile.

    Attributes:
        column: which one of its row.
        view: 0 is the raster, 1 its mirror.
        scores: 1 x C x h x w by head.
    """

    column: int
    view: int
    scores: dict[str, Tensor]


class Pass(Protocol):
    """A way through a raster."""

    def pieces(self, first: int) -> Iterator[Piece]:
        """Begin at a row of tiles; yield the windows that are to be read, in order."""

    def stop(self, index: int) -> int:
        """Return up to which row of pixels a row of tiles has been read."""

    def scores(self, index: int, arriving: Arriving) -> Iterator[Scored]:
        """Yield the scores of a row of tiles, column by column.

        Args:
            index: of the row.
            arriving: the windows, from the first of this row on.
        """


@dataclass
class ByTiles:
    """Each tile by itself, with its margins.

    Attributes:
        engine: what works out its scores.
        tiles: the division.
        views: 1, or 2 with the mirror.
    """

    engine: Callable[[Pixels], dict[str, Tensor]]
    tiles: Tiles
    views: int
    _shape: tuple[int, ...] = ()

    def pieces(self, first: int) -> Iterator[Piece]:
        """Yield each tile from a row of them on."""
        for down in self.tiles.rows[first:]:
            for across in self.tiles.columns:
                for view in range(self.views):
                    yield Piece(down.pixels, across.pixels, mirrored=bool(view))

    def stop(self, index: int) -> int:
        """Return where a row of tiles ends."""
        return self.tiles.rows[index].pixels.stop

    def scores(self, index: int, arriving: Arriving) -> Iterator[Scored]:  # noqa: ARG002
        """Yield the scores of each tile of a row."""
        for column in range(len(self.tiles.columns)):
            for view in range(self.views):
                _, pixels = next(arriving)
                if pixels.shape != self._shape:
                    release_freed_memory()
                    self._shape = pixels.shape
                yield Scored(column, view, self.engine(pixels))


class ByStrips:
    """Strips of a few rows, whose layers go on where those of the strip above ended.

    Only the tiles' left and right margins are worked out twice.
    """

    def __init__(self, strips: Strips, tiles: Tiles, height: int, views: int) -> None:
        """Settle how to go.

        Args:
            strips: the net.
            tiles: the division.
            height: of a strip in pixels, a multiple of ``strips.step``.
            views: 1, or 2 with the mirror.
        """
        self._strips, self._tiles, self._height, self._views = strips, tiles, height, views
        self._begin, self._come, self._open = 0, 0, dict[tuple[int, int], Strip]()

    def pieces(self, first: int) -> Iterator[Piece]:
        """Begin with what a row of tiles sees; return its strips, and those of the next ones."""
        rows, columns = self._tiles.rows, self._tiles.columns
        self._begin = self._come = rows[first].pixels.start
        height = rows[-1].pixels.stop - self._begin
        each = [(column, view) for column in range(len(columns)) for view in range(self._views)]
        self._open = {place: Strip(self._strips, height) for place in each}
        stops = [self._begin, *map(self.stop, range(first, len(rows)))]
        return (
            Piece(
                range(top, min(top + self._height, stop)),
                columns[column].pixels,
                mirrored=bool(view),
            )
            for begin, stop in pairwise(stops)
            for top in range(begin, stop, self._height)
            for column, view in each
        )

    def stop(self, index: int) -> int:
        """Return where the last strip of a row of tiles ends."""
        rows, step = self._tiles.rows, self._strips.step
        return min(-(-rows[index].pixels.stop // step) * step, rows[-1].pixels.stop)

    def scores(self, index: int, arriving: Arriving) -> Iterator[Scored]:
        """Yield the scores of a row of tiles when its last strip has come."""
        rows, stop = self._tiles.rows, self.stop(index)
        while self._come < stop:
            for strip in self._open.values():
                piece, pixels = next(arriving)
                strip.add(pixels, at_once=piece.rows.stop == stop)
            self._come = piece.rows.stop
        seen = rows[index].pixels
        tile = range(seen.start - self._begin, seen.stop - self._begin)
        later = rows[min(index + 1, len(rows) - 1)].pixels.start - self._begin
        for (column, view), strip in self._open.items():
            yield Scored(column, view, strip.coarse(tile, later))
