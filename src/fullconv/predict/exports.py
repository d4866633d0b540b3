"""Exported files in place of a net behind an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Reporter
from fullconv.base.runtime import thread_count
from fullconv.export.opened import SUFFIXES, OpenedExport
from fullconv.export.verified import EngineConfig
from fullconv.net.certainty import BAND, UNSURE, all_probabilities
from fullconv.net.described import Labels, Pixels, Size
from fullconv.predict.labelling import LARGE, Views
from fullconv.predict.outcome import Prediction, count_of, labelled, outcome, planned_jobs
from fullconv.predict.room import ExportMemory, Tiling
from fullconv.predict.settings import PredictSettings
from fullconv.predict.stream import first_images
from fullconv.predict.video import Films

if TYPE_CHECKING:
    from fullconv.predict.tiles import Tiles

AT_ONCE = 4  # images worked on side by side


class ExportLabeller:
    """Labels images with an export, as `Labeller` does with a net; any thread may ask.

    Its views are what the export gives: labels, scores or probabilities of every pixel.

    Attributes:
        net: the export.
        tta: False: an export sees an image as it is.
    """

    def __init__(self, export: OpenedExport) -> None:
        self.net, self.tta = export, False

    @property
    def engine(self) -> OpenedExport:
        """What works on images side by side."""
        return self.net

    def views(self, image: Pixels, tiles: Tiles | None = None) -> Views:
        """Return what the export gives for an image H x W x C, by head; tiles there are none."""
        assert tiles is None
        return [self.net.outputs(image[None])]

    def views_of_batch(self, images: Sequence[Pixels]) -> list[Views]:
        """Return the views of images of one size and type, worked out together."""
        found = self.net.outputs(np.stack(images))
        return [
            [{name: each[at : at + 1] for name, each in found.items()}] for at in range(len(images))
        ]

    def labels(self, views: Views, size: Size) -> dict[str, Labels]:  # noqa: ARG002
        """Return the class id of each pixel, uint8 H x W, by head."""
        (view,) = views
        return {name: _labels(each[0]) for name, each in view.items()}

    def unsure(self, views: Views, size: Size) -> dict[str, float]:
        """Return the share of pixels whose labels are unsure, by head; none of mere labels."""
        if self.net.about.output == "labels":
            return {}
        shares = {}
        for name in self.net.heads:
            unsure = sum(
                int((band.max(0) < UNSURE).sum()) for band in self._bands(name, views, size)
            )
            shares[name] = unsure / (size[0] * size[1])
        return shares

    def probability_bands(
        self, head: str, views: Views, size: Size
    ) -> Iterator[NDArray[np.float16]]:
        """Yield each class's calibrated probability at each pixel, C x rows x W from the top."""
        for band in self._bands(head, views, size):
            yield band.astype(np.float16)

    def _bands(self, name: str, views: Views, size: Size) -> Iterator[NDArray[np.float32]]:
        (view,) = views
        head, whole = self.net.heads[name], view[name]
        step = max(1, BAND // (head.num_classes * size[1]))
        for top in range(0, size[0], step):
            band = whole[0, :, top : top + step]
            if self.net.about.output == "scores":
                band = all_probabilities(band, head.temperature)
            yield band


def label_by_export(settings: PredictSettings, reporter: Reporter) -> Prediction:
    """Label images by an exported file (see `fullconv.predict.run.run`)."""
    path = Path(str(settings.model))
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
    jobs = planned_jobs(settings, known, reporter)
    reader = known.preprocessing.reader(settings.reader)
    samples = (
        jobs.first(1) if isinstance(jobs, Films) else first_images(jobs, known.inputs, 1, reader)
    )
    export = opened_for(known, count_of(jobs), samples[0] if samples else None)
    memory = ExportMemory(export.about, settings.memory)
    summary = labelled(settings, ExportLabeller(export), jobs, memory, reporter)
    config = EngineConfig(SUFFIXES[path.suffix.lower()], export.about.precision)
    return outcome(settings, export, jobs, summary, config)


def opened_for(known: OpenedExport, images: int, first: Pixels | None) -> OpenedExport:
    """Return an export ready for some images side by side, if they are many and not large.

    Args:
        known: opened for one image at a time.
        images: how many there are.
        first: one of them.
    """
    large = first is not None and first.shape[0] * first.shape[1] >= LARGE
    at_once = 1 if large else min(images, AT_ONCE, thread_count())
    return OpenedExport(known.path, at_once=at_once) if at_once > 1 else known


def require_of_export(
    about: OpenedExport, *, engine: str, precision: str, device: str, tta: bool, scores: bool
) -> None:
    """Refuse what an export can't do, whose graph is what it is.

    Raises:
        FullconvError: the message says what to do instead.
    """
    path, own = about.path, SUFFIXES[about.path.suffix.lower()]
    if engine not in ("auto", own):
        raise FullconvError(f"{path}: is run by {own}; leave out --engine {engine}")
    if precision not in ("auto", about.about.precision):
        raise FullconvError(
            f"{path}: is of precision {about.about.precision}; leave out --precision {precision}"
        )
    if device not in ("auto", "cpu"):
        raise FullconvError(f"{path}: exports work on the CPU here; use --device cpu")
    if tta:
        raise FullconvError(f"{path}: an export knows no --tta; give the model folder instead")
    if scores and about.about.output == "labels":
        raise FullconvError(
            f"{path}: gives labels only; for --scores export the model with --output probabilities"
        )


def _labels(found: NDArray[Any]) -> Labels:
    labels: Labels = found if found.ndim == 2 else found.argmax(0).astype(np.uint8)
    return labels
