"""Prediction by the graph that was kept of a model folder: a photo without waiting for torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Reporter
from fullconv.export.kept import KeptGraph, KeptPlace
from fullconv.net.described import Labels, Pixels, Size
from fullconv.predict.exports import ExportLabeller
from fullconv.predict.labelling import Views
from fullconv.predict.outcome import Prediction, labelled, outcome, planned_jobs
from fullconv.predict.room import ExportMemory, NoRoomError, Room, Tiling
from fullconv.predict.settings import PredictSettings
from fullconv.predict.video import is_film

if TYPE_CHECKING:
    from fullconv.base.images import ImageReader
    from fullconv.predict.tiles import Tiles

FEW = 6  # images; of more the quickest engine is chosen, and torch's start counts for little
LARGEST = 1 << 25  # pixels; larger ones go by tiles


class KeptLabeller(ExportLabeller):
    """Labels images with a kept graph; its views are labels and coarse scores, by head."""

    net: KeptGraph

    def views(self, image: Pixels, tiles: Tiles | None = None) -> Views:
        """Return labels and coarse scores of an image H x W x C, by head; tiles there are none."""
        assert tiles is None
        labels, cells = self.net.labels_and_cells(image[None])
        return [{name: (labels[name][0], cells[name][0]) for name in labels}]

    def views_of_batch(self, images: Sequence[Pixels]) -> list[Views]:
        """Return the views of images, one after the other."""
        return [self.views(image) for image in images]

    def labels(self, views: Views, size: Size) -> dict[str, Labels]:  # noqa: ARG002
        """Return the class id of each pixel, uint8 H x W, by head."""
        (view,) = views
        return {name: own for name, (own, _) in view.items()}

    def unsure(self, views: Views, size: Size) -> dict[str, float]:
        """Return the share of unsure labels, by head, as the net's heads do."""
        (view,) = views
        return {name: self.net.unsure_share(name, cells, size) for name, (_, cells) in view.items()}


def kept_place(settings: PredictSettings) -> KeptPlace | None:
    """Return where the model's graph is kept, if it would do all that is asked for; else None."""
    plain = (
        settings.cold
        and settings.engine == "auto"
        and settings.precision in ("auto", "fp32")
        and settings.device == "auto"
        and settings.format == "png"
        and settings.memory is None
        and settings.tiling == Tiling()
        and not (settings.scores or settings.tta)
        and len(settings.inputs) <= FEW
        and all(Path(each).is_file() and not is_film(each) for each in settings.inputs)
    )
    folder = Path(settings.model) if isinstance(settings.model, str | Path) else None
    return KeptPlace.of(folder) if plain and folder is not None and folder.is_dir() else None


def label_by_kept(
    settings: PredictSettings, place: KeptPlace | None, reporter: Reporter
) -> Prediction | None:
    """Label images by the graph at `kept_place` (see `fullconv.predict.run.run`).

    Returns:
        None where there is none, or the net itself is needed: what is asked for goes beyond labels,
        images are many or may go by tiles. Nothing was written then.
    """
    graph = place.opened() if place is not None else None
    if graph is None:
        return None
    memory = ExportMemory(graph.about)
    if not _fit(settings.inputs, memory, graph.preprocessing.reader(settings.reader)):
        return None
    jobs = planned_jobs(settings, graph, reporter)
    summary = labelled(settings, KeptLabeller(graph), jobs, memory, reporter)
    found = graph.note.verification
    return outcome(settings, graph, jobs, summary, found.config, verification=found)


def _fit(inputs: Sequence[str], memory: Room, reader: ImageReader) -> bool:
    """Tell whether images can be read, and labelled whole."""
    try:
        for path in inputs:
            height, width = reader.header(path).stored.size
            if height * width > LARGEST:
                return False
            memory.work((height, width))
    except (FullconvError, NoRoomError):
        return False  # which the net's own way will tell in its turn
    return True
