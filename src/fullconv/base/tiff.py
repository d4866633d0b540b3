"""TIFF files, of which Pillow decodes a part and some of that wrongly: by tifffile, by their tags.

Pillow reads 16-bit values that are stored band by band as noise, signed bytes as unsigned, values
without a photometric tag inverted, and multiplies alpha into colours.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, TIFF, TiffFile, TiffPage
from tifffile.tifffile import jpeg_shape

from fullconv.base.errors import FullconvError
from fullconv.base.stored import ALPHA, CMYK, RGB, Stored

_BITS = {  # by SampleFormat: unsigned, signed, floating point, undefined
    1: (1, 2, 4, 8, 10, 12, 14, 16, 32, 64),
    2: (8, 16, 32, 64),
    3: (16, 32, 64),
    4: (8, 16, 32),
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRIC = {_RGB: RGB, _PALETTE: ("index",), _SEPARATED: CMYK, _YCBCR: RGB}
_JPEG = 7
_GEOREFERENCES = (33550, 33922, 34264)  # pixel scale, tie points, transformation
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
_MOST_METADATA = 1 << 20  # bytes
# What GDAL and libtiff write; imagecodecs has many more decoders, of uncertain age.
_COMPRESSIONS = {
    1: "uncompressed",
    2: "CCITT RLE",
    3: "CCITT T.4",
    4: "CCITT T.6",
    5: "LZW",
    _JPEG: "JPEG",
    8: "Deflate",
    32946: "Deflate",
    32773: "PackBits",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
}
_LOSSY = ("JPEG", "WebP")
_HEADER = 1 << 16  # bytes of a compressed part, within which it tells its size
_REDUCED_OR_MASK = 0b101  # bits of NewSubfileType


class TiffSource:
    """The first page of an open TIFF file (a `Source`)."""

    def __init__(self, path: object, file: IO[bytes]) -> None:
        """Read the tags.

        Raises:
            FullconvError: a kind of TIFF that is not read; the message says which, and what to do.
        """
        file.seek(0)
        self._path, self._file = path, TiffFile(file, name=str(path))
        self._page = page = self._file.pages.first
        self._color = _photometric(page)
        self._require_known()
        self.stored = Stored(
            page.imagelength,
            page.imagewidth,
            _bands(page, self._color),
            np.dtype(page.dtype),
            page.bitspersample,
            _orientation(page),
            self._color == _WHITE_IS_ZERO,
            compression if (compression := _COMPRESSIONS[page.compression]) in _LOSSY else "",
            _layout(page),
            any(tag in page.tags for tag in _GEOREFERENCES),
            _names(page),
            _nodata(page),
        )

    def values(self) -> NDArray[Any]:
        """Decode the values, as they are stored: (height, width, bands), not turned."""
        page, stored = self._page, self.stored
        if page.compression == _JPEG:  # whose decoder makes up what is missing
            ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
            missing = max(ends, default=0) - self._file.filehandle.size
            if missing > 0:
                raise ValueError(f"{missing:,} bytes are missing at its end")
        if page.compression in _DECLARED:
            self._require_sizes()
        values = page.asarray(maxworkers=1)  # images are read side by side
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, 2)
        return values.reshape(stored.height, stored.width, len(stored.bands))

    def _require_sizes(self) -> None:
        """Raise ValueError where a part says that it is larger than its place, before decoding."""
        page = self._page
        rows = page.tilelength if page.is_tiled else page.rowsperstrip
        most = 2 * rows * (page.tilewidth if page.is_tiled else page.imagewidth) + (1 << 16)
        handle = self._file.filehandle
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if not count:
                continue
            handle.seek(offset)
            height, width = _DECLARED[page.compression](page, handle.read(min(count, _HEADER)))
            if height * width > most:
                raise ValueError(f"a part of it says that it has {width} x {height} pixels")

    def palette(self) -> NDArray[np.uint8]:
        """Return the colours of the palette: (colours, 3); of 16 bits, rarely 8, in the file."""
        colours = np.asarray(self._page.colormap).T
        eight: NDArray[np.uint8] = (colours >> 8 if colours.max() > 255 else colours).astype("u1")
        return eight

    def notes(self) -> Iterator[str]:
        """Say what is not read of the file, or not in it."""
        page, file = self._page, self._file
        missing = sum(count == 0 for count in page.databytecounts)
        if missing:
            what = "tiles" if page.is_tiled else "strips"
            yield f"{missing} of {len(page.databytecounts)} {what} are not stored: read as no data"
        declared = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
        if declared > 1 or any(map(_is_full, _further(file))):
            yield "of several pages only the first is used"

    def _require_known(self) -> None:
        """Raise FullconvError for a kind of TIFF that is not read."""
        problem = next(self._unknown(), None)
        if problem is not None:
            raise FullconvError(f"{self._path}: {problem}")

    def _unknown(self) -> Iterator[str]:
        page, color = self._page, self._color
        bits, form, compression = page.bitspersample, page.sampleformat, page.compression
        if np.ndim(bits) or np.ndim(form):
            yield "its bands have different types; save them alike"
        elif bits not in _BITS.get(form, ()):
            kind = f"{bits} bits, format {form:d}"
            yield f"its values are of a type that is not read ({kind}); save it as 8 or 16 bits"
        if compression not in _COMPRESSIONS:
            name = _named(COMPRESSION, compression)
            yield f"its compression ({name}) is not read; save it with Deflate or LZW"
        elif compression != 1 and compression not in TIFF.DECOMPRESSORS:
            name = _COMPRESSIONS[compression]
            yield f"its compression ({name}) needs a newer tifffile: pip install -U tifffile"
        if color not in (*_PHOTOMETRIC, _WHITE_IS_ZERO, _BLACK_IS_ZERO):
            name = _named(PHOTOMETRIC, color)
            yield f"its colours ({name}) are not read; save it as grey or RGB"
        if color == _PALETTE and page.colormap is None:
            yield "its palette is missing; restore the file or remove it"
        if color == _YCBCR and compression != _JPEG:
            yield "it stores YCbCr colours outside JPEG; save it as RGB"
        if page.imagedepth != 1:
            yield f"it is a volume of {page.imagedepth} slices; save each as an image"


def _jpeg_size(_: TiffPage, head: bytes) -> tuple[int, int]:
    shape = jpeg_shape(head)  # bits, height, width, bands
    return shape[1], shape[2]


def _webp_size(_: TiffPage, head: bytes) -> tuple[int, int]:
    """Read the canvas, or the size of a lossless or lossy image."""
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        return height + 1, width + 1
    if head[12:16] == b"VP8L":
        both = int.from_bytes(head[21:25], "little")
        return (both >> 14 & 0x3FFF) + 1, (both & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", head, 26)
    return height & 0x3FFF, width & 0x3FFF


def _lerc_size(page: TiffPage, head: bytes) -> tuple[int, int]:
    """Read the header of a LERC 2 blob, which may be compressed once more."""
    _, further, *_ = page.tags.valueof(50674, (4, 0))
    if further == 1:
        head = zlib.decompressobj().decompress(head, _HEADER)
    elif further:
        raise ValueError("LERC within Zstandard is not read; save it with LERC and Deflate")
    magic, version = struct.unpack_from("<6si", head)
    if magic != b"Lerc2 ":
        raise ValueError("its LERC is of a version that is not read")
    height, width = struct.unpack_from("<ii", head, 14 if version >= 3 else 10)
    return height, width


_DECLARED = {_JPEG: _jpeg_size, 34887: _lerc_size, 50001: _webp_size}  # by compression


def _photometric(page: TiffPage) -> int:
    """Return what the bands are, by the tag; without one they are grey, or of no known colours."""
    color = int(page.tags.valueof(262, _BLACK_IS_ZERO))
    is_cmyk = page.tags.valueof(332, 1) == 1  # InkSet
    return _BLACK_IS_ZERO if color == _SEPARATED and not is_cmyk else color


def _bands(page: TiffPage, color: int) -> tuple[str, ...]:
    """Name the bands: those of the colour model, then extra ones, some of which are alpha."""
    count = page.samplesperpixel
    extra = tuple(page.extrasamples)
    named = _PHOTOMETRIC.get(color, ("grey",))
    if count < len(named):
        raise ValueError(f"{count} bands cannot be {', '.join(named)}")
    alphas = {count - len(extra) + at for at, kind in enumerate(extra) if kind in (1, 2)}
    if named == ("grey",) and count - len(alphas) > 2:
        named = ()  # by convention of GDAL: many bands, and the first is as grey as the others
    names = (*named, *(f"band {at + 1}" for at in range(len(named), count)))
    return tuple(ALPHA if at in alphas else name for at, name in enumerate(names))


def _names(page: TiffPage) -> tuple[str, ...]:
    """Return what GDAL's metadata call the bands; nothing where they don't name all."""
    from html import unescape
    from xml.etree import ElementTree

    text = str(page.tags.valueof(_GDAL_METADATA, ""))
    if "<!" in text or len(text) > _MOST_METADATA:  # no entities
        return ()
    found = {}
    try:
        for item in ElementTree.fromstring(text).iter("Item"):
            if item.get("role") == "description" and item.text:
                found[int(item.get("sample", ""))] = unescape(item.text).strip()  # it was twice
    except (ElementTree.ParseError, ValueError):
        return ()
    named = [found.get(at, "") for at in range(page.samplesperpixel)]
    return tuple(named) if all(named) and len(set(named)) == len(named) else ()


def _nodata(page: TiffPage) -> float | None:
    """Return the value that stands for no data, as GDAL writes it."""
    try:
        return float(str(page.tags.valueof(_GDAL_NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def _named(kinds: type[IntEnum], kind: int) -> str:
    """Return the name of a tag's value, or the value."""
    return kinds(kind).name if kind in set(kinds) else str(kind)


def _orientation(page: TiffPage) -> int:
    found = page.tags.valueof(274, 1)
    return found if found in range(1, 9) else 1


def _layout(page: TiffPage) -> str:
    words = (
        "band by band" if page.planarconfig == 2 and page.samplesperpixel > 1 else "",
        "tiled" if page.is_tiled else "",
        _COMPRESSIONS[page.compression],
    )
    return " ".join(filter(None, words))


def _further(file: TiffFile) -> Iterator[TiffPage]:
    """Yield the next few pages; there may be thousands."""
    for at in range(1, 9):
        try:
            page = file.pages[at]
        except IndexError:
            return
        if isinstance(page, TiffPage):
            yield page


def _is_full(page: TiffPage) -> bool:
    """Tell a page that is neither a smaller copy of another nor a mask of transparency."""
    return not page.tags.valueof(254, 0) & _REDUCED_OR_MASK
