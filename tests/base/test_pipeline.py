"""A stage in the background: order, bounds, overlap and failures."""

from __future__ import annotations

import threading
import time

import pytest

from fullconv.base.pipeline import ahead, watched


def test_results_come_in_order_whatever_takes_how_long():
    def work(n):
        time.sleep(0.01 * (n % 3 == 0))
        return n * n

    assert list(ahead(work, range(20), workers=4)) == [n * n for n in range(20)]
    assert list(ahead(work, [])) == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_takes_few_items_before_they_are_wanted(workers):
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = ahead(lambda n: n, items(), workers)
    for n, result in enumerate(results):
        assert result == n
        assert len(taken) <= n + 1 + workers


def test_work_overlaps_the_consumer():
    """The worker can only finish item 1 while the consumer still holds item 0."""
    consumer_is_busy, done = threading.Event(), threading.Event()

    def work(n):
        if n == 1:
            assert consumer_is_busy.wait(60)
            done.set()
        return n

    results = ahead(work, range(4), workers=1)
    assert next(results) == 0
    consumer_is_busy.set()
    assert done.wait(60)
    assert list(results) == [1, 2, 3]


def test_items_are_taken_in_the_consumer_s_thread():
    def items():
        for _ in range(5):
            yield threading.get_ident()

    assert set(ahead(lambda ident: ident, items())) == {threading.get_ident()}


def test_an_exception_comes_where_its_result_would():
    results = ahead(lambda n: 1 // n, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_abandoned_work_leaves_no_thread_running():
    before = set(threading.enumerate())

    def items():
        yield from range(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(ahead(lambda _: time.sleep(0.05), items(), workers=2))
    assert set(threading.enumerate()) <= before


def test_what_is_watched_comes_in_order_and_so_does_its_failure():
    def items():
        yield from range(3)
        raise ValueError("the end")

    assert list(watched(range(5), 60)) == [*range(5)]
    found = watched(items(), 60)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the end"):
        next(found)


def test_what_does_not_come_is_waited_for_no_longer():
    never = threading.Event()

    def items():
        yield 1
        never.wait()

    found = watched(items(), 0.01)
    with pytest.raises(TimeoutError, match=r"nothing came for 0\.01 seconds"):
        list(found)
    never.set()
