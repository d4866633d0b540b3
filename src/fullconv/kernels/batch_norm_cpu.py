"""Batch normalisation and the clamp after it on CPUs, in as few passes over features as can be.

Torch passes over them three times to normalise and once more to clamp, then twice with the gradient
and once more. Here they are read twice to normalise and clamp, and twice with the gradient, and
what was clamped is found anew from the features rather than kept. Each pass may be made over a few
images at a time, while these lie in the cache.

Features are N x C x H x W in bfloat16 or float32, their channels innermost (channels_last).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.kernels.compiling import Callback, carray, inlined
from fullconv.kernels.features_cpu import (
    CHANNELS,
    FIRST,
    cells_of,
    features_at,
    in_precision,
    narrow,
    run,
    wide,
)
from fullconv.kernels.torch_threads import pointer, share

BAND = 256  # cells whose float32 sums are added up before they go into the float64 ones
SAMPLE = 64  # cells at most, by whose mean sums are begun
SCALE, SHIFT, MEAN = range(3)
NOWHERE = 0  # an address


class Statistics:
    """Mean and biased variance of each channel of features, a few images at a time.

    They follow, in float64, from sums of differences from about the mean, which some cells tell: no
    large sum is taken from another.

    Attributes:
        count: how many cells there were.
    """

    def __init__(self, features: Tensor) -> None:
        """Begin with nothing seen yet; cells of `features` tell about where the mean is."""
        self.count = 0
        cells = features.detach().movedim(1, -1).flatten(0, 2)
        self._origin = cells[:: -(-len(cells) // SAMPLE)].float().mean(0).numpy()
        self._sums = _room(features.shape[1])

    def add(self, features: Tensor, copy: Tensor | None = None) -> None:
        """Look at features; put a `copy` of them down, if there is room for one."""
        self.count += cells_of(features)
        given = features, self._origin, self._sums, _or_nowhere(copy)
        run(_add_up, features, *given, threads=len(self._sums))

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance."""
        first, second = self._sums.sum(0) / self.count
        return first + self._origin, np.maximum(second - first * first, 0)


class Normalisation:
    """What brings each channel of features to a mean and a variance, and clamps them then.

    Attributes:
        mean, variance: of the features, float64.
        count: cells that these are of.
    """

    def __init__(
        self,
        statistics: Statistics,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        bounds: tuple[float, float],
    ) -> None:
        """Take what `F.batch_norm` takes, and the lowest and the highest value."""
        self.mean, self.variance = statistics.moments()
        self.count = statistics.count
        self._inverse = 1 / np.sqrt(self.variance + eps)
        scale = weight.detach().numpy() * self._inverse
        terms = np.stack([scale, bias.detach().numpy() - self.mean * scale, self.mean])
        self._terms, self._bounds = terms.astype(np.float32), np.array(bounds, np.float32)

    def applied(self, features: Tensor) -> Tensor:
        """Return features normalised and clamped, in their precision."""
        result = torch.empty_like(features)
        run(_normalise, features, features, result, self._terms, self._bounds)
        return result


class Gradients:
    """The gradients of a normalisation, once all images were looked at."""

    def __init__(self, of: Normalisation) -> None:
        self._of = of
        self._sums = _room(len(of.mean))

    def add(self, gradient: Tensor, features: Tensor, copy: Tensor | None = None) -> None:
        """Look at the gradient to what became of some features, and at these, as they were.

        A `copy` of the gradient is put down, if there is room for one.
        """
        given = gradient, features, self._of._terms, self._of._bounds, self._sums
        run(_add_up_gradients, features, *given, _or_nowhere(copy), threads=len(self._sums))

    def to_parameters(self) -> tuple[Tensor, Tensor]:
        """Return the gradients to weight and bias, float32."""
        to_bias, by_distance = self._sums.sum(0)
        made = by_distance * self._of._inverse, to_bias
        to_weight, to_bias = (torch.from_numpy(each.astype(np.float32)) for each in made)
        return to_weight, to_bias

    def to_features(self, gradient: Tensor, features: Tensor, result: Tensor) -> None:
        """Fill in the gradient to some features, from what was given to `add` with them."""
        given = gradient, features, self._of._terms, self._of._bounds, self._through
        run(_pass_on, features, *given, result)

    @cached_property
    def _through(self) -> NDArray[np.float32]:
        """What comes through mean and variance: a factor of each feature, and what is added."""
        of, (to_bias, by_distance) = self._of, self._sums.sum(0)
        slope = of._inverse * of._inverse * by_distance / of.count
        scale, mean = of._terms[SCALE], of._terms[MEAN]
        through = np.stack([-scale * slope, scale * (slope * mean - to_bias / of.count)])
        return through.astype(np.float32)


def _or_nowhere(copy: Tensor | None) -> Tensor | int:
    return NOWHERE if copy is None else copy


def _room(channels: int) -> NDArray[np.float64]:
    """Return room for two sums of each channel, of each thread."""
    return np.zeros((torch.get_num_threads(), 2, channels))


@inlined
def _lines(values: Any, place: int, count: int) -> Any:
    """Return float32 lines of as many values as there are channels."""
    return carray(pointer(values[place], np.float32(0)), (count, values[CHANNELS]))


@inlined
def _own_sums(values: Any, place: int, thread: int) -> Any:
    shape = (thread + 1, 2, values[CHANNELS])
    return carray(pointer(values[place], np.float64(0)), shape)[thread]


