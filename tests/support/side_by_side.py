"""Processes that work together, as torchrun would start them, without its seconds for each.

They are forked from a server that has imported torch already. Their store is this process's, as it
is torchrun's otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.distributed import TCPStore

from fullconv.base.errors import ToldElsewhereError
from fullconv.base.processes import launched

PATIENCE = 120.0  # seconds; a test that hangs ends with an error
LEFT = "left without a word"

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch", "fullconv.train.run", "side_by_side", "killed"])


def side_by_side(work: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """Let `count` processes do ``work(processes, *arguments)``; return what each gave.

    Of one that raised, that is the error; of one that said nothing, `LEFT`. `work` is a function
    of a module.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes, begun = [], []
    for rank in range(count):
        here, there = context.Pipe(duplex=False)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": store.port}
        process = context.Process(target=_do, args=(there, place, work, arguments))
        process.start()
        there.close()
        pipes.append(here)
        begun.append(process)
    try:
        return [_heard(pipe) for pipe in pipes]
    finally:
        for process in begun:
            process.join(5)
            process.kill()


def _heard(pipe: Connection) -> Any:
    assert pipe.poll(PATIENCE), "they wait for each other without end"
    try:
        return pipe.recv()
    except EOFError:
        return LEFT


def _do(
    pipe: Connection, place: dict[str, int], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    torch.set_num_threads(1)
    try:
        with launched() as processes:
            pipe.send(_plain(work(processes, *arguments)))
    except Exception as error:
        pipe.send(_silent(error))


def _silent(error: Exception) -> Exception:
    """Return an error that can be sent."""
    return ToldElsewhereError(error.exit_code) if isinstance(error, ToldElsewhereError) else error


def _plain(value: Any) -> Any:
    """Return tensors as arrays: a tensor would go by shared memory of a process that is gone."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
