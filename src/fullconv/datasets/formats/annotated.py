"""What every format is read into: images with regions of named classes, or with maps of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fullconv.base.errors import few_named
from fullconv.base.fill import NOTHING, Covered, Fill, Ring, as_ring, covered
from fullconv.data.info import DatasetInfo
from fullconv.datasets.formats.files import Found

Overlap = Literal["later", "earlier", "smaller"]
Size = tuple[int, int]
Values = NDArray[np.int64]


class Outline(Protocol):
    """What pixels of an image a region covers."""

    def cover(self, size: Size, fill: Fill) -> Covered:
        """Return the pixels; raise ValueError, a line, where it is not to be drawn."""


class Polygons(NamedTuple):
    """Parts that all are covered; each is a rim and its holes."""

    parts: Sequence[Sequence[Ring]]

    def cover(self, size: Size, fill: Fill) -> Covered:
        """Draw all parts into one box."""
        drawn = [covered(part, size, fill) for part in self.parts]
        return _united([each for each in drawn if each.pixels.size])


class Pixels(NamedTuple):
    """Pixels as they are stored, decoded when they are asked for.

    Attributes:
        decode: gives bool H x W of a box; takes the size of the image.
        y: the box's first row.
        x: its first column.
    """

    decode: Callable[[Size], NDArray[np.bool_]]
    y: int = 0
    x: int = 0

    def cover(self, size: Size, fill: Fill) -> Covered:  # noqa: ARG002
        """Decode the pixels, and cut off what lies outside of the image."""
        pixels = self.decode(size)
        top, left = max(self.y, 0), max(self.x, 0)
        inside = pixels[top - self.y : size[0] - self.y, left - self.x : size[1] - self.x]
        return Covered(top, left, inside) if inside.size else NOTHING


class Ellipse(NamedTuple):
    """An ellipse along rows and columns: its centre, half of its width and of its height."""

    x: float
    y: float
    half_width: float
    half_height: float

    def cover(self, size: Size, fill: Fill) -> Covered:
        """Take the pixels whose centres are inside; by "outline", draw it as PIL does."""
        box = (
            self.x - self.half_width,
            self.y - self.half_height,
            self.x + self.half_width,
            self.y + self.half_height,
        )
        place = _box(box, size)
        if place is None:
            return NOTHING
        left, top, right, bottom = place
        if fill == "outline":
            canvas = Image.new("1", (right - left, bottom - top))
            shown = [at - corner for at, corner in zip(box, (left, top) * 2, strict=True)]
            ImageDraw.Draw(canvas).ellipse(shown, fill=1, outline=1)
            return Covered(top, left, np.array(canvas, bool))
        across = (np.arange(left, right) + 0.5 - self.x) / self.half_width
        down = (np.arange(top, bottom) + 0.5 - self.y) / self.half_height
        return Covered(top, left, across**2 + down[:, None] ** 2 <= 1)


class Line(NamedTuple):
    """Lines from point to point, so many pixels wide, as PIL draws them."""

    points: Ring
    width: int

    def cover(self, size: Size, fill: Fill) -> Covered:  # noqa: ARG002
        """Draw them."""
        low, high = self.points.min(0) - self.width, self.points.max(0) + self.width
        place = _box((*low.tolist(), *high.tolist()), size)
        if place is None:
            return NOTHING
        left, top, right, bottom = place
        canvas = Image.new("1", (right - left, bottom - top))
        points = (self.points - (left, top)).ravel().tolist()
        ImageDraw.Draw(canvas).line(points, fill=1, width=self.width)
        return Covered(top, left, np.array(canvas, bool))


class Region(NamedTuple):
    """A part of an image and its class.

    Attributes:
        name: of the class; None: to be ignored, as a crowd is.
        outline: its pixels.
    """

    name: str | None
    outline: Outline


@dataclass(frozen=True)
class AnnotatedImage:
    """An image, and what is known of its pixels.

    Attributes:
        name: relative, without suffix; no two images of a source have the same.
        path: its file; may be missing.
        about: the file of the annotation.
        regions: reads them, in the order in which their tool draws them; what none covers is
            unlabelled.
        values: instead of regions: reads a value of `Source.values` for each pixel, int64 H x W.
        size: height and width that the annotation says; None: it doesn't.
        split: train, val or test; "" where the source says none.
        found: how the file was found by its name; None: its place was known.
    """

    name: str
    path: Path
    about: Path
    regions: Callable[[], Sequence[Region]] | None = None
    values: Callable[[], Values] | None = None
    size: Size | None = None
    split: str = ""
    found: Found | None = None


@dataclass(frozen=True)
class Source:
    """A folder of annotated images, as its format is read.

    Attributes:
        format: what it is, in words.
        root: where it is.
        classes: names of the classes, in the order of their ids.
        count: how many images there are.
        read: yields them.
        fill: which pixels of polygons the tool itself covers.
        overlap: which of two regions the tool shows.
        complete: whether each pixel is in some region, so that there is no background.
        values: names of values of `AnnotatedImage.values`; None means to be ignored.
        palette: colours by the name of the class.
        info: what dataset.yaml says, of one input and one head; None: it is no dataset folder.
        left_over: files that `read` leaves out, by a plural of what is wrong with them.
        notes: lines to tell the user.
    """

    format: str
    root: Path
    classes: tuple[str, ...]
    count: int
    read: Callable[[], Iterator[AnnotatedImage]]
    fill: Fill = "centres"
    overlap: Overlap = "smaller"
    complete: bool = False
    values: Mapping[int, str | None] = field(default_factory=dict)
    palette: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    info: DatasetInfo | None = None
    left_over: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Polygons:
    """Return a rectangle, whichever of its corners are given."""
    return Polygons([[as_ring([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]])


def left_out(names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return notes on what is left out, whose classes or files are told by a plural of its kind."""
    return tuple(
        f"left out: {len(each):,} {what} ({few_named([*dict.fromkeys(each)])})"
        for what, each in names.items()
        if each
    )


def _box(box: Sequence[float], size: Size) -> tuple[int, int, int, int] | None:
    """Return the pixels around a box, left, top, right and bottom, as far as the image has them.

    Raises:
        ValueError: its corners are no finite numbers.
    """
    if not np.isfinite(box).all():
        raise ValueError("a shape at no place")
    left, top = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
    right, bottom = min(math.ceil(box[2]) + 1, size[1]), min(math.ceil(box[3]) + 1, size[0])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _united(drawn: Sequence[Covered]) -> Covered:
    if len(drawn) < 2:
        return drawn[0] if drawn else NOTHING
    top, left = min(each.y for each in drawn), min(each.x for each in drawn)
    bottom = max(each.y + each.pixels.shape[0] for each in drawn)
    right = max(each.x + each.pixels.shape[1] for each in drawn)
    pixels = np.zeros((bottom - top, right - left), bool)
    for y, x, own in drawn:
        pixels[y - top :, x - left :][: own.shape[0], : own.shape[1]] |= own
    return Covered(top, left, pixels)
