"""Where every cell of every layer lies on the image: all of an FCN's numbers fall out of this.

A layer's cells stand on a regular grid over the image. Cell i of a `Grid` is centred on the pixel
coordinate ``stride * i + offset`` and sees the pixels from ``stride * i + first`` to
``stride * i + last`` (pixel centres are integers, 0 is the first pixel, negative ones lie in the
padding). Sliding a `Window` over one grid gives the next; this is Caffe's ``coord_map`` algebra
(``net_spec`` / ``coord_map.py``), extended by the receptive field's two ends. An `Alignment` is the
step the other way: how a transposed convolution must be sized and cropped to land coarse scores
exactly on a finer grid. Everything here is about one axis and knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from fullconv.errors import FullconvError

Edge = Literal["replicate", "zero"]


class GeometryError(FullconvError):
    """The grids of a network do not fit each other; nothing is ever rounded to make them."""


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution or pooling along one axis.

    Attributes:
        kernel: number of taps.
        stride: cells between windows.
        before, after: padding at the low and at the high end (negative: cropped).
        dilation: cells between taps.
        ceil: a last, incomplete window counts (``ceil_mode``, Caffe's pooling).
    """

    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil: bool = False

    @property
    def extent(self) -> int:
        """Cells from the first tap to the last, both included."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def keeps_size(self) -> bool:
        """Whether every input size comes out unchanged."""
        return self.stride == 1 and self.extent - 1 == self.before + self.after

    def cells(self, size: int) -> int:
        """Return the output size for an input of `size` cells, 0 where no window fits."""
        if size == 0:  # nothing comes of nothing, whatever the padding
            return 0
        free = size + self.before + self.after - self.extent
        if not self.ceil:
            return max(0, free // self.stride + 1)
        cells = -(-free // self.stride) + 1
        # As in Caffe and PyTorch, a window may not start in the padding at the far end.
        if (cells - 1) * self.stride >= size + self.before:
            cells -= 1
        return max(0, cells)

    def least_size(self, cells: int) -> int:
        """Return the smallest input size that yields `cells` (at least 1) output cells."""
        steps = self.stride * (cells - 1)
        if self.ceil:
            # The last window needs one cell to stand on, and must start before the padding.
            steps -= max(0, min(self.stride, self.extent - self.after) - 1)
        return max(1, steps + self.extent - self.before - self.after)


@dataclass(frozen=True)
class Grid:
    """The cells of a layer along one axis of the image.

    Attributes:
        stride: pixels between neighbouring cells.
        first, last: the pixels at the two ends of cell 0's receptive field.
        bounded: False where a cell also depends on the whole image (squeeze-and-excitation, group
            normalisation); `first` and `last` then describe the sliding part alone.
        windows: the windows, image first, through which sizes pass (those that keep every size
            left out).
    """

    stride: int = 1
    first: int = 0
    last: int = 0
    bounded: bool = True
    windows: tuple[Window, ...] = ()

    @property
    def offset(self) -> Fraction:
        """The pixel coordinate of cell 0's centre, a multiple of one half."""
        return Fraction(self.first + self.last, 2)

    @property
    def receptive_field(self) -> int:
        """Pixels from end to end that a cell sees, zero padding included."""
        return self.last - self.first + 1

    def through(self, window: Window) -> Grid:
        """Return the grid of a layer that slides `window` over this one."""
        reach = window.extent - 1 - window.before
        return Grid(
            stride=self.stride * window.stride,
            first=self.first - self.stride * window.before,
            last=self.last + self.stride * reach,
            bounded=self.bounded,
            windows=self.windows if window.keeps_size else (*self.windows, window),
        )

    def unbounded(self) -> Grid:
        """Return this grid for cells that depend on the whole image besides."""
        return replace(self, bounded=False)

    def cells(self, size: int) -> int:
        """Return the number of cells for an image of `size` pixels."""
        for window in self.windows:
            size = window.cells(size)
        return size

    def least_size(self, cells: int) -> int:
        """Return the smallest image size that yields at least `cells` (>= 1) cells."""
        for window in reversed(self.windows):
            cells = window.least_size(cells)
        return cells

    @property
    def shortfall(self) -> int:
        """Pixels by which the least image for n cells exceeds ``stride * n``, at worst over n."""
        return max(self.least_size(cells) - self.stride * cells for cells in range(1, 4))

    def covering_size(self, size: int) -> int:
        """Return the least size, `size` or more, at which no pixel lacks a cell.

        There is one cell per started stride of pixels then. Floor strides and unpadded layers give
        fewer, so an image is padded to this size on the right and at the bottom.
        """
        return max(size, self.stride * -(-size // self.stride) + self.shortfall)


def merge(grids: Sequence[Grid]) -> Grid:
    """Return the grid of a sum or concatenation of layers.

    Its receptive field spans all of theirs. Raises GeometryError if their strides differ.
    """
    strides = {grid.stride for grid in grids}
    if len(strides) > 1:
        raise GeometryError(f"layers of strides {sorted(strides)} are joined without resampling")
    neediest = max(grids, key=lambda grid: grid.least_size(1))
    return Grid(
        stride=neediest.stride,
        first=min(grid.first for grid in grids),
        last=max(grid.last for grid in grids),
        bounded=all(grid.bounded for grid in grids),
        windows=neediest.windows,
    )


@dataclass(frozen=True)
class Alignment:
    """How an upscore lands coarse scores on a finer grid, along one axis.

    Output cell j samples the coarse scores at coordinate ``(j + shift) / factor``. The coarse map
    is first extended by `before` and `after` copies of its edge cells, enlarged by a transposed
    convolution of size `kernel` and stride `factor` without padding, and read from `crop` on.

    Attributes:
        factor: ratio of the two strides.
        shift: see above; an integer where the grids align, else an odd multiple of one half.
        kernel: ``2 * factor - 1`` where the grids align, ``2 * factor`` where they differ by half
            a cell, so that `crop` is an integer.
        crop: offset of the result in the enlarged map (negative only with "zero" edges: the finer
            map is then cropped by as much instead).
        before, after: edge cells replicated at the low and high end.
    """

    factor: int
    shift: Fraction
    kernel: int
    crop: int
    before: int = 0
    after: int = 0

    def cells_read(self, position: int) -> tuple[int, int]:
        """Return the first and last coarse cell that output `position` reads.

        Cells below 0 or beyond the map stand for replicated edge cells.
        """
        tap = position + self.crop
        return -((self.kernel - 1 - tap) // self.factor) - self.before, (
            tap // self.factor - self.before
        )


def align(coarse: Grid, fine: Grid, edge: Edge = "replicate") -> Alignment:
    """Derive the upscore from the `coarse` grid to the `fine` one (`Grid()`: the pixels).

    Args:
        coarse: the grid of the scores.
        fine: the grid to land on.
        edge: "replicate" extends the coarse map so that bilinear interpolation is complete up to
            the border; "zero" does not, as in the paper's nets, which pad the image instead.

    Raises:
        GeometryError: the strides are no multiples, or the grids differ by neither a whole nor a
            half cell.
    """
    if coarse.stride % fine.stride:
        raise GeometryError(f"stride {coarse.stride} is no multiple of stride {fine.stride}")
    factor = coarse.stride // fine.stride
    shift = (fine.offset - coarse.offset) / fine.stride
    if (2 * shift).denominator != 1:
        raise GeometryError(
            f"the grids at strides {coarse.stride} and {fine.stride} differ by {float(shift)} "
            "cells; a whole or half number is needed for an exact crop"
        )
    kernel = 2 * factor - 1 if shift.denominator == 1 else 2 * factor
    before = max(0, math.ceil(-shift / factor)) if edge == "replicate" else 0
    crop = int(Fraction(kernel - 1, 2) + shift) + factor * before
    after = _cells_missing_after(coarse, fine, factor, shift) if edge == "replicate" else 0
    return Alignment(factor, shift, kernel, crop, before, after)


def _cells_missing_after(coarse: Grid, fine: Grid, factor: int, shift: Fraction) -> int:
    """Return how many cells beyond its last the coarse map needs, at worst over all sizes."""
    period = coarse.stride  # one stride more of pixels is one cell more, so one period tells all
    missing = 0
    for size in range(1, 3 * period + 1):
        padded = coarse.covering_size(size)
        cells = size if fine.stride == 1 else fine.cells(padded)
        beyond = (cells - 1 + shift) / factor - (coarse.cells(padded) - 1)
        missing = max(missing, math.ceil(beyond))
    return missing


def pixels_seen(
    position: int, size: int, grids: Sequence[Grid], alignments: Sequence[Alignment]
) -> tuple[int, int] | None:
    """Return the first and last pixel that an output pixel of a skip net may depend on.

    Args:
        position: of the output pixel.
        size: of the image, in pixels, along this axis.
        grids: of the scored layers, coarsest first.
        alignments: of the upscores: from each grid to the next, and from the last to the pixels.

    Returns:
        Pixels inside the image, or None where a layer depends on the whole image.
    """
    if not all(grid.bounded for grid in grids):
        return None
    padded = grids[0].covering_size(size)
    seen: list[tuple[int, int]] = []
    cells = (position, position)
    for grid, alignment in zip(reversed(grids), reversed(alignments), strict=True):
        most = grid.cells(padded) - 1
        ends = alignment.cells_read(cells[0])[0], alignment.cells_read(cells[1])[1]
        cells = tuple(min(max(end, 0), most) for end in ends)  # type: ignore[assignment]
        seen.append((grid.stride * cells[0] + grid.first, grid.stride * cells[1] + grid.last))
    return max(0, min(first for first, _ in seen)), min(size - 1, max(last for _, last in seen))
