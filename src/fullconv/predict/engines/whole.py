"""What every engine works out: coarse scores of an image as it is stored."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fullconv.net.fcn import FCN
from fullconv.predict.labels import Pixels

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
        self.preprocessing, self.net = net.preprocessing, net
        if size is not None:
            from fullconv.net.rewrites.elision import elided

            self.net = elided(net, size).net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return N x classes x h x w of each head, in the net's order."""
        scores = self.net.coarse(self.preprocessing(images.permute(0, 3, 1, 2)))
        return tuple(self.net.by_head(scores).values())

    def for_inference(self, half: Callable[[nn.Parameter], nn.Parameter] | None = None) -> Whole:
        """Return a twin in evaluation mode that shares all weights, but none of their gradients.

        The net may go on being trained meanwhile, in whatever modes its parts are.

        Args:
            half: gives what the twin's convolutions have in place of their weights.
        """
        shared: dict[int, object] = {id(each): each for each in self.buffers()}
        shared |= {id(each): _frozen(each) for each in self.parameters()}
        for part in self.modules():
            if half is not None and isinstance(part, nn.Conv2d):
                shared |= {id(each): half(each) for each in part.parameters()}
        return copy.deepcopy(self, shared).eval()  # what it is told of it takes instead of a copy


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach(), requires_grad=False)


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
