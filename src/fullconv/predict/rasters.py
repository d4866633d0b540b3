"""Rasters that are read by windows, by GDAL: TIFFs of any size, and JPEGs and PNGs from the top on.

What a window's values mean is for the same rules as of files that are read whole (`base.stored`).
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.images import ImageReader
from fullconv.base.stored import (
    ALPHA,
    CMYK,
    RGB,
    Stored,
    measurements,
    picture,
    require_picture,
)
from fullconv.data.folder import gaps_in
from fullconv.data.info import COLOR

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

CACHE = 64 << 20  # bytes of decoded blocks that GDAL keeps; by itself it takes 5% of all memory
ROOM = 5 / 4  # of the blocks of some rows, so that GDAL keeps all until the next rows
ROWS = 64  # decoded at a time where a file is read from the top on
GDAL_COLOURS = (
    "its colours (JPEG) are decoded by GDAL, whose values differ a little from those that are read "
    "of a file as a whole"
)
_FROM_THE_TOP = ("JPEG", "PNG")  # drivers of files whose rows can only be decoded in order
_PLAIN = (("grey",), ("index",), RGB, (*RGB, ALPHA))  # bands of such files that are read


@dataclass(frozen=True)
class Place:
    """Where a raster lies on the earth; all is None of one that lies nowhere.

    Attributes:
        crs: coordinate reference system.
        transform: from pixels to coordinates.
        gcps: ground control points and their system.
        rpcs: rational polynomial coefficients.
    """

    crs: Any = None
    transform: Any = None
    gcps: Any = None
    rpcs: Any = None


class RasterScene:
    """A raster as a net of colours, or of bands, sees it (a `Scene`), read by windows.

    Any thread may read; each has a handle of its own, since GDAL's aren't for several.

    Attributes:
        path: of the file.
        stored: what is in it.
        size: height and width in pixels.
        place: where it lies.
        remarks: what is not read of it, in words.
        from_the_top: whether its rows can only be decoded in order.
        cache: bytes of decoded blocks that GDAL keeps: those of a row of pixels at least, lest
            each be decoded for each of its rows.
    """

    def __init__(self, path: Path, reader: ImageReader) -> None:
        """Read the header; the number of pixels is not bounded, and `reader` tells of bands.

        Raises:
            FullconvError: it is no such raster, or of a kind that is not read by windows; the
                message says why.
        """
        header = replace(reader, max_pixels=sys.maxsize).header(path)
        self.path, self.stored, self._span = path, header.stored, reader.span
        self.size = self.stored.size
        self.remarks = header.remarks(as_image=not self.stored.every_band)
        self.cache = CACHE
        self._local, self._open, self._lock = threading.local(), list[Any](), threading.Lock()
        if not self.stored.every_band:
            require_picture(path, self.stored, self._span)
        with self._reading() as source:
            self._require_windows(source)
            self.from_the_top = source.driver in _FROM_THE_TOP
            self.place = place_of(source)
            if self.stored.nodata is None:  # it may be told beside the file
                self.stored = replace(self.stored, nodata=source.nodata)
            flags = {flag.name for each in source.mask_flag_enums for flag in each}
            self.has_gaps = flags != {"all_valid"}
            times = 1 + self.has_gaps  # rows are looked at for gaps later
            self.cache = max(CACHE, int(ROOM * times * _row_of_blocks(source)))
            if self.stored.lossy and len(self.stored.shown) > 1:
                self.remarks = (*self.remarks, GDAL_COLOURS)
            self._colours = _colours(source) if self.stored.bands[0] == "index" else None
        self._rows = _Rows(self) if self.from_the_top else None

    def read(self, rows: range, columns: range) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Return successive rows and columns, rows x columns x channels (see `Scene`)."""
        if self._rows is not None:
            return self._rows.read(rows, columns)
        return self.decoded(rows, columns)

    def decoded(self, rows: range, columns: range) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Decode a window; what is damaged raises FullconvError."""
        with self._reading() as source:
            values = source.read(window=_window(rows, columns))
        stored = replace(self.stored, height=len(rows), width=len(columns))
        values = np.moveaxis(values, 0, 2).astype(stored.dtype, copy=False)
        window = _Window(stored, values, self._colours)
        if stored.every_band:
            return measurements(self.path, window)
        return picture(self.path, window, self._span)

    def valid(self, rows: range, columns: range) -> NDArray[np.bool_] | None:
        """Return where a window has data, by its nodata value, alpha or mask; None: everywhere.

        Of bands that is where one of them is a number.
        """
        if self.stored.every_band:
            stored = self.stored
            if stored.dtype.kind != "f" and stored.nodata is None:
                return None
            gaps = gaps_in(self.read(rows, columns))
            return None if gaps is None else ~gaps
        if not self.has_gaps:
            return None
        with self._reading() as source:
            mask: NDArray[np.bool_] = source.dataset_mask(window=_window(rows, columns)) > 0
            return mask

    def close(self) -> None:
        """Close the file; no thread may read any more."""
        for source in self._open:
            source.close()

    def _require_windows(self, source: DatasetReader) -> None:
        problem = ""
        if self.stored.orientation != 1:
            problem = "EXIF data ask for it to be turned"
        elif (source.height, source.width, source.count) != (*self.size, len(self.stored.bands)):
            problem = f"GDAL sees {source.width} x {source.height} pixels of {source.count} bands"
        elif self.stored.bands[:4] == CMYK and not self.stored.every_band:
            problem = "GDAL makes its own RGB of CMYK"
        elif source.driver in _FROM_THE_TOP and (
            self.stored.bands not in _PLAIN or self.stored.bits != 8
        ):
            problem = f"of {self.stored}"
        elif in_passes(self.path):
            problem = "its pixels come in several passes"
        if problem:
            raise FullconvError(
                f"{self.path}: can't be read by windows ({problem}); save it as a plain TIFF"
            )

    @contextmanager
    def _reading(self) -> Iterator[DatasetReader]:
        """Give this thread's handle; what fails becomes a line."""
        try:
            with quiet_gdal():
                if not hasattr(self._local, "source"):
                    self._local.source = opened(self.path)
                    with self._lock:
                        self._open.append(self._local.source)
                yield self._local.source
        except gdal_errors() as error:
            raise FullconvError(
                f"{self.path}: is damaged or truncated ({one_line(error)}); restore the file or "
                "remove it"
            ) from error


