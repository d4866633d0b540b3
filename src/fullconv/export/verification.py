"""How quick an engine is on a machine, and how many of its labels are those of torch in float32.

It is measured once, and noted beside the model.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from fullconv.base.errors import one_line
from fullconv.base.files import cache_folder, write_json
from fullconv.export.verified import EngineConfig, Verification, versions
from fullconv.net.described import Pixels
from fullconv.net.folder import digest

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

NOTES = "engines.json"
MOST_NOTES = 64  # in a file: image sizes, machines and versions
SECONDS = 0.3  # that samples are labelled again and again to measure an engine

LabelsByHead = Mapping[str, NDArray[np.uint8]]
LabelAll = Callable[[Sequence[Pixels]], Iterable[LabelsByHead]]


def verify(
    config: EngineConfig,
    start: Callable[[], LabelAll],
    samples: Sequence[Pixels],
    expected: Callable[[], Sequence[LabelsByHead]],
    clock: Callable[[], float] = time.perf_counter,
) -> Verification:
    """Measure the speed of an engine or an export, and how far its labels agree.

    Whatever goes wrong is noted as its failure.

    Args:
        config: what is measured.
        start: gets it ready, and returns what labels images side by side, in order.
        samples: images H x W x C.
        expected: returns their labels by torch in float32, by head.
        clock: tells seconds.
    """
    try:
        begun = clock()
        label_all = start()
        labels = [*label_all(samples[:1])]
        ready = clock()
        labels += label_all(samples[1:])
        count = len(samples) - 1
        while clock() - ready < SECONDS:
            count += len([*label_all(samples)])
        seconds = (clock() - ready) / count
        agreement = _agreement(labels, expected())
    except Exception as error:  # engines raise what they like
        return Verification(config=config, failure=one_line(error))
    return Verification(config=config, build=ready - begun, seconds=seconds, agreement=agreement)


def _agreement(labels: Sequence[LabelsByHead], expected: Sequence[LabelsByHead]) -> float:
    """Return the share of pixels, of all images and heads, whose labels are equal."""
    same = [
        (own[head] == truth[head]).ravel()
        for own, truth in zip(labels, expected, strict=True)
        for head in own
    ]
    return float(np.concatenate(same).mean())


class _Note(BaseModel):
    about: dict[str, Any]
    verified: tuple[Verification, ...]


class _File(BaseModel):
    notes: tuple[_Note, ...]


class Notes:
    """The verifications of a net at one image size on this machine.

    They lie in engines.json of the model folder or, where that can't be written and of nets that
    have none, in the user's cache folder. A file that is damaged, or can't be read or written, is
    as good as none.

    Attributes:
        paths: where they may lie, the preferred place first.
    """

    def __init__(
        self, net: FCN, shape: tuple[int, ...], kind: str, folder: Path | None = None
    ) -> None:
        """Find the files.

        Args:
            net: on the device where it works.
            shape: of the images, H x W x C.
            kind: their type, "uint8" or "float32".
            folder: the net's model folder, if it has one.
        """
        known = _digest(net)
        self.about = {
            "net": known,
            "shape": list(shape),
            "kind": kind,
            "machine": _machine(net),
            "versions": versions(),
        }
        cache = cache_folder()
        self.paths = [
            *([folder / NOTES] if folder else []),
            *([cache / "engines" / f"{known[:32]}.json"] if cache else []),
        ]

    def recall(self) -> list[Verification]:
        """Return what was noted before."""
        for path in self.paths:
            for note in _read(path):
                if note.about == self.about:
                    return list(note.verified)
        return []

    def keep(self, verified: Iterable[Verification]) -> None:
        """Note verifications, in place of earlier ones."""
        own = _Note(about=self.about, verified=tuple(verified))
        for path in self.paths:
            others = [note for note in _read(path) if note.about != self.about]
            file = _File(notes=(own, *others[: MOST_NOTES - 1]))
            with suppress(OSError):
                write_json(path, file.model_dump(mode="json"))
                return


def _read(path: Path) -> tuple[_Note, ...]:
    with suppress(OSError, ValidationError):
        return _File.model_validate_json(path.read_bytes()).notes
    return ()


def _digest(net: FCN) -> str:
    """Return a SHA-256 over what decides the net's labels: weights, layers, preprocessing."""
    about = {**net.arguments.to_dict(), "preprocessing": net.preprocessing.to_dict()}
    text = json.dumps(about, sort_keys=True, default=str) + digest(net.state_dict())
    return hashlib.sha256(text.encode()).hexdigest()


def _machine(net: FCN) -> dict[str, Any]:
    """Return what the speed depends on: the processor, or graphics card, and the threads."""
    device = next(net.parameters()).device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": card or device.type,
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
