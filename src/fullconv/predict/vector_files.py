"""Regions as GeoJSON and as GeoPackage, in coordinates on the earth."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.files import replacing
from fullconv.predict.coordinates import placed_by
from fullconv.predict.earth import DECIMALS, areas_of, on_earth
from fullconv.predict.rasters import Place
from fullconv.predict.regions import Geometries, Regions

WRITTEN = 0.1  # pixels that a side may lie off on the earth; centres of pixels are half a one away
MEASURED = 0.001  # likewise where areas are measured, which are right to 0.0001 by that
AT_ONCE = 10_000  # polygons that are measured, or made text of, at a time
LAYER = "labels"


@dataclass(frozen=True)
class Features:
    """Regions where they lie.

    Attributes:
        outlines: n polygons (shapely), in the system's coordinates; without one those of the
            transform, and without that in pixels, x to the right and y down.
        crs: the coordinate reference system; None: unknown.
        columns: what is known of each, by name: n values.
        pixel: the shorter side of a pixel, in the system's coordinates.
        unmeasured: why their areas aren't known, where there is a system.
    """

    outlines: Geometries
    crs: Any
    columns: Mapping[str, NDArray[Any]]
    pixel: float = 1.0
    unmeasured: str = ""


def features_of(regions: Regions, classes: Sequence[str], place: Place) -> Features:
    """Place regions on the earth, and measure them there.

    Areas are true ones, in square metres, also where the system's own are not (degrees, Web
    Mercator): they are measured in an equal-area projection. They are NaN, and why is in the
    result, where coordinates can't be brought to it: on other planets, and on sites of their own.

    Args:
        regions: in pixels.
        classes: names, index = label id.
        place: where the raster lies; one that has control points alone lies nowhere.
    """
    import shapely

    crs, outlines, pixel, unmeasured = None, regions.outlines, 1.0, ""
    areas = np.full(len(regions.labels), np.nan)
    if place.transform is not None:
        crs, (a, b, _, d, e, *_) = place.crs, place.transform
        pixel = min(math.hypot(a, d), math.hypot(b, e))
        outlines = shapely.transform(outlines, placed_by(place.transform))
    if crs is not None:
        try:
            areas = np.concatenate(
                [
                    areas_of(on_earth(outlines[part], crs, MEASURED * pixel))
                    for part in _parts(outlines)
                ]
            )
        except FullconvError as error:
            unmeasured = str(error)
    columns: dict[str, NDArray[Any]] = {
        "class": np.array([classes[label] for label in regions.labels], np.object_),
        "label": regions.labels,
        "area": areas.round(4),
        "pixels": regions.pixels,
        "probability": regions.probabilities.round(4),
    }
    return Features(outlines, crs, columns, pixel, unmeasured)


def write_geojson(path: Path, features: Features) -> None:
    """Write features as GeoJSON (RFC 7946): longitudes and latitudes of WGS84.

    Without a coordinate system coordinates are as they are, and the member "crs" is null.

    Raises:
        FullconvError: the coordinates can't be brought to longitudes and latitudes.
        OSError: it can't be written; whatever stood there before is untouched.
    """
    head = '{"type": "FeatureCollection", ' + ('"crs": null, ' if features.crs is None else "")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(head + '"features": [')
        separator = "\n"
        for line in _lines(features):
            file.write(separator + line)
            separator = ",\n"
        file.write("\n]}\n")


def write_geopackage(path: Path, features: Features) -> None:
    """Write features as the layer "labels" of a GeoPackage, in the raster's coordinates.

    Raises:
        OSError: it can't be written; whatever stood there before is untouched.
    """
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError
    from pyogrio.raw import write

    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the temporary name's suffix, and of no system
        try:
            write(
                str(temporary),
                shapely.to_wkb(features.outlines),
                list(features.columns.values()),
                list(features.columns),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=None if features.crs is None else features.crs.to_wkt(),
            )
        except (DataLayerError, DataSourceError) as error:
            raise OSError(one_line(error)) from error


def _lines(features: Features) -> Iterator[str]:
    """Yield each feature as JSON."""
    import shapely

    names = list(features.columns)
    for part in _parts(features.outlines):
        outlines = features.outlines[part]
        if features.crs is not None:
            outlines = _on_earth(outlines, features)
        shown = shapely.to_geojson(shapely.orient_polygons(outlines))
        values = zip(*(column[part].tolist() for column in features.columns.values()), strict=True)
        for geometry, own in zip(shown, values, strict=True):
            told = {name: _plain(value) for name, value in zip(names, own, strict=True)}
            properties = json.dumps(told, ensure_ascii=False)
            yield f'{{"type": "Feature", "properties": {properties}, "geometry": {geometry}}}'


def _parts(outlines: Geometries) -> Iterator[slice]:
    """Yield which polygons are worked on at a time."""
    for first in range(0, max(1, len(outlines)), AT_ONCE):
        yield slice(first, first + AT_ONCE)


def _on_earth(outlines: Geometries, features: Features) -> Geometries:
    """Return some of the polygons in longitudes and latitudes, as they are written."""
    import shapely

    try:
        moved = on_earth(outlines, features.crs, WRITTEN * features.pixel)
    except FullconvError as error:
        raise FullconvError(f"{error}; ask for --format gpkg, which keeps them") from error
    rounded: Geometries = shapely.transform(moved, lambda points: points.round(DECIMALS))
    return rounded


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
