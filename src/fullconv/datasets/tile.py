"""Large annotated rasters, cut into a dataset folder: the whole of ``data tile``."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fullconv.base import files
from fullconv.base.errors import FullconvError, one_line
from fullconv.base.palette import palette_image, voc_palette
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import SPLITS
from fullconv.data.info import BANDS, DatasetInfo
from fullconv.datasets.convert import replacing_folder, require_new
from fullconv.datasets.formats.classes import IGNORED
from fullconv.datasets.formats.splitting import Shares
from fullconv.datasets.tile_grid import Tile, beside_others, splits_of, tiles_of
from fullconv.datasets.tile_truth import (
    VECTORS,
    RasterTruth,
    Truth,
    VectorTruth,
    corners,
    open_raster,
    window_of,
)
from fullconv.predict.coordinates import between
from fullconv.predict.rasters import block_cache, gdal_errors, opened, own_rasters, quiet_gdal
from fullconv.predict.vectors import require_packages

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_ALPHA = "alpha"
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class TileSettings:
    """What to cut, and how.

    Attributes:
        rasters: of the same bands and type.
        masks: rasters of label ids, one for each, or files of polygons for all of them.
        class_field: of polygons, the name of the field that holds their class.
        classes: names, index = label id; None: those of the masks.
        background: of polygons, the class of what none covers; "ignore" leaves it out. None:
            "background".
        side: of a tile in pixels.
        overlap: of tiles in pixels.
        shares: of train, val and test.
        block: side of the blocks that are divided among these, in tiles.
        guard: pixels; tiles of different splits are so far apart at least.
        bands: names of the bands; None: as the rasters call them. Named ones are never taken for
            colours and transparency.
        show: numbers, from 1, of the bands that are shown as red, green and blue.
        seed: of the division.
    """

    rasters: tuple[Path, ...]
    masks: tuple[Path, ...]
    class_field: str | None = None
    classes: tuple[str, ...] | None = None
    background: str | None = None
    side: int = 512
    overlap: int = 0
    shares: Shares = (0.7, 0.15, 0.15)
    block: int = 4
    guard: int = 1
    bands: tuple[str, ...] | None = None
    show: tuple[int, int, int] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Tiled:
    """What came of it.

    Attributes:
        counts: tiles by split.
        classes: names, index = label id.
        empty: how many tiles hold no label, and were left out.
        guarded: how many lie beside those of another split, and were left out.
        notes: lines to tell the user.
    """

    counts: dict[str, int]
    classes: tuple[str, ...]
    empty: int
    guarded: int
    notes: tuple[str, ...] = ()


def tile(settings: TileSettings, out: Path, reporter: Reporter = SILENT) -> Tiled:
    """Cut rasters into tiles, with masks, split by blocks.

    Rasters are read by windows, so that they may be of any size. The folder is filled under
    another name and renamed, so that it is whole or not there.

    Args:
        settings: what to cut.
        out: is made; must not exist, or be empty.
        reporter: shows progress.

    Raises:
        FullconvError: something can't be read or doesn't fit; nothing is left behind.
    """
    require_packages()
    require_new(out)
    if settings.overlap >= settings.side:
        raise FullconvError(f"--overlap {settings.overlap}: must be less than --size")
    with ExitStack() as stack:
        stack.enter_context(quiet_gdal())
        stack.enter_context(block_cache())
        rasters = {path: stack.enter_context(open_raster(path)) for path in settings.rasters}
        _require_alike(rasters)
        truth = _truth(settings, rasters, stack)
        info = _info(settings, next(iter(rasters.values())), truth, out.name)
        cut = _Cut(settings, tuple(rasters.items()), truth, info)
        with replacing_folder(out) as part:
            return cut.into(part, reporter)


@dataclass(frozen=True)
class _Cut:
    """Cuts rasters that are open."""

    settings: TileSettings
    rasters: tuple[tuple[Path, DatasetReader], ...]
    truth: Truth
    info: DatasetInfo

    def into(self, folder: Path, reporter: Reporter) -> Tiled:
        """Write the dataset."""
        tiles = self._tiles()
        masks = self._masks(tiles, reporter)
        splits = splits_of({each: mask.classes for each, mask in masks.items()}, *self._division)
        kept = list(splits)
        beside = beside_others(list(splits.values()), *self._plane(kept))
        names = _names([path for path, _ in self.rasters])
        counts = Counter[str]()
        with reporter.bar(len(kept) - len(beside), "cut tiles", unit="tiles") as bar:
            for at, each in enumerate(kept):
                if at in beside:
                    continue
                name = f"{names[each.raster]}_{each.rows.start:06d}_{each.columns.start:06d}"
                self._write(folder, splits[each], name, each, masks[each])
                counts[splits[each]] += 1
                bar.advance()
        self._require_all(counts)
        text = yaml.safe_dump(self.info.to_dict(), sort_keys=False, default_flow_style=None)
        files.write_text(folder / "dataset.yaml", text)
        ordered = {split: counts[split] for split in SPLITS if counts[split]}
        empty = len(tiles) - len(masks)
        return Tiled(ordered, self.truth.classes, empty, len(beside), self.truth.notes)

    @property
    def _division(self) -> tuple[Shares, int]:
        return self.settings.shares, self.settings.seed

    def _tiles(self) -> list[Tile]:
        asked = self.settings
        return [
            each
            for at, (_, raster) in enumerate(self.rasters)
            for each in tiles_of(at, raster.shape, asked.side, asked.overlap, asked.block)
        ]

    def _masks(self, tiles: Sequence[Tile], reporter: Reporter) -> dict[Tile, _Mask]:
        """Return the masks of tiles that hold labels."""
        masks = {}
        with reporter.bar(len(tiles), "read masks", unit="tiles") as bar:
            for each in tiles:
                path, raster = self.rasters[each.raster]
                labels = self.truth.labels(each)
                with _told(path):
                    labels[_no_data(raster, each, self.info.has_bands)] = IGNORED
                if (labels != IGNORED).any():
                    masks[each] = _Mask.of(labels)
                bar.advance()
        if not masks:
            raise FullconvError(
                f"{self.settings.masks[0]}: labels no pixel of {self.settings.rasters[0]}; do both "
                "lie in the same place?"
            )
        return masks

    def _plane(self, tiles: Sequence[Tile]) -> tuple[list[Any], float]:
        """Return tiles as polygons in one plane, and how far apart they must be there.

        That is the plane of the first raster's coordinates. Rasters that lie nowhere have one of
        their own each: they are put side by side.
        """
        import shapely

        first = self.rasters[0][1]
        outlines, offset = [], np.zeros(2)
        moves: list[Any] = []
        for _, raster in self.rasters:
            if raster.crs is None or first.crs is None:
                moves.append(lambda points, offset=offset: points + offset)
                offset = offset + np.array([4.0 * sum(raster.shape), 0]) * _pixel(raster)
            elif raster.crs == first.crs:
                moves.append(lambda points: points)
            else:
                moves.append(between(raster.crs, first.crs))
        for each in tiles:
            path, raster = self.rasters[each.raster]
            with _told(path):
                outlines.append(shapely.Polygon(moves[each.raster](corners(each, raster))))
        return outlines, (self.settings.guard - 1e-3) * _pixel(first)

    def _write(self, folder: Path, split: str, name: str, tile_: Tile, mask: _Mask) -> None:
        """Write a tile as GeoTIFF, and its mask."""
        images, masks = folder / "images" / split, folder / "masks" / split
        for each in (images, masks):
            each.mkdir(parents=True, exist_ok=True)
        path, raster = self.rasters[tile_.raster]
        with _told(path):
            _write_window(images / f"{name}.tif", raster, tile_, self.info)
        labels = mask.labels((len(tile_.rows), len(tile_.columns)))
        palette_image(labels, self.info.palette or voc_palette(), None).save(masks / f"{name}.png")

    def _require_all(self, counts: Counter[str]) -> None:
        for split, share in zip(SPLITS, self.settings.shares, strict=True):
            if share and not counts[split]:
                raise FullconvError(
                    f"{self.settings.rasters[0]}: no tile is left for {split}: give a smaller "
                    "--block or --size, or other shares by --split"
                )


@dataclass(frozen=True)
class _Mask:
    """The labels of a tile, packed; and which classes are among them."""

    packed: bytes
    classes: tuple[int, ...]

    @classmethod
    def of(cls, labels: NDArray[np.uint8]) -> _Mask:
        """Pack labels."""
        classes = tuple(label for label in np.unique(labels).tolist() if label != IGNORED)
        return cls(zlib.compress(np.ascontiguousarray(labels).data, 1), classes)

    def labels(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the labels again."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(size)


def _truth(
    settings: TileSettings, rasters: Mapping[Path, DatasetReader], stack: ExitStack
) -> Truth:
    vectors = [path.suffix.lower() in VECTORS for path in settings.masks]
    if not any(vectors):
        return RasterTruth.of(settings.masks, rasters, settings.classes, stack)
    if not all(vectors):
        raise FullconvError("--masks: give either rasters or files of polygons, not both")
    if settings.class_field is None:
        raise FullconvError(
            f"{settings.masks[0]}: holds polygons; say by --class-field NAME which field is their "
            "class"
        )
    sources = list(rasters.values())
    return VectorTruth.of(
        settings.masks, settings.class_field, sources, settings.classes, settings.background
    )


def _info(settings: TileSettings, raster: DatasetReader, truth: Truth, name: str) -> DatasetInfo:
    """Return what dataset.yaml is to say."""
    from pydantic import ValidationError

    values: dict[str, Any] = {"name": name, "classes": truth.classes, "palette": truth.palette}
    colours = tuple(each.name for each in raster.colorinterp)
    plain = raster.dtypes[0] == "uint8" and (
        colours in (_COLOURS, (*_COLOURS, _ALPHA)) or raster.count == 1
    )
    if settings.bands or settings.show or not plain:
        described = tuple(raster.descriptions)
        numbered = tuple(f"band {at + 1}" for at in range(raster.count))
        named = all(described) and len(set(described)) == raster.count
        values["bands"] = settings.bands or (described if named else numbered)
        if len(values["bands"]) != raster.count:
            raise FullconvError(
                f"--bands names {len(values['bands'])}, but {settings.rasters[0]} has "
                f"{raster.count}"
            )
        known = [each.casefold() for each in values["bands"]]
        named_so = known if set(_COLOURS) <= set(known) else colours
        seen = tuple(1 + named_so.index(each) for each in _COLOURS if each in named_so)
        values["show"] = settings.show or (seen if len(seen) == len(_COLOURS) else None)
        values["inputs"] = {BANDS: "images"}
    try:
        return DatasetInfo.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise FullconvError(f"{settings.rasters[0]}: {told}") from None


def _require_alike(rasters: Mapping[Path, DatasetReader]) -> None:
    (first, expected), *others = rasters.items()
    for path, raster in others:
        if (raster.count, raster.dtypes) != (expected.count, expected.dtypes):
            raise FullconvError(
                f"{path}: has {raster.count} bands of {raster.dtypes[0]}, but {first} has "
                f"{expected.count} of {expected.dtypes[0]}; cut them into folders of their own"
            )


def _no_data(raster: DatasetReader, tile_: Tile, bands: bool) -> NDArray[np.bool_]:
    """Return where a tile has no data: of bands where none has a value."""
    window = window_of(tile_)
    if not bands:
        seen: NDArray[np.bool_] = raster.dataset_mask(window=window) > 0
        return ~seen
    values: NDArray[Any] = raster.read(window=window)
    none: NDArray[np.bool_] = np.isnan(values)
    if raster.nodata is not None:
        none[values == raster.nodata] = True
    return np.asarray(none.all(0))


def _write_window(path: Path, raster: DatasetReader, tile_: Tile, info: DatasetInfo) -> None:
    window = window_of(tile_)
    profile = {
        "driver": "GTiff",
        "count": raster.count,
        "dtype": raster.dtypes[0],
        "height": len(tile_.rows),
        "width": len(tile_.columns),
        "nodata": raster.nodata,
        "crs": raster.crs,
        "compress": "deflate",
        "interleave": "pixel",
    }
    if not raster.transform.is_identity:
        profile["transform"] = raster.window_transform(window)
    if info.has_bands:
        profile |= {"photometric": "MINISBLACK", "alpha": "NO"}
    with own_rasters(), opened(path, "w", **profile) as written:
        written.write(raster.read(window=window))
        if info.has_bands:
            written.descriptions = info.bands


def _names(paths: Sequence[Path]) -> list[str]:
    """Return how tiles of each raster are called."""
    stems = [re.sub(r"[^\w.-]", "_", path.stem).lstrip(".-") or "raster" for path in paths]
    return [stem if stems.count(stem) == 1 else f"{stem}-{at}" for at, stem in enumerate(stems, 1)]


def _pixel(raster: DatasetReader) -> float:
    """Return the longer side of a pixel, in the raster's coordinates."""
    a, b, _, d, e, *_ = raster.transform
    return float(max(np.hypot(a, d), np.hypot(b, e)))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the raster in what fails while it is read or cut."""
    try:
        yield
    except gdal_errors() as error:
        raise FullconvError(f"{path}: can't be cut ({one_line(error)})") from error
    except FullconvError as error:
        raise FullconvError(f"{path}: {error}") from error
