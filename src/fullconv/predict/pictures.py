"""Labels as pictures: palette PNGs, and overlays on the photograph."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.base.files import replacing
from fullconv.base.palette import Colour, palette_image
from fullconv.net.described import Size

TINT = 0.45  # share of the class's colour in an overlay
BOUNDARY = 0.6  # brightness of the lines between classes
JPEG_SIDE = 65_500  # the longest that the format knows
BAND = 1 << 20  # pixels


class LabelWriter:
    """Writes labels, band by band from the top, as an 8-bit palette PNG whose values they are.

    A file in memory (`io.BytesIO`) gets the encoded bytes.
    """

    def __init__(
        self, file: IO[bytes], size: Size, palette: Sequence[Colour], ignore_index: int = 255
    ) -> None:
        """Begin an image.

        Args:
            file: takes it.
            size: height and width in pixels.
            palette: r, g, b in 0..255 of the first ids.
            ignore_index: an id that is shown white, as is any without a colour.
        """
        self._file = file
        # So compressed in a third of the time that the usual way takes.
        self._deflate = zlib.compressobj(strategy=zlib.Z_RLE)
        colours = palette_image(np.zeros((1, 1), np.uint8), palette, ignore_index).getpalette()
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 3, 0, 0, 0))
        self._chunk(b"PLTE", bytes(colours or ()))

    def write(self, labels: NDArray[np.uint8]) -> None:
        """Add the next rows x W labels, uint8."""
        if labels.dtype != np.uint8:
            raise TypeError(f"labels are uint8, not {labels.dtype}")
        lines = np.zeros((labels.shape[0], labels.shape[1] + 1), np.uint8)  # 0: no filter
        lines[:, 1:] = labels
        self._chunk(b"IDAT", self._deflate.compress(lines.data))

    def close(self) -> None:
        """End the image; the file stays open."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        checksum = zlib.crc32(data, zlib.crc32(kind))
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))


class OverlayWriter:
    """Writes an `overlay`, band by band from the top, as a JPEG.

    It is made smaller where the format knows no such size.
    """

    def __init__(
        self, file: IO[bytes], size: Size, palette: Sequence[Colour], ignore_index: int = 255
    ) -> None:
        """Begin an image (see `LabelWriter`)."""
        self._file, self._palette, self._ignore_index = file, palette, ignore_index
        self._picture = Image.new("RGB", (size[1], size[0]))
        self._held: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        self._top = 0

    def write(self, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Add the next rows x W of the RGB photograph, and their labels."""
        if self._held is not None:  # the last row, whose lower neighbours are there now
            image, labels = (
                np.concatenate(both) for both in zip(self._held, (image, labels), strict=True)
            )
        self._held = image[-1:].copy(), labels[-1:].copy()
        self._paste(overlay(image, labels, self._palette, self._ignore_index)[:-1])

    def close(self) -> None:
        """End the image and write it; the file stays open."""
        if self._held is not None:
            self._paste(overlay(*self._held, self._palette, self._ignore_index))
        _write_jpeg(self._picture, self._file)

    def _paste(self, shown: NDArray[np.uint8]) -> None:
        if len(shown):
            self._picture.paste(Image.fromarray(shown), (0, self._top))
        self._top += len(shown)


def _write_jpeg(picture: Image.Image, file: IO[bytes]) -> None:
    """Write a picture, made smaller where the format knows no such size."""
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
    encoded = io.BytesIO()  # PIL would not say why it can't write to a file
    picture.save(encoded, "JPEG", quality=90)
    file.write(encoded.getbuffer())


class ScoreWriter:
    """Writes probabilities, band by band from the top, as a .npy file of float16, C x H x W."""

    def __init__(self, file: IO[bytes], size: Size, num_classes: int) -> None:
        """Begin an array (see `LabelWriter`); the file can be sought in."""
        self._file, self._size, self._row = file, size, 0
        header = {"descr": "<f2", "fortran_order": False, "shape": (num_classes, *size)}
        np.lib.format.write_array_header_1_0(file, header)
        self._start = file.tell()

    def write(self, probabilities: NDArray[np.float16]) -> None:
        """Add the next C x rows x W."""
        height, width = self._size
        for label, band in enumerate(probabilities.astype("<f2", copy=False)):
            self._file.seek(self._start + 2 * width * (label * height + self._row))
            self._file.write(np.ascontiguousarray(band).data)
        self._row += probabilities.shape[1]


def save_label_image(
    path: Path, labels: NDArray[np.uint8], palette: Sequence[Colour], ignore_index: int = 255
) -> None:
    """Write HxW uint8 labels to a file (see `LabelWriter`).

    Raises:
        OSError: the file can't be written; whatever stood there before is untouched.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        write_label_image(file, labels, palette, ignore_index)


def write_label_image(
    file: IO[bytes],
    labels: NDArray[np.uint8],
    palette: Sequence[Colour],
    ignore_index: int = 255,
) -> None:
    """Write HxW uint8 labels to an open file (see `LabelWriter`)."""
    size = (labels.shape[0], labels.shape[1])
    writer = LabelWriter(file, size, palette, ignore_index)
    for rows in bands(size):
        writer.write(labels[rows])
    writer.close()


def save_overlay(
    path: Path,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: Sequence[Colour],
    ignore_index: int = 255,
) -> None:
    """Write an `overlay` to a file (see `OverlayWriter`).

    Raises:
        OSError: the file can't be written; whatever stood there before is untouched.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        write_overlay(file, image, labels, palette, ignore_index)


def write_overlay(
    file: IO[bytes],
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: Sequence[Colour],
    ignore_index: int = 255,
) -> None:
    """Write an `overlay` to an open file (see `OverlayWriter`)."""
    if labels.size <= BAND:  # without a copy of the picture
        shown = overlay(image, labels, palette, ignore_index)
        return _write_jpeg(Image.fromarray(shown), file)
    size = (labels.shape[0], labels.shape[1])
    writer = OverlayWriter(file, size, palette, ignore_index)
    for rows in bands(size):
        writer.write(image[rows], labels[rows])
    return writer.close()


def save_scores(
    path: Path, probabilities: Iterable[NDArray[np.float16]], size: Size, num_classes: int
) -> None:
    """Write bands of probabilities, C x rows x W from the top, to a file (see `ScoreWriter`).

    Raises:
        OSError: the file can't be written; whatever stood there before is untouched.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = ScoreWriter(file, size, num_classes)
        for band in probabilities:
            writer.write(band)


def bands(size: Size) -> Iterator[slice]:
    """Yield the rows of an image of a size (H, W), so many at a time that they cost little."""
    step = max(1, BAND // size[1])
    for top in range(0, size[0], step):
        yield slice(top, min(top + step, size[0]))


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
