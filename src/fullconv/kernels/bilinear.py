"""Where the pixels of an enlarged map lie among its coarse cells: what both kernels share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fullconv.geometry import Edge

BYTE_CLASSES = 256  # labels of up to so many classes are bytes

Offset = float | tuple[float, float] | None


@dataclass(frozen=True)
class Axis:
    """Bilinear interpolation along one axis: pixel y samples coordinate ``(y + offset) / factor``.

    Attributes:
        cells: length of the coarse map.
        factor: pixels between neighbouring cells.
        size: number of pixels.
        offset: None means ``(1 - factor) / 2``, which torch calls ``align_corners=False``.
    """

    cells: int
    factor: int
    size: int
    offset: float

    @classmethod
    def of(cls, cells: int, factor: int, size: int, offset: float | None) -> Axis:
        """Check and complete the arguments; ValueError where they are no enlargement."""
        if factor < 1 or size < 1 or cells < 1:
            raise ValueError(f"factor {factor}, size {size} and {cells} cells must be 1 or more")
        return cls(cells, factor, size, (1 - factor) / 2 if offset is None else float(offset))

    @property
    def first(self) -> int:
        """The lowest cell that a pixel reads; negative ones lie beyond the map."""
        return self._lower(0)

    @property
    def last(self) -> int:
        """The highest cell that a pixel reads (of a pixel on a cell, the one above counts)."""
        return self._lower(self.size - 1) + 1

    @property
    def count(self) -> int:
        """How many cells pixels read, those beyond the map included."""
        return self.last - self.first + 1

    @property
    def sees_map(self) -> bool:
        """Whether any pixel reads a cell of the map itself."""
        return self.first < self.cells and self.last >= 0

    def lower(self) -> Tensor:
        """Return int64 (size,): the cell at or below each pixel, counted from `first`."""
        return self._coordinates().floor().long() - self.first

    def fraction(self) -> Tensor:
        """Return float64 (size,): how far each pixel is from its lower cell to the next."""
        coordinates = self._coordinates()
        return coordinates - coordinates.floor()

    def _lower(self, pixel: int) -> int:
        return math.floor((pixel + self.offset) / self.factor)

    def _coordinates(self) -> Tensor:
        return (torch.arange(self.size, dtype=torch.float64) + self.offset) / self.factor


def axes(scores: Tensor, factor: int, size: tuple[int, int], offset: Offset) -> tuple[Axis, Axis]:
    """Return the vertical and horizontal axis of an enlargement of N,C,h,w scores to `size`."""
    if scores.ndim != 4:
        raise ValueError(f"scores must be N,C,h,w, not of shape {tuple(scores.shape)}")
    offsets = offset if isinstance(offset, tuple) else (offset, offset)
    vertical, horizontal = (
        Axis.of(cells, factor, length, shift)
        for cells, length, shift in zip(scores.shape[-2:], size, offsets, strict=True)
    )
    return vertical, horizontal


def extended(scores: Tensor, vertical: Axis, horizontal: Axis, edge: Edge) -> Tensor:
    """Return just the cells of N,C,h,w scores that pixels read, edges or zeros beyond the map."""
    rows, above, below = cut(vertical)
    columns, before, after = cut(horizontal)
    scores = scores[..., rows, columns]
    if edge == "zero" and not (vertical.sees_map and horizontal.sees_map):
        scores = scores * 0
    margins = (before, after, above, below)
    if not any(margins):
        return scores
    return F.pad(scores, margins, mode="replicate" if edge == "replicate" else "constant")


def cut(axis: Axis) -> tuple[slice, int, int]:
    """Return the part of the map that pixels read, at least a cell, and the margins beyond it."""
    start, stop = (min(max(end, 0), axis.cells - 1) for end in (axis.first, axis.last))
    missing = axis.count - (stop - start + 1)
    before = min(max(start - axis.first, 0), missing)
    return slice(start, stop + 1), before, missing - before


def label_type(num_classes: int) -> torch.dtype:
    """Return the type of labels of so many classes."""
    return torch.uint8 if num_classes <= BYTE_CLASSES else torch.int32
