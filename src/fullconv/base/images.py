"""Reading photographs and masks, whatever is in the files: converted rightly or refused plainly.

The size is read from the header and judged before anything is decoded. PIL's own bounds against
decompression bombs are not consulted, so that its global settings need not be touched.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

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

MAX_PIXELS = 200_000_000
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_Value = TypeVar("_Value", bound=np.generic)

_READERS = (JpegImageFile, PngImageFile, BmpImageFile, WebPImageFile, TiffImageFile)
_MASK_ADVICE = {
    "RGB": "is RGB: store one label id per pixel (8-bit grey or palette) instead of colours",
    "RGBA": "is RGBA: store one label id per pixel (8-bit grey or palette) instead of colours",
    "LA": "has an alpha channel: save it as 8-bit grey, without alpha",
    "PA": "has an alpha channel: save it as an 8-bit palette image, without alpha",
    "I;16": "is 16-bit: save the label ids as 8-bit grey or palette",
    "I;16B": "is 16-bit: save the label ids as 8-bit grey or palette",
    "I": "is 16-bit or 32-bit: save the label ids as 8-bit grey or palette",
}


@dataclass(frozen=True)
class ImageReader:
    """Reads images, further inputs and masks, and tells what is in them from their headers alone.

    Every method raises FullconvError, one line that says what to do, where there is no such file,
    no image, one that is damaged or truncated, or one of more than `max_pixels`; of the latter
    nothing is decoded.

    Attributes:
        max_pixels: how many pixels an image may have, by its header.
    """

    max_pixels: int = MAX_PIXELS

    def image(self, path: str | Path) -> NDArray[np.uint8]:
        """Read a JPEG, PNG, BMP, WebP or TIFF file as 8-bit RGB, upright as its EXIF data says.

        Grey, palette, CMYK and 1-bit images are converted. 16-bit grey is scaled to 8 bits
        (divided by 257 and rounded), of 16-bit colours the high byte is kept. Alpha is ignored:
        the colours stay as they are stored, also where they are transparent. Of several frames
        the first is read; colour profiles are not applied.

        Returns:
            uint8 array (height, width, 3).

        Raises:
            FullconvError: see the class; or floating point.
        """
        with self._opened(path) as image:
            return _rgb_array(path, image)

    def input(self, path: str | Path) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Read a file as `image` does, save that 16-bit grey keeps its values.

        Such files (PNG or TIFF) hold measurements, as a rule distances in millimetres. Their
        values are those stored, whatever a TIFF says about its range or its white.

        Returns:
            float32 array (height, width, 1) of 16-bit grey, uint8 array (height, width, 3) of all
            else.

        Raises:
            FullconvError: as for `image`.
        """
        with self._opened(path) as image:
            if not _is_16_bit_grey(image):
                return _rgb_array(path, image)
            values = _grey_values(path, image).astype(np.float32)
            return _upright(values, _orientation(image))[..., None]

    def mask(self, path: str | Path) -> NDArray[np.uint8]:
        """Read a mask: 8-bit grey values, or palette indices (not colours), are label ids.

        1-bit images give the ids 0 and 1. EXIF orientation is honoured as for images.

        Returns:
            uint8 array (height, width).

        Raises:
            FullconvError: see the class; and where the file holds no 8-bit label ids (RGB,
                16-bit, alpha) or was compressed by JPEG, which alters ids.
        """
        with self._opened(path) as image:
            _require_labels(path, image)
            image.load()
            return _upright(np.array(image, dtype=np.uint8), _orientation(image))

    def channels(self, path: str | Path) -> int:
        """Return from the header alone how many channels `input` would give: 1 or 3.

        Raises:
            FullconvError: what `input` would refuse already by the header.
        """
        with self._opened(path) as image:
            _require_colours(path, image)
            return 1 if _is_16_bit_grey(image) else 3

    def image_size(self, path: str | Path) -> tuple[int, int]:
        """Return the (height, width) that `image` would give, from the header alone.

        Raises:
            FullconvError: what `image` would refuse already by the header.
        """
        with self._opened(path) as image:
            _require_colours(path, image)
            return _upright_size(image)

    def mask_size(self, path: str | Path) -> tuple[int, int]:
        """Return the (height, width) that `mask` would give, from the header alone.

        Raises:
            FullconvError: what `mask` would refuse already by the header.
        """
        with self._opened(path) as image:
            _require_labels(path, image)
            return _upright_size(image)

    def is_turned(self, path: str | Path) -> bool:
        """Tell from the header whether EXIF data ask for the image to be rotated or mirrored."""
        with self._opened(path) as image:
            return _orientation(image) != 1

    @contextmanager
    def _opened(self, path: str | Path) -> Iterator[ImageFile]:
        """Open an image whose size is allowed; whatever fails, then or in the body, is one line."""
        with _failing_in_a_line(path), Path(path).open("rb") as file:
            image = _identify(path, file)
            height, width = _stored_size(image)
            if height * width > self.max_pixels:
                raise FullconvError(
                    f"{path}: {width} x {height} pixels are more than the {self.max_pixels:,} "
                    "allowed; raise --max-pixels if the file is to be trusted"
                )
            yield image


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert an open PIL image as `ImageReader.image` does a file: uint8 (height, width, 3).

    Raises:
        FullconvError: a floating-point image.
    """
    return _rgb_array(getattr(image, "filename", "") or "the image", image)


def _rgb_array(path: str | Path, image: Image.Image) -> NDArray[np.uint8]:
    _require_colours(path, image)
    image.load()
    return _upright(np.array(_to_rgb(path, image)), _orientation(image))


@contextmanager
def _failing_in_a_line(path: str | Path) -> Iterator[None]:
    """Turn whatever fails in the body into one line about the file."""
    try:
        yield
    except FullconvError:
        raise
    except FileNotFoundError:
        raise FullconvError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise FullconvError(f"{path}: is a folder, not an image") from None
    except PermissionError:
        raise FullconvError(f"{path}: may not be read: check its permissions") from None
    except MemoryError:
        raise FullconvError(f"{path}: does not fit in memory; make it smaller") from None
    except Exception as error:  # what PIL raises on damaged files is not a closed list
        reason = str(error) or type(error).__name__
        raise FullconvError(
            f"{path}: is damaged or truncated ({reason}); restore the file or remove it"
        ) from error


def _identify(path: str | Path, file: IO[bytes]) -> ImageFile:
    """Read the header by PIL's readers themselves: Image.open would apply PIL's global bound."""
    if os.fstat(file.fileno()).st_size == 0:
        raise FullconvError(f"{path}: is empty (0 bytes); restore the file or remove it")
    for reader in _READERS:
        file.seek(0)
        try:
            return reader(file)
        except SyntaxError:  # PIL's way to say: another format
            continue
    raise FullconvError(
        f"{path}: is no readable JPEG, PNG, BMP, WebP or TIFF image; convert it to one or remove it"
    )


def _require_colours(path: str | Path, image: Image.Image) -> None:
    if image.mode == "F":
        raise FullconvError(
            f"{path}: holds floating-point values, whose range is unknown; save it as 8 or 16 bits"
        )


def _require_labels(path: str | Path, image: ImageFile) -> None:
    if isinstance(image, JpegImageFile):
        raise FullconvError(
            f"{path}: the mask is a JPEG, which alters label ids; make it again as PNG"
        )
    if image.mode not in ("L", "P", "1"):
        advice = _MASK_ADVICE.get(
            image.mode, f"is of PIL's mode {image.mode}: save the label ids as 8-bit grey"
        )
        raise FullconvError(f"{path}: the mask {advice}")


def _to_rgb(path: str | Path, image: Image.Image) -> Image.Image:
    if _is_16_bit_grey(image):
        return Image.fromarray(_eight_bits(path, image)).convert("RGB")
    image.info.pop("transparency", None)  # else PIL warns that it is ignored
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_16_bit_grey(image: Image.Image) -> bool:
    """Tell by the mode; "I" is PIL's for it in some formats."""
    return image.mode == "I" or image.mode.startswith("I;16")


