"""Points from one coordinate system to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError, one_line
from fullconv.predict.rasters import gdal_errors, quiet_gdal

WGS84 = "EPSG:4326"  # longitudes and latitudes, in this order

Coordinates = NDArray[np.float64]  # n x 2, x and y


def placed_by(transform: Any) -> Callable[[Coordinates], Coordinates]:
    """Return what brings pixels to the coordinates of an affine transform."""
    a, b, c, d, e, f, *_ = transform
    return lambda points: points @ np.array([[a, d], [b, e]]) + np.array([c, f])


def between(
    source: Any, target: Any, decimals: int | None = None
) -> Callable[[Coordinates], Coordinates]:
    """Return what brings points from one system to another.

    What it returns raises FullconvError where that can't be.

    Args:
        source: a system, by rasterio or in words that GDAL knows.
        target: likewise.
        decimals: to which coordinates are rounded; None: not.
    """

    def moved(points: Coordinates) -> Coordinates:
        from rasterio.warp import transform

        try:
            with quiet_gdal():
                x, y = transform(source, target, *points.T.tolist())
        except gdal_errors() as error:
            raise FullconvError(
                f"its coordinates can't be brought to another system ({one_line(error)})"
            ) from error
        found = np.array([x, y], np.float64).T
        if not np.isfinite(found).all():
            raise FullconvError("it lies outside of where its coordinate system is defined")
        return found if decimals is None else found.round(decimals)

    return moved
