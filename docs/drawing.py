#!/usr/bin/env python3
"""A net drawn to scale, from its own geometry: where the cells of every map lie on the image.

    python docs/drawing.py voc-fcn8s net.svg
    python docs/drawing.py vgg16 net.png --net fcn16s --size 360x480
    python docs/drawing.py runs/street/fcn8s net.pdf

Every map is cut along the height and stands as a column of cells, each at the pixels that it is
centred on. The trunk runs along the top from fine to coarse; the scores come back below it, so that
a skip is a straight way down from the layer it scores, and a crop is what hangs over.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from fullconv.base.errors import FullconvError
from fullconv.base.files import replacing
from fullconv.geometry import Grid, Window
from fullconv.net.description import Description, ScoredLayer, SlidingLayer, describe
from fullconv.net.fcn import FCN
from fullconv.papers.blueprint import DEFAULT_NET, net_of

# Lengths are inches, but for those of maps, which are pixels of the image.
PITCH = 1.68  # between neighbouring columns
ROW = 3.6  # height of the longest map
LEFT, RIGHT, TOP, BETWEEN, BOTTOM = 0.95, 1.3, 1.25, 1.86, 0.85
LINE, CHARACTER = 0.17, 0.078  # of the notes, generously
FUSE = 0.38  # between the three maps of a fuse
FINEST_CELL = 0.018  # smaller ones are drawn as one piece

INK, MUTED, BAND = "#1d2733", "#68727f", "#f4efe3"
IMAGE, TRUNK, SCORE = "#c9b98f", "#3f7fae", "#df7f33"
SKIP = "#2c8a66"


@dataclass(frozen=True)
class Column:
    """Neighbouring layers of the trunk whose cells lie on the same grid.

    Attributes:
        names: of the layers, in order.
        channels: of the last one, or of what joins several of them and is scored.
        size: height and width in cells.
        grid: of the last one, along the height.
    """

    names: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    grid: Grid


@dataclass(frozen=True)
class Strip:
    """A map, cut along the height.

    Attributes:
        cells: how many there are.
        stride: side of a cell in pixels.
        centre: the pixel that cell 0 is centred on.
        channels: tell how wide it is drawn.
        kept: the first cell that no crop removes, and the one after the last; None: all are kept.
    """

    cells: int
    stride: int
    centre: float
    channels: int
    kept: tuple[int, int] | None = None

    @property
    def width(self) -> float:
        """Inches: a little more with every doubling of the channels."""
        return 0.1 + 0.03 * math.log2(self.channels)

    @property
    def ends(self) -> tuple[float, float]:
        """Pixel coordinates of its upper and its lower end."""
        top = self.centre - self.stride / 2
        return top, top + self.cells * self.stride


@dataclass(frozen=True)
class Join:
    """An upscore and what it lands on, along the height.

    Attributes:
        scored: the layer whose scores, or whose fused scores, are enlarged.
        enlarged: the upscore's map.
        skip: the finer scores that it is added to; None at the end.
        result: the fused scores, or those of the pixels.
    """

    scored: ScoredLayer
    enlarged: Strip
    skip: Strip | None
    result: Strip


def columns(layers: Sequence[SlidingLayer], scored: Sequence[ScoredLayer] = ()) -> list[Column]:
    """Group the sliding layers of a trunk by their grids, into the drawing's columns."""
    places: dict[tuple[object, ...], list[SlidingLayer]] = {}
    for layer in layers:
        places.setdefault(_place(layer), []).append(layer)
    names = {layer.name for layer in layers}
    joined = {_place(each): each.channels for each in scored if each.layer not in names}
    return [
        Column(
            names=tuple(layer.name for layer in group),
            channels=joined.get(place, group[-1].channels),
            size=group[-1].size,
            grid=group[-1].grid,
        )
        for place, group in places.items()
    ]


def _place(layer: SlidingLayer | ScoredLayer | Column) -> tuple[object, ...]:
    return layer.size, layer.grid.stride, layer.grid.offset


