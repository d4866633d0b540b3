"""Labels as pictures: palette PNGs, and overlays on the photograph."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.base.files import replacing
from fullconv.base.palette import Colour, palette_image

TINT = 0.45  # share of the class's colour in an overlay
BOUNDARY = 0.6  # brightness of the lines between classes
JPEG_SIDE = 65_500  # the longest that the format knows


def save_label_image(
    path: Path, labels: NDArray[np.uint8], palette: Sequence[Colour], ignore_index: int = 255
) -> None:
    """Write HxW uint8 labels to `path` as an 8-bit palette PNG whose values are the class ids.

    `ignore_index`, and any id without a colour, is shown white. A palette entry is r, g, b in
    0..255.

    Raises:
        OSError: the file can't be written; whatever stood there before is untouched.
    """
    image = palette_image(labels, palette, ignore_index)
    with replacing(path) as temporary:
        # So compressed in a third of the time that PIL's usual way takes.
        image.save(temporary, "PNG", compress_type=zlib.Z_RLE)


def save_overlay(
    path: Path,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: Sequence[Colour],
    ignore_index: int = 255,
) -> None:
    """Write an `overlay` to `path` as a JPEG, made smaller where the format knows no such size.

    Raises:
        OSError: the file can't be written; whatever stood there before is untouched.
    """
    picture = Image.fromarray(overlay(image, labels, palette, ignore_index))
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
    with replacing(path) as temporary:
        picture.save(temporary, "JPEG", quality=90)


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
    tinted = Image.blend(
        photograph, palette_image(labels, palette, ignore_index).convert("RGB"), TINT
    )
    unlabelled = (labels >= len(palette)) | (labels == ignore_index)
    if unlabelled.any():
        tinted.paste(photograph, mask=Image.fromarray(unlabelled))
    shown = np.array(tinted)
    pixels, edges = shown.reshape(-1, 3), np.flatnonzero(_boundaries(labels))
    pixels[edges] = (pixels[edges] * BOUNDARY).astype(np.uint8)
    return shown


def _boundaries(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a pixel and its right or lower neighbour differ in class."""
    edges = np.zeros(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=edges[:, :-1])
    edges[:-1] |= labels[1:] != labels[:-1]
    return edges
