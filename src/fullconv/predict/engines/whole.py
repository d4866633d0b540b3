"""What every engine works out: coarse scores of an image as it is stored."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn

from fullconv.net.fcn import FCN, Pixels

LARGE = 1 << 19  # pixels; such an image keeps all cores busy by itself
SPECIAL_SIZES = 2  # landscape and portrait, as a rule; each costs an engine about a net's memory
OFTEN = 4  # images of a size that pay for elision

Size = tuple[int, int]


@dataclass(frozen=True)
class Share:
    """How many images are worked on side by side, and the threads that each has.

    Many small images are done sooner so than one after the other, each by all cores.
    """

    at_once: int
    threads: int

    @classmethod
    def of(cls, image: Pixels, at_once: int, threads: int) -> Share:
        """Divide `threads` among `at_once` such images at most; a large one has them all."""
        large = image.shape[0] * image.shape[1] >= LARGE
        together = 1 if large else max(1, min(at_once, threads))
        return cls(together, max(1, threads // together))


class Whole(nn.Module):
    """A net from images as they are stored, N x H x W x C, to the coarse scores of each head."""

    def __init__(self, net: FCN, size: Size | None = None) -> None:
        """Stand for `net`, without the work that padding makes if all images are of one `size`."""
        super().__init__()
        self.net = net
        if size is not None:
            from fullconv.net.rewrites.elision import elided

            self.net = elided(net, size).net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return N x classes x h x w of each head, in the net's order."""
        return tuple(self.net.coarse_of_pixels(images).values())


class SpecialSizes:
    """Which image sizes a net that pads by much is elided for: the first one, and frequent ones.

    Few, however many there are: to build an engine costs time and memory. Any thread may ask.
    """

    def __init__(self, net: FCN) -> None:
        self._pays = net.vertical.edge == "zero"
        self._seen: Counter[Size] = Counter()
        self._chosen: set[Size] = set()
        self._lock = threading.Lock()

    def of(self, image: Pixels) -> Size | None:
        """Return the image's size if a net made for that is to label it, None if any size's."""
        size = (image.shape[0], image.shape[1])
        if not self._pays:
            return None
        with self._lock:
            self._seen[size] += 1
            room = len(self._chosen) < SPECIAL_SIZES
            if room and (not self._chosen or self._seen[size] >= OFTEN):
                self._chosen.add(size)
            return size if size in self._chosen else None
