"""Predictions as drafts for annotation tools: the whole of ``predict --format``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.base.fill import covered
from fullconv.base.images import ImageReader
from fullconv.base.outlines import outlines, without_specks
from fullconv.base.progress import SILENT, Progress, Reporter
from fullconv.base.remote import is_remote
from fullconv.datasets.formats import coco, cvat, label_studio, labelme, ultralytics
from fullconv.datasets.formats.draft import Draft, DraftedRegion, DraftWriter
from fullconv.predict.geotiff import CERTAIN, UNKNOWN
from fullconv.predict.jobs import TIF, Job, Results
from fullconv.predict.outcome import Prediction
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings
from fullconv.predict.video import is_film

Tool = Literal["labelme", "cvat", "label-studio", "coco", "ultralytics"]
WRITERS: tuple[tuple[Tool, DraftWriter], ...] = (
    ("labelme", labelme.write),
    ("cvat", cvat.write),
    ("label-studio", label_studio.write),
    ("coco", coco.write),
    ("ultralytics", ultralytics.write),
)
_OWN = ImageReader(max_pixels=sys.maxsize)  # reads results, which are as large as their images


@dataclass(frozen=True)
class DraftSettings:
    """How label images become polygons.

    Attributes:
        tool: whose files are written.
        min_area: pixels; regions of fewer become part of what is beside them.
        tolerance: pixels that a point left out may lie from the polygon.
    """

    tool: Tool
    min_area: int = 16
    tolerance: float = 0.75


@dataclass(frozen=True)
class Drafted:
    """What was predicted and drafted.

    Attributes:
        prediction: of the run.
        folders: where the drafts are, a folder a head.
        drafts: how many images they are of.
    """

    prediction: Prediction
    folders: tuple[Path, ...]
    drafts: int


def predict_drafts(
    settings: PredictSettings, drafting: DraftSettings, reporter: Reporter = SILENT
) -> Drafted:
    """Label images (see `fullconv.predict.run.run`), and draft the labels for a tool.

    Drafts go to OUT/drafts, of several heads to OUT/HEAD/drafts. Each region has its class's name
    and, where probabilities were written too, its confidence: their mean.

    Raises:
        FullconvError: as `run`; or an input is a film, of which there are no drafts.
        OSError: a draft can't be written.
    """
    if any(map(is_film, settings.inputs)):
        raise FullconvError(f"films have no --format {drafting.tool}; leave it out")
    for text in filter(is_remote, settings.inputs):
        raise FullconvError(f"{text}: lies elsewhere; images to be corrected are fetched first")
    prediction = run(settings, reporter)
    jobs, heads = prediction.jobs, tuple(prediction.heads)
    write = dict(WRITERS)[drafting.tool]
    folders = []
    with reporter.bar(len(jobs) * len(heads), f"draft for {drafting.tool}") as bar:
        for at, head in enumerate(prediction.heads.values()):
            folder = settings.out / (heads[at] if len(heads) > 1 else "") / "drafts"
            folder.mkdir(parents=True, exist_ok=True)
            write(_drafts(jobs, at, head.classes, drafting, bar), head.classes, folder)
            folders.append(folder)
    return Drafted(prediction, tuple(folders), len(jobs))


def _drafts(
    jobs: Sequence[Job], head: int, classes: Sequence[str], drafting: DraftSettings, bar: Progress
) -> Iterator[Draft]:
    for job in jobs:
        results = job.results[head]
        labels = _OWN.mask(results.labels)
        size = (labels.shape[0], labels.shape[1])
        yield Draft(job.name, job.path, size, regions(labels, classes, drafting, results))
        bar.advance()


def regions(
    labels: NDArray[np.uint8],
    classes: Sequence[str],
    drafting: DraftSettings,
    results: Results | None = None,
) -> list[DraftedRegion]:
    """Return the regions of labels, H x W, as polygons; what is no class is left out.

    Args:
        labels: ids of classes.
        classes: their names.
        drafting: how polygons are made.
        results: where probabilities may lie.
    """
    scores = results.scores if results is not None else None
    probabilities = _probabilities(scores, labels) if scores is not None else None
    size = (labels.shape[0], labels.shape[1])
    found = []
    for region in outlines(without_specks(labels, drafting.min_area), drafting.tolerance):
        if region.label >= len(classes):
            continue
        confidence = None
        if probabilities is not None:
            y, x, pixels = covered([region.rim, *region.holes], size)
            box = slice(y, y + pixels.shape[0]), slice(x, x + pixels.shape[1])
            values = probabilities(region.label, box)[pixels]
            known = values[~np.isnan(values)]
            confidence = float(known.mean(dtype=np.float64)) if known.size else None
        name = classes[region.label]
        found.append(DraftedRegion(name, region.rim, region.holes, confidence))
    return found


def _probabilities(
    scores: Path, labels: NDArray[np.uint8]
) -> Callable[[int, tuple[slice, slice]], NDArray[Any]]:
    """Return what tells the probability of a label in a box of pixels; NaN: it isn't known.

    Of an image that was labelled as a raster only that of each pixel's own label is.
    """
    if scores.suffix not in TIF:
        every = np.load(scores, mmap_mode="r")
        return lambda label, box: np.asarray(every[label, *box])
    sure = _OWN.values(scores)[..., 0]

    def own(label: int, box: tuple[slice, slice]) -> NDArray[Any]:
        known = (labels[box] == label) & (sure[box] != UNKNOWN)
        return np.where(known, sure[box] / CERTAIN, np.nan)

    return own