NOWHERE = Place()


class _Rows:
    """The rows of a file that are at hand; each is decoded once, from the top on."""

    def __init__(self, scene: RasterScene) -> None:
        self._scene, self._lock = scene, threading.Lock()
        stored = scene.stored
        self._channels = stored.channels if stored.every_band else len(RGB)
        gaps = stored.every_band and stored.nodata is not None  # which are NaN
        dtype = np.float32 if gaps else np.uint8
        self._held, self._first = np.empty((0, scene.size[1], self._channels), dtype), 0

    def read(self, rows: range, columns: range) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Return a window; rows before its first are forgotten."""
        with self._lock:
            if rows.start < self._first:
                self._held, self._first = self._held[:0], rows.start
            if rows.start > self._first:
                self._held, self._first = self._held[rows.start - self._first :], rows.start
            have = self._first + len(self._held)
            if have < rows.stop:
                every = range(self._scene.size[1])
                grown = np.empty((len(rows), len(every), self._channels), self._held.dtype)
                grown[: len(self._held)] = self._held
                for top in range(have, rows.stop, ROWS):
                    some = range(top, min(top + ROWS, rows.stop))
                    part = self._scene.decoded(some, every)
                    grown[some.start - rows.start : some.stop - rows.start] = part
                self._held = grown
            return self._held[: len(rows), columns.start : columns.stop]


@dataclass
class _Window:
    """A window of a raster as a file of its own (a `stored.Source`)."""

    stored: Stored
    pixels: NDArray[Any]
    colours: NDArray[np.uint8] | None

    def values(self) -> NDArray[Any]:
        return self.pixels

    def palette(self) -> NDArray[np.uint8]:
        assert self.colours is not None
        return self.colours

    def notes(self) -> Iterator[str]:
        yield from ()


def in_passes(path: Path) -> bool:
    """Tell whether a JPEG is progressive or a PNG interlaced: all of it is decoded at once then."""
    kind = {".jpg": JpegImageFile, ".jpeg": JpegImageFile, ".png": PngImageFile}.get(
        path.suffix.lower()
    )
    if kind is None:
        return False
    with suppress(OSError, SyntaxError, ValueError), path.open("rb") as file:
        image: ImageFile = kind(file)
        return bool(image.info.get("progressive") or image.info.get("interlace"))
    return False


def require_rasterio() -> None:
    """Raise FullconvError where rasterio isn't installed."""
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise FullconvError(
            "rasters are read and written by rasterio: pip install 'fullconv[geo]'"
        ) from error


