"""Prediction by a model's net in torch, behind whatever engine is the quickest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Reporter
from fullconv.base.runtime import pick_device
from fullconv.export.kept import KeptPlace
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN, load
from fullconv.predict.choice import AT_ONCE, Asked, choose
from fullconv.predict.engines import check
from fullconv.predict.jobs import PNG, Job
from fullconv.predict.kept import FEW, kept_place
from fullconv.predict.labeller import Labeller
from fullconv.predict.memory import Memory
from fullconv.predict.outcome import Prediction, count_of, labelled, outcome, planned_jobs
from fullconv.predict.rasters import require_rasterio, require_windows
from fullconv.predict.seams import Seams
from fullconv.predict.settings import FORMATS, PredictSettings
from fullconv.predict.stream import Done, attempt, first_images, gathered, write_unsure
from fullconv.predict.video import Films, is_film
from fullconv.predict.windowed import first_windows, label_raster, needs_windows, windows_in


def label_by_net(
    settings: PredictSettings, place: KeptPlace | None, reporter: Reporter
) -> Prediction:
    """Label images by a net, and keep its graph at `place` (see `fullconv.predict.run.run`)."""
    check(settings.engine, settings.precision, settings.device)
    _check_format(settings)
    net = loaded(settings.model, settings.engine, settings.device, trust=settings.trust)
    memory = Memory(net, settings.memory, tta=settings.tta, tiling=settings.tiling)
    reader = net.preprocessing.reader(settings.reader)

    def is_raster(path: Path) -> bool:
        asked = settings.format == "tif"
        return asked or needs_windows(path, net.inputs, memory, reader)

    planned = planned_jobs(settings, net, reporter, is_raster)
    jobs, rasters = _apart(planned)

    def first(count: int) -> list[Pixels]:
        if isinstance(jobs, Films):
            return jobs.first(count)
        photographs = first_images(jobs, net.inputs, count, reader, memory)
        return photographs or first_windows(rasters, reader)

    asked = Asked(
        count_of(jobs) + sum(windows_in(job, reader) for job in rasters),
        settings.engine,
        settings.precision,
        folder_of(settings.model),
        at_once=1 if rasters and not jobs else AT_ONCE,
        compiled=not rasters,  # parts of a compiled net can't work by strips
    )
    choice = choose(net, asked, first, reporter)
    label = Labeller(net, choice.engine, tta=settings.tta)
    summary = labelled(settings, label, jobs, memory, reporter, seams=Seams(label, memory))

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
    _keep(settings, net, place, first, reporter)
    return outcome(settings, net, planned, summary, choice.config, verification=choice.verification)


def _keep(
    settings: PredictSettings,
    net: FCN,
    place: KeptPlace | None,
    first: Callable[[int], Sequence[Pixels]],
    reporter: Reporter,
) -> None:
    """Keep the net's graph, if the next run of such a kind would start by it.

    Args:
        settings: of this run.
        net: that labelled.
        place: of its folder before it was loaded; one whose files changed since is another's.
        first: gives so many of the run's images.
        reporter: is told of it.
    """
    if place is None or place.is_known or settings.trust or net.device.type != "cpu":
        return
    images = first(FEW)
    if images and place == kept_place(settings):
        from fullconv.export.keeping import keep

        note = keep(net, place, images)
        if note is not None and note.files:
            reporter.say(f"note: the next such run starts without torch, by {place.graph}")


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
