import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from service import PATIENCE, until

from fullconv.serve.batching import Together


class Work:
    """Doubles numbers, in groups, while its gate is open."""

    def __init__(self):
        self.gate, self.groups, self.entered = threading.Event(), [], threading.Semaphore(0)

    def __call__(self, items):
        self.groups.append(list(items))
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def waiting(together):
    return len(together._waiting)


def queued(together, pool, items):
    """Have an item worked on, and then all others wait, in order."""
    futures = []
    for count, item in enumerate(items):
        futures.append(pool.submit(together, item))
        if count == 0:
            assert together._work.entered.acquire(timeout=PATIENCE)
        else:
            until(lambda count=count: waiting(together) == count)
    return futures


def test_what_waits_meanwhile_is_done_together(work, pool):
    together = Together(work, lambda _: 0, 4)
    futures = queued(together, pool, range(6))
    work.gate.set()
    assert [future.result(PATIENCE) for future in futures] == [0, 2, 4, 6, 8, 10]
    assert work.groups == [[0], [1, 2, 3, 4], [5]]


def test_only_what_is_alike_is_and_the_oldest_comes_first(work, pool):
    together = Together(work, lambda item: item % 2, 4)
    futures = queued(together, pool, [1, 2, 3, 4, 5])
    work.gate.set()
    assert [future.result(PATIENCE) for future in futures] == [2, 4, 6, 8, 10]
    assert work.groups == [[1], [2, 4], [3, 5]]


def test_groups_are_worked_on_side_by_side(work, pool):
    together = Together(work, lambda _: 0, 1, at_once=2)
    futures = [pool.submit(together, item) for item in range(3)]
    for _ in range(2):
        assert work.entered.acquire(timeout=PATIENCE)
    until(lambda: waiting(together) == 1)
    assert len(work.groups) == 2
    work.gate.set()
    assert sorted(future.result(PATIENCE) for future in futures) == [0, 2, 4]


def test_one_that_fails_does_not_spoil_the_others(work, pool):
    together = Together(work, lambda _: 0, 4)
    futures = queued(together, pool, [0, 1, -2, 3])
    work.gate.set()
    assert [futures[at].result(PATIENCE) for at in (0, 1, 3)] == [0, 2, 6]
    with pytest.raises(ValueError, match="negative"):
        futures[2].result(PATIENCE)


def test_sizes_of_groups_are_told(work):
    told = []
    work.gate.set()
    assert Together(work, lambda _: 0, 4, tell=told.append)(5) == 10
    assert told == [1]
