"""An engine: a net, what runs it, and how the cores are divided among images."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN
from fullconv.net.rewrites.by_size import Twin, TwinBySize
from fullconv.net.strips import Strips
from fullconv.predict.labelling import LARGE

Run = Callable[[Pixels], Sequence[Tensor]]


@dataclass(frozen=True)
class Share:
    """How the cores are divided among images that are worked on side by side.

    Many small images are done sooner so than one after the other, each by all cores.

    Attributes:
        at_once: how many images.
        all_threads: of all of them together.
    """

    at_once: int
    all_threads: int

    @property
    def threads(self) -> int:
        """Of each image."""
        return max(1, self.all_threads // self.at_once)

    @classmethod
    def of(cls, image: Pixels, at_once: int, threads: int) -> Share:
        """Divide `threads` among `at_once` such images at most; a large one has them all."""
        large = image.shape[0] * image.shape[1] >= LARGE
        return cls(1 if large else max(1, min(at_once, threads)), threads)


class Runtime(Protocol):
    """A library that runs nets."""

    def start(self, twin: Twin, kind: np.dtype[Any], share: Share) -> Run:
        """Return what gives the coarse scores, N x C x h x w of each head in order.

        It takes images N x H x W x channels. Any thread may call it; it works on as many batches
        at once as `share` says.

        Args:
            twin: the net.
            kind: of the images' values, uint8 or float32.
            share: of the cores.
        """


class Engine:
    """Works out the coarse scores of images by some runtime; several threads may ask at once.

    Attributes:
        at_once: how many images, unless large ones, it works on side by side. Each takes longer
            then, but all are done sooner.
    """

    def __init__(
        self,
        heads: Sequence[str],
        twins: TwinBySize,
        runtime: Runtime,
        at_once: int = 1,
        strips: Callable[[FCN], Strips | None] | None = None,
    ) -> None:
        """Put `runtime` to work, with as many threads as torch would use.

        Args:
            heads: names of the net's.
            twins: the net.
            runtime: what runs it.
            at_once: see the class.
            strips: makes what works by strips; None: the runtime can't.
        """
        self.at_once, self._heads, self._twins = at_once, tuple(heads), twins
        self._by_strips = strips
        self._threads = torch.get_num_threads()
        self._started = functools.cache(runtime.start)
        self._lock = threading.Lock()

    def __call__(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of an image, 1 x C x h x w, by head.

        Args:
            image: H x W x channels of all inputs, uint8 or float32; colours are RGB in 0..255.
        """
        return dict(zip(self._heads, self.prepare(image)(image[None]), strict=True))

    @functools.cached_property
    def strips(self) -> Strips | None:
        """What works out one large image from the top on; None where it or the net can't."""
        return self._by_strips(self._twins.usual.net) if self._by_strips else None

    def of_batch(self, images: Sequence[Pixels]) -> list[dict[str, Tensor]]:
        """Return the coarse scores of images of one size and type, worked out together.

        A twin for images of one size is for one at a time.
        """
        if len(images) == 1 or self._twins(images[0].shape[:2]).size is not None:
            return [self(image) for image in images]
        whole = self.prepare(images[0])(np.stack(images))
        return [
            {name: scores[at : at + 1] for name, scores in zip(self._heads, whole, strict=True)}
            for at in range(len(images))
        ]

    def prepare(self, image: Pixels) -> Run:
        """Make ready for images such as this one; return what runs them."""
        twin = self._twins((image.shape[0], image.shape[1]))
        share = Share.of(image, self.at_once, self._threads)
        with self._lock:
            return self._started(twin, image.dtype, share)
