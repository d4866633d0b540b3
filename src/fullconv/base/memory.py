"""How much memory there is for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process may still take before the kernel would kill it.

    That is what the machine has free, or what the process's control groups (of containers and of
    batch systems; versions 1 and 2) leave it, if that is less. Files in the cache count as free.

    Args:
        root: where /proc and /sys lie.

    Returns:
        None where the system does not tell.
    """
    free = list(_free_in_groups(root))
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        free.append(1024 * int(line.split()[1]))
    if not free and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):  # where nothing tells what is free: half of all
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return max(0, min(free)) if free else None


def _free_in_groups(root: Path) -> Iterator[int]:
    """Yield what each control group of this process, and each around it, leaves."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                files, top = ("memory.max", "memory.current", "inactive_file"), "sys/fs/cgroup"
            elif "memory" in controllers.split(","):
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                top = "sys/fs/cgroup/memory"
            else:
                continue
            group = Path(path.lstrip("/"))
            for folder in {group, *group.parents, Path()}:  # a container may see its own as the top
                with suppress(OSError, ValueError, StopIteration):
                    yield _free_in(root / top / folder, *files)


def _free_in(folder: Path, limit: str, usage: str, reclaimable: str) -> int:
    """Return what one control group leaves; ValueError where it sets no limit ("max")."""
    most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
    statistics = (folder / "memory.stat").read_text().splitlines()
    cached = next(line for line in statistics if line.startswith(f"{reclaimable} "))
    return most - used + int(cached.split()[1])
