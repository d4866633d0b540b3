"""Functions compiled by numba on first use, and kept in its cache where that has a place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
from numba.core import caching
from numba.core.ccallback import CFunc
from numba.extending import intrinsic as _intrinsic

_FunctionCache: Any = caching.FunctionCache
carray: Any = numba.carray  # type: ignore[attr-defined]
intrinsic: Any = _intrinsic


class _OptionalCache(_FunctionCache):  # type: ignore[misc]
    """numba's cache on disk; what it can't read or keep is compiled again in the next process.

    numba looks at the file of a function alone, and not at those that it calls functions of.
    """

    def _index_key(self, *signature: Any) -> Any:
        sources = [path.stat() for path in sorted(Path(__file__).parent.glob("*.py"))]
        made = tuple((source.st_mtime_ns, source.st_size) for source in sources)
        return super()._index_key(*signature), made

    def load_overload(self, *signature: Any) -> Any:
        """Return what was compiled before, None if there is nothing sound."""
        try:
            return super().load_overload(*signature)
        except Exception:  # a damaged file may fail anywhere
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, *compiled: Any) -> None:
        """Keep what was compiled, if the disk takes it."""
        with suppress(OSError):
            super().save_overload(*compiled)


def compiled(function: Callable[..., Any]) -> Any:
    """Return `function` compiled by numba, for callers in Python."""
    made: Any = numba.njit(nogil=True, fastmath={"nnan", "nsz", "reassoc"})(function)
    return _cached(made, function)


def inlined(function: Callable[..., Any]) -> Any:
    """Return `function` compiled as a part of a `Callback`; a float divided by 0 is infinite."""
    return numba.njit(fastmath={"contract"}, error_model="numpy")(function)


class Callback:
    """A function of an address, compiled for callers in C; NaN and signed zeros are kept."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    @cached_property
    def address(self) -> int:
        """Where the compiled function lies."""
        signature = numba.types.void(numba.types.voidptr)
        made: Any = CFunc(self._function, (signature.args, signature.return_type), {}, {})
        _cached(made, self._function).compile()
        return int(made.address)


def _cached(made: Any, function: Callable[..., Any]) -> Any:
    with suppress(RuntimeError):  # no place for a cache: neither beside the file nor in a home
        made._cache = _OptionalCache(function)
    return made
