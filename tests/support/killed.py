"""The command line in a process of its own, which ends it or kills itself at a chosen place.

It is forked from one that has imported torch already, without its seconds for each.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import torch
from side_by_side import PATIENCE, context

from fullconv.cli import main

Place = tuple[str, str, int, str]  # a module, its function, which call of it, before or after it


def call_until_killed(module: str, name: str, count: int, when: str) -> None:
    """Have this process kill itself at a place."""
    importlib.import_module("fullconv.train.run")
    home, calls = importlib.import_module(module), [0]
    real = getattr(home, name)

    def call(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        last = calls[0] == count
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    for each in list(sys.modules.values()):  # wherever it was imported to
        if getattr(each, "__name__", "").startswith("fullconv") and vars(each).get(name) is real:
            setattr(each, name, call)


def command(words: list[str], place: Place | None = None) -> None:
    """Be a process that runs the command line, to its end or to a place."""
    torch.set_num_threads(1)
    if place:
        call_until_killed(*place)
    sys.argv = ["fullconv", *words]
    main()


def exit_code(*words: object, place: Place | None = None) -> int | None:
    """Run the command line in a process of its own, which has imported what is heavy already."""
    process = context.Process(target=command, args=([*map(str, words)], place))
    process.start()
    process.join(PATIENCE)
    process.kill()
    return process.exitcode


def killed(place: Place, *words: object) -> None:
    """Run the command line until it kills itself at a place."""
    assert exit_code(*words, place=place) == -signal.SIGKILL, place
