"""Which tiles a raster is cut into, and which split each goes to, without neighbours elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fullconv.data.folder import SPLITS
from fullconv.datasets.formats.splitting import Shares, divide


class Tile(NamedTuple):
    """A window of a raster.

    Attributes:
        raster: its number.
        block: of tiles that stay together, by raster, row and column.
        rows: of pixels.
        columns: likewise.
    """

    raster: int
    block: tuple[int, int, int]
    rows: range
    columns: range


def tiles_of(
    raster: int, size: Sequence[int], side: int, overlap: int = 0, block: int = 1
) -> list[Tile]:
    """Return the tiles of a raster, row by row.

    The last ones lie at its borders, and overlap those before by more, where it is no multiple. A
    raster that is smaller than a tile is one.

    Args:
        raster: its number.
        size: height and width in pixels.
        side: of a tile in pixels.
        overlap: of tiles, in pixels.
        block: side of a block, in tiles; the last one takes what is left over.
    """
    spans = [_spans(length, side, overlap) for length in size]
    blocks = [
        [min(at // block, max(len(own) // block - 1, 0)) for at in range(len(own))] for own in spans
    ]
    return [
        Tile(raster, (raster, blocks[0][i], blocks[1][j]), rows, columns)
        for i, rows in enumerate(spans[0])
        for j, columns in enumerate(spans[1])
    ]


def _spans(length: int, side: int, overlap: int) -> list[range]:
    starts = list(range(0, max(length - side, 0) + 1, side - overlap))
    if starts[-1] + side < length:
        starts.append(length - side)
    return [range(start, min(start + side, length)) for start in starts]


def splits_of(
    tiles: Mapping[Tile, Collection[int]], shares: Shares, seed: int = 0
) -> dict[Tile, str]:
    """Return the split of each tile: that of its block, so that each gets its share of each class.

    Args:
        tiles: the classes that each has.
        shares: of train, val and test.
        seed: another seed, another choice.
    """
    classes: dict[tuple[int, int, int], set[int]] = {}
    for tile, own in tiles.items():
        classes.setdefault(tile.block, set()).update(own)
    names = {f"/{r:06d} {i:06d} {j:06d}": (r, i, j) for r, i, j in classes}
    dealt = divide({name: classes[block] for name, block in names.items()}, shares, seed)
    by_block = {names[name]: split for name, split in dealt.items()}
    return {tile: by_block[tile.block] for tile in tiles}


def beside_others(splits: Sequence[str], outlines: Sequence[Any], distance: float) -> set[int]:
    """Return which tiles are to be left out so that no split has a neighbour in another.

    Of two neighbours that of train goes, else that of val.

    Args:
        splits: of each tile.
        outlines: their polygons (shapely), in one plane.
        distance: how far apart tiles of different splits must be at least, in its unit.
    """
    from shapely import STRtree

    ranks = np.array([SPLITS.index(split) for split in splits])
    polygons = np.array(outlines, np.object_)
    one, other = STRtree(polygons).query(polygons, "dwithin", distance)
    return set(one[ranks[one] < ranks[other]].tolist())
