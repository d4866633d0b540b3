"""Poolings, and a ReLU before them if there is one, that keep a byte a result for the gradient.

Torch keeps 8 bytes, and what the ReLU made besides, which is four times as much as the results.
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

LAST = torch.channels_last
NOWHERE = 255  # the place of a maximum that a ReLU makes 0
# Of the arguments: of how many images, the size of these, of the results, and of windows; whether
# there is a ReLU; then features or their gradients, results or theirs, and places.
IMAGES, HEIGHT, WIDTH, DOWN, ACROSS, ROWS, COLUMNS, CLAMPED = range(FIRST, FIRST + 8)
FEATURES, RESULT, PLACES = range(CLAMPED + 1, CLAMPED + 4)


def max_pool(
    features: Tensor, window: tuple[int, int], size: tuple[int, int], *, clamped: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window, and where that lay; windows lie side by side.

    Args:
        features: N,C,H,W in bfloat16 or float32, channels_last; NaN counts as largest.
        window: height and width, at most 255 features.
        size: how many windows there are, down and across; the last may reach beyond the map.
        clamped: whether negative results become 0, as by a ReLU before.

    Returns:
        The maxima, like `features`, and the place of the first of each window's largest (of NaN the
        last), counted line by line, or `NOWHERE`: uint8. Both are N,C,*size, channels_last.
    """
    shape = *features.shape[:2], *size
    result = torch.empty(shape, dtype=features.dtype, memory_format=LAST)
    places = torch.empty(shape, dtype=torch.uint8, memory_format=LAST)
    sizes = *features.shape[2:], *size, *window, int(clamped)
    run(_pool, features, len(features), *sizes, features, result, places)
    return result, places


def max_pool_gradient(
    gradient: Tensor, places: Tensor, window: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Return the gradient to features of a size: each result's goes to its place.

    Args:
        gradient: to the results, channels_last.
        places: of these, from `max_pool`.
        window: height and width.
        size: height and width of the features.
    """
    counts = gradient.shape[2], gradient.shape[3]
    sides = zip(counts, window, size, strict=True)
    shape = *gradient.shape[:2], *size
    passed = torch.empty(shape, dtype=gradient.dtype, memory_format=LAST)
    if any(count * side < length for count, side, length in sides):
        passed.zero_()  # windows leave cells out
    sizes = *size, *counts, *window, 0
    run(_pass_back, passed, len(passed), *sizes, passed, gradient, places)
    return passed


@inlined
def _maps(values: Any, like: Any) -> Any:
    """Return features, results and places, line by line of pixels x channels."""
    height, width = values[IMAGES] * values[HEIGHT], values[WIDTH]
    features = features_at(values, FEATURES, like).reshape((height, width, values[CHANNELS]))
    shape = (values[IMAGES] * values[DOWN], values[ACROSS], values[CHANNELS])
    result = carray(pointer(values[RESULT], like), shape)
    return features, result, carray(pointer(values[PLACES], np.uint8(0)), shape)


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
def _find_highest(features: Any, window: Any, across: Any, highest: Any, places: Any) -> None:
    """Find the largest feature of a window and its place, channel by channel; NaN is largest."""
    top, bottom, left, right = window
    highest[:] = -np.inf
    places[:] = 0
    for y in range(top, bottom):
        for x in range(left, right):
            place = np.uint8((y - top) * across + x - left)
            for c in range(len(highest)):
                value = wide(features[y, x, c])
                larger = (value > highest[c]) | np.isnan(value)  # of NaN the last, as torch
                highest[c] = value if larger else highest[c]
                places[c] = place if larger else places[c]


@inlined
def _pool_of(values: Any, like: Any) -> None:
    features, result, places = _maps(values, like)
    highest = np.empty(features.shape[2], np.float32)
    _, begin, beyond = share(values, result.shape[0])
    for row in range(begin, beyond):
        for column in range(result.shape[1]):
            window, place = _window(values, row, column), places[row, column]
            _find_highest(features, window, values[COLUMNS], highest, place)
            if values[CLAMPED]:
                for c in range(len(highest)):
                    negative = highest[c] <= 0
                    place[c] = np.uint8(NOWHERE) if negative else place[c]
                    highest[c] = np.float32(0) if negative else highest[c]
            for c in range(len(highest)):
                result[row, column, c] = narrow(highest[c], like)


@inlined
def _pass_back_of(values: Any, like: Any) -> None:
    passed, gradient, places = _maps(values, like)
    nothing = narrow(np.float32(0), like)
    _, begin, beyond = share(values, gradient.shape[0])
    for row in range(begin, beyond):
        for column in range(gradient.shape[1]):
            top, bottom, left, right = _window(values, row, column)
            for y in range(top, bottom):
                for x in range(left, right):
                    place = np.uint8((y - top) * values[COLUMNS] + x - left)
                    for c in range(gradient.shape[2]):
                        here = places[row, column, c] == place
                        passed[y, x, c] = gradient[row, column, c] if here else nothing


def _pool_entry(address: Any) -> None:
    in_precision(_pool_of, address)


def _pass_back_entry(address: Any) -> None:
    in_precision(_pass_back_of, address)


_pool = Callback(_pool_entry)
_pass_back = Callback(_pass_back_entry)
