"""The report's figures: label maps in the classes' colours, curves, and their embedding in HTML."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from fullconv.base.palette import Colour, palette_image

Log = Sequence[Mapping[str, float | None]]

HATCH: tuple[Colour, Colour] = ((52, 56, 60), (92, 97, 102))
HATCH_WIDTH = 5
WIDEST = 720
WRONG: Colour = (255, 128, 0)  # stands out from grey to every kind of eye

# The page's style sheet has the colours, so that one drawing serves light and dark: matplotlib
# draws in these stand-ins, which `_themed` turns into CSS variables.
_THEME = {"ink": "#010101", "muted": "#020202", "hairline": "#030303"}
_THEME |= {"train": "#040404", "val": "#050505"}
_INCHES = 1 / 72  # SVG is drawn at 72 dots an inch: one point is one CSS pixel of its view box


@dataclass(frozen=True)
class Line:
    """A column of log.csv as a line of a plot.

    Attributes:
        column: the log's column.
        colour: "train" or "val", the page's colours of the two kinds of data.
        name: what the key calls it.
        mark_best: whether a dot and a number mark the highest value of each stage.
    """

    column: str
    colour: str
    name: str
    mark_best: bool = False


def hatched(labels: NDArray[Any], palette: Sequence[Colour], ignore_index: int) -> Image.Image:
    """Paint integer labels (H, W) in their classes' colours; what is no class is hatched in grey.

    Returns:
        A palette image (mode "P") of the labels' size, small when saved as PNG.
    """
    height, width = labels.shape
    rows, columns = np.ogrid[:height, :width]
    stripe = (rows + columns) // HATCH_WIDTH % 2
    known = (labels >= 0) & (labels < len(palette)) & (labels != ignore_index)
    # With 255 classes a palette image has one colour left: then the grey is plain.
    indices = np.where(known, labels, np.minimum(len(palette) + stripe, 255))
    return palette_image(indices.astype(np.uint8), [*palette, *HATCH][:256], None)


def errors_marked(
    image: NDArray[np.uint8], truth: NDArray[Any], found: NDArray[Any], classes: int
) -> NDArray[np.uint8]:
    """Return a photo in grey (H, W, 3) in which the wrong labels are orange.

    Ignored pixels, whose truth is no class, are dark.
    """
    known = truth < classes
    return highlighted(image, known & (found != truth), ~known)


def highlighted(
    image: NDArray[np.uint8],
    marked: NDArray[np.bool_],
    left_out: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return a photo in grey (H, W, 3), orange where it is marked, and dark what is left out."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    shown = 90 + 0.5 * grey
    if left_out is not None:
        shown = np.where(left_out, 0.35 * grey, shown)
    shown = shown[..., None].repeat(3, 2)
    shown[marked] = 0.8 * np.array(WRONG) + 0.2 * grey[marked][:, None]
    return shown.round().astype(np.uint8)


def photo_uri(image: NDArray[np.uint8], pixels: int) -> str:
    """Return an RGB image (H, W, 3) as a JPEG data URI of at most about `pixels` pixels."""
    photo = Image.fromarray(image)
    scale = min(_room(photo.size, pixels), 1.0)
    photo = photo.resize(_scaled(photo.size, scale), Image.Resampling.LANCZOS)
    return _data_uri(photo, "JPEG", quality=84)


def labels_uri(
    labels: NDArray[Any], palette: Sequence[Colour], ignore_index: int, pixels: int
) -> str:
    """Return labels (H, W) as a PNG data URI of at most about `pixels` pixels.

    Small maps are enlarged by a whole factor, so that a browser shows their pixels as squares.
    """
    small = Image.fromarray(labels.astype(np.uint8))
    room = _room(small.size, pixels)
    size = _scaled(small.size, room if room < 1 else math.floor(room))
    resized = np.asarray(small.resize(size, Image.Resampling.NEAREST))
    return _data_uri(hatched(resized, palette, ignore_index), "PNG", optimize=True)


def curves_svg(stages: Sequence[tuple[str, Log]], lines: Sequence[Line], label: str) -> str:
    """Draw columns of the stages' logs over epochs, one stage after another on one axis.

    Args:
        stages: name and log of each stage, in the order of training.
        lines: the columns to draw.
        label: what the lines show, for those who hear the page.

    Returns:
        An inline SVG coloured by the page's CSS variables, or "" if nothing was measured.
    """
    figure = Figure(figsize=(480 * _INCHES, 290 * _INCHES))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.09, 0.15, 0.87, 0.74))
    spans = _epoch_spans([log for _, log in stages])
    drawn = [
        _draw(axes, log, first, line)
        for (_, log), (first, _) in zip(stages, spans, strict=True)
        for line in lines
    ]
    if not any(drawn):
        return ""
    _name_stages(axes, [name for name, _ in stages], spans)
    _dress(axes)
    return _themed(figure, label)


def _epoch_spans(logs: Sequence[Log]) -> list[tuple[float, float]]:
    """Return for each log the epochs before its own and with its own, stages laid end to end."""
    spans, end = [], 0.0
    for log in logs:
        epochs = [epoch for epoch, _ in _measured(log, "epoch")]
        length = max(epochs) - min(epochs) + 1 if epochs else 0
        spans.append((end, end + length))
        end += length
    return spans


def _measured(log: Log, column: str) -> list[tuple[float, float]]:
    """Return (epoch, value) wherever the column has a finite value."""
    return [
        (epoch, value)
        for row in log
        if (epoch := finite(row.get("epoch"))) is not None
        and (value := finite(row.get(column))) is not None
    ]


def _draw(axes: Axes, log: Log, before: float, line: Line) -> bool:
    """Draw one stage's part of a line; return whether there was anything to draw."""
    points = _measured(log, line.column)
    if not points:
        return False
    start = min(_measured(log, "epoch"))[0]
    x = [before + epoch - start + 1 for epoch, _ in points]
    y = [value for _, value in points]
    colour = _THEME[line.colour]
    axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3 if len(x) < 12 else 0)
    if line.mark_best:
        best = int(np.argmax(y))
        axes.plot(x[best], y[best], "o", color=colour, markersize=6)
        axes.annotate(
            f"{y[best]:.3f}",
            (x[best], y[best]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=_THEME["ink"],
            fontsize=12,
        )
    return True


def _name_stages(axes: Axes, names: Sequence[str], spans: Sequence[tuple[float, float]]) -> None:
    """Part the stages by thin lines and write each one's name above its part."""
    total = spans[-1][1]
    axes.set_xlim(0.5, total + 0.5)
    crowded = any(last - first < 0.16 * total for first, last in spans)
    for i, (name, (first, last)) in enumerate(zip(names, spans, strict=True)):
        if first:
            axes.axvline(first + 0.5, color=_THEME["hairline"], linewidth=1)
        axes.text(
            (first + last + 1) / 2,
            1.03 + 0.06 * (i % 2 if crowded else 0),
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            color=_THEME["muted"],
            fontsize=12,
            parse_math=False,
        )


def _dress(axes: Axes) -> None:
    """Leave of the axes what helps to read the values."""
    low, high = axes.get_ylim()
    axes.set_ylim(0 if low < 0.4 * high else low, high + 0.12 * (high - low))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_THEME["hairline"], linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(length=0, labelsize=12, labelcolor=_THEME["muted"], pad=6)
    axes.set_xlabel("epoch", color=_THEME["muted"], fontsize=12)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(_THEME["muted"])


def _themed(figure: Figure, label: str) -> str:
    """Return the figure as an SVG element: text as text, colours from the page's style sheet."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = f'<svg role="img" aria-label="{label} over epochs"' + svg.partition("<svg")[2]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for name, stand_in in _THEME.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg


def finite(value: Any) -> float | None:
    """Return `value` as a float, or None where there is no finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _room(size: tuple[int, int], pixels: int) -> float:
    """Return the factor that brings an image to `pixels` pixels or WIDEST, whichever is less."""
    width, height = size
    return min(math.sqrt(pixels / (width * height)), WIDEST / width)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    width, height = size
    return max(1, round(width * factor)), max(1, round(height * factor))


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
