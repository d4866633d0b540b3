"""Class weights, so that rare classes count."""

from __future__ import annotations

import numpy as np
import torch

from fullconv.data.loading import CachedSplit

HEAVIEST = 10.0  # a class of a few pixels must not drown all others


def median_frequency_weights(split: CachedSplit, num_classes: int) -> torch.Tensor:
    """Return float32 weights (num_classes,): the median class's frequency over each class's own.

    A class's frequency is its share of the valid pixels of the images that show it (Eigen and
    Fergus, 2015). Weights are at most 10; a class that never occurs weighs 1.
    """
    pixels = np.zeros(num_classes, np.int64)
    shown_in = np.zeros(num_classes, np.int64)
    for index in range(len(split)):
        counts = np.bincount(split[index].labels.reshape(-1), minlength=256)[:num_classes]
        pixels += counts
        shown_in += np.where(counts > 0, counts.sum(), 0)
    weights = np.ones(num_classes)
    present = pixels > 0
    frequency = pixels[present] / shown_in[present]
    if present.any():
        weights[present] = np.minimum(np.median(frequency) / frequency, HEAVIEST)
    return torch.tensor(weights, dtype=torch.float32)
