"""The paper's figure as one picture: examples in rows; photo, truth and each net in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from fullconv.base.palette import Colour
from fullconv.report.figures import hatched
from fullconv.report.page import Example, Report, ReportedHead, legend

PAPER, INK, MUTED = (255, 255, 255), (27, 33, 39), (88, 97, 106)


def side_by_side(report: Report) -> NDArray[np.uint8]:
    """Draw a report's examples at their own resolution, with titles and a legend of classes.

    Each head has its line of pictures, the photo being in the first one.

    Returns:
        A uint8 RGB array (H, W, 3).

    Raises:
        ValueError: the report has no examples.
    """
    if not report.examples:
        raise ValueError("a report without scenes has nothing to show side by side")
    width = max(example.image.shape[1] for example in report.examples)
    font = text_font(max(11, width // 17))
    parts = [] if len(report.heads) > 1 else [_titles(report.columns, width, font)]
    body = [_example(report, example, width, font) for example in report.examples]
    parts.append(_stack(body, _gap(width)))
    parts += [_legend(report, head, parts[-1].width, font) for head in report.heads]
    return np.asarray(_framed(parts, _gap(width)))


def _example(report: Report, example: Example, width: int, font: FreeTypeFont) -> Image.Image:
    """Draw an example's pictures in a line for each head; of several heads each has its titles."""
    lines = []
    for head in report.heads:
        maps = [
            hatched(labels, head.palette, report.ignore_index).convert("RGB")
            for labels in example.maps(head)
        ]
        first = head is report.heads[0]
        photo = Image.fromarray(example.image) if first else _blank(width, 1)
        if len(report.heads) > 1:
            titles = [report.titled(title, head) for title in report.columns[1:]]
            lines.append(_titles([report.columns[0] if first else "", *titles], width, font))
        lines.append(_line([photo, *maps], width))
    return _stack(lines, _gap(width))


def _line(pictures: Sequence[Image.Image], width: int) -> Image.Image:
    """Put one example's pictures side by side in columns of `width` pixels."""
    gap = _gap(width)
    line = _blank(len(pictures) * (width + gap) - gap, max(p.height for p in pictures))
    for i, picture in enumerate(pictures):
        line.paste(picture, (i * (width + gap), 0))
    return line


def _titles(names: Sequence[str], width: int, font: FreeTypeFont) -> Image.Image:
    """Write the columns' names where `_line` puts the columns."""
    gap = _gap(width)
    titles = _blank(len(names) * (width + gap) - gap, round(font.size * 1.3))
    for i, name in enumerate(names):
        ImageDraw.Draw(titles).text((i * (width + gap), font.size), name, MUTED, font, "ls")
    return titles


def _legend(report: Report, head: ReportedHead, width: int, font: FreeTypeFont) -> Image.Image:
    """Name the colours that occur, in as many lines as `width` pixels need."""
    entries = [_entry(name, colour, font) for name, colour in legend(report, head)]
    if len(report.heads) > 1:
        entries.insert(0, _titles([head.name], round(font.getlength(head.name) + font.size), font))
    lines: list[list[Image.Image]] = [[]]
    for entry in entries:
        if sum(e.width for e in [*lines[-1], entry]) > width and lines[-1]:
            lines.append([])
        lines[-1].append(entry)
    strip = _blank(width, len(lines) * entries[0].height)
    for row, line in enumerate(lines):
        left = 0
        for entry in line:
            strip.paste(entry, (left, row * entry.height))
            left += entry.width
    return strip


def _entry(name: str, colour: Colour | None, font: FreeTypeFont) -> Image.Image:
    """Draw one swatch and its name, with room to the next."""
    size = round(font.size)
    side = round(0.8 * size)
    entry = _blank(round(side + 1.7 * size + font.getlength(name)), round(1.5 * size))
    # A tiny label map, so that "ignored" is hatched here as it is in the pictures.
    swatch = hatched(np.zeros((side, side), np.uint8), [colour] if colour else [], 255)
    entry.paste(swatch.convert("RGB"), (0, size - side))
    ImageDraw.Draw(entry).text((side + 0.45 * size, size), name, INK, font, "ls")
    return entry


def _framed(parts: Iterable[Image.Image], margin: int) -> Image.Image:
    """Stack the picture's parts with a margin around."""
    inner = _stack(list(parts), gap=margin)
    picture = _blank(inner.width + 2 * margin, inner.height + 2 * margin)
    picture.paste(inner, (margin, margin))
    return picture


def _stack(images: Sequence[Image.Image], gap: int) -> Image.Image:
    height = sum(image.height + gap for image in images) - gap
    stack, top = _blank(max(image.width for image in images), height), 0
    for image in images:
        stack.paste(image, (0, top))
        top += image.height + gap
    return stack


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _gap(width: int) -> int:
    return max(3, width // 40)


def text_font(size: int) -> FreeTypeFont:
    """Return matplotlib's own sans serif, which is there on every machine."""
    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size
    )