@inlined
def _bounds(values: Any, place: int) -> Any:
    return carray(pointer(values[place], np.float32(0)), (2,))


@inlined
def _move(few: Any, sums: Any) -> None:
    """Add float32 sums to float64 ones, and empty them."""
    for c in range(len(few)):
        sums[c] += few[c]
        few[c] = 0


@inlined
def _copy(source: Any, target: Any, begin: Any, beyond: Any) -> None:
    """Copy some cells, while they lie in a cache."""
    for cell in range(begin, beyond):
        for c in range(source.shape[1]):
            target[cell, c] = source[cell, c]


@inlined
def _add_up_of(values: Any, like: Any) -> None:
    features, origin = features_at(values, FIRST, like), _lines(values, FIRST + 1, 1)[0]
    thread, begin, beyond = share(values, features.shape[0])
    sums = _own_sums(values, FIRST + 2, thread)
    # Of each array a loop knows whether it overlaps another: of few, or it goes by single values.
    first, second = np.zeros(len(origin), np.float32), np.zeros(len(origin), np.float32)
    for band in range(begin, beyond, BAND):
        last = min(band + BAND, beyond)
        paired = last - (last - band) % 2
        for cell in range(band, paired, 2):
            for c in range(len(origin)):
                one = wide(features[cell, c]) - origin[c]
                other = wide(features[cell + 1, c]) - origin[c]
                first[c] += one + other
                second[c] += one * one + other * other
        for cell in range(paired, last):
            for c in range(len(origin)):
                one = wide(features[cell, c]) - origin[c]
                first[c] += one
                second[c] += one * one
        _move(first, sums[0])
        _move(second, sums[1])
        if values[FIRST + 3] != NOWHERE:
            _copy(features, features_at(values, FIRST + 3, like), band, last)


@inlined
def _normalise_of(values: Any, like: Any) -> None:
    features, result = features_at(values, FIRST, like), features_at(values, FIRST + 1, like)
    terms, bounds = _lines(values, FIRST + 2, 3), _bounds(values, FIRST + 3)
    _, begin, beyond = share(values, features.shape[0])
    lowest, highest = bounds[0], bounds[1]
    for cell in range(begin, beyond):
        for c in range(features.shape[1]):
            value = wide(features[cell, c]) * terms[SCALE, c] + terms[SHIFT, c]
            value = lowest if value < lowest else value
            value = highest if value > highest else value
            result[cell, c] = narrow(value, like)


@inlined
def _passed(gradient: Any, feature: Any, scale: Any, shift: Any, bounds: Any) -> Any:
    """Return the gradient where what was clamped lay between the bounds, else 0."""
    value = feature * scale + shift
    gradient = np.float32(0) if value <= bounds[0] else gradient
    return np.float32(0) if value >= bounds[1] else gradient


@inlined
def _add_up_gradients_of(values: Any, like: Any) -> None:
    gradient, features = features_at(values, FIRST, like), features_at(values, FIRST + 1, like)
    terms, bounds = _lines(values, FIRST + 2, 3), _bounds(values, FIRST + 3)
    thread, begin, beyond = share(values, features.shape[0])
    sums = _own_sums(values, FIRST + 4, thread)
    first, second = np.zeros(sums.shape[1], np.float32), np.zeros(sums.shape[1], np.float32)
    limits = (bounds[0], bounds[1])
    for band in range(begin, beyond, BAND):
        last = min(band + BAND, beyond)
        for cell in range(band, last):
            for c in range(sums.shape[1]):
                feature = wide(features[cell, c])
                scale, shift = terms[SCALE, c], terms[SHIFT, c]
                passed = _passed(wide(gradient[cell, c]), feature, scale, shift, limits)
                first[c] += passed
                second[c] += passed * (feature - terms[MEAN, c])
        _move(first, sums[0])
        _move(second, sums[1])
        if values[FIRST + 5] != NOWHERE:
            _copy(gradient, features_at(values, FIRST + 5, like), band, last)


@inlined
def _pass_on_of(values: Any, like: Any) -> None:
    gradient, features = features_at(values, FIRST, like), features_at(values, FIRST + 1, like)
    terms, bounds = _lines(values, FIRST + 2, 3), _bounds(values, FIRST + 3)
    rest, result = _lines(values, FIRST + 4, 2), features_at(values, FIRST + 5, like)
    _, begin, beyond = share(values, features.shape[0])
    limits = (bounds[0], bounds[1])
    for cell in range(begin, beyond):
        for c in range(features.shape[1]):
            feature, scale = wide(features[cell, c]), terms[SCALE, c]
            passed = _passed(wide(gradient[cell, c]), feature, scale, terms[SHIFT, c], limits)
            passed = passed * scale + (feature * rest[0, c] + rest[1, c])
            result[cell, c] = narrow(passed, like)


# What numba keeps compiled must close over nothing that differs from process to process.


def _add_up_entry(address: Any) -> None:
    in_precision(_add_up_of, address)


def _normalise_entry(address: Any) -> None:
    in_precision(_normalise_of, address)


def _add_up_gradients_entry(address: Any) -> None:
    in_precision(_add_up_gradients_of, address)


def _pass_on_entry(address: Any) -> None:
    in_precision(_pass_on_of, address)


_add_up = Callback(_add_up_entry)
_normalise = Callback(_normalise_entry)
_add_up_gradients = Callback(_add_up_gradients_entry)
_pass_on = Callback(_pass_on_entry)
