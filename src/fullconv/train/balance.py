"""Class weights, so that rare classes count."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.data.loading import CachedSplit

HEAVIEST = 10.0  # a class of a few pixels must not drown all others


def class_weights(split: CachedSplit, kind: Literal["softened", "balanced"]) -> list[torch.Tensor]:
    """Return float32 weights (classes,) of each head.

    Balanced: the median class's frequency over each one's own; softened: the square root of that.

    A class's frequency is its share of the valid pixels of the images that show it (Eigen and
    Fergus, 2015). Weights are at most 10; a class that never occurs weighs 1.
    """
    sizes = {name: len(head.classes) for name, head in split.heads.items()}
    pixels = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    shown_in = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    for index in range(len(split)):
        for (name, size), labels in zip(sizes.items(), split[index].labels, strict=True):
            counts = np.bincount(labels.reshape(-1), minlength=256)[:size]
            pixels[name] += counts
            shown_in[name] += np.where(counts > 0, counts.sum(), 0)
    balanced = [_weights(pixels[name], shown_in[name]) for name in sizes]
    return balanced if kind == "balanced" else [weights.sqrt() for weights in balanced]


def _weights(pixels: NDArray[np.int64], shown_in: NDArray[np.int64]) -> torch.Tensor:
    """Weigh classes by their own pixels and those of the images that show them."""
    weights = np.ones(len(pixels))
    present = pixels > 0
    frequency = pixels[present] / shown_in[present]
    if present.any():
        weights[present] = np.minimum(np.median(frequency) / frequency, HEAVIEST)
    return torch.tensor(weights, dtype=torch.float32)
