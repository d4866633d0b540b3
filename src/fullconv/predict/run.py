"""Prediction from a model and the names of files to label images: what every front end calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.runtime import pick_device
from fullconv.export.opened import SUFFIXES, OpenedExport, is_export
from fullconv.export.verification import EngineConfig, Verification
from fullconv.net.described import Described, DescribedHead
from fullconv.net.fcn import FCN, Pixels, load
from fullconv.predict.choice import AT_ONCE, Asked, choose
from fullconv.predict.engines import check
from fullconv.predict.exports import ExportLabeller, opened_for, require_of_export
from fullconv.predict.jobs import PNG, Job, further_folders, make_folders, plan
from fullconv.predict.labeller import AnyLabeller, Labeller
from fullconv.predict.memory import ExportMemory, Memory, Room, Tiling
from fullconv.predict.rasters import require_rasterio, require_windows
from fullconv.predict.stream import (
    Done,
    Failure,
    Summary,
    attempt,
    first_images,
    gathered,
    label_files,
    write_unsure,
)
from fullconv.predict.video import Films, is_film, label_films, plan_films
from fullconv.predict.windowed import first_windows, label_raster, needs_windows, windows_in

FORMATS = ("png", "tif")


@dataclass(frozen=True)
class PredictSettings:
    """What to label, by what, and how.

    Attributes:
        model: a model folder, a Hub id, an exported file, or a net.
        inputs: files, folders and globs of images; or films.
        out: folder of all results.
        further: ``NAME=DIR`` for each further input of the net.
        engine: "auto", "torch", "openvino" or "onnxruntime".
        precision: "auto", "fp32", "bf16", or "int8", which is calibrated on the first images.
        device: "auto", "cpu", "cuda" or "mps"; of a net, where it is.
        scores: whether to write each pixel's probabilities, too; of rasters those of the labels.
        tta: whether to look at each image's mirror, too.
        reader: reads the images.
        memory: bytes that images may take; None: half of what is free.
        tiling: what is asked of tiles, by which images go that are too large.
        format: of label images: "png", or "tif" (GeoTIFF, read and written by windows); PNGs that
            could not be held in memory become GeoTIFFs anyway.
        trust: whether the model may cost what it may (see `fullconv.load`).
    """

    model: str | Path | FCN
    inputs: tuple[str, ...]
    out: Path
    further: tuple[str, ...] = ()
    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    scores: bool = False
    tta: bool = False
    reader: ImageReader = ImageReader()
    memory: int | None = None
    tiling: Tiling = Tiling()
    format: str = "png"
    trust: bool = False


@dataclass(frozen=True)
class Places:
    """Where the results are, a path or an address; of several heads a pattern of all folders.

    Attributes:
        labels: folder of the label images.
        overlays: of the overlays.
        unsure: the table of unsure shares; None where nobody knows them.
        scores: folder of the probabilities; None if they were not asked for.
    """

    labels: Path | str
    overlays: Path | str
    unsure: Path | str | None
    scores: Path | str | None


@dataclass(frozen=True)
class Prediction:
    """What came of a run.

    Attributes:
        summary: by head, over all images that were labelled.
        heads: the net's, by name.
        config: the engine that worked.
        verification: what it is worth; None if it was taken unmeasured.
        places: where the results are.
        jobs: of the images that were labelled, in order; of films, which have none, empty.
        films: how many inputs were films; the summary's images are their frames then.
    """

    summary: Summary
    heads: Mapping[str, DescribedHead]
    config: EngineConfig
    verification: Verification | None
    places: Places
    jobs: tuple[Job, ...] = ()
    films: int = 0

    @property
    def done(self) -> int:
        """How many images were labelled."""
        return self.summary.images - self.summary.failed

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The inputs of which nothing came."""
        return self.summary.failures


def run(settings: PredictSettings, reporter: Reporter = SILENT) -> Prediction:
    """Label images, and write labels, overlays and what else was asked for.

    Inputs that can't be read, labelled or written are told in a line each, and are among the
    result's `failures`; the others are done nevertheless.

    Args:
        settings: what to do.
        reporter: is told how the work goes.

    Raises:
        FullconvError: the model, an input, a name or the engine isn't there or doesn't fit, or two
            results would have one name; nothing was written then.
        OSError: the table of unsure shares can't be written.
    """
    if is_export(settings.model):
        return _by_export(settings, reporter)
    check(settings.engine, settings.precision, settings.device)
    _check_format(settings)
    net = loaded(settings.model, settings.engine, settings.device, trust=settings.trust)
    memory = Memory(net, settings.memory, tta=settings.tta, tiling=settings.tiling)
    reader = net.preprocessing.reader(settings.reader)

    def is_raster(path: Path) -> bool:
        asked = settings.format == "tif"
        return asked or needs_windows(path, net.inputs, memory, reader)

    planned = _planned(settings, net, reporter, is_raster)
    jobs, rasters = _apart(planned)

    def first(count: int) -> list[Pixels]:
        if isinstance(jobs, Films):
            return jobs.first(count)
        photographs = first_images(jobs, net.inputs, count, reader, memory)
        return photographs or first_windows(rasters, reader)

    asked = Asked(
        _count(jobs) + sum(windows_in(job, reader) for job in rasters),
        settings.engine,
        settings.precision,
        folder_of(settings.model),
        at_once=1 if rasters and not jobs else AT_ONCE,
        compiled=not rasters,  # parts of a compiled net can't work by strips
    )
    choice = choose(net, asked, first, reporter)
    label = Labeller(net, choice.engine, tta=settings.tta)
    summary = _labelled(settings, label, jobs, memory, reporter)

    def do(job: Job) -> Done:
        engine = f"{settings.engine} {settings.precision}"
        require_windows(net.inputs, reader)
        return label_raster(
            job, label, asked=engine, memory=memory, reader=reader, reporter=reporter
        )

    if rasters:
        results = (attempt(do, job) for job in rasters)
        summary += gathered(rasters, results, net, reporter.warn)
        if summary.failed < summary.images:
            write_unsure(summary, settings.out)
    return _prediction(
        settings, net, planned, summary, choice.config, verification=choice.verification
    )


