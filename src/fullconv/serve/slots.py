"""How many requests are in hand: counted, and bounded."""

from __future__ import annotations

import threading


class NoSlotError(Exception):
    """All slots are taken."""


class Slots:
    """A bounded number of slots, which any thread may free."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._lock = most, 0, threading.Lock()

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._taken

    def take(self) -> None:
        """Take one; raises NoSlotError where there is none."""
        with self._lock:
            if self._taken >= self._most:
                raise NoSlotError
            self._taken += 1

    def free(self) -> None:
        """Give one back."""
        with self._lock:
            self._taken -= 1
