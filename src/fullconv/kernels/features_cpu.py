"""Features as compiled functions see them: cells x channels, in bfloat16 or float32.

They are N x C x H x W, their channels innermost (channels_last), and are worked on in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray
from torch import Tensor

from fullconv.kernels.compiling import Callback, carray, inlined, intrinsic
from fullconv.kernels.torch_threads import ARGUMENTS, on_torch_threads, pointer

# Of the arguments of each pass: bytes of a feature, cells, channels, then features and the like.
BYTES, CELLS, CHANNELS = range(ARGUMENTS, ARGUMENTS + 3)
FIRST, HALF = CHANNELS + 1, 2
MOST = FIRST + 16  # arguments, at most


def run(
    function: Callback,
    features: Tensor,
    *arguments: int | Tensor | NDArray[Any],
    threads: int | None = None,
) -> None:
    """Call a function in every thread with the sizes of features, and what else it takes."""
    sizes = features.element_size(), cells_of(features), features.shape[1]
    on_torch_threads(function, *sizes, *arguments, threads=threads)


def cells_of(features: Tensor) -> int:
    """Return how many cells there are, of all images together."""
    return features.numel() // features.shape[1]


@intrinsic  # type: ignore[untyped-decorator]
def wide(_: Any, value: Any) -> Any:
    """Return a float32, or one of which a uint16 holds the upper half: a bfloat16."""

    def generate(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        from llvmlite import ir

        if value == types.float32:
            return arguments[0]
        whole = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(whole, ir.IntType(32)(16)), ir.FloatType())

    return types.float32(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def narrow(_: Any, value: Any, like: Any) -> Any:  # noqa: ARG001 (its type)
    """Return a float32 as `like` is stored: a bfloat16 is the nearest, of two the even one."""

    def generate(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        from llvmlite import ir

        if like == types.float32:
            return arguments[0]
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, word(16)), word(1))
        rounded = builder.add(builder.add(bits, word(0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, word(16)), ir.IntType(16))

    return like(types.float32, like), generate


@inlined
def in_precision(function: Any, address: Any) -> None:
    """Call a compiled function with a pass's arguments and a value as its features are stored."""
    values = carray(address, MOST, np.int64)
    if values[BYTES] == HALF:
        function(values, np.uint16(0))
    else:
        function(values, np.float32(0))


@inlined
def features_at(values: Any, place: int, like: Any) -> Any:
    """Return the features that an argument is the address of; `like` is a value of theirs."""
    shape = (values[CELLS], values[CHANNELS])
    return carray(pointer(values[place], like), shape)
