"""The graph of a model folder, kept in the user's cache: it labels before torch would be imported.

It gives labels and the coarse scores that they come from. It was made by `keeping`, and compared
with the net; it goes by what the files of the folder hold, so that it is never that of other ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fullconv.base.errors import FullconvError
from fullconv.base.files import cache_folder
from fullconv.export.opened import SUFFIXES, OpenedExport
from fullconv.export.verified import Verification, versions
from fullconv.geometry import Alignment
from fullconv.net.certainty import unsure_share
from fullconv.net.described import Pixels, Size

FORMAT = 1  # of what is kept
FILES = ("model.safetensors", "config.json")  # of a model folder, which decide on its labels
MOST_WEIGHTS = 256 << 20  # bytes; what larger nets take for a photo outweighs their start
FIRST = {".onnx": ("onnx", "onnxruntime"), ".xml": ("openvino",)}  # which start is the soonest


class KeptNote(BaseModel):
    """What is known of a kept graph.

    Attributes:
        files: the SHA-256 of each of its files by name; none where the net could not be kept.
        vertical, horizontal: how the coarse scores lie on the pixels.
        verification: what it was found to be worth, or why it can't be used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: Mapping[str, str]
    vertical: Alignment
    horizontal: Alignment
    verification: Verification


class KeptGraph(OpenedExport):
    """A kept graph that is ready to work; several threads may ask at once."""

    def __init__(self, path: Path, note: KeptNote) -> None:
        """Open a graph; raises FullconvError as `OpenedExport` does."""
        super().__init__(path)
        self.note = note

    def labels_and_cells(
        self, images: Pixels
    ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
        """Return labels N x H x W and coarse scores N x classes x h x w of images, by head.

        Raises:
            FullconvError: as `outputs`.
        """
        found, count = self.run(images), len(self.heads)
        labels, cells = found[:count], found[count:]
        return dict(zip(self.heads, labels, strict=True)), dict(zip(self.heads, cells, strict=True))

    def outputs(self, images: Pixels) -> dict[str, NDArray[Any]]:
        """Return the labels alone (see `OpenedExport.outputs`)."""
        return self.labels_and_cells(images)[0]

    def unsure_share(self, head: str, cells: NDArray[np.float32], size: Size) -> float:
        """Return which share of labels is unsure, 0..1 (see `Head.unsure_share`).

        Args:
            head: its name.
            cells: the coarse scores of an image, classes x h x w.
            size: height and width of the image.
        """
        rows = self.note.vertical.cells_within(range(size[0]), cells.shape[-2])
        columns = self.note.horizontal.cells_within(range(size[1]), cells.shape[-1])
        return unsure_share([cells[:, rows, columns]], self.heads[head].temperature)


@dataclass(frozen=True)
class KeptPlace:
    """Where the graph of a model folder is kept.

    Attributes:
        stem: of its files, without suffix.
        suffix: of the graph, which tells what runs it.
    """

    stem: Path
    suffix: str

    @classmethod
    def of(cls, model: Path) -> KeptPlace | None:
        """Find the place by what the folder's files hold; None where there can be none.

        So it is of a user without a cache, where nothing is installed that runs a graph, and of
        models that are damaged or large.
        """
        cache = cache_folder()
        suffix = next((each for each, need in FIRST.items() if all(map(find_spec, need))), None)
        with suppress(OSError):
            if cache and suffix and (model / FILES[0]).stat().st_size <= MOST_WEIGHTS:
                digests = [digest_of(model / name) for name in FILES]
                text = json.dumps([FORMAT, suffix, digests, [*versions().values()]])
                name = hashlib.sha256(text.encode()).hexdigest()[:32]
                return cls(cache / "graphs" / name, suffix)
        return None

    @property
    def graph(self) -> Path:
        """The file of the graph."""
        return self.stem.with_suffix(self.suffix)

    @property
    def note_path(self) -> Path:
        """The file of the note, which is written last."""
        return self.stem.with_suffix(".json")

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph's files: OpenVINO's are two."""
        return (self.graph, *([self.stem.with_suffix(".bin")] if self.suffix == ".xml" else []))

    @property
    def is_known(self) -> bool:
        """Whether a sound graph is there, or it is noted that there can be none."""
        note = self.note()
        return note is not None and (note.verification.failure is not None or self._whole(note))

    def note(self) -> KeptNote | None:
        """Return what is noted; None where that is nothing, or damaged."""
        with suppress(OSError, ValidationError):
            return KeptNote.model_validate_json(self.note_path.read_bytes())
        return None

    def opened(self) -> KeptGraph | None:
        """Open the graph; None where there is none, or a file of it is not as it was written."""
        note = self.note()
        if note is None or not self._whole(note):
            return None
        with suppress(OSError, FullconvError):
            self.note_path.touch()  # which tells what was not used for long
            return KeptGraph(self.graph, note)
        return None

    def _whole(self, note: KeptNote) -> bool:
        """Tell whether the graph's files are as they were written."""
        with suppress(OSError):
            return {path.name: digest_of(path) for path in self.files} == note.files
        return False

    @property
    def engine(self) -> str:
        """What runs the graph."""
        return SUFFIXES[self.suffix]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_oldest(folder: Path, most: int) -> None:
    """Remove the graphs that were not used for the longest, until the files take `most` bytes."""
    with suppress(OSError):
        notes = sorted(folder.glob("*.json"), key=lambda path: -path.stat().st_mtime)
        taken = 0
        for note in notes:
            own = list(folder.glob(f"{note.stem}.*"))
            taken += sum(path.stat().st_size for path in own)
            for path in own if taken > most else ():
                path.unlink(missing_ok=True)
