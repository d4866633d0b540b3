"""Doing one stage of a stream in the background while the next stage works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], workers: int = 2) -> Iterator[R]:
    """Yield ``work(item)`` for each item, in order, worked out by threads ahead of the consumer.

    At most ``workers + 1`` items are in hand at a time, so memory stays bounded however many there
    are. `items` is consumed in the caller's own thread: stages chain by nesting, each overlapping
    the others. An exception in `work` is raised where its result would be yielded.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
