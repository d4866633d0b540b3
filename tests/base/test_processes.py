"""Processes that work together: what each hears of the others, and how all end when one does."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from side_by_side import LEFT, side_by_side

from fullconv.base.errors import FullconvError, ToldElsewhereError, WorkFailedError
from fullconv.base.processes import ALONE, Processes


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("things", [0, 1, 2, 3, 20, 100])
def test_blocks_are_all_things_once_and_alike(count: int, things: int) -> None:
    blocks = [Processes(rank, count).block(things) for rank in range(count)]
    assert [each for block in blocks for each in block] == list(range(things))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def exchanged(processes: Processes) -> list[object]:
    rank = processes.rank
    rows = torch.arange(float(rank + 1), requires_grad=True)
    joined = processes.joined(rows)
    (joined * torch.arange(1.0, len(joined) + 1)).sum().backward()
    return [
        processes.total(torch.tensor([1.0, rank])),
        processes.stacked(torch.tensor([rank, -rank])),
        joined,
        rows.grad,
        processes.gathered({"rank": rank}),
        processes.first(lambda: f"said by {rank}"),
        processes.led(lambda: [rank], lambda made: made[0] + 10, lambda told: [told, rank]),
        processes.clock(lambda: rank + 0.5)(),
        processes.traffic.bytes,
    ]


@pytest.mark.slow
def test_what_processes_exchange() -> None:
    results = side_by_side(exchanged, count=3)
    own_gradients = [[1.0], [2.0, 3.0], [4.0, 5.0, 6.0]]
    for rank, (total, stacked, joined, gradient, gathered, *rest, handed) in enumerate(results):
        np.testing.assert_array_equal(total, [3, 3])
        np.testing.assert_array_equal(stacked, [[0, 0], [1, -1], [2, -2]])
        np.testing.assert_array_equal(joined, [0, 0, 1, 0, 1, 2])
        np.testing.assert_array_equal(gradient, own_gradients[rank])
        assert gathered == [{"rank": each} for each in range(3)]
        assert rest == ["said by 0", [0] if rank == 0 else [10, rank], 0.5]
        assert handed == 2 * 4 + 2 * 8 + 8 + 3 * 4


def test_alone_all_of_it_is_one_s_own() -> None:
    (total, stacked, joined, gradient, gathered, *rest, handed) = exchanged(ALONE)
    assert (total.tolist(), stacked.tolist()) == ([1, 0], [[0, 0]])
    assert (joined.tolist(), gradient.tolist()) == ([0], [1])
    assert (gathered, rest, handed) == ([{"rank": 0}], ["said by 0", [0], 0.5], 0)


def refused(processes: Processes) -> None:
    def refuse() -> None:
        raise FullconvError("photo.jpg: is no image; remove it")

    processes.first(refuse)


def all_refused(processes: Processes) -> None:
    processes.total(torch.zeros(1))
    raise FullconvError("all are wrong alike")


@pytest.mark.parametrize("work", [refused, all_refused])
def test_a_failure_is_told_once(work: object) -> None:
    errors = side_by_side(work, count=3)
    told = [error for error in errors if not isinstance(error, ToldElsewhereError)]
    assert len(errors) == 3
    assert [type(error) for error in told] == [FullconvError]
    assert {error.exit_code for error in errors} == {2}
    assert work is not refused or errors[0] is told[0]


def left(processes: Processes, rank: int) -> None:
    processes.total(torch.zeros(1))
    if processes.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    processes.total(torch.zeros(1))


@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_end_when_one_is_killed(rank: int) -> None:
    ends = side_by_side(left, rank, count=3)
    assert ends.pop(rank) == LEFT
    (told,) = (error for error in ends if not isinstance(error, ToldElsewhereError))
    assert isinstance(told, WorkFailedError)
    assert "another one has ended before the work was done" in str(told)
    assert "--resume" in str(told)
