"""What annotations say of a window of a raster: other rasters, or polygons with a class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError, few_named, nearest, one_line
from fullconv.data.info import MAX_CLASSES
from fullconv.datasets.formats.classes import BACKGROUND, IGNORE, IGNORED
from fullconv.datasets.tile_grid import Tile
from fullconv.predict.coordinates import between, placed_by
from fullconv.predict.rasters import gdal_errors, opened

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Colours = tuple[tuple[int, int, int], ...]
VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb")


class Truth(Protocol):
    """Labels of rasters, by windows."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, index = label id."""

    @property
    def palette(self) -> Colours | None:
        """A colour for each class, where there are any."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines to tell the user."""

    def labels(self, tile: Tile) -> NDArray[np.uint8]:
        """Return the label ids of a tile's pixels; 255 where they count nowhere.

        Raises:
            FullconvError: there are values that are no classes, or what is there can't be read.
        """


@dataclass(frozen=True)
class RasterTruth:
    """Masks of label ids, one a raster, pixel for pixel.

    Attributes:
        paths: of the files.
        masks: the same, open.
        classes: names, index = label id.
        palette: their colours.
        notes: none.
    """

    paths: Sequence[Path]
    masks: Sequence[DatasetReader]
    classes: tuple[str, ...]
    palette: Colours | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        rasters: Mapping[Path, DatasetReader],
        classes: tuple[str, ...] | None,
        stack: ExitStack,
    ) -> RasterTruth:
        """Open masks, which lie as their rasters do, in the same order.

        Raises:
            FullconvError: one doesn't, or nobody names the classes.
        """
        if len(paths) != len(rasters):
            raise FullconvError(
                f"--masks names {len(paths)} rasters for {len(rasters)}: give one for each, in "
                "order"
            )
        masks = [stack.enter_context(open_raster(path)) for path in paths]
        for path, mask, (of, raster) in zip(paths, masks, rasters.items(), strict=True):
            _require_same_place(path, mask, of, raster)
        names = classes or _names_in(masks[0])
        if names is None:
            raise FullconvError(
                f"{paths[0]}: doesn't name its classes; give --classes NAME,… in the order of its "
                "values, from 0"
            )
        return cls(paths, masks, names, _colours(masks[0], len(names)))

    def labels(self, tile: Tile) -> NDArray[np.uint8]:
        """Return the label ids of a tile's pixels (see `Truth`)."""
        mask = self.masks[tile.raster]
        values = mask.read(1, window=window_of(tile))
        none = (values == IGNORED) | (mask.dataset_mask(window=window_of(tile)) == 0)
        wrong = values[~none & ((values < 0) | (values >= len(self.classes)))]
        if wrong.size:
            raise FullconvError(
                f"{self.paths[tile.raster]}: has value {wrong[0]}, but there are "
                f"{len(self.classes)} classes (0..{len(self.classes) - 1}; nodata and {IGNORED} = "
                "ignore); name them all by --classes"
            )
        return np.where(none, IGNORED, values).astype(np.uint8)


@dataclass(frozen=True)
class VectorTruth:
    """Polygons with a class, of which later ones lie above.

    Attributes:
        rasters: whose labels they are, open.
        files: what was read of each file.
        classes: names, index = label id.
        uncovered: label id of pixels whose centre is in no polygon.
        ids: label id of each polygon, of all files in turn.
        palette: none.
    """

    rasters: Sequence[DatasetReader]
    files: Sequence[Polygons]
    classes: tuple[str, ...]
    uncovered: int
    ids: NDArray[np.int64]
    palette: Colours | None = None
    _placed: dict[int, Any] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the files is no polygon with a class."""
        return tuple(note for file in self.files for note in file.notes)

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        field_: str,
        rasters: Sequence[DatasetReader],
        classes: tuple[str, ...] | None,
        background: str | None,
    ) -> VectorTruth:
        """Read polygons.

        Raises:
            FullconvError: there are none, or without that field, or of a class that is none.
        """
        files = [Polygons.read(path, field_) for path in paths]
        found = sorted({name for file in files for name in file.names if name is not None})
        first = background or BACKGROUND
        names = classes or tuple(dict.fromkeys((*[first] * (first != IGNORE), *found)))
        if len(names) > MAX_CLASSES:
            raise FullconvError(
                f"{paths[0]}: the field {field_!r} has {len(found)} values, and {MAX_CLASSES} "
                "classes at most fit masks; name another --class-field, or some by --classes"
            )
        by_name: dict[str | None, int] = {name: at for at, name in enumerate(names)}
        by_name |= {IGNORE: IGNORED, None: IGNORED}
        if background and background not in by_name:
            raise FullconvError(
                f"--background {background}: is none of --classes{nearest(background, names)}"
            )
        unknown = [name for name in found if name not in by_name]
        if unknown:
            raise FullconvError(
                f"{paths[0]}: the field {field_!r} has {few_named(unknown)}, none of --classes; "
                "name it there, too"
            )
        ids = np.array([by_name[name] for file in files for name in file.names], np.int64)
        return cls(rasters, files, names, by_name.get(first, IGNORED), ids)

    def labels(self, tile: Tile) -> NDArray[np.uint8]:
        """Return the label ids of a tile's pixels (see `Truth`), each by its centre."""
        import shapely
        from rasterio.features import rasterize

        raster = self.rasters[tile.raster]
        tree = self._tree(tile.raster)
        size = len(tile.rows), len(tile.columns)
        near = np.sort(tree.query(shapely.Polygon(corners(tile, raster))))
        labels = np.full(size, self.uncovered, np.uint8)
        if len(near):
            shapes = zip(tree.geometries[near], self.ids[near].tolist(), strict=True)
            transform = raster.window_transform(window_of(tile))
            rasterize(shapes, out=labels, transform=transform)
        return labels

    def _tree(self, raster: int) -> Any:
        """Return the polygons in a raster's coordinates, to be looked for by place."""
        from shapely import STRtree

        if raster not in self._placed:
            self._placed.clear()  # of one raster at a time
            crs = self.rasters[raster].crs
            self._placed[raster] = STRtree(
                np.concatenate([each.within(crs) for each in self.files])
            )
        return self._placed[raster]