def joins(described: Description, num_classes: int) -> list[Join]:
    """Return where the maps of each upscore lie on the image, coarsest first."""
    found = []
    for scored, finer in zip(described.scored, (*described.scored[1:], None), strict=True):
        grid, a = finer.grid if finer else described.pixels, scored.alignment
        cells = finer.fused[0] if finer else described.size[0]
        centre = float(grid.offset) + a.finer_crop * grid.stride  # of the result's first cell
        result = Strip(cells, grid.stride, centre, num_classes)
        begin = centre - a.crop * grid.stride
        kept = a.crop, a.crop + cells
        enlarged = Strip(scored.enlarged[0], grid.stride, begin, num_classes, kept)
        skip = None
        if finer:
            kept = a.finer_crop, a.finer_crop + cells
            skip = Strip(finer.size[0], grid.stride, float(grid.offset), num_classes, kept)
        found.append(Join(scored, enlarged, skip, result))
    return found


def draw(net: FCN, size: tuple[int, int], name: str) -> Figure:
    """Draw a net at an image of `size` (height, width) pixels.

    Of several inputs that have a trunk each, the first one's is drawn; of several heads, the first.

    Args:
        net: of any trunk and stride.
        size: of the image.
        name: for the title.
    """
    described = describe(net, size)
    first = next(iter(net.trunks))
    own = _layers_of(described.layers, f"{first}." if first else "")
    head_name, head = next(iter(net.heads.items()))
    joined = joins(described, head.num_classes)
    notes = [
        "Maps, cut along the height: a cell stands at the pixels that it is centred on, and a map "
        "of more channels is wider."
    ]
    if len(net.trunks) > 1:
        notes.append(f"Drawn is {first}; there is a trunk for each of {', '.join(net.trunks)}.")
    if len(net.heads) > 1:
        notes.append(f"Drawn is {head_name}; there are scores for each of {', '.join(net.heads)}.")
    sheet = _Sheet(columns(own, described.scored), joined, described, " ".join(notes))
    sheet.title(f"{name} at {size[0]} × {size[1]} pixels")
    sheet.image(net.inputs[first] if first else sum(net.inputs.values()))
    sheet.trunk()
    sheet.scores()
    return sheet.figure


def _layers_of(layers: Sequence[SlidingLayer], trunk: str) -> list[SlidingLayer]:
    """Return the layers whose names begin with `trunk`, which is taken off."""
    return [
        replace(layer, name=layer.name.removeprefix(trunk))
        for layer in layers
        if layer.name.startswith(trunk)
    ]


