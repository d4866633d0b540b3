"""How the C library hands out large blocks of memory: kept, not returned after each layer."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h> of the GNU C library
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed for the next allocation; for the whole process.

    By default the GNU C library returns every block above 32 MB to the system when it is freed, so
    that each layer's activations are given anew, zeroed page by page: a large part of the time of
    a training step on a CPU. Programs call this once at their start; libraries shouldn't.

    Returns:
        Whether this C library takes the wish (it does on most Linux systems).
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
