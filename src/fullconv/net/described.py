"""What labels images, as those see it that only hand it images: a net, or an export of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.base.palette import Colour
from fullconv.net.preprocessing import Preprocessing

Pixels = NDArray[np.uint8 | np.float32]  # H x W x channels of all inputs, as they are stored
Labels = NDArray[np.uint8]  # H x W class ids
Size = tuple[int, int]  # height and width in pixels


class DescribedHead(Protocol):
    """What a head labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, index = label id."""

    @property
    def palette(self) -> tuple[Colour, ...]:
        """An RGB colour a class."""

    @property
    def num_classes(self) -> int:
        """Number of scores a pixel."""


class DescribedHeads(Protocol):
    """Heads by name, in order."""

    def items(self) -> Iterable[tuple[str, DescribedHead]]:
        """Return names and heads."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""

    def __len__(self) -> int:
        """Return how many there are."""


class Described(Protocol):
    """What it takes and labels."""

    @property
    def inputs(self) -> Mapping[str, int]:
        """Channels of each input by name."""

    @property
    def heads(self) -> DescribedHeads:
        """What each head labels, by name."""

    @property
    def ignore_index(self) -> int:
        """The label id that training and metrics leave out."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What it does with images; its `reader` reads them as it was trained to see them."""
