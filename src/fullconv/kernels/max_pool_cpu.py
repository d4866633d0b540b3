"""Poolings that need no more than their input to find where each maximum came from.

Torch keeps 8 bytes a result for that, four times what the result takes in bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.kernels.compiling import Callback, carray, inlined
from fullconv.kernels.features_cpu import (
    CHANNELS,
    FIRST,
    features_at,
    in_precision,
    narrow,
    run,
    wide,
)
from fullconv.kernels.torch_threads import pointer, share

# Of the arguments: of how many images, the size of these, of the results, and of windows.
IMAGES, HEIGHT, WIDTH, DOWN, ACROSS, ROWS, COLUMNS = range(FIRST, FIRST + 7)
FEATURES, RESULT, PASSED = range(COLUMNS + 1, COLUMNS + 4)  # of results: themselves or gradients


def max_pool(features: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the maximum of each window; windows lie side by side.

    Args:
        features: N,C,H,W in bfloat16 or float32, channels_last; NaN counts as largest.
        window: height and width.
        size: how many windows there are, down and across; the last may reach beyond the map.
    """
    shape = *features.shape[:2], *size
    result = torch.empty(shape, dtype=features.dtype, memory_format=torch.channels_last)
    run(_pool, features, *_sizes(features, window, size), features, result)
    return result


def max_pool_gradient(gradient: Tensor, features: Tensor, window: tuple[int, int]) -> Tensor:
    """Return the gradient to features: each result's goes to the first of its largest."""
    size = gradient.shape[2], gradient.shape[3]
    covered = all(
        count * side >= length
        for count, side, length in zip(size, window, features.shape[2:], strict=True)
    )
    passed = torch.empty_like(features) if covered else torch.zeros_like(features)
    run(_pass_back, features, *_sizes(features, window, size), features, gradient, passed)
    return passed


def _sizes(features: Tensor, window: tuple[int, int], size: tuple[int, int]) -> tuple[int, ...]:
    return len(features), features.shape[2], features.shape[3], *size, *window


@inlined
def _maps(values: Any, like: Any) -> Any:
    """Return features and results, line by line of pixels x channels."""
    height, width = values[IMAGES] * values[HEIGHT], values[WIDTH]
    features = features_at(values, FEATURES, like).reshape((height, width, values[CHANNELS]))
    shape = (values[IMAGES] * values[DOWN], values[ACROSS], values[CHANNELS])
    return features, carray(pointer(values[RESULT], like), shape)


@inlined
def _window(values: Any, row: Any, column: Any) -> Any:
    """Return the rows and columns of features that a result is of: first, beyond."""
    image, down = row // values[DOWN], row % values[DOWN]
    top, left = down * values[ROWS], column * values[COLUMNS]
    bottom = min(top + values[ROWS], values[HEIGHT])
    right = min(left + values[COLUMNS], values[WIDTH])
    above = image * values[HEIGHT]
    return above + top, above + bottom, left, right


@inlined
def _find_highest(features: Any, window: Any, highest: Any) -> None:
    """Find the largest feature of a window, channel by channel; NaN counts as largest."""
    top, bottom, left, right = window
    highest[:] = -np.inf
    for y in range(top, bottom):
        for x in range(left, right):
            for c in range(len(highest)):
                value = wide(features[y, x, c])
                larger = (value > highest[c]) | np.isnan(value)
                highest[c] = value if larger else highest[c]


@inlined
def _pool_of(values: Any, like: Any) -> None:
    features, result = _maps(values, like)
    highest = np.empty(features.shape[2], np.float32)
    _, begin, beyond = share(values, result.shape[0])
    for row in range(begin, beyond):
        for column in range(result.shape[1]):
            _find_highest(features, _window(values, row, column), highest)
            for c in range(len(highest)):
                result[row, column, c] = narrow(highest[c], like)


@inlined
def _pass_back_of(values: Any, like: Any) -> None:
    features, gradient = _maps(values, like)
    passed = carray(pointer(values[PASSED], like), features.shape)
    highest = np.empty(features.shape[2], np.float32)
    left_over = np.empty(features.shape[2], np.float32)
    _, begin, beyond = share(values, gradient.shape[0])
    for row in range(begin, beyond):
        for column in range(gradient.shape[1]):
            window = _window(values, row, column)
            _find_highest(features, window, highest)
            for c in range(len(left_over)):
                left_over[c] = wide(gradient[row, column, c])
            for y in range(window[0], window[1]):
                for x in range(window[2], window[3]):
                    for c in range(len(left_over)):
                        value = wide(features[y, x, c])
                        here = (value == highest[c]) | (np.isnan(value) & np.isnan(highest[c]))
                        passed[y, x, c] = narrow(left_over[c] if here else np.float32(0), like)
                        left_over[c] = np.float32(0) if here else left_over[c]


def _pool_entry(address: Any) -> None:
    in_precision(_pool_of, address)


def _pass_back_entry(address: Any) -> None:
    in_precision(_pass_back_of, address)


_pool = Callback(_pool_entry)
_pass_back = Callback(_pass_back_entry)
