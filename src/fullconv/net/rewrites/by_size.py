"""The twin of a net that has the least work with images of some size."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from fullconv.net.described import Size
from fullconv.net.fcn import FCN
from fullconv.net.rewrites.elision import elided
from fullconv.net.surgery import inference_twin

SPECIAL_SIZES = 2  # landscape and portrait, as a rule; each costs an engine about a net's memory
OFTEN = 4  # images of a size that pay for elision


class Twin(NamedTuple):
    """A net for inference that shares another's weights.

    Attributes:
        net: what is left of it.
        size: the only one, in pixels, that images may have; None: any.
    """

    net: FCN
    size: Size | None


class TwinBySize:
    """Gives a twin for each image: of nets that pad by much one without the work of padding.

    Such a twin is for one size. It is made for the first one, and for frequent ones; few, however
    many there are: to build an engine costs time and memory. Any thread may ask.
    """

    def __init__(
        self,
        net: FCN,
        convolution: Callable[[nn.Parameter], nn.Parameter] | None = None,
        *,
        elides: bool = True,
    ) -> None:
        """Twin a net.

        Args:
            net: an `inference_twin`, which is that for any size.
            convolution: gives what twins have in place of it (see there).
            elides: False: all twins are for any size.
        """
        self._pays = elides and net.vertical.edge == "zero"
        self._seen: Counter[Size] = Counter()
        self._chosen: set[Size] = set()
        self._lock = threading.Lock()

        def twin(size: Size | None) -> Twin:
            made = elided(net, size).net if size else net
            return Twin(inference_twin(made, convolution) if convolution else made, size)

        self._twin = functools.cache(twin)

    def __call__(self, size: Size) -> Twin:
        """Return the twin that is to work on images of a size (H, W) in pixels."""
        with self._lock:
            return self._twin(size if self._pays and self._is_special(size) else None)

    @property
    def usual(self) -> Twin:
        """The twin for images of any size."""
        with self._lock:
            return self._twin(None)

    def _is_special(self, size: Size) -> bool:
        self._seen[size] += 1
        room = len(self._chosen) < SPECIAL_SIZES
        if room and (not self._chosen or self._seen[size] >= OFTEN):
            self._chosen.add(size)
        return size in self._chosen
