"""Reading photographs and masks, whatever is in the files: converted rightly or refused plainly.

The size is read from the header and judged before anything is decoded. PIL's own bounds against
decompression bombs are not consulted, so that its global settings need not be touched.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fullconv.base.errors import FullconvError
from fullconv.base.files import Disk, Files
from fullconv.base.remote_files import Remote
from fullconv.base.stored import (
    ALPHA,
    CMYK,
    RGB,
    Source,
    Stored,
    ValueRange,
    label_ids,
    measurements,
    picture,
    require_labels,
    require_picture,
    upright,
)

MAX_PIXELS = 200_000_000
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BANDS = {0: ("grey",), 2: RGB, 3: ("index",), 4: ("grey", ALPHA), 6: (*RGB, ALPHA)}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_READERS: dict[bytes, Callable[[IO[bytes]], ImageFile]] = {  # by a file's first bytes
    rb"\xff\xd8\xff": JpegImageFile,
    re.escape(_PNG): PngImageFile,
    rb"BM": BmpImageFile,
    rb"RIFF....WEBP": WebPImageFile,
}
_MODES = {  # of PIL: bands, type and bits; all others are taken as RGB
    "1": (("grey",), "u1", 1),
    "L": (("grey",), "u1", 8),
    "LA": (("grey", ALPHA), "u1", 8),
    "P": (("index",), "u1", 8),
    "RGBA": ((*RGB, ALPHA), "u1", 8),
    "CMYK": (CMYK, "u1", 8),
    "I": (("grey",), "i4", 32),
    "F": (("grey",), "f4", 32),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), (("grey",), "u2", 16)),
}
_VALUES_A_PIXEL = 4  # of all bands together, on which max_pixels is a bound as well


class Header(NamedTuple):
    """What the header of a file tells.

    Attributes:
        stored: what is in the file.
        notes: further pages, and parts that were never stored, in words.
    """

    stored: Stored
    notes: tuple[str, ...]

    def remarks(self, *, as_image: bool) -> tuple[str, ...]:
        """Say what is not read of the file, which is no error.

        Beside the notes that is, where it is read `as_image`, bands beyond colours, but not alpha;
        of another input it is what colours have beyond 8 bits.
        """
        own = self.stored.remarks if as_image else self.stored.input_remarks
        return (*own, *self.notes)


@dataclass(frozen=True)
class Encoded:
    """An image file that lies on no disk.

    Attributes:
        name: for messages.
        content: what is in it; any place in it can be sought.
    """

    name: str
    content: IO[bytes]

    def __str__(self) -> str:
        """Return the name."""
        return self.name


File = str | Path | Encoded


def fetched(file: Path | Remote | Encoded) -> Encoded:
    """Return a file of this machine or from elsewhere as one that lies in memory.

    Raises:
        FullconvError: it can't be read, or is no regular file; the message names it.
    """
    if isinstance(file, Encoded):
        return file
    if isinstance(file, Remote):
        return Encoded(file.url, io.BytesIO(file.read()))
    with _failing_in_a_line(file), Disk().opened(file) as opened:
        return Encoded(str(file), io.BytesIO(opened.read()))


@dataclass(frozen=True)
class ImageReader:
    """Reads images, further inputs and masks, and tells what is in them from their headers alone.

    Every method raises FullconvError, one line that says what to do, where there is no such file,
    no image, one that is damaged or truncated, or one of more than `max_pixels`; of the latter
    nothing is decoded. What has no regular file (a pipe, a device) is not even opened. A file is
    a path, or `Encoded`.

    Attributes:
        max_pixels: how many pixels an image may have, by its header. Where it has more than 4
            bands they count as more pixels.
        span: which values of more than 8 bits `image` turns into 0 and 255 (see `scaled`). None:
            all that their bits can hold; 16-bit grey is divided by 257 and rounded, of 16-bit
            colours the high byte is kept.
        every_band: whether each band of a further input is a measurement: alpha, too, and colours,
            with their values kept. Values of no data are NaN then.
        files: where paths lead.
    """

    max_pixels: int = MAX_PIXELS
    span: ValueRange | None = None
    every_band: bool = False
    files: Files = Disk()

    def image(self, path: File) -> NDArray[np.uint8]:
        """Read a JPEG, PNG, BMP, WebP or TIFF file as 8-bit RGB, upright as its EXIF data says.

        Grey, palette, CMYK and 1-bit images are converted. Of several bands in no colours the
        first three are taken; which are left out, if any, `describe` tells. Alpha is ignored: the
        colours stay as they are stored, also where they are transparent. Of several frames the
        first is read; colour profiles are not applied.

        Returns:
            uint8 array (height, width, 3).

        Raises:
            FullconvError: see the class; or, without `span`, values of no known range: floating
                point, or integers outside 0..65535.
        """
        with self._opened(path) as source:
            return upright(picture(path, source, self.span), source.stored.orientation)

    def input(self, path: File) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Read a file's measurements with their values kept; a picture, as `image` does.

        Measurements are 16-bit grey (as a rule distances in millimetres), floating point, and
        bands beyond colours. Their values are those stored, whatever a TIFF says about its range
        or its white. Pictures are grey of 8 bits, palettes, and colours alone.

        Returns:
            Of measurements float32 (height, width, bands), or uint8 if they are 8-bit; bands of
            alpha are left out. Of a picture uint8 (height, width, 3).

        Raises:
            FullconvError: see the class; or integers outside of 16 bits, or values that are no
                finite numbers.
        """
        with self._opened(path) as source:
            if source.stored.measured is None:
                pixels: NDArray[Any] = picture(path, source, None)
            else:
                pixels = measurements(path, source)
            return upright(pixels, source.stored.orientation)

    def mask(self, path: File) -> NDArray[np.uint8]:
        """Read a mask: grey values of 8 bits or fewer, or palette indices, are label ids.

        EXIF orientation is honoured as for images.

        Returns:
            uint8 array (height, width).

        Raises:
            FullconvError: see the class; and where the file holds no 8-bit label ids (RGB,
                16-bit, alpha) or was compressed by JPEG, which alters ids.
        """
        with self._opened(path) as source:
            require_labels(path, source.stored)
            return upright(label_ids(source), source.stored.orientation)

    def values(self, path: File) -> NDArray[Any]:
        """Read the values that `image` converts, as they are stored, in order to measure a range.

        Returns:
            array (height, width, bands) of the file's own type, upright.

        Raises:
            FullconvError: see the class.
        """
        with self._opened(path) as source:
            values: NDArray[Any] = source.values()[..., list(source.stored.shown)]
            return upright(values, source.stored.orientation)

    def header(self, path: File) -> Header:
        """Tell from a file's header alone what is in it, and what else is to be known of it.

        Raises:
            FullconvError: see the class.
        """
        with self._opened(path, whole=False) as source:
            return Header(source.stored, tuple(source.notes()))

    def describe(self, path: File) -> Stored:
        """Tell what is in a file from its header alone.

        Raises:
            FullconvError: see the class.
        """
        with self._opened(path, whole=False) as source:
            return source.stored

    def remarks(self, path: File, *, as_image: bool = True) -> tuple[str, ...]:
        """Say from the header alone what is not read of a file (see `Header.remarks`).

        Raises:
            FullconvError: see the class.
        """
        return self.header(path).remarks(as_image=as_image)

    def channels(self, path: File) -> int:
        """Return from the header alone how many channels `input` would give.

        Raises:
            FullconvError: what `input` would refuse already by the header.
        """
        return self.describe(path).channels

    def image_size(self, path: File) -> tuple[int, int]:
        """Return the (height, width) that `image` would give, from the header alone.

        Raises:
            FullconvError: what `image` would refuse already by the header.
        """
        stored = self.describe(path)
        require_picture(path, stored, self.span)
        return stored.size

    def mask_size(self, path: File) -> tuple[int, int]:
        """Return the (height, width) that `mask` would give, from the header alone.

        Raises:
            FullconvError: what `mask` would refuse already by the header.
        """
        stored = self.describe(path)
        require_labels(path, stored)
        return stored.size

    def is_turned(self, path: File) -> bool:
        """Tell from the header whether EXIF data ask for the image to be rotated or mirrored."""
        return self.describe(path).orientation != 1

    @contextmanager
    def _opened(self, path: File, *, whole: bool = True) -> Iterator[Source]:
        """Open an image whose size is allowed; whatever fails, then or in the body, is one line."""
        with _failing_in_a_line(path), self._open(path, whole) as file:
            source = _identify(path, file)
            if self.every_band:
                source.stored = replace(source.stored, every_band=True)
            stored = source.stored
            bands = math.ceil(len(stored.bands) / _VALUES_A_PIXEL)
            if stored.height * stored.width * bands > self.max_pixels:
                many = f" of {len(stored.bands)} bands" if bands > 1 else ""
                raise FullconvError(
                    f"{path}: {stored.width} x {stored.height} pixels{many} are more than the "
                    f"{self.max_pixels:,} allowed; raise --max-pixels if the file is to be trusted"
                )
            yield source

    @contextmanager
    def _open(self, path: File, whole: bool) -> Iterator[IO[bytes]]:
        """Open a file; of what lies on no disk begin anew."""
        if isinstance(path, Encoded):
            path.content.seek(0)
            yield path.content
            return
        where = Path(path) if isinstance(path, str) else path
        with self.files.opened(where, whole=whole) as file:
            yield file


