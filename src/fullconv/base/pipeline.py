"""Doing one stage of a stream in the background while the next stage works."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import NoReturn, TypeVar

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


def watched(items: Iterable[T], seconds: float) -> Iterator[T]:
    """Yield what `items` yields, which is worked out in another thread.

    Args:
        items: of few bytes, since nothing keeps it from running ahead.
        seconds: how long to wait for each.

    Raises:
        TimeoutError: none came for so long. The thread is left alone, and ends with the process.
    """
    came: SimpleQueue[Callable[[], T]] = SimpleQueue()

    def run() -> None:
        try:
            for item in items:
                came.put(lambda item=item: item)  # type: ignore[misc]
        except BaseException as error:
            came.put(partial(_raise, error))
        came.put(partial(_raise, _Ended()))

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            yield came.get(timeout=seconds)()
    except Empty:
        raise TimeoutError(f"nothing came for {seconds:g} seconds") from None
    except _Ended:
        return


class _Ended(Exception):  # noqa: N818 (no error)
    """All items came."""


def _raise(error: BaseException) -> NoReturn:
    raise error
