"""Signals that ask the process to end, taken as Ctrl-C is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # the shell's convention: 128 + SIGINT
ENDING = ("SIGTERM", "SIGHUP")  # the latter when a terminal closes; Windows has none


class Stopped(BaseException):
    """A signal asks the process to end; as with `KeyboardInterrupt`, nothing is to catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number  # the shell's convention


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the body when such a signal comes, unless it is being ignored (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    own = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:  # a process that was forked meanwhile, to prepare images
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Stopped(number)

    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
