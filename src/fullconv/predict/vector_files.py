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
from fullconv.net.described import Size
from fullconv.predict.coordinates import WGS84, Coordinates, between, placed_by
from fullconv.predict.rasters import Place
from fullconv.predict.regions import Geometries, Regions

DECIMALS = 9  # of a degree: a tenth of a millimetre
AT_ONCE = 10_000  # polygons that are made text of at a time
LAYER = "labels"


@dataclass(frozen=True)
class Features:
    """Regions where they lie.

    Attributes:
        outlines: n polygons (shapely), in the system's coordinates; without one those of the
            transform, and without that in pixels, x to the right and y down.
        crs: the coordinate reference system; None: unknown.
        columns: what is known of each, by name: n values.
        unmeasured: why their areas aren't known, where there is a system.
    """

    outlines: Geometries
    crs: Any
    columns: Mapping[str, NDArray[Any]]
    unmeasured: str = ""


def features_of(regions: Regions, classes: Sequence[str], place: Place, size: Size) -> Features:
    """Place regions on the earth, and measure them there.

    Areas are true ones, in square metres, also where the system's own are not (degrees, Web
    Mercator): they are measured in an equal-area projection. They are NaN, and why is in the
    result, where coordinates can't be brought to it: on other planets, and on sites of their own.

    Args:
        regions: in pixels.
        classes: names, index = label id.
        place: where the raster lies; one that has control points alone lies nowhere.
        size: of the raster.
    """
    import shapely

    crs, outlines, unmeasured = None, regions.outlines, ""
    areas = np.full(len(regions.labels), np.nan)
    if place.transform is not None:
        crs, placed = place.crs, placed_by(place.transform)
        outlines = shapely.transform(outlines, placed)
    if crs is not None:
        try:
            areas = _areas(outlines, crs, placed(np.array([[size[1] / 2, size[0] / 2]])))
        except FullconvError as error:
            unmeasured = str(error)
    columns: dict[str, NDArray[Any]] = {
        "class": np.array([classes[label] for label in regions.labels], np.object_),
        "label": regions.labels,
        "area": areas.round(4),
        "pixels": regions.pixels,
        "probability": regions.probabilities.round(4),
    }
    return Features(outlines, crs, columns, unmeasured)


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
    for first in range(0, len(features.outlines), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        outlines = features.outlines[part]
        if features.crs is not None:
            outlines = _on_earth(outlines, features.crs)
        shown = shapely.to_geojson(shapely.orient_polygons(outlines))
        values = zip(*(column[part].tolist() for column in features.columns.values()), strict=True)
        for geometry, own in zip(shown, values, strict=True):
            told = {name: _plain(value) for name, value in zip(names, own, strict=True)}
            properties = json.dumps(told, ensure_ascii=False)
            yield f'{{"type": "Feature", "properties": {properties}, "geometry": {geometry}}}'


def _on_earth(outlines: Geometries, crs: Any) -> Geometries:
    """Return polygons in longitudes and latitudes."""
    import shapely

    try:
        moved: Geometries = shapely.transform(outlines, between(crs, WGS84, DECIMALS))
    except FullconvError as error:
        raise FullconvError(f"{error}; ask for --format gpkg, which keeps them") from error
    return moved


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _areas(outlines: Geometries, crs: Any, middle: Coordinates) -> NDArray[np.float64]:
    """Return the areas of polygons, by an equal-area projection about the raster's middle."""
    import shapely

    ((longitude, _),) = between(crs, WGS84)(middle).tolist()
    plane = f"+proj=cea +lon_0={longitude:.6f} +datum=WGS84 +units=m"
    areas: NDArray[np.float64] = shapely.area(shapely.transform(outlines, between(crs, plane)))
    return areas