@dataclass(frozen=True)
class Polygons:
    """The polygons of a file.

    Attributes:
        path: of the file.
        outlines: of n polygons (shapely).
        names: of their classes; None: it has none, so that nobody knows what is there.
        crs: their coordinate system, in words that GDAL knows; None: that of the raster.
        notes: lines to tell the user.
    """

    path: Path
    outlines: NDArray[np.object_]
    names: tuple[str | None, ...]
    crs: str | None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, field_: str) -> Polygons:
        """Read the first layer of a file; what is no polygon is left out.

        Raises:
            FullconvError: it can't be read, or holds no such field or polygon.
        """
        import shapely
        from pyogrio.errors import DataLayerError, DataSourceError
        from pyogrio.raw import read

        if not path.is_file():
            raise FullconvError(f"{path}: no such file")
        try:
            about, _, outlines, columns = read(str(path), force_2d=True)
        except (DataSourceError, DataLayerError, ValueError) as error:
            raise FullconvError(f"{path}: holds no features ({one_line(error)})") from error
        known = [str(name) for name in about["fields"]]
        if field_ not in known:
            raise FullconvError(
                f"{path}: has no field {field_!r}; it has {few_named(known) or 'none'}"
                f"{nearest(field_, known)}"
            )
        shapes = shapely.from_wkb(outlines)
        values = columns[known.index(field_)]
        kept = np.isin(shapely.get_type_id(shapes), (3, 6)) & ~shapely.is_empty(shapes)
        names = tuple(map(_name, values[kept].tolist()))
        unknown = names.count(None)
        if unknown == len(names):
            raise FullconvError(f"{path}: holds no polygons with a {field_!r}")
        others = len(kept) - len(names)
        notes = (
            *[f"left out: {others:,} features that are no polygons ({path.name})"] * bool(others),
            *[f"ignored: {unknown:,} polygons without a {field_!r} ({path.name})"] * bool(unknown),
        )
        return cls(path, shapes[kept], names, about["crs"], notes)

    def within(self, crs: Any) -> NDArray[np.object_]:
        """Return the outlines in another system; as they are where one of both is unknown."""
        import shapely

        if crs is None or self.crs is None:
            return self.outlines
        try:
            moved: NDArray[np.object_] = shapely.transform(self.outlines, between(self.crs, crs))
        except FullconvError as error:
            raise FullconvError(f"{self.path}: {error}") from error
        return moved


def corners(tile: Tile, raster: DatasetReader) -> NDArray[np.float64]:
    """Return the corners of a tile in its raster's coordinates, 4 x 2."""
    (top, bottom), (left, right) = ((each.start, each.stop) for each in (tile.rows, tile.columns))
    pixels = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return placed_by(raster.transform)(pixels)


def _name(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip()


def window_of(tile: Tile) -> Any:
    """Return a tile as rasterio's window."""
    from rasterio.windows import Window

    return Window(tile.columns.start, tile.rows.start, len(tile.columns), len(tile.rows))


def open_raster(path: Path) -> DatasetReader:
    """Open a raster; what is none becomes a line."""
    try:
        return opened(path)
    except gdal_errors() as error:
        raise FullconvError(f"{path}: is no raster that can be read ({one_line(error)})") from error


def _require_same_place(path: Path, mask: DatasetReader, of: Path, raster: DatasetReader) -> None:
    if mask.shape != raster.shape:
        problem = (
            f"is {mask.width} x {mask.height} but {of} {raster.width} x {raster.height} pixels"
        )
    elif not mask.transform.almost_equals(raster.transform, 1e-6) or (
        mask.crs and raster.crs and mask.crs != raster.crs
    ):
        problem = f"doesn't lie where {of} lies"
    elif mask.count != 1 or np.dtype(mask.dtypes[0]).kind not in "ui":
        problem = f"holds {mask.count} bands of {mask.dtypes[0]}, and no label ids"
    else:
        return
    raise FullconvError(f"{path}: the mask {problem}; make it again on the grid of {of} (gdalwarp)")


def _names_in(mask: DatasetReader) -> tuple[str, ...] | None:
    """Return the classes that `predict` writes into its label rasters."""
    import json

    try:
        return tuple(map(str, json.loads(mask.tags()["CLASSES"]))) or None
    except (KeyError, ValueError, TypeError):
        return None


def _colours(mask: DatasetReader, count: int) -> Colours | None:
    try:
        table = mask.colormap(1)
    except ValueError:
        return None
    return tuple(tuple(table[at][:3]) for at in range(count)) if count <= len(table) else None
