"""What an image file stores, and how its values become RGB, a net's input or label ids.

A decoder gives the values as they are in the file, height x width x bands, and a `Stored` that says
what they mean; the rules of what becomes of them are here, and the same for every format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.base.errors import FullconvError

_Value = TypeVar("_Value", bound=np.generic)

ALPHA = "alpha"
RGB = ("red", "green", "blue")
CMYK = ("cyan", "magenta", "yellow", "black")
_KINDS = {"b": "1-bit", "u": "unsigned", "i": "signed", "f": "floating-point", "c": "complex"}


@dataclass(frozen=True)
class ValueRange:
    """Which stored values a net sees as 0 and 255: the range that a dataset's images use.

    Images of 8 bits need none: theirs is 0..255. One of more bits may use few of them.

    Attributes:
        low: is seen as 0, as is all below.
        high: is seen as 255, as is all above; more than `low`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"a range from {self.low} to {self.high}: must be finite and rise")


def scaled(values: NDArray[Any], span: ValueRange) -> NDArray[np.float32]:
    """Return stored values as a net sees them: 0..255, `span` linearly, all beyond at its ends.

    What is no number becomes 0.
    """
    share = (values.astype(np.float64) - span.low) / (span.high - span.low)
    return (np.nan_to_num(share).clip(0, 1) * 255).astype(np.float32)


@dataclass(frozen=True)
class Stored:
    """What is in an image file, by its header.

    Attributes:
        height: in pixels, as stored; `size` is upright.
        width: likewise.
        bands: what each value of a pixel is: "grey"; "index" (of a palette); "red", "green",
            "blue"; "cyan", "magenta", "yellow", "black"; "alpha"; or, where the file does not
            say, "band 4" (counted from 1).
        dtype: of the values.
        bits: of a value; they may be fewer than those of `dtype`.
        orientation: of EXIF, 1 (upright) to 8.
        white_is_zero: whether grey grows darker with its value.
        lossy: the compression, such as "JPEG", if it alters values.
        layout: how the values lie in the file, such as "tiled, LZW"; for messages.
        georeferenced: whether the file says where on the earth it lies.
        names: what the file calls its bands; empty where it doesn't.
        nodata: the value that stands for none.
        every_band: whether each band is a measurement, whatever the file says of its colours.
    """

    height: int
    width: int
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    bits: int
    orientation: int = 1
    white_is_zero: bool = False
    lossy: str = ""
    layout: str = ""
    georeferenced: bool = False
    names: tuple[str, ...] = ()
    nodata: float | None = None
    every_band: bool = False

    def __str__(self) -> str:
        """Say bands, type and layout, for messages."""
        kind = _KINDS.get(self.dtype.kind, str(self.dtype))
        bits = "" if self.dtype.kind == "b" else f"{self.bits}-bit "
        return ", ".join(filter(None, (_told(self.bands), f"{bits}{kind}", self.layout)))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright image."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)

    @property
    def shown(self) -> tuple[int, ...]:
        """Indices of the bands that make an RGB image: one of grey or of a palette, 3, or 4."""
        opaque = tuple(at for at, band in enumerate(self.bands) if band != ALPHA)
        if self.bands[0] in ("grey", "index"):
            return opaque[:1]
        if self.bands[:4] == CMYK:
            return opaque[:4]
        return opaque[:3] if len(opaque) >= 3 else opaque[:1]

    @property
    def measured(self) -> tuple[int, ...] | None:
        """Indices of the bands whose values `ImageReader.input` keeps; None: it reads an image."""
        if self.every_band:
            return tuple(range(len(self.bands)))
        opaque = tuple(at for at, band in enumerate(self.bands) if band != ALPHA)
        if len(opaque) == len(self.shown) and self._is_picture():
            return None
        return opaque

    def _is_picture(self) -> bool:
        if self.dtype.kind in "bu" and self.bits <= 8:
            return True
        return self.bands[0] in (RGB[0], CMYK[0]) and self.dtype.kind == "u" and self.bits <= 16

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know who takes the file for an RGB image: bands not shown."""
        opaque = [band for band in self.bands if band != ALPHA]
        used = [self.bands[at] for at in self.shown]
        if len(used) == len(opaque):
            return ()
        told = _told(used) if used[0] != "band 1" else f"the first {len(used)}"
        return (f"of {_told(opaque)} only {told} are shown as colours",)

    @property
    def input_remarks(self) -> tuple[str, ...]:
        """What a person should know who takes the file for an input: values cut to bytes."""
        if self.measured is not None or self.bits <= 8:
            return ()
        return (f"of its {self.bits}-bit colours only the high bytes are read",)

    @property
    def channels(self) -> int:
        """How many channels `ImageReader.input` reads."""
        return 3 if self.measured is None else len(self.measured)


class Source(Protocol):
    """An open image file."""

    stored: Stored

    def values(self) -> NDArray[Any]:
        """Decode the values, as they are stored: (height, width, bands), not turned."""

    def palette(self) -> NDArray[np.uint8]:
        """Return the colours of a palette: (colours, 3)."""

    def notes(self) -> Iterator[str]:
        """Say what a person should know about what is not read of the file, or not in it."""


def require_picture(path: object, stored: Stored, span: ValueRange | None) -> None:
    """Raise FullconvError where no RGB image can be made of what is stored."""
    what = "floating-point" if stored.dtype.kind == "f" else f"{stored.bits}-bit signed"
    if span is None and (stored.dtype.kind == "f" or stored.dtype == np.int8):
        raise FullconvError(
            f"{path}: holds {what} values, whose range is unknown ({stored}); save it as 8 or "
            "16 bits, or read it as a further input, which keeps the values"
        )


def require_labels(path: object, stored: Stored) -> None:
    """Raise FullconvError where what is stored can't be label ids."""
    colours = [band[0].upper() for band in stored.bands if band != ALPHA]
    if stored.lossy:
        problem = f"is a {stored.lossy}, which alters label ids; make it again as PNG"
    elif len(colours) > 1 and stored.bands[0] in (RGB[0], CMYK[0]):
        name = "RGB" if stored.bands[0] == RGB[0] else "CMYK"
        name += "A" * (ALPHA in stored.bands)
        problem = f"is {name}: store one label id per pixel (8-bit grey or palette) instead of "
        problem += "colours"
    elif len(colours) > 1:
        problem = f"has {_told(stored.bands)}: store one label id per pixel as 8-bit grey"
    elif stored.bits > 8 or stored.dtype.kind not in "bu":
        signed = " signed" if stored.dtype.kind == "i" else ""
        problem = f"is {stored.bits}-bit{signed}: save the label ids as 8-bit grey or palette"
    elif ALPHA in stored.bands:
        kind = "an 8-bit palette image" if stored.bands[0] == "index" else "8-bit grey"
        problem = f"has an alpha channel: save it as {kind}, without alpha"
    else:
        return
    raise FullconvError(f"{path}: the mask {problem}")


