"""The OpenMP runtime that torch's own threads are of."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from typing import Any, NamedTuple

import torch


class Runtime(NamedTuple):
    """The OpenMP runtime that torch itself runs on.

    Attributes:
        parallel: calls a function in every thread of a team.
        thread, threads: addresses of what tells a thread its number, and how many there are.
    """

    parallel: Any
    thread: int
    threads: int


def has_torch_threads() -> bool:
    """Tell whether compiled functions can run on torch's threads: on Linux, usually."""
    return importlib.util.find_spec("numba") is not None and runtime() is not None


@cache
def runtime() -> Runtime | None:
    """Return the runtime of torch's threads, if it has the interface of GNU's OpenMP."""
    if "OpenMP" not in torch.__config__.parallel_info().partition("backend:")[2]:
        return None
    library = ctypes.CDLL(torch._C.__file__)
    try:
        parallel, *told = (
            getattr(library, name)
            for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        )
    except AttributeError:
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    addresses = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in told)
    return Runtime(parallel, *addresses)
