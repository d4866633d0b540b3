"""`upsample_argmax` on CPUs, compiled by numba on first use and kept in its cache, if any."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.geometry import Edge
from fullconv.kernels.bilinear import Axis, cut, label_type
from fullconv.kernels.compiling import compiled


def labels_between(scores: Tensor, vertical: Axis, horizontal: Axis, edge: Edge) -> Tensor:
    """Return the labels N,H,W of coarse scores N,C,h,w."""
    cells = _cells(scores, vertical, horizontal, edge)
    labels = torch.empty(
        scores.shape[0], vertical.size, horizontal.size, dtype=label_type(scores.shape[1])
    )
    rows, down = _blocks(vertical)
    columns, across = _blocks(horizontal)
    # Within a full block, pixel by pixel in reading order: how far down, right, and both.
    weights = np.stack(
        [np.repeat(down, len(across)), np.tile(across, len(down)), np.outer(down, across).ravel()]
    )
    for image, filled in zip(cells, labels.numpy(), strict=True):
        _label(image, _best(image), rows, columns, weights, filled)
    return labels


def _cells(scores: Tensor, vertical: Axis, horizontal: Axis, edge: Edge) -> NDArray[np.float32]:
    """Return just the cells that pixels read, N,h,w,C (see `bilinear.extended`).

    Not by torch, whose threads would be woken for this, and then spin for a while in the way of
    others: of those that work on the next image.
    """
    rows, above, below = cut(vertical)
    columns, before, after = cut(horizontal)
    cells = scores.float().numpy()[..., rows, columns].transpose(0, 2, 3, 1)
    if edge == "zero" and not (vertical.sees_map and horizontal.sees_map):
        cells = np.zeros_like(cells)
    margins = ((0, 0), (above, below), (before, after), (0, 0))
    if any(map(any, margins)):
        cells = np.pad(cells, margins, mode="edge" if edge == "replicate" else "constant")
    return np.ascontiguousarray(cells)


def _blocks(axis: Axis) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where the block between each two cells begins, and the fractions within a block.

    The first begins before pixel 0 where part of it lies outside, as does the end of the last.
    """
    begun = axis.offset - axis.first * axis.factor  # how far pixel 0 is into the first block
    missing = math.floor(begun)
    within = (np.arange(axis.factor) + (begun - missing)) / axis.factor
    return np.arange(axis.count) * axis.factor - missing, within


@compiled
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


@compiled
def _label(
    cells: NDArray[np.float32],
    best: NDArray[np.int32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    weights: NDArray[np.float64],
    labels: NDArray[Any],
) -> None:
    """Fill `labels`, block by block of the pixels between four cells."""
    height, width = labels.shape
    side = columns[1] - columns[0]
    value, winner = np.empty(weights.shape[1]), np.empty(weights.shape[1], np.int32)
    highest = np.empty(cells.shape[2], np.float32)
    for i in range(len(rows) - 1):
        top, bottom = max(rows[i], 0), min(rows[i + 1], height)
        for j in range(len(columns) - 1):
            left, right = max(columns[j], 0), min(columns[j + 1], width)
            label = best[i, j]
            agreed = best[i, j + 1] == label
            if agreed and best[i + 1, j] == label and best[i + 1, j + 1] == label:
                labels[top:bottom, left:right] = label
                continue
            _decide(cells[i : i + 2, j : j + 2], weights, highest, value, winner)
            for y in range(top, bottom):
                start = (y - rows[i]) * side - columns[j]
                for x in range(left, right):
                    labels[y, x] = winner[start + x]


@compiled
def _decide(
    cells: NDArray[np.float32],
    weights: NDArray[np.float64],
    highest: NDArray[np.float32],
    value: NDArray[np.float64],
    winner: NDArray[np.int32],
) -> None:
    """Find the `winner` of each pixel between 2 x 2 cells; `highest` and `value` are scratch."""
    a, b, c, d = cells[0, 0], cells[0, 1], cells[1, 0], cells[1, 1]
    # Some class is this high at all four cells, so also between them ...
    threshold = np.float32(-np.inf)
    for k in range(len(a)):
        threshold = max(threshold, min(a[k], b[k], c[k], d[k]))
        highest[k] = max(a[k], b[k], c[k], d[k])
    value[:] = -np.inf
    winner[:] = 0
    down, across, both = weights[0], weights[1], weights[2]
    for k in range(len(a)):
        if highest[k] < threshold:  # ... where this one stays below it
            continue
        here = np.float64(a[k])
        to_right, to_below = b[k] - here, c[k] - here
        bend = d[k] - c[k] - to_right
        for pixel in range(len(value)):
            score = here + down[pixel] * to_below + across[pixel] * to_right + both[pixel] * bend
            better = score > value[pixel]
            value[pixel] = score if better else value[pixel]
            winner[pixel] = k if better else winner[pixel]