def to_rgb(image: Image.Image, reader: ImageReader = ImageReader()) -> NDArray[np.uint8]:
    """Convert an open PIL image as `ImageReader.image` does a file: uint8 (height, width, 3).

    A TIFF file that PIL has opened but not yet decoded is decoded here, by `reader`.

    Raises:
        FullconvError: a floating-point image.
    """
    name = getattr(image, "filename", "")
    if isinstance(image, TiffImageFile) and image.tile and image.tell() == 0 and name:
        return reader.image(os.fsdecode(name))
    source = _PilSource(image)
    return upright(picture(name or "the image", source, reader.span), source.stored.orientation)


class _PilSource:
    """An image that PIL decodes (a `Source`)."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._mode = image.mode if image.mode in _MODES else "RGB"
        bands, dtype, bits = _MODES.get(image.mode, (RGB, "u1", 8))
        self.stored = Stored(
            image.height,
            image.width,
            bands,
            np.dtype(dtype),
            bits,
            _orientation(image),
            lossy="JPEG" if isinstance(image, JpegImageFile) else "",
        )

    def values(self) -> NDArray[Any]:
        """Decode the values, as they are stored: (height, width, bands), not turned."""
        self._image.load()
        image = self._image if self._image.mode == self._mode else self._image.convert(self._mode)
        values = np.array(image)
        return values.reshape(*values.shape[:2], -1)

    def palette(self) -> NDArray[np.uint8]:
        """Return the colours of the palette: (256, 3)."""
        grey = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)  # PIL's, of those missing
        own = np.array(self._image.getpalette("RGB"), np.uint8).reshape(-1, 3)[:256]
        grey[: len(own)] = own
        return grey

    def notes(self) -> Iterator[str]:
        """Say what becomes of an animation's alpha; its later frames nobody expects to be read."""
        animated = isinstance(self._image, WebPImageFile) and self._image.n_frames > 1
        if animated and ALPHA in self.stored.bands:
            yield "where this animation is wholly transparent its colours are read as black"


