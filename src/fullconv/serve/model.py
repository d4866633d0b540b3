"""What labels the photos: a model folder behind an engine, or an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullconv.base.errors import FullconvError
from fullconv.base.progress import SILENT, Reporter
from fullconv.export.metadata import ExportMetadata
from fullconv.export.opened import OpenedExport, is_export
from fullconv.export.samples import noise
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN
from fullconv.predict.choice import Asked, choose
from fullconv.predict.engines import check
from fullconv.predict.exports import ExportLabeller, opened_for, require_of_export
from fullconv.predict.labeller import Labeller
from fullconv.predict.labelling import AnyLabeller
from fullconv.predict.memory import Memory
from fullconv.predict.nets import folder_of, loaded
from fullconv.predict.room import ExportMemory, Room
from fullconv.serve.settings import ServeSettings

MANY = 500  # photos; for so many it pays to measure engines
SIZE = (480, 640)  # of what they are measured on: nobody knows yet what will come


@dataclass(frozen=True)
class Model:
    """What labels photos.

    Attributes:
        label: does it.
        room: divides memory among the photos.
        about: what it labels, as an export would say it of itself.
        engine: what works for it, for people.
    """

    label: AnyLabeller
    room: Room
    about: ExportMetadata
    engine: str


def open_model(settings: ServeSettings, reporter: Reporter = SILENT) -> Model:
    """Make a model ready to label many photos, by the engine that `predict` would choose.

    Raises:
        FullconvError: it isn't there or can't be loaded, the engine doesn't fit, or it takes
            several inputs.
    """
    model = _export(settings) if is_export(settings.model) else _net(settings, reporter)
    inputs = list(model.label.net.inputs)
    if len(inputs) > 1:
        raise FullconvError(
            f"serve takes models of one input; this one has {', '.join(inputs)}: use predict"
        )
    _warm_up(model.label)
    return model


def _warm_up(label: AnyLabeller) -> None:
    """Label an image: the first one takes seconds, in which code is loaded and compiled."""
    label.labels(label.views(noise(label.net, SIZE, 0)), SIZE)


def _export(settings: ServeSettings) -> Model:
    assert not isinstance(settings.model, FCN)
    known = OpenedExport(Path(settings.model))
    require_of_export(
        known,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        tta=False,
        scores=False,
    )
    export = opened_for(known, MANY, None)
    engine = f"{export.runtime} {export.about.precision}"
    return Model(ExportLabeller(export), ExportMemory(export.about), export.about, engine)


def _net(settings: ServeSettings, reporter: Reporter) -> Model:
    check(settings.engine, settings.precision, settings.device)
    net = loaded(settings.model, settings.engine, settings.device, trust=settings.trust)

    def samples(count: int) -> Sequence[Pixels]:
        return [noise(net, SIZE, seed) for seed in range(count)]

    folder = folder_of(settings.model)
    asked = Asked(MANY, settings.engine, settings.precision, folder, compiled=False)
    choice = choose(net, asked, samples, reporter)
    about = ExportMetadata.of(net, "labels", "fp32")
    return Model(Labeller(net, choice.engine), Memory(net), about, str(choice.config))