class _Sheet:
    """The paper that a net is drawn on: inches, from the lower left."""

    def __init__(
        self, columns: Sequence[Column], joined: Sequence[Join], described: Description, notes: str
    ) -> None:
        self.columns, self.joined, self.described = columns, joined, described
        strips = [self._strip(column) for column in columns]
        strips += [strip for join in joined for strip in (join.enlarged, join.skip) if strip]
        self.low = min(strip.ends[0] for strip in strips)
        self.high = max(strip.ends[1] for strip in strips)
        self.scale = ROW / (self.high - self.low)
        width = LEFT + PITCH * len(columns) + RIGHT
        self.notes = textwrap.wrap(notes, int((width - 0.6) / CHARACTER))
        top = TOP + LINE * len(self.notes)
        height = top + ROW + BETWEEN + ROW + BOTTOM
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")
        self.upper, self.lower = height - top, height - top - ROW - BETWEEN  # tops of the rows
        self.width, self.height = width, height
        self._bands()

    # What is drawn ---------------------------------------------------------------------------

    def title(self, text: str) -> None:
        """Write what it is, and the notes below."""
        left, top = LEFT - 0.55, self.height - 0.3
        self._text(left, top, text, size=15, weight="bold", ha="left")
        self._text(left, top - 0.3, "\n".join(self.notes), color=MUTED, ha="left")

    def image(self, channels: int) -> None:
        """Draw the image, with the zeros that are put around it or below it."""
        (height, width), x = self.described.seen, self._x(-1)
        first = self.columns[0].grid.windows[0] if self.columns[0].grid.windows else None
        before = first.before if isinstance(first, Window) else 0
        after = before + self.described.padded[0] - height
        kept = before, before + height
        framed = Strip(height + before + after, 1, -before, channels, kept)
        note = f"{before} zeros" if before * self.scale > 0.15 else ""
        self._draw(framed, x, self.upper, IMAGE, note)
        magnified = ", magnified" if self.described.seen != self.described.size else ""
        self._names(x, ["image" + (", to be reduced" if self.described.reduce > 1 else magnified)])
        self._caption(x, self.upper, (height, width), f"{channels} channels")

    def trunk(self) -> None:
        """Draw the trunk from left to right."""
        for i, column in enumerate(self.columns):
            strip, x = self._strip(column), self._x(i)
            self._draw(strip, x, self.upper, TRUNK)
            before = self._x(i - 1) + (self._strip(self.columns[i - 1]).width if i else 0.15) / 2
            self._arrow((before, self._middle(self.upper)), (x - strip.width / 2, None), MUTED)
            self._names(x, column.names)
            sees = f"sees {column.grid.receptive_field} px" if column.grid.bounded else "sees all"
            channels, stride = f"{column.channels} channels", f"stride {column.grid.stride}"
            self._caption(x, self.upper, column.size, channels, stride, sees)

    def scores(self) -> None:
        """Draw the way back from right to left: score, upscore, fuse, crop."""
        coarsest = self.joined[0].scored
        x, grid = self._x(self._column_of(coarsest)), coarsest.grid
        classes = self.joined[0].result.channels
        strip = Strip(coarsest.size[0], grid.stride, float(grid.offset), classes)
        self._skip(x, strip, coarsest, "score of")
        self._draw(strip, x, self.lower, SCORE)
        self._caption(x, self.lower, coarsest.size, "coarsest scores", f"stride {grid.stride}")
        start = x - strip.width / 2
        for join, finer in zip(self.joined, (*self.described.scored[1:], None), strict=True):
            if finer is None or join.skip is None:
                self._finish(join, start)
            else:
                start = self._fuse(join, finer, start)

    # Parts -------------------------------------------------------------------------------------

    def _fuse(self, join: Join, finer: ScoredLayer, start: float) -> float:
        """Draw an upscore and a fuse; return where the fused scores end on the left."""
        assert join.skip is not None
        x = self._x(self._column_of(finer))
        self._upscore(join, start, x + FUSE)
        self._draw(join.enlarged, x + FUSE, self.lower, SCORE, note=_crop(join.enlarged))
        self._skip(x, join.skip, finer, "skip: score of")
        self._draw(join.skip, x, self.lower, SKIP, note=_crop(join.skip))
        self._draw(join.result, x - FUSE, self.lower, SCORE)
        for sign, side in (("+", 0.5), ("=", -0.5)):
            at = self._middle(self.lower)
            self._text(x + side * FUSE, at, sign, size=12, weight="bold", va="center")
        stride = f"stride {finer.grid.stride}"
        self._caption(x, self.lower, finer.fused, "fused scores", stride)
        return x - FUSE - join.result.width / 2

    def _finish(self, join: Join, start: float) -> None:
        """Draw the last upscore and the scores of the pixels."""
        out = self._x(-1)
        x = (start + out) / 2
        self._upscore(join, start, x)
        self._draw(join.enlarged, x, self.lower, SCORE, note=_crop(join.enlarged))
        self._caption(x, self.lower, join.scored.enlarged, "enlarged")
        self._draw(join.result, out, self.lower, SCORE)
        left = x - join.enlarged.width / 2
        self._arrow((left, self._middle(self.lower)), (out + join.result.width / 2, None), MUTED)
        self._caption(out, self.lower, self.described.size, "scores", "stride 1")

    def _upscore(self, join: Join, start: float, x: float) -> None:
        a, end = join.scored.alignment, x + join.enlarged.width / 2
        self._arrow((start, self._middle(self.lower)), (end, None), SCORE)
        learned = "learned" if join.scored.learned else "frozen"
        middle, y = (start + end) / 2, self._middle(self.lower)
        self._text(middle, y + 0.07, f"upscore\n×{a.factor}", va="bottom")
        self._text(middle, y - 0.08, f"{a.kernel} × {a.kernel}\n{learned}", color=MUTED)

    def _skip(self, x: float, strip: Strip, scored: ScoredLayer, kind: str) -> None:
        """Draw the way down from a trunk's column to its scores."""
        top = self.lower - (strip.ends[0] - self.low) * self.scale
        self._arrow((x, self.lower + 0.8), (x, top + 0.02), SKIP)
        label = "{}\n{}\n{} × {}".format(kind, _short(scored.layer, 17), *scored.size)
        self._text(x + 0.08, self.lower + 0.77, label, color=SKIP, ha="left")

    def _draw(self, strip: Strip, x: float, top: float, color: str, note: str = "") -> None:
        """Draw a map's cells, alternately lighter and darker; what is cropped is hatched.

        A note stands beside the upper crop.
        """
        size, left = strip.stride * self.scale, x - strip.width / 2
        start = top - (strip.ends[0] - self.low) * self.scale
        first, last = strip.kept or (0, strip.cells)

        def cells(begin: int, end: int, **style: Any) -> None:
            corner, height = (left, start - size * end), size * (end - begin)
            self.axes.add_patch(Rectangle(corner, strip.width, height, **style))

        for begin, end in ((0, first), (last, strip.cells)):
            if end > begin:
                line = to_rgba(color, 0.6)
                cells(begin, end, facecolor="white", edgecolor=line, hatch="/////", linewidth=0.6)
        cells(first, last, facecolor=to_rgba(color, 0.9), linewidth=0)
        if size >= FINEST_CELL:
            for cell in range(first + 1, last, 2):
                cells(cell, cell + 1, facecolor="white", alpha=0.34, linewidth=0, snap=False)
        if note and first:
            beside, y = x + strip.width / 2 + 0.05, start - size * first / 2
            self._text(beside, y, note, ha="left", va="center")

    def _bands(self) -> None:
        """Mark the rows of the image through the whole drawing."""
        height = self.described.seen[0]
        for top in (self.upper, self.lower):
            ends = [top - (pixel - 0.5 - self.low) * self.scale for pixel in (0, height)]
            corner, across, down = (LEFT - 0.3, ends[1]), self.width - LEFT, ends[0] - ends[1]
            self.axes.add_patch(Rectangle(corner, across, down, color=BAND, zorder=0))
            for y, pixel in zip(ends, (0, height), strict=True):
                self._text(LEFT - 0.36, y, str(pixel), color=MUTED, ha="right", va="center")

    def _column_of(self, scored: ScoredLayer) -> int:
        return [_place(column) for column in self.columns].index(_place(scored))

    def _strip(self, column: Column) -> Strip:
        grid = column.grid
        return Strip(column.size[0], grid.stride, float(grid.offset), column.channels)

    def _x(self, column: int) -> float:
        return LEFT + PITCH * (column + 1)

    def _middle(self, top: float) -> float:
        return top - (self.described.seen[0] / 2 - self.low) * self.scale

    def _names(self, x: float, names: Sequence[str]) -> None:
        shown = [_short(name) for name in names]
        if len(shown) > 3:
            shown = [shown[0], f"{len(shown) - 2} more", shown[-1]]
        self._text(x, self.upper + 0.06, "\n".join(shown), va="bottom")

    def _caption(self, x: float, top: float, size: tuple[int, int], *lines: str) -> None:
        y = top - ROW - 0.07
        self._text(x, y, "{} × {}".format(*size), weight="bold", size=10.5)
        self._text(x, y - 0.2, "\n".join(lines), color=MUTED)

    def _arrow(
        self, start: tuple[float, float], end: tuple[float, float | None], color: str
    ) -> None:
        """Draw an arrow; level if the end has no height."""
        tip = (end[0], start[1] if end[1] is None else end[1])
        style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 10}
        style |= {"shrinkA": 2, "shrinkB": 2}
        self.axes.add_patch(FancyArrowPatch(start, tip, color=color, linewidth=1.2, **style))

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        plain = {"size": 9.2, "color": INK, "ha": "center", "va": "top", "linespacing": 1.25}
        self.axes.text(x, y, text, parse_math=False, **{**plain, **style})


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _crop(strip: Strip) -> str:
    return f"crop {strip.kept[0]}" if strip.kept and strip.kept[0] else ""


def save(figure: Figure, path: Path) -> None:
    """Write a drawing as .svg, .png or .pdf, whole or not at all.

    Raises:
        FullconvError: another suffix.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png", "pdf"):
        raise FullconvError(f"{path}: a drawing is a .svg, .png or .pdf file; name it so")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "fullconv"}):
        figure.savefig(temporary, format=kind, dpi=144, metadata=metadata)


def main() -> None:
    """Draw the net that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a model folder, a net of the paper, or a backbone")
    parser.add_argument("out", type=Path, help="a .svg, .png or .pdf file")
    parser.add_argument("--size", default="500x500", help="HxW of the image in pixels")
    parser.add_argument("--net", default=DEFAULT_NET, help="with a backbone: fcn32s to fcn2s")
    parser.add_argument("--classes", type=int, default=21, help="with a backbone")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    net = net_of(options.model, options.net, options.classes)
    title = Path(options.model).name
    if title == net.arguments.trunk:
        title = f"FCN-{net.stride}s on {title}"
    save(draw(net, (height, width), title), options.out)


if __name__ == "__main__":
    main()