def takes_windows(inputs: Mapping[str, int], reader: ImageReader) -> bool:
    """Tell whether a net takes colours alone, or bands alone, as its reader says."""
    return dict(inputs) == {COLOR: 3} or (len(inputs) == 1 and reader.every_band)


def require_windows(inputs: Mapping[str, int], reader: ImageReader) -> None:
    """Raise FullconvError where a net takes anything else, which has no windows so far."""
    if not takes_windows(inputs, reader):
        raise FullconvError("rasters are read by windows for models of colours, or bands, alone")


def size_of(path: Path, reader: ImageReader) -> tuple[int, int]:
    """Return the height and width of an image of any number of pixels, by its header.

    Raises:
        FullconvError: it can't be read as the net sees it.
    """
    stored = replace(reader, max_pixels=sys.maxsize).describe(path)
    if not stored.every_band:
        require_picture(path, stored, reader.span)
    return stored.size


def gdal_errors() -> tuple[type[Exception], ...]:
    """Return what rasterio raises where GDAL fails.

    Some calls wrap what GDAL says in an error of rasterio's, and others raise it as it is, by
    classes that `rasterio.errors` doesn't name.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """Let GDAL tell the log of what it thinks, not the terminal.

    What it reads beside a raster, in NAME.aux.xml, counts: JPEGs and PNGs have their place there.
    It writes none for what is only read by windows.
    """
    import rasterio

    with rasterio.Env():
        yield


@contextmanager
def own_rasters() -> Iterator[None]:
    """Let GDAL be quiet, and keep all that belongs to a raster in it: for those that we write."""
    import rasterio

    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        yield


@contextmanager
def block_cache(size: int = CACHE) -> Iterator[None]:
    """Let GDAL keep so many bytes of decoded blocks, of all files and threads together.

    It is the process's own setting, and outlasts an `Env`'s end in another thread.
    """
    from rasterio.env import get_gdal_config, set_gdal_config

    before = get_gdal_config("GDAL_CACHEMAX")
    set_gdal_config("GDAL_CACHEMAX", size)  # rasterio takes bytes, unlike GDAL, which takes MB
    try:
        yield
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)


def opened(path: Path, mode: str = "r", **profile: Any) -> Any:
    """Open a raster as `rasterio.open` does, but hear nothing of photographs that have no place."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **profile)


_WARNINGS = threading.Lock()  # Python's filters are of all threads


def _window(rows: range, columns: range) -> Any:
    from rasterio.windows import Window

    return Window(columns.start, rows.start, len(columns), len(rows))


def _row_of_blocks(source: DatasetReader) -> int:
    """Return the bytes of all blocks that a row of pixels lies in."""
    return sum(
        height * width * -(-source.width // width) * np.dtype(kind).itemsize
        for (height, width), kind in zip(source.block_shapes, source.dtypes, strict=True)
    )


def place_of(source: DatasetReader) -> Place:
    """Return where an open raster lies."""
    points, system = source.gcps
    transform = None if source.transform.is_identity else source.transform
    rpcs = None
    with suppress(Exception):  # malformed ones
        rpcs = source.rpcs
    return Place(source.crs, transform, (points, system) if points else None, rpcs)


def _colours(source: DatasetReader) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), np.uint8)
    for label, colour in source.colormap(1).items():
        table[label] = colour[:3]
    return table
