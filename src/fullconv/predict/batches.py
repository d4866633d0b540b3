"""Images in batches of like sizes, so that none of them waits long for a single one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fullconv.base.remote_files import Remote
from fullconv.predict.jobs import Job

MOST_IMAGES = 32
MOST_BYTES = 32 << 20
BATCHES_EACH = 8  # for each actor at least, if there are so many images: they end together


def batches(jobs: Sequence[Job], actors: int) -> list[tuple[Job, ...]]:
    """Divide images into batches, those of the largest files first.

    Images whose files have like sizes are together; where nothing tells these (lists of
    addresses), in order of name.

    Args:
        jobs: the images.
        actors: how many will work on a batch each.
    """
    most = max(1, min(MOST_IMAGES, -(-len(jobs) // (BATCHES_EACH * actors))))
    sized = sorted(((_size(job), job) for job in jobs), key=lambda each: (-each[0], each[1].name))
    found: list[list[Job]] = []
    held = 0
    for size, job in sized:
        if not found or len(found[-1]) == most or held + size > MOST_BYTES:
            found.append([])
            held = 0
        found[-1].append(job)
        held += size
    return [tuple(each) for each in found]


def _size(job: Job) -> int:
    """Return the bytes of an image's file; 0 where nobody knows."""
    if isinstance(job.source, Remote):
        return job.source.size or 0
    with suppress(OSError):
        if isinstance(job.source, Path):
            return job.source.stat().st_size
    return 0
