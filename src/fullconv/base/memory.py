"""How the C library hands out large blocks of memory: kept, not returned after each layer."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h> of the GNU C library
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = 2**31 - 1
DEFAULT_MMAP_MAX = 65536
LARGE = 32 * 2**20  # bytes; the highest M_MMAP_THRESHOLD


def keep_freed_memory(*, large: bool = True) -> bool:
    """Ask the C library to keep what is freed for the next allocation; for the whole process.

    By default the GNU C library returns large blocks to the system when they are freed, so that
    each layer's activations are given anew, zeroed page by page: a large part of the time of a
    training step on a CPU. Programs call this at their start; libraries shouldn't.

    Args:
        large: whether to keep blocks above 32 MB too. These fit badly into one another's place:
            that saves time and costs memory.

    Returns:
        Whether this C library takes the wish (it does on most Linux systems).
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [
        mallopt(M_TRIM_THRESHOLD, NEVER),
        mallopt(M_MMAP_THRESHOLD, LARGE),
        mallopt(M_MMAP_MAX, 0 if large else DEFAULT_MMAP_MAX),
    ]
    return all(taken)
