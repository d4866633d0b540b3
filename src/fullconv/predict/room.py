"""Room in memory: how much images take is known before they are labelled, and is bounded."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError
from fullconv.base.memory import available_memory
from fullconv.net.described import Size

if TYPE_CHECKING:
    from fullconv.export.metadata import ExportMetadata
    from fullconv.predict.tiles import Tiles

SHARE = 0.5  # of what is free, for images; engines, their copies of weights and others need some
DECODING = 10  # bytes a pixel of three channels: PIL's four, and twice the array
WRITING = 6  # likewise, besides the image: labels, and the overlay as PIL holds it
SPLIT = 1.2  # freed blocks fit badly into one another's place: so much more is taken
FIXED = 32 << 20  # bytes that any image takes
RAISE = "make it smaller, or raise --memory"


class NoRoomError(FullconvError):
    """An image that takes more memory than there is."""


@dataclass(frozen=True)
class Work:
    """How an image is labelled.

    Attributes:
        tiles: into which it is divided; None: it is not.
        need: bytes that it takes at its peak.
        strip: rows of pixels that are worked on at a time; None: each tile by itself.
    """

    tiles: Tiles | None
    need: int
    strip: int | None = None


@dataclass(frozen=True)
class Tiling:
    """What is asked of tiles.

    Attributes:
        most: height and width of a tile in pixels, at most; larger images go by tiles then, also
            where they are but an approximation. None: as memory asks for it.
        margin: pixels that a tile reaches beyond the cells that are taken of it; None: as far as
            these see.
    """

    most: Size | None = None
    margin: int | None = None


def granted(asked: int | None) -> int | None:
    """Return the bytes that images may take: as asked, else half of what is free.

    That is what the system and the process's control groups leave; None where nobody knows.
    """
    if asked is not None:
        return asked
    found = available_memory()
    return None if found is None else int(SHARE * found)


class Room(ABC):
    """Memory that is divided among the images that are in hand; any thread may ask.

    Attributes:
        free: bytes that there are for images; None: nobody knows, and nothing is bounded.
    """

    def __init__(self, budget: int | None = None) -> None:
        """Look how much memory there is.

        Args:
            budget: bytes for images; None: half of what the system and the process's control
                groups leave.
        """
        self.free = granted(budget)
        self._taken, self._changed = 0, threading.Condition()

    @abstractmethod
    def work(self, size: Size) -> Work:
        """Return how an image of a size (H, W) is to be labelled.

        Raises:
            NoRoomError: there is not enough memory, in a line that tells how much it takes.
        """

    def has_room(self, size: Size, times: int = 3) -> bool:
        """Tell whether several images of a size fit whole, as while engines are compared."""
        try:
            work = self.work(size)
        except NoRoomError:
            return False
        return work.tiles is None and times * work.need <= self._most

    @contextmanager
    def taken(self, need: int) -> Iterator[None]:
        """Wait until there are `need` bytes beside the images in hand, or none is; then hold them.

        Args:
            need: see `Work`.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + need <= self._most)
            self._taken += need
        try:
            yield
        finally:
            with self._changed:
                self._taken -= need
                self._changed.notify_all()

    @property
    def _most(self) -> float:
        return float("inf") if self.free is None else self.free

    def _refusal(self, size: Size, need: int, remedy: str = RAISE) -> NoRoomError:
        return NoRoomError(
            f"{size[1]} x {size[0]} pixels take about {need / 1e9:.1f} GB of memory, and "
            f"{(self.free or 0) / 1e9:.1f} GB are there; {remedy}"
        )


class ExportMemory(Room):
    """Divides memory among the images that an export labels (see `Room`)."""

    def __init__(self, about: ExportMetadata, budget: int | None = None) -> None:
        """Look how much memory there is for images of what an export says of itself."""
        super().__init__(budget)
        self._about = about

    def work(self, size: Size) -> Work:
        """Return how an image of a size (H, W) is to be labelled (see `Room`)."""
        about = self._about
        channels = sum(about.inputs.values())
        classes = sum(head.num_classes for head in about.heads.values())
        image = channels * (1 if channels == 3 else 4)
        labelling = image + max(about.bytes_a_pixel, 2 * 4.0 * classes, WRITING)
        pixels = size[0] * size[1]
        need = int(SPLIT * (FIXED + pixels * max(DECODING * image / 3, labelling)))
        if self.free is not None and need > self.free:
            raise self._refusal(size, need)
        return Work(None, need)
