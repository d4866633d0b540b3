"""Compiled functions on torch's own threads.

Torch's threads spin for milliseconds after each of its operations. Those of any other pool, numba's
own for one, would take turns with them on the same cores, for several times the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray
from torch import Tensor

from fullconv.kernels.compiling import Callback, inlined, intrinsic
from fullconv.kernels.openmp import runtime

ARGUMENTS = 2  # where they begin, after how to ask for the thread and for their number


def on_torch_threads(
    function: Callback, *arguments: int | Tensor | NDArray[Any], threads: int | None = None
) -> None:
    """Call a function in every thread, with the address of all `arguments` or their addresses.

    Args:
        function: is called.
        arguments: it takes, tensors and arrays by their addresses.
        threads: how many at most; None: as many as torch computes by.
    """
    team = runtime()
    assert team is not None
    given = [team.thread, team.threads, *map(_number, arguments)]
    values = np.array(given, np.int64)
    count = torch.get_num_threads() if threads is None else threads
    team.parallel(function.address, values.ctypes.data, count, 0)


def _number(argument: int | Tensor | NDArray[Any]) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return argument if isinstance(argument, int) else int(argument.ctypes.data)


@intrinsic  # type: ignore[untyped-decorator]
def pointer(_: Any, address: Any, like: Any) -> Any:  # noqa: ARG001 (its type)
    """Return an address as that of values of the type of `like`."""
    kind: Any = types.CPointer(like)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.int64, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def _asked(_: Any, address: Any) -> Any:  # noqa: ARG001 (its type)
    """Call what lies at an address, which takes nothing and returns a C int."""

    def generate(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        from llvmlite import ir

        kind = ir.FunctionType(ir.IntType(32), ())
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), ())

    return types.int32(types.int64), generate


@inlined
def share(values: Any, count: Any) -> Any:
    """Return the number of this thread, and which of `count` things are its: first, beyond."""
    thread, threads = _asked(values[0]), _asked(values[1])
    return thread, count * thread // threads, count * (thread + 1) // threads
