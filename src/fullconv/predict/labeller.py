"""A net behind an engine: from an image to the class of each pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.base.pipeline import ahead
from fullconv.net.described import Described
from fullconv.net.fcn import Labels, Pixels, Views, views_of
from fullconv.net.head import Size
from fullconv.predict.scenes import PixelScene

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.predict.engines.engine import Engine
    from fullconv.predict.tiles import Tiles

T = TypeVar("T")
R = TypeVar("R")

MOST_WORKERS = 12


class SideBySide(Protocol):
    """What works on several images side by side."""

    @property
    def at_once(self) -> int:
        """How many."""


class AnyLabeller(Protocol):
    """What labels images: a net through an engine (`Labeller`), or an export."""

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
    return min(2 * torch.get_num_threads() + 2, MOST_WORKERS)


def label_all(work: Callable[[T], R], items: Iterable[T], engine: SideBySide) -> Iterator[R]:
    """Yield ``work(item)`` for each item, in order; several threads do that work by `engine`.

    If the engine has threads of its own for images side by side, torch has but one in each of
    these, lest there be more than cores.
    """
    before, count = torch.get_num_threads(), workers()
    try:
        if engine.at_once > 1:
            torch.set_num_threads(1)  # of this thread and those that it starts
        yield from ahead(work, items, count)
    finally:
        torch.set_num_threads(before)


class Labeller:
    """Labels images with a net through an engine; any thread may ask.

    Attributes:
        net: the net.
        engine: what works out its coarse scores.
        tta: whether it looks at each image's mirror, too, in twice the time.
    """

    def __init__(self, net: FCN, engine: Engine, *, tta: bool = False) -> None:
        """Put `engine`, which was built of `net`, to work."""
        self.net, self.engine, self.tta = net, engine, tta

    def __call__(self, image: Pixels) -> dict[str, Labels]:
        """Return the class id of each pixel, HxW uint8, by head (see `Engine` for the image)."""
        return self.labels(self.views(image), (image.shape[0], image.shape[1]))

    def views(self, image: Pixels, tiles: Tiles | None = None) -> Views:
        """Return the coarse scores of an image and, if it looks at that, of its mirror.

        Args:
            image: H x W x channels (see `Engine`).
            tiles: how it is divided; None: it is not.
        """
        if tiles is None:
            return [self.engine(view) for view in views_of(image, tta=self.tta)]
        scene = PixelScene(image)
        return [
            tiles.coarse(scene, self.engine, mirrored=mirrored)
            for mirrored in (False, True)[: 1 + self.tta]
        ]

    def views_of_batch(self, images: Sequence[Pixels]) -> list[Views]:
        """Return the views of images of one size and type, worked out together."""
        seen = zip(*(views_of(image, tta=self.tta) for image in images), strict=True)
        return [list(views) for views in zip(*map(self.engine.of_batch, seen), strict=True)]

    @torch.inference_mode()
    def labels(self, views: Views, size: Size) -> dict[str, Labels]:
        """Return the class id of each of H x W pixels, by head, of coarse scores."""
        return self.net.labels(views, size)

    @torch.inference_mode()
    def unsure(self, views: Views, size: Size) -> dict[str, float]:
        """Return the share of unsure labels, by head (see `Head.unsure_share`)."""
        return self.net.unsure_shares(views, size)

    def probability_bands(
        self, head: str, views: Views, size: Size
    ) -> Iterator[NDArray[np.float16]]:
        """Yield each class's calibrated probability at each pixel, C x rows x W from the top.

        That of several views is their average.
        """
        with torch.inference_mode():
            own = [view[head] for view in views]
            for band in self.net.heads[head].probability_bands(own, size):
                yield band.half().cpu().numpy()
