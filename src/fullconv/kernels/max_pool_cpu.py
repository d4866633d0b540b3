"""Poolings, and a ReLU before them if there is one, that keep a byte a result for the gradient.

Torch keeps 8 bytes, and what the ReLU made besides, which is four times as much as the results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.geometry import Window
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

LAST = torch.channels_last
NOWHERE = 255  # the place of a maximum that a ReLU makes 0
# Of the arguments: of how many images, the size of these and of the results; of windows the size,
# from one to the next, and the padding before the first; whether there is a ReLU.
IMAGES, HEIGHT, WIDTH, DOWN, ACROSS = range(FIRST, FIRST + 5)
ROWS, COLUMNS, STEP_DOWN, STEP_ACROSS, ABOVE, BESIDE, CLAMPED = range(FIRST + 5, FIRST + 12)
FEATURES, RESULT, PLACES = range(FIRST + 12, FIRST + 15)  # or the gradients to the first two


def max_pool(
    features: Tensor, windows: tuple[Window, Window], *, clamped: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window, and where that lay.

    Args:
        features: N,C,H,W in bfloat16 or float32, channels_last; NaN counts as largest.
        windows: down and across, of 255 features at most, without dilation; some fit.
        clamped: whether negative results become 0, as by a ReLU before.

    Returns:
        The maxima, like `features`, and the place of the first of each window's largest (of NaN the
        last), counted line by line, or `NOWHERE`: uint8. Both are channels_last.
    """
    count, channels, *size = features.shape
    cells = [window.cells(length) for window, length in zip(windows, size, strict=True)]
    shape = count, channels, *cells
    result = torch.empty(shape, dtype=features.dtype, memory_format=LAST)
    places = torch.empty(shape, dtype=torch.uint8, memory_format=LAST)
    sizes = count, *size, *cells, *_shape(windows), int(clamped)
    run(_pool, features, *sizes, features, result, places)
    return result, places


def max_pool_gradient(
    gradient: Tensor, places: Tensor, windows: tuple[Window, Window], size: tuple[int, int]
) -> Tensor:
    """Return the gradient to features of a size: each result's goes to its place.

    Args:
        gradient: to the results, channels_last.
        places: of these, from `max_pool`.
        windows: down and across.
        size: height and width of the features.
    """
    count, channels, *cells = gradient.shape
    passed = torch.empty((count, channels, *size), dtype=gradient.dtype, memory_format=LAST)
    sizes = count, *size, *cells, *_shape(windows), 0
    run(_pass_back, passed, *sizes, passed, gradient, places)
    return passed


def _shape(windows: tuple[Window, Window]) -> tuple[int, ...]:
    down, across = windows
    sides = down.kernel, across.kernel, down.stride, across.stride
    return *sides, down.before, across.before


@inlined
def _maps(values: Any, like: Any) -> Any:
    """Return features, results and places, line by line of pixels x channels."""
    height, width = values[IMAGES] * values[HEIGHT], values[WIDTH]
    features = features_at(values, FEATURES, like).reshape((height, width, values[CHANNELS]))
    shape = (values[IMAGES] * values[DOWN], values[ACROSS], values[CHANNELS])
    result = carray(pointer(values[RESULT], like), shape)
    return features, result, carray(pointer(values[PLACES], np.uint8(0)), shape)


@inlined
def _find_highest(values: Any, image: Any, top: Any, left: Any, highest: Any, places: Any) -> None:
    """Find the largest feature of a window and its place, channel by channel; NaN is largest."""
    first = np.uint8(max(-top, 0) * values[COLUMNS] + max(-left, 0))  # that is no padding
    highest[:] = -np.inf
    places[:] = first
    for y in range(max(top, 0), min(top + values[ROWS], values[HEIGHT])):
        for x in range(max(left, 0), min(left + values[COLUMNS], values[WIDTH])):
            place = np.uint8((y - top) * values[COLUMNS] + x - left)
            for c in range(len(highest)):
                value = wide(image[y, x, c])
                larger = (value > highest[c]) | np.isnan(value)  # of NaN the last, as torch
                highest[c] = value if larger else highest[c]
                places[c] = place if larger else places[c]


@inlined
def _pool_of(values: Any, like: Any) -> None:
    features, result, places = _maps(values, like)
    highest = np.empty(features.shape[2], np.float32)
    _, begin, beyond = share(values, result.shape[0])
    for row in range(begin, beyond):
        image = features[row // values[DOWN] * values[HEIGHT] :]
        top = row % values[DOWN] * values[STEP_DOWN] - values[ABOVE]
        for column in range(result.shape[1]):
            left, place = column * values[STEP_ACROSS] - values[BESIDE], places[row, column]
            _find_highest(values, image, top, left, highest, place)
            if values[CLAMPED]:
                for c in range(len(highest)):
                    negative = highest[c] <= 0
                    place[c] = np.uint8(NOWHERE) if negative else place[c]
                    highest[c] = np.float32(0) if negative else highest[c]
            for c in range(len(highest)):
                result[row, column, c] = narrow(highest[c], like)


@inlined
def _add_up(values: Any, gradient: Any, places: Any, line: Any, sums: Any) -> None:
    """Add what a line of results gives to a line of features, the `line`th of their windows."""
    for column in range(values[ACROSS]):
        left = column * values[STEP_ACROSS] - values[BESIDE]
        for x in range(max(left, 0), min(left + values[COLUMNS], values[WIDTH])):
            place = np.uint8(line * values[COLUMNS] + x - left)
            for c in range(sums.shape[1]):
                here = places[column, c] == place
                sums[x, c] += wide(gradient[column, c]) if here else np.float32(0)


@inlined
def _pass_back_of(values: Any, like: Any) -> None:
    passed, gradient, places = _maps(values, like)
    step, sums = values[STEP_DOWN], np.empty(passed.shape[1:], np.float32)
    _, begin, beyond = share(values, passed.shape[0])
    for row in range(begin, beyond):
        above = row // values[HEIGHT] * values[DOWN]  # results of the images before
        y = row % values[HEIGHT] + values[ABOVE]
        sums[:] = 0
        for down in range(max((y - values[ROWS]) // step + 1, 0), min(y // step + 1, values[DOWN])):
            given, came = gradient[above + down], places[above + down]
            _add_up(values, given, came, y - down * step, sums)
        for x in range(passed.shape[1]):
            for c in range(passed.shape[2]):
                passed[row, x, c] = narrow(sums[x, c], like)


def _pool_entry(address: Any) -> None:
    in_precision(_pool_of, address)


def _pass_back_entry(address: Any) -> None:
    in_precision(_pass_back_of, address)


_pool = Callback(_pool_entry)
_pass_back = Callback(_pass_back_entry)