def picture(path: object, source: Source, span: ValueRange | None) -> NDArray[np.uint8]:
    """Make an RGB image of what is stored: uint8 (height, width, 3), not turned."""
    stored = source.stored
    require_picture(path, stored, span)
    values = source.values()
    if len(stored.shown) < values.shape[2]:
        first, last = stored.shown[0], stored.shown[-1]
        even = last - first + 1 == len(stored.shown)
        values = values[..., first : last + 1] if even else values[..., stored.shown]
    if stored.bands[0] == "index":
        colours: NDArray[np.uint8] = source.palette()[values[..., 0]]
        return colours
    grey = len(stored.shown) == 1
    seen = _bytes(path, values, stored, span, "rounded" if grey else "high byte")
    if stored.white_is_zero and grey:
        seen = 255 - seen
    if stored.bands[:4] == CMYK:
        return np.array(Image.fromarray(seen, "CMYK").convert("RGB"))
    return seen.repeat(3, 2) if grey else np.ascontiguousarray(seen)


def measurements(path: object, source: Source) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Return the bands that are `measured`, their values kept: (height, width, bands), not turned.

    Unsigned values of at most 8 bits are uint8, all others float32. Of `every_band` those that
    stand for no data are NaN, as are those that are no numbers; so bytes may become float32.
    """
    stored, bands = source.stored, source.stored.measured
    assert bands is not None
    values = source.values()[..., list(bands)]
    if stored.every_band and stored.nodata is not None and not np.isnan(stored.nodata):
        gaps = values == stored.nodata
        if gaps.any():
            values = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
            values[gaps] = np.nan
    if values.dtype.itemsize == 1 and values.dtype.kind in "bu":
        return values.astype(np.uint8)
    if values.dtype.kind in "ui" and stored.bits > 16:
        _require_16_bits(path, values)
    with np.errstate(over="ignore"):
        kept = values.astype(np.float32)
    right = ~np.isinf(kept) if stored.every_band else np.isfinite(kept)
    wrong = kept.size - np.count_nonzero(right)
    if wrong:
        raise FullconvError(
            f"{path}: {wrong:,} of its values are no numbers or are infinite ({stored}); write a "
            "number in their place"
        )
    return kept


def label_ids(source: Source) -> NDArray[np.uint8]:
    """Return label ids: uint8 (height, width), not turned."""
    ids: NDArray[np.uint8] = source.values()[..., 0].astype(np.uint8, copy=False)
    if source.stored.white_is_zero:
        ids = 2**source.stored.bits - 1 - ids
    return ids


def upright(pixels: NDArray[_Value], orientation: int) -> NDArray[_Value]:
    """Turn (height, width, ...) upright, as EXIF's `orientation` says.

    The array may have any type and number of bands, which `ImageOps.exif_transpose` can't turn
    (test_tiffs_stand_upright).
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _bytes(
    path: object,
    values: NDArray[Any],
    stored: Stored,
    span: ValueRange | None,
    way: Literal["rounded", "high byte"],
) -> NDArray[np.uint8]:
    """Bring values to 8 bits: by `span`, else from all that their bits can hold."""
    bits = stored.bits
    if values.dtype == np.uint8 and bits == 8:
        return values
    if span is not None and bits > 8:
        return scaled(values, span).round().astype(np.uint8)
    if bits > 16 or values.dtype.kind == "i":
        _require_16_bits(path, values)
        values, bits = values.astype(np.uint16), 16
    table = np.arange(2**bits, dtype=np.float64)
    eight = table // 2 ** (bits - 8) if way == "high byte" and bits > 8 else table * 255 / table[-1]
    found: NDArray[np.uint8] = eight.round().astype(np.uint8)[values.astype(np.uint16, copy=False)]
    return found


def _require_16_bits(path: object, values: NDArray[Any]) -> None:
    if not 0 <= values.min() <= values.max() <= 0xFFFF:
        raise FullconvError(
            f"{path}: holds values outside 0..65535 ({values.min()}..{values.max()}); save it as 8 "
            "or 16 bits"
        )


def _told(bands: Sequence[str]) -> str:
    """Write "grey", "red, green, blue" or "8 bands"; names of all but long rows."""
    if len(bands) > 5 or all(band.startswith("band") for band in bands):
        return f"{len(bands)} bands"
    return ", ".join(bands)