def _by_export(settings: PredictSettings, reporter: Reporter) -> Prediction:
    """Do the same by an exported file."""
    assert not isinstance(settings.model, FCN)
    path = Path(settings.model)
    if settings.format != "png":
        raise FullconvError(f"{path}: an export labels images whole; leave out --format tif")
    if settings.tiling != Tiling():
        raise FullconvError(f"{path}: an export labels images whole; --tile is for model folders")
    known = OpenedExport(path)
    require_of_export(
        known,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        tta=settings.tta,
        scores=settings.scores,
    )
    jobs = _planned(settings, known, reporter)
    reader = known.preprocessing.reader(settings.reader)
    samples = (
        jobs.first(1) if isinstance(jobs, Films) else first_images(jobs, known.inputs, 1, reader)
    )
    export = opened_for(known, _count(jobs), samples[0] if samples else None)
    memory = ExportMemory(export.about, settings.memory)
    summary = _labelled(settings, ExportLabeller(export), jobs, memory, reporter)
    config = EngineConfig(SUFFIXES[path.suffix.lower()], export.about.precision)
    return _prediction(settings, export, jobs, summary, config)


def _check_format(settings: PredictSettings) -> None:
    if settings.format not in FORMATS:
        raise FullconvError(f"format {settings.format!r} is none of {', '.join(FORMATS)}")
    if settings.format == "tif":
        require_rasterio()
        if any(map(is_film, settings.inputs)):
            raise FullconvError("films have no --format tif; leave it out")


def _apart(jobs: tuple[Job, ...] | Films) -> tuple[tuple[Job, ...] | Films, tuple[Job, ...]]:
    """Return films, or the images that are held whole, and those that are read by windows."""
    if isinstance(jobs, Films):
        return jobs, ()
    photos = tuple(job for job in jobs if job.suffix == PNG)
    return photos, tuple(job for job in jobs if job.suffix != PNG)


def _planned(
    settings: PredictSettings,
    net: Described,
    reporter: Reporter,
    is_raster: Callable[[Path], bool] = lambda _: False,
) -> tuple[Job, ...] | Films:
    """Plan a job for each image or film, and make the folders of its results."""
    if any(map(is_film, settings.inputs)):
        films = plan_films(
            settings.inputs,
            settings.out,
            scores=settings.scores,
            heads=_several(net),
            net_inputs=net.inputs,
        )
        films.make_folders()
        return films
    jobs = plan(
        settings.inputs,
        settings.out,
        scores=settings.scores,
        heads=_several(net),
        further=further_folders(settings.further, tuple(net.inputs)),
        is_raster=is_raster,
        reporter=reporter,
    )
    far = [job for job in jobs if settings.format == "tif" and not isinstance(job.source, Path)]
    if far:
        raise FullconvError(f"{far[0].source}: lies elsewhere, where no windows are read; fetch it")
    make_folders(jobs)
    return jobs


def _labelled(
    settings: PredictSettings,
    label: AnyLabeller,
    jobs: tuple[Job, ...] | Films,
    memory: Room,
    reporter: Reporter,
) -> Summary:
    reader = label.net.preprocessing.reader(settings.reader)
    unit = "frames" if isinstance(jobs, Films) else "images"
    with reporter.bar(_count(jobs), "predict", unit=unit) as bar:
        if isinstance(jobs, Films):
            summary = label_films(label, jobs, bar, memory=memory)
        else:
            summary = label_files(label, jobs, bar, reader=reader, memory=memory)
    if summary.failed < summary.images:
        write_unsure(summary, settings.out)
    return summary


def _prediction(
    settings: PredictSettings,
    net: Described,
    planned: tuple[Job, ...] | Films,
    summary: Summary,
    config: EngineConfig,
    *,
    verification: Verification | None = None,
) -> Prediction:
    places = _places(settings, _several(net), unsure=bool(summary.unsure))
    failed = {failure.source for failure in summary.failures}
    photos = () if isinstance(planned, Films) else planned
    jobs = tuple(job for job in photos if job.source not in failed)
    films = sum(map(is_film, settings.inputs))
    return Prediction(summary, dict(net.heads.items()), config, verification, places, jobs, films)


def _count(jobs: tuple[Job, ...] | Films) -> int:
    """Return how many images there are, or about how many frames."""
    return jobs.frames if isinstance(jobs, Films) else len(jobs)


def _several(net: Described) -> tuple[str, ...]:
    """Return the names of several heads; of an only one nothing."""
    return tuple(net.heads) if len(net.heads) > 1 else ()


def loaded(model: str | Path | FCN, engine: str, device: str, *, trust: bool = False) -> FCN:
    """Return a model's net on the device where an engine is to work; a net as it is."""
    if isinstance(model, FCN):
        return model
    return load(model, trust=trust).to(
        pick_device(device if engine in ("auto", "torch") else "cpu")
    )


def folder_of(model: str | Path | FCN) -> Path | None:
    """Return a model's own folder; None for a net, and for a model of the Hub."""
    return None if isinstance(model, FCN) or not Path(model).is_dir() else Path(model)


def _places(settings: PredictSettings, heads: tuple[str, ...], *, unsure: bool) -> Places:
    below = settings.out / f"{{{','.join(heads)}}}" if heads else settings.out
    scores = below / "scores" if settings.scores else None
    return Places(below, below / "overlay", below / "unsure.csv" if unsure else None, scores)
