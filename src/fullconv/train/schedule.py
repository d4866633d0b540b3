"""The learning rate and the length of a training, as pure functions."""

from __future__ import annotations

import math
from typing import Literal

COLD = 1 / 25  # where a rising learning rate starts, relative to the highest
POLY_POWER = 0.9


def learning_rate(
    schedule: Literal["one_cycle", "poly", "constant"], done: float, warmup: float
) -> float:
    """Return the learning rate, relative to the highest, when a share `done` of the steps is done.

    Each schedule first rises linearly from 1/25 over the share `warmup`. Then one_cycle falls to 0
    along half a cosine, poly as ``(1 - x) ** 0.9``, and constant stays.

    Args:
        schedule: the course after the rise.
        done: 0 before the first step, towards 1 at the last.
        warmup: 0 to 1.
    """
    if done < warmup:
        return COLD + (1 - COLD) * done / warmup
    rest = (done - warmup) / max(1 - warmup, 1e-9)
    if schedule == "one_cycle":
        return (1 + math.cos(math.pi * rest)) / 2
    return (1 - rest) ** POLY_POWER if schedule == "poly" else 1.0


def default_epochs(images: int, samples_per_epoch: int, shown: float = 1.0) -> int:
    """Return how often to pass over `images` that nobody tuned for.

    What is seen grows with the square root of the number of images: 16,000 images' worth of crops
    for CamVid's 367; 22,000 gave no better labels there. Each image is met at least 3 times, so
    that of many images all are learnt from, and at most 300 times. Of crops that show a part of an
    image there are more, and yet in all they show less: by the square root of that part.

    Args:
        images: how many there are.
        samples_per_epoch: how many crops a pass takes.
        shown: the share of an image that a crop shows, above 0 to 1.
    """
    crops = 16_000 * math.sqrt(images / 367)
    return round(min(max(crops / samples_per_epoch, 3), 300) / math.sqrt(shown))
