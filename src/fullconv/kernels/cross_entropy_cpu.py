"""Softmax, cross entropy and its gradient of full-resolution scores on CPUs, in one go."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from torch import Tensor

from fullconv.kernels.compiling import Callback, carray, inlined, intrinsic
from fullconv.kernels.torch_threads import ARGUMENTS, on_torch_threads, pointer, share

BLOCK = 512  # pixels whose scores are in the innermost cache at a time
IMAGES, CLASSES, PIXELS, IGNORED, BYTES, FIRST = range(ARGUMENTS, ARGUMENTS + 6)
MOST = FIRST + 5
MASS, ABOVE, WEIGHT = range(3)
# exp(x) as 2^n exp(r), where r is at most half of log 2: of its Taylor series so many terms differ
# from it by less than float32 can tell.
LOG2_E, LOG_2_HIGH, LOG_2_LOW = 1.44269504, 0.693359375, -2.12194440e-4
LOWEST = -87.0  # the exponential of less is no normal float32


def loss_and_gradient(
    scores: Tensor, truth: Tensor, weight: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of each pixel, times its weight, and this.

    Args:
        scores: float32 N,C,H,W, contiguous; the gradient takes their place.
        truth: a class or `ignore_index` of each pixel, integers N,H,W.
        weight: float32 of each class.
        ignore_index: of pixels that weigh nothing.

    Returns:
        Losses and weights, float32 N,H,W.
    """
    kind = truth.dtype if truth.dtype == torch.uint8 else torch.int64
    labels = truth.to(kind).contiguous()
    assert scores.is_contiguous()  # the gradient takes their place
    count, classes, height, width = scores.shape
    found = torch.empty(3, count, height, width)
    sizes = count, classes, height * width, ignore_index, labels.element_size()
    on_torch_threads(_fill_in, *sizes, scores, labels, weight.contiguous(), found)
    mass, above, each = found
    return mass.log_().add_(above).mul_(each), each


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_2(_: Any, exponent: Any) -> Any:  # noqa: ARG001 (its type)
    """Return 2 to an int32 between -126 and 127, float32."""

    def generate(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        from llvmlite import ir

        word = ir.IntType(32)
        bits = builder.shl(builder.add(arguments[0], word(127)), word(23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), generate


@inlined
def _exp(x: Any) -> Any:
    """Return the exponential of a float32 of 0 or less; a loop over it goes by vectors."""
    f = np.float32
    x = f(LOWEST) if x < f(LOWEST) else x
    n = np.floor(x * f(LOG2_E) + f(0.5))
    r = x - n * f(LOG_2_HIGH) - n * f(LOG_2_LOW)
    series = f(1 / 720) + r * f(1 / 5040)
    for one in (f(1 / 120), f(1 / 24), f(1 / 6), f(1 / 2), f(1), f(1)):
        series = series * r + one
    return series * _power_of_2(np.int32(n))


@inlined
def _fill_in_of(values: Any, like: Any) -> None:
    count, classes, pixels = values[IMAGES], values[CLASSES], values[PIXELS]
    scores = carray(pointer(values[FIRST], np.float32(0)), (count, classes, pixels))
    truth = carray(pointer(values[FIRST + 1], like), (count, pixels))
    weight = carray(pointer(values[FIRST + 2], np.float32(0)), (classes,))
    found = carray(pointer(values[FIRST + 3], np.float32(0)), (3, count, pixels))
    highest, mass = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    blocks = (pixels + BLOCK - 1) // BLOCK
    _, begin, beyond = share(values, count * blocks)
    for place in range(begin, beyond):
        image, left = place // blocks, place % blocks * BLOCK
        width = min(BLOCK, pixels - left)
        some = scores[image, :, left : left + width]
        highest[:width] = some[0]
        for k in range(1, classes):
            for x in range(width):
                highest[x] = some[k, x] if some[k, x] > highest[x] else highest[x]
        for x in range(width):
            label = truth[image, left + x]
            known = label != values[IGNORED]
            own = some[label if known else 0, x]
            found[ABOVE, image, left + x] = highest[x] - own
            found[WEIGHT, image, left + x] = weight[label] if known else np.float32(0)
        mass[:width] = 0
        for k in range(classes):
            for x in range(width):
                power = _exp(some[k, x] - highest[x])
                some[k, x] = power
                mass[x] += power
        for x in range(width):
            found[MASS, image, left + x] = mass[x]
            mass[x] = found[WEIGHT, image, left + x] / mass[x]
        for k in range(classes):
            for x in range(width):
                some[k, x] *= mass[x]
        for x in range(width):
            label = truth[image, left + x]
            if label != values[IGNORED]:
                some[label, x] -= found[WEIGHT, image, left + x]


def _fill_in_entry(address: Any) -> None:
    values = carray(address, MOST, np.int64)
    if values[BYTES] == 1:
        _fill_in_of(values, np.uint8(0))
    else:
        _fill_in_of(values, np.int64(0))


_fill_in = Callback(_fill_in_entry)
