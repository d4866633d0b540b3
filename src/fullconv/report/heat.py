"""A picture of where a class is: the photograph, and its probability over it."""

from __future__ import annotations

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from fullconv.report.contact import INK, MUTED, PAPER, text_font

WIDEST = 1200  # pixels of each of the two pictures
OPACITY = 0.65  # of the colours over the grey photograph
COLOURS = "inferno"  # rises evenly in lightness, to every kind of eye and in grey
LEVELS = 256


def heat_picture(image: NDArray[np.uint8], heat: NDArray[np.float32], caption: str) -> Image.Image:
    """Draw a photograph and, beside it, the heat over it in grey; below, what the colours mean.

    Args:
        image: uint8 H x W x 3.
        heat: H x W, 0..1.
        caption: a line.
    """
    photo = Image.fromarray(image)
    factor = min(1.0, WIDEST / max(photo.size))
    size = max(1, round(photo.width * factor)), max(1, round(photo.height * factor))
    small = photo.resize(size, Image.Resampling.LANCZOS)
    level = Image.fromarray((heat * (LEVELS - 1)).round().astype(np.uint8))
    glow = coloured(np.asarray(level.resize(size, Image.Resampling.BILINEAR)))
    over = Image.blend(small.convert("L").convert("RGB"), glow, OPACITY)
    width = max(2 * size[0], 320)
    gap = max(4, width // 100)
    text = text_font(max(12, min(28, width // 45)))
    line = round(1.6 * text.size)
    rows = _wrapped(caption, text, width + gap)
    page = Image.new("RGB", (width + gap, size[1] + gap + line * (len(rows) + 1)), PAPER)
    page.paste(small, (0, 0))
    page.paste(over, (size[0] + gap, 0))
    draw = ImageDraw.Draw(page)
    for row, words in enumerate(rows):
        draw.text((0, size[1] + gap + row * line), words, INK, text)
    _key(page, size[1] + gap + len(rows) * line, text)
    return page


def coloured(levels: NDArray[np.uint8]) -> Image.Image:
    """Return 0..255 as colours."""
    table = matplotlib.colormaps[COLOURS](np.arange(LEVELS), bytes=True)[:, :3]
    return Image.fromarray(table[levels])


def _key(page: Image.Image, top: int, text: FreeTypeFont) -> None:
    """Draw the scale of colours from 0 to 1."""
    draw, size = ImageDraw.Draw(page), round(text.size)
    left = round(1.2 * size)
    bar = min(16 * size, page.width - 3 * left)
    ramp = np.tile(np.linspace(0, LEVELS - 1, bar).astype(np.uint8), (round(0.8 * size), 1))
    page.paste(coloured(ramp), (left, top + round(0.3 * size)))
    draw.text((0, top), "0", MUTED, text)
    draw.text((left + bar + round(0.4 * size), top), "1  probability", MUTED, text)


def _wrapped(caption: str, text: FreeTypeFont, width: int) -> list[str]:
    """Break a line where it is wider than the page."""
    rows = [""]
    for word in caption.split():
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and text.getlength(longer) > width:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows
