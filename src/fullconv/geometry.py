"""Where every cell of every layer lies on the image: all of an FCN's numbers fall out of this.

A layer's cells stand on a regular grid over the image. Cell i of a `Grid` is centred on the pixel
coordinate ``stride * i + offset`` and sees the pixels from ``stride * i + first`` to
``stride * i + last`` (pixel centres are integers, 0 is the first pixel, negative ones lie in the
padding). Sliding a `Window` over one grid gives the next; this is Caffe's ``coord_map`` algebra
(``net_spec`` / ``coord_map.py``), extended by the receptive field's two ends. An `Alignment` is the
step the other way: how a transposed convolution must be sized and cropped to land coarse scores
exactly on a finer grid. `SkipGeometry` is all of a skip net's steps. Everything here is about one
axis and knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import count
from typing import Literal

from fullconv.base.errors import FullconvError

Edge = Literal["replicate", "zero"]
MOST_PADDING = 1000  # pixels; of a classifier's first convolution
MOST_PERIOD = 1024  # pixels; no classifier's stride comes near


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
        needs: the fewest cells that it slides over, padding left out: a reflection needs more of
            them than it adds.
    """

    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil: bool = False
    needs: int = 1

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
class Enlargement:
    """A transposed convolution without padding along one axis.

    Attributes:
        kernel: number of taps.
        factor: cells of the enlarged map between those of the map itself.
    """

    kernel: int
    factor: int

    def cells(self, size: int) -> int:
        """Return the enlarged size of a map of `size` cells."""
        return self.factor * (size - 1) + self.kernel if size else 0

    def least_size(self, cells: int) -> int:
        """Return the smallest size that yields at least `cells` (1 or more) cells."""
        return max(1, 1 - (self.kernel - cells) // self.factor)


@dataclass(frozen=True)
class Agreement:
    """The image sizes at which branches that are joined have equally many cells, along one axis.

    Branches may round sizes differently: of 2 n + 1 cells a pooling of stride 2 makes n, a padded
    convolution n + 1.

    Attributes:
        period: pixels after which such sizes recur.
        rests: what they leave when divided by it; never none.
    """

    period: int = 1
    rests: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> Agreement:
        """Derive where grids of one stride agree, and those that each was made of.

        Raises:
            GeometryError: nowhere, or not within any stride that a classifier has.
        """
        if len({(grid.windows, grid.agreement) for grid in grids}) == 1:
            return grids[0].agreement
        period = math.lcm(grids[0].stride, *(grid.agreement.period for grid in grids))
        if period > MOST_PERIOD:
            raise GeometryError(f"layers of stride {grids[0].stride} are joined")
        # From some size on, one period more of pixels is as many cells more in each.
        begin = period * max(1 + grid.least_size(1) // period for grid in grids)
        known = [
            size
            for size in range(begin, begin + period)
            if all(grid.agreement.admits(size) for grid in grids)
        ]
        equal = [size for size in known if len({grid.cells(size) for grid in grids}) == 1]
        if not known:
            raise GeometryError("layers that are joined never have equally many cells")
        return cls._least(period, equal or known)  # never equal: one is broadcast to the other

    @classmethod
    def _least(cls, period: int, sizes: Sequence[int]) -> Agreement:
        """Return the agreement at some sizes of one period, by the least period that they have."""
        rests = {size % period for size in sizes}
        least = next(
            each
            for each in range(1, period + 1)
            if period % each == 0 and all((rest + each) % period in rests for rest in rests)
        )
        return cls(least, tuple(sorted({rest % least for rest in rests})))

    def admits(self, size: int) -> bool:
        """Whether branches agree at a size, or at what it leaves when divided by the period."""
        return size % self.period in self.rests

    def reduced(self, factor: int) -> Agreement:
        """Return this on an image of which a net sees means (see `Grid.reduced`)."""
        if self.period == 1:
            return self
        period = factor * self.period
        rests = {(factor * rest - short) % period for rest in self.rests for short in range(factor)}
        return Agreement(period, tuple(sorted(rests)))


@dataclass(frozen=True)
class Grid:
    """The cells of a layer along one axis of the image.

    Attributes:
        stride: pixels between neighbouring cells.
        first, last: the pixels at the two ends of cell 0's receptive field.
        bounded: False where a cell also depends on the whole image (squeeze-and-excitation, group
            normalisation); `first` and `last` then describe the sliding part alone.
        windows: the windows and enlargements, image first, through which sizes pass (those that
            keep every size left out).
        needs: the least image size at which every window has the cells that it needs, if one needs
            several.
        agreement: the image sizes at which what was joined before has equally many cells.
    """

    stride: int = 1
    first: int = 0
    last: int = 0
    bounded: bool = True
    windows: tuple[Window | Enlargement, ...] = ()
    needs: int = 1
    agreement: Agreement = Agreement()

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
        needed = self.least_size(window.needs) if window.needs > 1 else 1
        return Grid(
            stride=self.stride * window.stride,
            first=self.first - self.stride * window.before,
            last=self.last + self.stride * reach,
            bounded=self.bounded,
            windows=self.windows if window.keeps_size else (*self.windows, window),
            needs=max(self.needs, needed),
            agreement=self.agreement,
        )

    def enlarged(self, by: Enlargement) -> Grid:
        """Return the grid of the map that a transposed convolution makes of this one."""
        stride = self.stride // by.factor
        first = self.first - stride * (by.kernel - 1)
        return replace(self, stride=stride, first=first, windows=(*self.windows, by))

    def repadded(self, padding: int) -> Grid:
        """Return this grid in a net whose first window pads by `padding` on either side."""
        window, *rest = self.windows
        if not isinstance(window, Window):
            raise GeometryError("a grid without a first window can't be padded")
        shift = window.before - padding
        padded = replace(window, before=padding, after=padding)
        return replace(
            self, first=self.first + shift, last=self.last + shift, windows=(padded, *rest)
        )

    def reduced(self, factor: int) -> Grid:
        """Return this grid on an image of which a net sees means of `factor` pixels a side.

        The last means may be of fewer.
        """
        if factor == 1:
            return self
        mean = Window(factor, factor, ceil=True)
        return Grid(
            stride=factor * self.stride,
            first=factor * self.first,
            last=factor * self.last + factor - 1,
            bounded=self.bounded,
            windows=(mean, *self.windows),
            needs=mean.least_size(self.needs),
            agreement=self.agreement.reduced(factor),
        )

    def unbounded(self) -> Grid:
        """Return this grid for cells that depend on the whole image besides."""
        return replace(self, bounded=False)

    def on(self, earlier: Grid) -> Grid:
        """Return where these cells lie on those of an earlier layer, in place of pixels."""
        steps = self.stride, self.first - earlier.first, self.last - earlier.last
        if any(step % earlier.stride for step in steps):
            raise GeometryError("a layer's cells do not lie on those of an earlier layer")
        stride, first, last = (step // earlier.stride for step in steps)
        return Grid(stride, first, last, self.bounded)

    def complete(self, pixels: int) -> int:
        """Return how many cells see nothing beyond the first so many pixels."""
        return max(0, (pixels - 1 - self.last) // self.stride + 1)

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

    @cached_property
    def shortfall(self) -> int:
        """Pixels by which the least image for n cells exceeds ``stride * n``, at worst over n."""
        return max(self.least_size(cells) - self.stride * cells for cells in range(1, 4))

    def covering_size(self, size: int) -> int:
        """Return the least size, `size` or more, at which no pixel lacks a cell, nor a layer any.

        There is one cell per started stride of pixels then. Floor strides and unpadded layers give
        fewer, so an image is padded to this size on the right and at the bottom. Branches that are
        joined agree then.
        """
        size = self._plain_covering(size)
        return next(each for each in count(size) if self.agreement.admits(each))

    def _plain_covering(self, size: int) -> int:
        """Return the covering size if branches agree at every size."""
        return max(size, self.stride * -(-size // self.stride) + self.shortfall, self.needs)

    @cached_property
    def disagrees(self) -> bool:
        """Whether some sizes must be raised for branches to agree."""
        if self.agreement.period == 1:
            return False
        sizes = range(self.needs, self.needs + math.lcm(self.stride, self.agreement.period))
        return not all(self.agreement.admits(self._plain_covering(size)) for size in sizes)

    @property
    def covers_all(self) -> bool:
        """Whether every size is its own covering size."""
        return self.shortfall <= 1 - self.stride and self.needs == 1 and not self.disagrees


PIXELS = Grid()


def magnified_pixels(magnify: int, finest: Grid) -> Grid:
    """Return where an image's pixels lie on the image as it is seen, `magnify` times as large.

    Args:
        magnify: pixels of the seen image between two of the image itself.
        finest: the grid of scores on the seen image, which the pixels are to fit exactly: they
            begin less than half a pixel's width inside it.
    """
    if magnify == 1:
        return PIXELS
    begin = finest.offset % Fraction(magnify, 2)
    window = Window(magnify, magnify)
    return Grid(magnify, math.floor(begin), math.ceil(begin), windows=(window,))


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
        needs=max(grid.needs for grid in grids),
        agreement=Agreement.of(grids),
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
        crop: offset of the result in the enlarged map.
        finer_crop: offset of the result in the finer map, where the enlarged map begins inside it
            (then `crop` is 0): j counts from there. Only with "zero" edges.
        before, after: edge cells replicated at the low and high end.
        edge: what lies beyond the coarse map, see `align`.
    """

    factor: int
    shift: Fraction
    kernel: int
    crop: int
    finer_crop: int = 0
    before: int = 0
    after: int = 0
    edge: Edge = "replicate"

    @property
    def enlargement(self) -> Enlargement:
        """The transposed convolution."""
        return Enlargement(self.kernel, self.factor)

    def cells_read(self, position: int) -> tuple[int, int]:
        """Return the first and last coarse cell that output `position` reads.

        Cells below 0 or beyond the map stand for replicated edge cells.
        """
        tap = position + self.crop
        return -((self.kernel - 1 - tap) // self.factor) - self.before, (
            tap // self.factor - self.before
        )

    def cells_within(self, positions: range, count: int) -> slice:
        """Return which of `count` coarse cells successive outputs read; one at least."""
        (first, _), (_, last) = (self.cells_read(positions[end]) for end in (0, -1))
        first = min(max(first, 0), count - 1)
        return slice(first, min(max(first, last), count - 1) + 1)


def align(coarse: Grid, fine: Grid, edge: Edge = "replicate", pixels: Grid = PIXELS) -> Alignment:
    """Derive the upscore from the `coarse` grid to the `fine` one.

    Args:
        coarse: the grid of the scores.
        fine: the grid to land on, which may be `pixels`.
        pixels: the grid of the image's pixels.
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
    crop = int(Fraction(kernel - 1, 2) + shift)
    if edge == "zero":
        finer_crop = max(-crop, 0)
        return Alignment(
            factor, shift + finer_crop, kernel, crop + finer_crop, finer_crop, edge=edge
        )
    before = max(0, math.ceil(-shift / factor))
    after = _cells_missing_after(coarse, fine, factor, shift, to_pixels=fine == pixels)
    return Alignment(factor, shift, kernel, crop + factor * before, 0, before, after)


def _cells_missing_after(
    coarse: Grid, fine: Grid, factor: int, shift: Fraction, *, to_pixels: bool
) -> int:
    """Return how many cells beyond its last the coarse map needs, at worst over all sizes."""
    missing = 0
    for size in _all_sizes(coarse):
        padded = coarse.covering_size(size)
        cells = fine.cells(size if to_pixels else padded)
        beyond = (cells - 1 + shift) / factor - (coarse.cells(padded) - 1)
        missing = max(missing, math.ceil(beyond))
    return missing


def _all_sizes(coarsest: Grid) -> range:
    """Return image sizes that stand for all: one stride more of pixels is one cell more."""
    return range(1, 3 * coarsest.stride + coarsest.needs)


@dataclass(frozen=True)
class SkipGeometry:
    """How the scores of a skip net are joined, along one axis.

    Attributes:
        edge: see `align`.
        grids: of the scored layers, coarsest first, on the image as it is seen, magnified; on the
            image itself where it is seen reduced.
        fused: of the scores that each upscore starts from: the coarsest, then the fused ones.
        alignments: of the upscores: from each fused map to the next grid, at last to the pixels.
        pixels: of the image, on which the grids stand (see `magnified_pixels`).
    """

    edge: Edge
    grids: tuple[Grid, ...]
    fused: tuple[Grid, ...]
    alignments: tuple[Alignment, ...]
    pixels: Grid = PIXELS

    @classmethod
    def of(
        cls, grids: Sequence[Grid], edge: Edge = "replicate", scale: Fraction | int = 1
    ) -> SkipGeometry:
        """Derive how the scores of `grids`, coarsest first, are joined.

        Args:
            grids: on the image as the trunk sees it.
            edge: see `align`.
            scale: how many times larger than it is the trunk sees the image: 2, 1, 1/2 and so on.

        Raises:
            GeometryError: see `align`; or the last upscore begins inside the image.
        """
        grids = [grid.reduced(scale.denominator) for grid in grids]
        fused, alignments = [grids[0]], []
        for fine in grids[1:]:
            alignments.append(align(fused[-1], fine, edge))
            inside = alignments[-1].finer_crop > 0
            fused.append(fused[-1].enlarged(alignments[-1].enlargement) if inside else fine)
        pixels = magnified_pixels(scale.numerator, fused[-1])
        alignments.append(align(fused[-1], pixels, edge, pixels))
        if alignments[-1].finer_crop:
            raise GeometryError(
                f"the scores begin {alignments[-1].finer_crop} pixels inside the image: it must "
                "be padded by more"
            )
        return cls(edge, tuple(grids), tuple(fused), tuple(alignments), pixels)

    @property
    def bounded(self) -> bool:
        """Whether no layer depends on the whole image."""
        return all(grid.bounded for grid in self.grids)

    def pixels_under_cells(self, first: int, last: int, size: int) -> tuple[int, int]:
        """Return the first and last pixel that coarse cells stand for, inside the image.

        Args:
            first: of the cells (see `pixels_of_cells`).
            last: likewise.
            size: of the image, in pixels.
        """
        grid, half = self.fused[-1], Fraction(self.fused[-1].stride, 2)
        low, high = (
            (grid.stride * cell + grid.offset + beside - self.pixels.offset) / self.pixels.stride
            for cell, beside in ((first, -half), (last, half))
        )
        return min(max(math.floor(low), 0), size - 1), min(max(math.ceil(high), 0), size - 1)

    @property
    def magnification(self) -> Alignment:
        """How the image is enlarged to what the trunk sees."""
        return align(self.pixels, PIXELS)

    def covering_size(self, size: int) -> int:
        """Return the size to which an image of `size` pixels is padded, after it was magnified.

        That is what the trunk sees, or of a net that reduces images the size of what it sees.
        """
        seen = self.pixels.stride * size
        return seen if self.edge == "zero" else self.grids[0].covering_size(seen)

    def fits(self, size: int) -> bool:
        """Tell whether every crop lies within its map for an image of `size` pixels."""
        padded = self.covering_size(size)
        for fused, fine, a in zip(
            self.fused, (*self.grids[1:], self.pixels), self.alignments, strict=True
        ):
            cells = fused.cells(padded)
            enlarged = a.enlargement.cells(cells + a.before + a.after) - a.crop
            wanted = (size if fine == self.pixels else fine.cells(padded)) - a.finer_crop
            # A finer map that is cropped may be the larger one; a whole one must be covered.
            if cells < 1 or (wanted < enlarged if a.finer_crop else enlarged < wanted):
                return False
        return True

    @property
    def always_fits(self) -> bool:
        """Whether every crop lies within its map for images of every size."""
        return all(self.fits(size) for size in _all_sizes(self.grids[0]))

    def pixels_seen(self, position: int, size: int) -> tuple[int, int] | None:
        """Return the first and last pixel that an output pixel may depend on.

        Args:
            position: of the output pixel.
            size: of the image, in pixels.

        Returns:
            Pixels inside the image, or None where a layer depends on the whole image.
        """
        return self.pixels_of_cells(*self.alignments[-1].cells_read(position), size)

    def pixels_of_cells(
        self, first: int, last: int, size: int, *, sliding: bool = False
    ) -> tuple[int, int] | None:
        """Return the first and last pixel that coarse scores may depend on.

        Args:
            first: of the cells, which are of the net's stride. One outside the map stands for its
                edge cell.
            last: of the cells, likewise.
            size: of the image, in pixels.
            sliding: whether to count of each layer only what it slides over, though it may depend
                on the whole image.

        Returns:
            Pixels inside the image, or None where a layer depends on the whole image.
        """
        if not (sliding or self.bounded):
            return None
        padded = self.covering_size(size)
        seen: list[tuple[int, int]] = []
        for index in reversed(range(len(self.grids))):
            grid, most = self.grids[index], self.fused[index].cells(padded) - 1
            first, last = min(max(first, 0), most), min(max(last, 0), most)
            crop = self.alignments[index - 1].finer_crop if index else 0
            seen.append(
                (
                    grid.stride * (first + crop) + grid.first,
                    grid.stride * (last + crop) + grid.last,
                )
            )
            if index:
                coarser = self.alignments[index - 1]
                first, last = coarser.cells_read(first)[0], coarser.cells_read(last)[1]
        enlarged = self.magnification
        low, _ = enlarged.cells_read(min(low for low, _ in seen))
        _, high = enlarged.cells_read(max(high for _, high in seen))
        return max(0, low), min(size - 1, high)


def least_padding(grids: Sequence[Grid]) -> int:
    """Return the least padding of the first window at which zero-edged crops fit every image.

    Args:
        grids: of the scored layers, coarsest first; their first window does not keep sizes.

    It is 97 for VGG16's nets and 99 for AlexNet's; the paper's 100 serves both.

    Raises:
        GeometryError: there is none.
    """
    for padding in range(MOST_PADDING + 1):
        if _fits_always([grid.repadded(padding) for grid in grids]):
            return padding
    raise GeometryError(f"no padding up to {MOST_PADDING} pixels lets the crops fit every image")


def _fits_always(grids: Sequence[Grid]) -> bool:
    try:
        return SkipGeometry.of(grids, "zero").always_fits
    except GeometryError:
        return False
