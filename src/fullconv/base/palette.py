"""The colours of classes, where a dataset brings none, and label ids as pictures in colours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]

IGNORED: Colour = (255, 255, 255)
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; a dark grey
# replaces their black, which would hide the photograph under an overlay.
OKABE_ITO: tuple[Colour, ...] = (
    (64, 64, 72),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Linear RGB as seen by all cones, without the red and without the green ones (Machado 2009), and
# how much a difference counts: to all cones less, so that those who have them get more of it.
EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    ]
)
EYE_WEIGHTS = np.array([0.4, 1.0, 1.0])
# OKLab (Ottosson 2020), where distance is about difference as perceived: linear RGB to cones, and
# the cubic roots of these to lightness and two colour axes.
TO_CONES = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
TO_LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


def default_palette(classes: int) -> tuple[Colour, ...]:
    """Return a distinct colour, [r, g, b] in 0..255, for each of up to 255 classes.

    The same for everybody, and that of fewer classes begins that of more.
    """
    if not 0 <= classes <= 255:
        raise ValueError(f"a palette has 0 to 255 colours, not {classes}")
    return _palette()[:classes]


def voc_palette(colours: int = 256) -> tuple[Colour, ...]:
    """Return the colours of PASCAL VOC's label images (VOClabelcolormap.m of its devkit).

    The bits of a label id, lowest first, go in turn to red, green and blue, from their highest
    bit down.
    """
    return tuple(
        (_every_third_bit(i), _every_third_bit(i >> 1), _every_third_bit(i >> 2))
        for i in range(colours)
    )


def palette_image(
    ids: NDArray[np.uint8], colours: Sequence[Colour], ignore_index: int | None = 255
) -> Image.Image:
    """Return HxW uint8 ids as a palette image (mode "P") whose values they are.

    Args:
        ids: of classes, or of whatever `colours` are for.
        colours: r, g, b in 0..255 of the first ids, at most 256.
        ignore_index: the id that is white, as is any without a colour; a PNG takes 8 bits a pixel.
            None: only `colours` go into the palette; a PNG packs few of them in fewer bits.
    """
    table = np.array(colours, np.uint8).reshape(-1, 3)
    if ignore_index is not None:
        table = np.concatenate((table, np.full((256 - len(table), 3), IGNORED, np.uint8)))
        table[ignore_index] = IGNORED
    image = Image.fromarray(ids)
    image.putpalette(table.tobytes())
    return image


def _every_third_bit(value: int) -> int:
    return sum((value >> 3 * bit & 1) << 7 - bit for bit in range(8))


@cache
def _palette() -> tuple[Colour, ...]:
    """Extend Okabe and Ito's colours by whatever is farthest from all colours so far."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lightness = _as_seen(grid)[1, :, 0]
    grid = grid[(lightness > 0.35) & (lightness < 0.95)]  # no near black or white, to the red-blind
    seen = _as_seen(grid)
    chosen = list(OKABE_ITO)
    taken = _as_seen(np.array([IGNORED, *chosen], np.uint8))
    nearest = np.linalg.norm(seen[:, :, None] - taken[:, None], axis=-1).min(axis=(0, 2))
    while len(chosen) < 255:
        best = int(nearest.argmax())
        red, green, blue = grid[best].tolist()
        chosen.append((red, green, blue))
        distance = np.linalg.norm(seen - seen[:, best : best + 1], axis=-1).min(axis=0)
        nearest = np.minimum(nearest, distance)
    return tuple(chosen)


def _as_seen(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return weighted OKLab coordinates, 3 x N x 3, of N colours as each kind of eye sees them."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.einsum("eij,nj->eni", EYES, linear).clip(0, 1)
    lab = np.cbrt(seen @ TO_CONES.T) @ TO_LAB.T
    weighted: NDArray[np.float64] = lab * EYE_WEIGHTS[:, None, None]
    return weighted
