"""Class weights, so that rare classes count."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.base.pipeline import ahead
from fullconv.data.folder import Split

HEAVIEST = 10.0  # a class of a few pixels must not drown all others
MASKS_COUNTED, PIXELS_COUNTED = 1000, 1 << 29  # at most, of all together; seconds tell enough


def class_weights(split: Split, kind: Literal["softened", "balanced"]) -> list[torch.Tensor]:
    """Return float32 weights (classes,) of each head.

    Balanced: the median class's frequency over each one's own; softened: the square root of that.

    A class's frequency is its share of the valid pixels of the images that show it (Eigen and
    Fergus, 2015). Weights are at most 10; a class that is not seen has that. Of many masks, or
    large ones, some are counted, evenly chosen.

    Args:
        split: whose masks are counted; of its images only the headers are read.
        kind: how much rarer classes weigh more.

    Raises:
        FullconvError: a mask can't be read, holds a wrong label, or misfits its image.
    """
    sizes = {name: len(head.classes) for name, head in split.heads.items()}
    pixels = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    shown_in = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    counted = split.few_pixels(MASKS_COUNTED, PIXELS_COUNTED)
    for layers in ahead(counted.labels, range(len(counted))):
        for (name, size), labels in zip(sizes.items(), layers, strict=True):
            counts = np.bincount(labels.reshape(-1), minlength=256)[:size]
            pixels[name] += counts
            shown_in[name] += np.where(counts > 0, counts.sum(), 0)
    balanced = [_weights(pixels[name], shown_in[name]) for name in sizes]
    return balanced if kind == "balanced" else [weights.sqrt() for weights in balanced]


def _weights(pixels: NDArray[np.int64], shown_in: NDArray[np.int64]) -> torch.Tensor:
    """Weigh classes by their own pixels and those of the images that show them."""
    weights = np.full(len(pixels), HEAVIEST)
    present = pixels > 0
    frequency = pixels[present] / shown_in[present]
    if present.any():
        weights[present] = np.minimum(np.median(frequency) / frequency, HEAVIEST)
    return torch.tensor(weights, dtype=torch.float32)
