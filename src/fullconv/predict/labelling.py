"""Whatever labels images, and many of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fullconv.base.pipeline import ahead
from fullconv.base.runtime import one_thread_each, thread_count
from fullconv.net.described import Described, Labels, Pixels, Size

if TYPE_CHECKING:
    from fullconv.predict.tiles import Tiles

Views = Sequence[Mapping[str, Any]]  # what was worked out of each view of an image, by head
T = TypeVar("T")
R = TypeVar("R")

MOST_WORKERS = 12
LARGE = 1 << 19  # pixels; such an image keeps all cores busy by itself


class SideBySide(Protocol):
    """What works on several images side by side."""

    @property
    def at_once(self) -> int:
        """How many."""


class AnyLabeller(Protocol):
    """What labels images: a net through an engine (`Labeller`), or an export.

    Its views of an image are its own affair: tensors or arrays, of which it makes all results.
    """

    @property
    def net(self) -> Described:
        """What it takes and labels."""

    @property
    def engine(self) -> SideBySide:
        """What works for it."""

    @property
    def tta(self) -> bool:
        """Whether it looks at each image's mirror, too."""

    def views(self, image: Pixels, tiles: Tiles | None = None) -> Views:
        """Return what is worked out of an image (see `Labeller`)."""

    def views_of_batch(self, images: Sequence[Pixels]) -> list[Views]:
        """Return the views of images of one size and type, worked out together."""

    def labels(self, views: Views, size: Size) -> dict[str, Labels]:
        """Return the class id of each of H x W pixels, by head, of that."""

    def unsure(self, views: Views, size: Size) -> dict[str, float]:
        """Return the share of unsure labels, by head; of none where that is not known."""

    def probability_bands(
        self, head: str, views: Views, size: Size
    ) -> Iterator[NDArray[np.float16]]:
        """Yield each class's calibrated probability at each pixel, C x rows x W from the top."""


def workers() -> int:
    """Return how many images to have in hand at once, each by a thread of its own.

    More than there are cores, since many of them wait for the disk.
    """
    return min(2 * thread_count() + 2, MOST_WORKERS)


def label_all(work: Callable[[T], R], items: Iterable[T], engine: SideBySide) -> Iterator[R]:
    """Yield ``work(item)`` for each item, in order; several threads do that work by `engine`.

    If the engine has threads of its own for images side by side, torch has but one in each of
    these, lest there be more than cores.
    """
    count = workers()
    with one_thread_each(enabled=engine.at_once > 1):
        yield from ahead(work, items, count)
