"""The OpenMP runtime that torch's own threads are of."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from functools import cache
from typing import Any, NamedTuple

import torch

FUNCTIONS = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"


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
    of_openmp = "OpenMP" in torch.__config__.parallel_info().partition("backend:")[2]
    if not of_openmp or sys.platform == "win32":
        return None
    # What is preloaded (LD_PRELOAD) takes the place of the library that torch brings along.
    for library in (ctypes.CDLL(None), ctypes.CDLL(torch._C.__file__)):
        if all(hasattr(library, name) for name in FUNCTIONS):
            return _runtime_of(library)
    return None


def _runtime_of(library: ctypes.CDLL) -> Runtime:
    parallel, *told = (getattr(library, name) for name in FUNCTIONS)
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    addresses = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in told)
    return Runtime(parallel, *addresses)
