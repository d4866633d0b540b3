"""Labels as pictures: palettes, palette PNGs, and overlays on the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.files import replacing

Colour = tuple[int, int, int]

IGNORED: Colour = (255, 255, 255)
TINT = 0.45  # share of the class's colour in an overlay
BOUNDARY = 0.6  # brightness of the lines between classes
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


def save_label_image(
    path: Path, labels: NDArray[np.uint8], palette: Sequence[Colour], ignore_index: int = 255
) -> None:
    """Write HxW uint8 labels to `path` as an 8-bit palette PNG whose values are the class ids.

    `ignore_index`, and any id without a colour, is shown white. A palette entry is r, g, b in
    0..255.

    Raises:
        OSError: the file can't be written; whatever stood there before is untouched.
    """
    with replacing(path) as temporary:
        _coloured(labels, palette, ignore_index).save(temporary, "PNG")


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: Sequence[Colour],
    ignore_index: int = 255,
) -> NDArray[np.uint8]:
    """Return the RGB photograph, HxWx3, tinted by class, with boundaries between classes darkened.

    Where HxW `labels` are ignored or have no colour, the photograph is left as it is.
    """
    photograph = Image.fromarray(image)
    tinted = Image.blend(photograph, _coloured(labels, palette, ignore_index).convert("RGB"), TINT)
    labelled = (labels < len(palette)) & (labels != ignore_index)
    shown = np.where(labelled[..., None], np.asarray(tinted), image)
    edges = _boundaries(labels)
    shown[edges] = (shown[edges] * BOUNDARY).astype(np.uint8)
    return shown


def _boundaries(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a pixel and its right or lower neighbour differ in class."""
    edges = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edges[:, :-1] |= across
    edges[:-1] |= down
    return edges


def _coloured(
    labels: NDArray[np.uint8], palette: Sequence[Colour], ignore_index: int
) -> Image.Image:
    """Return the labels as a palette image, mode "P"."""
    table = np.full((256, 3), IGNORED, np.uint8)
    table[: len(palette)] = np.array(palette, np.uint8).reshape(-1, 3)
    table[ignore_index] = IGNORED
    image = Image.fromarray(labels)
    image.putpalette(table.tobytes())
    return image