def _grey_values(path: str | Path, image: Image.Image) -> NDArray[Any]:
    """Return 16-bit grey as it is stored: integers (height, width)."""
    values = np.asarray(image)
    if image.mode == "I" and not 0 <= values.min() <= values.max() <= 0xFFFF:
        raise FullconvError(f"{path}: holds grey values outside 0..65535; save it as 8 or 16 bits")
    return values


def _eight_bits(path: str | Path, image: Image.Image) -> NDArray[np.uint8]:
    """Scale 16-bit grey by 1/257, rounded."""
    values = _grey_values(path, image)
    if isinstance(image, TiffImageFile):
        if image.tag_v2.get(ExifTags.Base.BitsPerSample) == (12,):
            values = values << 4 | values >> 8
        if image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero
            values = 0xFFFF - values
    return (values // 257 + (values % 257 > 128)).astype(np.uint8)


def _upright(pixels: NDArray[_Value], orientation: int) -> NDArray[_Value]:
    """Turn (height, width, ...) upright; orientation is 1 for TIFF, which PIL turns while loading.

    An array may have any type and number of bands, which `ImageOps.exif_transpose` could not turn.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _upright_size(image: ImageFile) -> tuple[int, int]:
    height, width = _stored_size(image)
    return (width, height) if _orientation(image) >= 5 else (height, width)


def _stored_size(image: ImageFile) -> tuple[int, int]:
    """Return (height, width) as stored; PIL's `size` of a TIFF is upright, in newer versions."""
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        return int(tags[ExifTags.Base.ImageLength]), int(tags[ExifTags.Base.ImageWidth])
    return image.height, image.width


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
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return {"exif": b"Exif\0\0" + file.read(length)}
        file.seek(length + 4, os.SEEK_CUR)
    return {}