class _PngSource(_PilSource):
    """A PNG file, whose values may have fewer or more bits than those of PIL's image."""

    def __init__(self, image: PngImageFile) -> None:
        """Read the header once more, for what PIL doesn't tell."""
        super().__init__(image)
        file = image.fp
        assert file is not None
        file.seek(len(_PNG))
        bits, colour = struct.unpack("16x2B", file.read(18))
        dtype = np.dtype(np.uint16 if bits > 8 else np.uint8)
        self._file = file
        self.stored = replace(self.stored, bands=_PNG_BANDS[colour], dtype=dtype, bits=bits)

    def values(self) -> NDArray[Any]:
        """Decode the values, as they are stored: (height, width, bands), not turned."""
        bits, bands = self.stored.bits, len(self.stored.bands)
        if bits > 8 and bands > 1:  # PIL keeps their high bytes alone
            from imagecodecs import png_decode

            self._file.seek(0)
            wide: NDArray[np.uint16] = png_decode(self._file.read())
            return wide[..., :bands]
        values: NDArray[Any] = super().values().astype(self.stored.dtype, copy=False)
        if self.stored.bands == ("grey",) and bits in (2, 4):
            values //= 255 // (2**bits - 1)  # PIL spreads them over a byte
        return values


def _identify(path: File, file: IO[bytes]) -> Source:
    """Read the header by PIL's readers themselves: Image.open would apply PIL's global bound."""
    head = file.read(12)
    if not head:
        raise FullconvError(f"{path}: is empty (0 bytes); restore the file or remove it")
    if head[:4] in _TIFF:
        from fullconv.base.tiff import TiffSource

        return TiffSource(path, file)
    for begins, reader in _READERS.items():
        if re.match(begins, head, re.DOTALL):
            file.seek(0)
            with suppress(SyntaxError):  # PIL's way to say: another format
                image = reader(file)
                return _PngSource(image) if isinstance(image, PngImageFile) else _PilSource(image)
    raise FullconvError(
        f"{path}: is no readable JPEG, PNG, BMP, WebP or TIFF image; convert it to one or remove it"
    )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where it is absent or unreadable."""
    if isinstance(image, PngImageFile) and "exif" not in image.info and image.fp is not None:
        image.info |= _png_exif(image.fp)
    try:  # the base class's method, because that of PNG decodes the image first
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # malformed EXIF data harm no pixel
        return 1
    return found if found in range(1, 9) else 1


def _png_exif(file: IO[bytes]) -> dict[str | tuple[int, int], bytes]:
    """Find EXIF data that follow a PNG's pixels, where PIL meets them only after decoding."""
    file.seek(len(_PNG))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return {"exif": b"Exif\0\0" + file.read(length)}
        file.seek(length + 4, os.SEEK_CUR)
    return {}


