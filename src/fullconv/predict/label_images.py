"""Labels as pictures: palette PNGs, and overlays on the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.files import replacing
from fullconv.palette import IGNORED, Colour

TINT = 0.45  # share of the class's colour in an overlay
BOUNDARY = 0.6  # brightness of the lines between classes


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
