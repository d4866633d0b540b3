"""Labels as polygons on the earth: the whole of ``predict --format geojson|gpkg``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.progress import SILENT, Progress, Reporter
from fullconv.predict.jobs import Job, Results
from fullconv.predict.outcome import Prediction
from fullconv.predict.rasters import block_cache, gdal_errors, opened, own_rasters, place_of
from fullconv.predict.regions import PIXEL, bytes_for, regions_of
from fullconv.predict.room import granted
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings
from fullconv.predict.stream import MOST_WORDS, Failure
from fullconv.predict.vector_files import (
    Features,
    features_of,
    write_geojson,
    write_geopackage,
)

VectorFormat = Literal["geojson", "gpkg"]
WRITERS: tuple[tuple[VectorFormat, Callable[[Path, Features], None]], ...] = (
    ("geojson", write_geojson),
    ("gpkg", write_geopackage),
)
_PACKAGES = ("rasterio", "shapely", "pyogrio")


@dataclass(frozen=True)
class VectorSettings:
    """How labels become polygons.

    Attributes:
        format: of the files.
        least: pixels; regions of fewer become part of the largest one beside them.
        simplify: see `regions_of`.
    """

    format: VectorFormat
    least: int = 0
    simplify: float = 0.0


@dataclass(frozen=True)
class Vectored:
    """What was predicted and made polygons of.

    Attributes:
        prediction: of the run.
        folders: where the polygons are, a folder a head.
        polygons: how many there are, in all files.
        failures: rasters that were labelled, but of which no polygons came.
    """

    prediction: Prediction
    folders: tuple[Path, ...]
    polygons: int
    failures: tuple[Failure, ...] = ()


def predict_vectors(
    settings: PredictSettings, vectors: VectorSettings, reporter: Reporter = SILENT
) -> Vectored:
    """Label images as rasters (see `fullconv.predict.run.run`), and write the labels as polygons.

    These go to OUT/vectors, of several heads to OUT/HEAD/vectors.

    Raises:
        FullconvError: as `run`; or what polygons need is not installed.
    """
    require_packages()
    settings = replace(settings, format="tif", scores=True)
    prediction = run(settings, reporter)
    jobs, heads, room = prediction.jobs, tuple(prediction.heads), granted(settings.memory)
    folders, polygons, failures = list[Path](), 0, list[Failure]()
    told: tuple[type[Exception], ...] = (FullconvError, OSError, *gdal_errors())
    with reporter.bar(len(jobs) * len(heads), f"write {vectors.format}") as bar:
        for at, (name, head) in enumerate(prediction.heads.items()):
            folder = settings.out / (name if len(heads) > 1 else "") / "vectors"
            folders.append(folder)
            for job in jobs:
                path = folder / f"{job.name}.{vectors.format}"
                try:
                    polygons += write_vectors(
                        job.results[at], path, head.classes, vectors, room, say=bar.say
                    )
                except told as error:
                    failures.append(_failure(job, path, error, bar))
                bar.advance()
    return Vectored(prediction, tuple(folders), polygons, tuple(failures))


def write_vectors(
    results: Results,
    path: Path,
    classes: Sequence[str],
    vectors: VectorSettings,
    room: int | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Write the regions of a label raster as polygons; return how many there are.

    Args:
        results: where the labels are, and how sure they are.
        path: of the file to write.
        classes: names, index = label id.
        vectors: how.
        room: bytes of memory that there are for it; None: nobody knows.
        say: is told, in a line, why their areas aren't known.

    Raises:
        FullconvError: it takes more than that, in a line that tells how much; or coordinates can't
            be brought to longitudes and latitudes, which a GeoJSON needs.
        OSError: it can't be written.
    """
    with own_rasters(), block_cache(), opened(results.labels) as raster:
        size, place, ignore_index = raster.shape, place_of(raster), int(raster.nodata)
        _require_room(PIXEL * size[0] * size[1], room, results.labels)
        labels = raster.read(1)
    need = bytes_for(labels, simplify=vectors.simplify > 0)
    _require_room(need, room, results.labels)
    sure = None
    if results.scores is not None:
        with own_rasters(), block_cache(), opened(results.scores) as raster:
            sure = raster.read(1)
    regions = regions_of(
        labels,
        ignore_index=ignore_index,
        least=vectors.least,
        simplify=vectors.simplify,
        sure=sure,
    )
    features = features_of(regions, classes, place)
    dict(WRITERS)[vectors.format](path, features)
    if features.unmeasured:
        say(f"note: {path}: area is null ({features.unmeasured})")
    return len(regions.labels)


def require_packages() -> None:
    """Raise FullconvError where what polygons need isn't installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise FullconvError(
            f"polygons are made by {' and '.join(missing)}: pip install 'fullconv[geo]'"
        )


def _require_room(need: int, room: int | None, path: Path) -> None:
    if room is not None and need > room:
        raise FullconvError(
            f"{path}: its polygons take about {need / 1e9:.1f} GB of memory, and "
            f"{room / 1e9:.1f} GB are there; raise --memory, or cut the raster into parts"
        )


def _failure(job: Job, path: Path, error: Exception, bar: Progress) -> Failure:
    """Say why no polygons came of a raster."""
    told = one_line(error, MOST_WORDS)
    if str(path) not in told and ".tif: " not in told:
        told = f"{path}: {told}"
    bar.say(told)
    return Failure(job.source, told)
