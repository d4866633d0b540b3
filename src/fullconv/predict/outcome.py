"""What comes of a run, from its plan to its results: the same for nets and for exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Reporter
from fullconv.export.verified import EngineConfig, Verification
from fullconv.net.described import Described, DescribedHead
from fullconv.predict.jobs import Job, further_folders, make_folders, plan
from fullconv.predict.labelling import AnyLabeller
from fullconv.predict.room import Room
from fullconv.predict.settings import PredictSettings
from fullconv.predict.stream import Failure, Summary, label_files, write_unsure
from fullconv.predict.video import Films, is_film, label_films, plan_films

if TYPE_CHECKING:
    from fullconv.predict.seams import Seams


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


def planned_jobs(
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
            heads=several(net),
            net_inputs=net.inputs,
        )
        films.make_folders()
        return films
    jobs = plan(
        settings.inputs,
        settings.out,
        scores=settings.scores,
        heads=several(net),
        further=further_folders(settings.further, tuple(net.inputs)),
        is_raster=is_raster,
        reporter=reporter,
    )
    far = [job for job in jobs if settings.format == "tif" and not isinstance(job.source, Path)]
    if far:
        raise FullconvError(f"{far[0].source}: lies elsewhere, where no windows are read; fetch it")
    make_folders(jobs)
    return jobs


def labelled(
    settings: PredictSettings,
    label: AnyLabeller,
    jobs: tuple[Job, ...] | Films,
    memory: Room,
    reporter: Reporter,
    *,
    seams: Seams | None = None,
) -> Summary:
    """Label what was planned; write the table of unsure shares, too."""
    reader = label.net.preprocessing.reader(settings.reader)
    unit = "frames" if isinstance(jobs, Films) else "images"
    with reporter.bar(count_of(jobs), "predict", unit=unit) as bar:
        if isinstance(jobs, Films):
            summary = label_films(label, jobs, bar, memory=memory)
        else:
            summary = label_files(label, jobs, bar, memory=memory, reader=reader, seams=seams)
    if summary.failed < summary.images:
        write_unsure(summary, settings.out)
    return summary


def outcome(
    settings: PredictSettings,
    net: Described,
    planned: tuple[Job, ...] | Films,
    summary: Summary,
    config: EngineConfig,
    *,
    verification: Verification | None = None,
) -> Prediction:
    """Return what came of a run."""
    places = _places(settings, several(net), unsure=bool(summary.unsure))
    failed = {failure.source for failure in summary.failures}
    photos = () if isinstance(planned, Films) else planned
    jobs = tuple(job for job in photos if job.source not in failed)
    films = sum(map(is_film, settings.inputs))
    return Prediction(summary, dict(net.heads.items()), config, verification, places, jobs, films)


def count_of(jobs: tuple[Job, ...] | Films) -> int:
    """Return how many images there are, or about how many frames."""
    return jobs.frames if isinstance(jobs, Films) else len(jobs)


def several(net: Described) -> tuple[str, ...]:
    """Return the names of several heads; of an only one nothing."""
    return tuple(net.heads) if len(net.heads) > 1 else ()


def _places(settings: PredictSettings, heads: tuple[str, ...], *, unsure: bool) -> Places:
    below = settings.out / f"{{{','.join(heads)}}}" if heads else settings.out
    scores = below / "scores" if settings.scores else None
    return Places(below, below / "overlay", below / "unsure.csv" if unsure else None, scores)
