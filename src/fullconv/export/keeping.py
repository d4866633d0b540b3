"""Keeping the graph of a model for the starts to come: made of its net, and compared with it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullconv.base.errors import one_line
from fullconv.base.files import write_text
from fullconv.base.runtime import inference
from fullconv.export.agreement import (
    LIMITS,
    DisagreementError,
    compare,
    difference,
    scores_nothing,
)
from fullconv.export.formats import FORMATS
from fullconv.export.kept import KeptGraph, KeptNote, KeptPlace, digest_of, remove_oldest
from fullconv.export.metadata import ExportMetadata
from fullconv.export.samples import Sample, generated
from fullconv.export.verified import EngineConfig, Verification
from fullconv.export.whole import LabelsAndCells
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN

MOST_OF_ALL = 1 << 30  # bytes that kept graphs take


def keep(
    net: FCN,
    place: KeptPlace,
    images: Sequence[Pixels],
    clock: Callable[[], float] = time.perf_counter,
) -> KeptNote | None:
    """Keep the graph of a net, if that labels as torch does in float32; note it if it doesn't.

    Those that were not used for the longest make room for it.

    Args:
        net: of a model folder, on the CPU.
        place: of that folder.
        images: H x W x C, on which its labels are compared, beside generated ones.
        clock: tells seconds.

    Returns:
        What was noted; None where nothing could be, or the net scores nothing yet.
    """
    if scores_nothing(net):
        return None
    with suppress(OSError):
        place.stem.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.stem.parent) as folder:
            made = replace(place, stem=Path(folder) / place.stem.name)
            note = _made(net, made, images, clock)
            for file in made.files if note.files else ():
                shutil.move(file, place.stem.parent / file.name)
        write_text(place.note_path, note.model_dump_json())
        remove_oldest(place.stem.parent, MOST_OF_ALL)
        return note
    return None


def _made(
    net: FCN, place: KeptPlace, images: Sequence[Pixels], clock: Callable[[], float]
) -> KeptNote:
    """Write the graph's files and compare them with the net."""
    config = EngineConfig(place.engine)
    vertical, horizontal = next(iter(net.heads.values())).last_alignments
    note = KeptNote(
        files={},
        vertical=vertical,
        horizontal=horizontal,
        verification=Verification(config=config, failure="not made"),
    )
    try:
        form = next(each for each in FORMATS.values() if each.suffix == place.suffix)
        graph = form.convert(LabelsAndCells(net, form.best, resizes=form.resizes))
        form.save(graph, ExportMetadata.of(net, "labels", "fp32"), place.graph)
        found = _compared(net, place, note, images, clock)
    except Exception as error:  # converters and runtimes raise what they like
        found = Verification(config=config, failure=one_line(error))
    digests = {} if found.failure else {path.name: digest_of(path) for path in place.files}
    return note.model_copy(update={"files": digests, "verification": found})


def _compared(
    net: FCN,
    place: KeptPlace,
    note: KeptNote,
    images: Sequence[Pixels],
    clock: Callable[[], float],
) -> Verification:
    """Compare a graph with its net; raises DisagreementError where that is another."""
    begun = clock()
    graph = KeptGraph(place.graph, note)
    graph.outputs(images[0][None])
    ready = clock()
    found = [graph.labels_and_cells(image[None]) for image in images]
    seconds = (clock() - ready) / len(images)
    equal = pixels = 0
    for image, (labels, cells) in zip(images, found, strict=True):
        with inference():
            scores = net.for_inference().coarse_of_image(image)
            truth = net.labels([scores], (image.shape[0], image.shape[1]))
        for name, own in labels.items():
            _require_close(scores[name].numpy(), cells[name], Sample("the photograph", image[None]))
            equal, pixels = equal + int((own[0] == truth[name]).sum()), pixels + own.size
    compare(net, graph, list(generated(net)), LIMITS["fp32"])
    return Verification(
        config=note.verification.config,
        build=ready - begun,
        seconds=seconds,
        agreement=equal / pixels,
    )


def _require_close(expected: Any, found: Any, sample: Sample) -> None:
    """Raise DisagreementError unless coarse scores are the net's."""
    apart = difference(found, expected)
    if not apart <= LIMITS["fp32"].scores:
        raise DisagreementError(f"its coarse scores differ from torch's by {apart:.1e}", sample)