class _Listener(logging.Filter):
    """Keeps what other libraries log while an image is read for the line about that image.

    Python's warnings are among it where they go to the log (`logging.captureWarnings`), as they do
    on the command line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Collect what is said from now on in this thread."""
        for name in ("tifffile", "py.warnings"):
            logging.getLogger(name).addFilter(self)  # nothing where it is one already
        heard: list[str] = []
        token = self._heard.set(heard)
        try:
            yield heard
        finally:
            self._heard.reset(token)

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the record away from the log, if this thread is reading an image."""
        heard = self._heard.get()
        if heard is None:
            return True
        text = record.getMessage()
        warning = re.match(r".*:\d+: \w*Warning: (.*)", text)
        heard.append(warning[1] if warning else text)
        return False


_LISTENER = _Listener()


@contextmanager
def _failing_in_a_line(path: File) -> Iterator[None]:
    """Turn whatever fails in the body, and what libraries say meanwhile, into one line."""
    with _LISTENER.listening() as heard:
        try:
            yield
        except FullconvError:
            raise
        except FileNotFoundError:
            raise FullconvError(f"{path}: no such file") from None
        except PermissionError:
            raise FullconvError(f"{path}: may not be read: check its permissions") from None
        except MemoryError:
            raise FullconvError(f"{path}: does not fit in memory; make it smaller") from None
        except Exception as error:  # what decoders raise on damaged files is not a closed list
            reasons = dict.fromkeys([str(error) or type(error).__name__, *heard])
            reason = " ".join("; ".join(reasons).split())
            raise FullconvError(
                f"{path}: is damaged or truncated ({reason}); restore the file or remove it"
            ) from error
