"""Images to compare an export with its net on, where no dataset is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fullconv.data.info import COLOR
from fullconv.net.described import Described, Pixels
from fullconv.net.fcn import FCN

GRAINS = (1, 4, 16, 64)  # pixels a side; photographs have structure at every scale
FAR = 5000.0  # millimetres; distances lie below, where nothing is known of them


@dataclass(frozen=True)
class Sample:
    """Images of one size, which are labelled together.

    Attributes:
        name: for people.
        images: N x H x W x channels of all inputs.
    """

    name: str
    images: Pixels


def generated(net: FCN) -> Iterator[Sample]:
    """Yield images of five sizes.

    Among them are a single pixel, two of an odd size at once, and one that is larger than those
    that the classifier was trained on.
    """
    native = net.preprocessing.input_size
    sizes = ((1, 1), (33, 70), (97, 131), (native, native), (native + 96, native + 32))
    for seed, (height, width) in enumerate(sizes):
        count = 2 if height == 97 else 1
        images = [noise(net, (height, width), seed + 10 * index) for index in range(count)]
        yield Sample(f"the generated image of {height} x {width}", np.stack(images))


def noise(net: Described, size: tuple[int, int], seed: int) -> Pixels:
    """Return an image H x W x channels that has structure at every scale."""
    random = np.random.default_rng(seed)
    parts = []
    for name, channels in net.inputs.items():
        low, high = net.preprocessing.ranges.get(name, (0.0, 255.0))
        if name == COLOR:
            low, high = 0.0, 255.0
        elif channels == 1 and name not in net.preprocessing.ranges:
            high = FAR
        waves = np.zeros((*size, channels))
        for grain in GRAINS:
            cells = (-(-size[0] // grain), -(-size[1] // grain), channels)
            grains = np.kron(random.normal(size=cells), np.ones((grain, grain, 1)))
            waves += grains[: size[0], : size[1]]
        values = (low + (high - low) * (0.5 + 0.15 * waves)).clip(low, high)
        parts.append(np.rint(values).astype(np.float32))
    whole = np.concatenate(parts, 2)
    return whole.astype(np.uint8) if whole.max() <= 255 else whole
