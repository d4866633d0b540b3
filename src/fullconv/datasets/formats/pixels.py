"""Pixels within texts: COCO's and Label Studio's run lengths, and PNGs in base64."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from fullconv.base.shapes import mask_of_runs

_LONGEST_NUMBER = 13  # letters, of 5 bits each
_MOST_BYTES = 1 << 28  # of a PNG, once decoded


def coco_runs(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text; from the third on it has differences.

    Raises:
        ValueError: it isn't one.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 5 * _LONGEST_NUMBER:
            raise ValueError("run lengths that are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that end early")
    return runs


def coco_text(runs: Sequence[int]) -> str:
    """Return COCO's compressed text of run lengths."""
    letters = []
    for at, run in enumerate(runs):
        value = run - runs[at - 2] if at > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(chr((bits | 32 * more) + 48))
    return "".join(letters)


def coco_mask(counts: str | Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask H x W of COCO's run lengths, compressed or not.

    Raises:
        ValueError: they are not those of as many pixels.
    """
    runs = coco_runs(counts) if isinstance(counts, str) else [int(each) for each in counts]
    return mask_of_runs(runs, size)


def row_runs_mask(runs: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask H x W of run lengths row by row, as CVAT has them.

    Raises:
        ValueError: they are not those of as many pixels.
    """
    return mask_of_runs(runs, size[::-1]).T


def brush_mask(runs: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where the opacity is more than 0, H x W, of Label Studio's run lengths of RGBA.

    They are bits: 32 of the number of values, 5 of a value's bits less 1, four times 4 of a
    length's bits less 1. Then come runs: a bit that tells whether all values are one, 2 that say
    which length's bits follow, the length less 1, and the value or the values.

    Raises:
        ValueError: they are not those of as many pixels.
    """
    count = 4 * size[0] * size[1]
    bits = _Bits(bytes(runs))
    if bits.read(32) != count:
        raise ValueError(f"a brush that is not of {size[1]} x {size[0]} pixels")
    width = bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, bool)
    at = 0
    while at < count:
        same = bits.read(1)
        end = at + bits.read(lengths[bits.read(2)]) + 1
        if end > count:
            raise ValueError("run lengths that don't fit the image")
        values[at:end] = bits.read(width) > 0 if same else bits.many(end - at, width)
        at = end
    return values[3::4].reshape(size)


class _Bits:
    """Reads numbers of some bits each."""

    def __init__(self, content: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(content, np.uint8))
        self._text = self._bits.tobytes().translate(bytes.maketrans(b"\0\1", b"01"))
        self._at = 0

    def read(self, width: int) -> int:
        """Read one."""
        self._require(width)
        value = int(self._text[self._at : self._at + width], 2)
        self._at += width
        return value

    def many(self, count: int, width: int) -> NDArray[np.bool_]:
        """Read many, and tell which are not 0."""
        self._require(count * width)
        bits = self._bits[self._at : self._at + count * width].reshape(count, width)
        self._at += count * width
        found: NDArray[np.bool_] = np.logical_or.reduce(bits, axis=1)
        return found

    def _require(self, width: int) -> None:
        if self._at + width > len(self._bits):
            raise ValueError("run lengths that end early")


def png_mask(text: str, *, packed: bool = False) -> NDArray[np.bool_]:
    """Return where a PNG in base64 is neither 0 nor transparent, H x W.

    Args:
        text: base64.
        packed: whether the PNG is packed once more, by zlib, as Supervisely does.

    Raises:
        ValueError: it is none, damaged, or larger than an image may be.
    """
    try:
        content = base64.b64decode(text, validate=True)
        if packed:
            content = zlib.decompressobj().decompress(content, _MOST_BYTES)
        with PngImageFile(io.BytesIO(content)) as image:
            if image.width * image.height > _MOST_BYTES:
                raise ValueError("a PNG that is too large")
            bands = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    except (binascii.Error, zlib.error, OSError, SyntaxError):
        raise ValueError("a PNG in base64 that is damaged") from None
    if bands.ndim == 3 and bands.shape[2] in (2, 4):
        bands = bands[..., -1]
    whole = bands.reshape(*bands.shape[:2], -1).astype(bool)
    found: NDArray[np.bool_] = np.logical_or.reduce(whole, axis=2)
    return found
