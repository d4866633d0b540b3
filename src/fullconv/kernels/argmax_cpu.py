"""`upsample_argmax` on CPUs, compiled by numba on first use and kept in its cache."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.kernels.argmax import label_type
from fullconv.kernels.bilinear import Axis


def labels_between(scores: Tensor, vertical: Axis, horizontal: Axis) -> Tensor:
    """Return the labels N,H,W of extended coarse scores N,C,h,w."""
    cells = scores.permute(0, 2, 3, 1).float().contiguous().numpy()
    labels = torch.empty(
        scores.shape[0], vertical.size, horizontal.size, dtype=label_type(scores.shape[1])
    )
    rows, down = _blocks(vertical)
    columns, across = _blocks(horizontal)
    for image, filled in zip(cells, labels.numpy(), strict=True):
        _label(image, _best(image), rows, down, columns, across, filled)
    return labels


def _blocks(axis: Axis) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the first pixel of each block between two cells, and all pixels' fractions."""
    lower = axis.lower().numpy()
    starts = np.searchsorted(lower, np.arange(lower[-1] + 2))
    return starts, axis.fraction().numpy()


@numba.njit(nogil=True, cache=True, fastmath={"nsz", "reassoc"})
def _best(cells: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the class (the first of equals) with the highest score of each cell."""
    height, width, classes = cells.shape
    best = np.empty((height, width), np.int32)
    for i in range(height):
        for j in range(width):
            here = cells[i, j]
            highest = here[0]
            for c in range(1, classes):
                highest = max(highest, here[c])
            label = 0
            while label < classes - 1 and here[label] < highest:
                label += 1
            best[i, j] = label
    return best


@numba.njit(nogil=True, cache=True)
def _label(
    cells: NDArray[np.float32],
    best: NDArray[np.int32],
    rows: NDArray[np.int64],
    down: NDArray[np.float64],
    columns: NDArray[np.int64],
    across: NDArray[np.float64],
    labels: NDArray[Any],
) -> None:
    """Fill `labels`, block by block of the pixels between four cells."""
    classes = cells.shape[2]
    highest = np.empty(classes, np.float32)
    widest = 0
    for j in range(len(columns) - 1):
        widest = max(widest, columns[j + 1] - columns[j])
    value = np.empty(widest)
    winner = np.empty(widest, np.int32)
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            label = best[i, j]
            agreed = best[i, j + 1] == label
            if agreed and best[i + 1, j] == label and best[i + 1, j + 1] == label:
                labels[rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = label
                continue
            a, b, c, d = cells[i, j], cells[i, j + 1], cells[i + 1, j], cells[i + 1, j + 1]
            # Some class is this high at all four cells, so also between them ...
            threshold = np.float32(-np.inf)
            for k in range(classes):
                threshold = max(threshold, min(a[k], b[k], c[k], d[k]))
                highest[k] = max(a[k], b[k], c[k], d[k])
            for y in range(rows[i], rows[i + 1]):
                value[:] = -np.inf
                winner[:] = 0
                for k in range(classes):
                    if highest[k] < threshold:  # ... where this one stays below it
                        continue
                    left = a[k] + down[y] * (np.float64(c[k]) - a[k])
                    step = b[k] + down[y] * (np.float64(d[k]) - b[k]) - left
                    for x in range(columns[j], columns[j + 1]):
                        score = left + across[x] * step
                        if score > value[x - columns[j]]:
                            value[x - columns[j]] = score
                            winner[x - columns[j]] = k
                for x in range(columns[j], columns[j + 1]):
                    labels[y, x] = winner[x - columns[j]]
