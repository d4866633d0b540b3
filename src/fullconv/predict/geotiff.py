"""Label rasters: GeoTIFFs of class ids, tiled, compressed, with colours and overviews.

And rasters of how sure these labels are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import WorkFailedError, one_line
from fullconv.base.files import replacing
from fullconv.base.palette import Colour, palette_image
from fullconv.net.described import Size
from fullconv.predict.rasters import NOWHERE, Place, gdal_errors, opened, own_rasters

BLOCK = 512  # pixels a side of the file's own tiles
SAMPLES = 16  # rows of blocks that are read back and compared
WHITE = (255, 255, 255)
CERTAIN = 250  # what stands for probability 1 in a raster of probabilities
UNKNOWN = 255  # what stands there for none


def write_label_raster(
    path: Path,
    parts: Iterable[NDArray[np.uint8]],
    size: Size,
    classes: Sequence[str],
    palette: Sequence[Colour],
    *,
    ignore_index: int = 255,
    place: Place = NOWHERE,
) -> None:
    """Write labels as a GeoTIFF, from the top on: its nodata value is `ignore_index`.

    Overviews take of each pixels' labels the most frequent. The names of the classes are in its
    metadata, as CLASS_0 and so on, and as a JSON list. A sample of what was written is read back.

    Args:
        path: of the file.
        parts: successive rows x W, uint8.
        size: height and width in pixels.
        classes: names, index = label id.
        palette: their colours.
        ignore_index: the label of pixels without a class.
        place: where the raster lies.

    Raises:
        OSError: it can't be written; whatever stood there before is untouched.
        WorkFailedError: what is read back is not what was written.
    """
    about = _about(classes, palette, ignore_index)
    _write_whole(path, parts, _profile(size, ignore_index, place), about)


def write_probability_raster(
    path: Path, parts: Iterable[NDArray[np.uint8]], size: Size, *, place: Place = NOWHERE
) -> None:
    """Write the probability of each pixel's label as a GeoTIFF of bytes, from the top on.

    `CERTAIN` stands for 1 (the band's scale says so), and the nodata value `UNKNOWN` for none.

    Args:
        path: of the file.
        parts: successive rows x W, uint8.
        size: height and width in pixels.
        place: where the raster lies.

    Raises:
        OSError: it can't be written; whatever stood there before is untouched.
        WorkFailedError: what is read back is not what was written.
    """
    about = _About("probability of the label", {}, {}, 1 / CERTAIN)
    _write_whole(path, parts, _profile(size, UNKNOWN, place), about)


@dataclass(frozen=True)
class _About:
    """What the values mean.

    Attributes:
        band: what the band is called.
        tags: metadata.
        colours: by value; where there are none, values are quantities.
        scale: what a value is multiplied by.
    """

    band: str
    tags: dict[str, str]
    colours: dict[int, tuple[int, ...]]
    scale: float = 1.0


def _about(classes: Sequence[str], palette: Sequence[Colour], ignore_index: int) -> _About:
    names = {f"CLASS_{label}": name for label, name in enumerate(classes)}
    image = palette_image(np.zeros((1, 1), np.uint8), palette, ignore_index)
    flat = image.getpalette() or []
    colours = {label: tuple(flat[3 * label : 3 * label + 3]) or WHITE for label in range(256)}
    return _About("labels", {"CLASSES": json.dumps(list(classes)), **names}, colours)


def _write_whole(
    path: Path, parts: Iterable[NDArray[np.uint8]], profile: dict[str, Any], about: _About
) -> None:
    """Write a raster with overviews; read these and a sample of the raster back."""
    with replacing(path) as temporary, own_rasters(), _unwritable():
        sums = _write(temporary, parts, profile, about)
        smaller = _add_overviews(temporary, "mode" if about.colours else "average")
        _compare(path, temporary, sums)
        _compare_overviews(path, temporary, smaller)


@contextmanager
def _unwritable() -> Iterator[None]:
    """Let what GDAL says of a disk that is full, or broken, be an OSError."""
    try:
        yield
    except gdal_errors() as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise OSError(f"{one_line(cause).rstrip('.')}; is the disk full?") from error


def _profile(size: Size, ignore_index: int, place: Place) -> dict[str, Any]:
    """Return how GDAL is to lay out the file."""
    where = {"crs": place.crs, "transform": place.transform, "rpcs": place.rpcs}
    if place.gcps is not None:
        points, system = place.gcps
        where |= {"gcps": points, "crs": system, "transform": None}
    return {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": 1,
        "dtype": "uint8",
        "nodata": ignore_index,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "zlevel": 1,  # class ids hardly become smaller by more
        "BIGTIFF": "IF_SAFER",
        **{name: value for name, value in where.items() if value is not None},
    }


def _write(
    path: Path, parts: Iterable[NDArray[np.uint8]], profile: dict[str, Any], about: _About
) -> dict[int, int]:
    """Write full resolution; return check sums of some rows of blocks by their first row."""
    from rasterio.windows import Window

    height, width = profile["height"], profile["width"]
    every = max(1, -(-height // BLOCK) // SAMPLES) * BLOCK
    sums = {}
    with opened(path, "w", **profile) as raster:
        if about.colours:
            raster.write_colormap(1, about.colours)
        else:
            raster.scales = (about.scale,)
        raster.update_tags(**about.tags)
        raster.set_band_description(1, about.band)
        for top, block in _blocks(parts):
            raster.write(block, 1, window=Window(0, top, width, len(block)))
            if top % every == 0:
                sums[top] = zlib.crc32(np.ascontiguousarray(block).data)
    return sums


def _blocks(parts: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the first row of each row of blocks, and the block."""
    top, held = 0, list[NDArray[np.uint8]]()
    for part in parts:
        held.append(part)
        while sum(map(len, held)) >= BLOCK:
            rows = np.concatenate(held)
            yield top, rows[:BLOCK]
            top, held = top + BLOCK, [rows[BLOCK:]]
    rows = np.concatenate(held)
    if len(rows):
        yield top, rows


def _add_overviews(path: Path, resampling: str) -> list[int]:
    """Add overviews; return the check sums that they have before GDAL closes the file."""
    from rasterio.enums import Resampling

    with opened(path, "r+") as raster:
        if factors := _factors(raster.shape):
            raster.build_overviews(factors, Resampling[resampling])
        return _overview_sums(raster)


def _factors(size: Size) -> list[int]:
    """Return how many times smaller each overview is."""
    return [2**power for power in range(1, 16) if max(size) // 2 ** (power - 1) > BLOCK]


def _overview_sums(raster: Any) -> list[int]:
    """Return how many overviews there are, and check sums of their rows of blocks."""
    from rasterio.windows import Window

    sums = [len(raster.overviews(1))]
    for factor in _factors(raster.shape):
        width, step = -(-raster.width // factor), factor * BLOCK
        for top in range(0, raster.height, step):
            rows = min(step, raster.height - top)
            window, shape = Window(0, top, raster.width, rows), (-(-rows // factor), width)
            block = raster.read(1, window=window, out_shape=shape)
            sums.append(zlib.crc32(block.data))
    return sums


def _compare(path: Path, written: Path, sums: dict[int, int]) -> None:
    """Read some rows of blocks back; GDAL has been seen to close a broken file without a word."""
    from rasterio.windows import Window

    with opened(written) as raster:
        for top, expected in sums.items():
            rows = min(BLOCK, raster.height - top)
            block = raster.read(1, window=Window(0, top, raster.width, rows))
            if zlib.crc32(block.data) != expected:
                raise WorkFailedError(
                    f"{path}: rows {top} to {top + rows} are not what was written; is the disk "
                    "all right?"
                )


def _compare_overviews(path: Path, written: Path, sums: list[int]) -> None:
    """Read overviews back, which GDAL may only write, or fail to write, when it closes the file."""
    with opened(written) as raster:
        if _overview_sums(raster) != sums:
            raise WorkFailedError(
                f"{path}: its overviews are not what was written; is the disk full?"
            )
