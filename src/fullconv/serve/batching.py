"""Photos that wait at the same time, worked out together if they are alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[T, R]):
    item: T
    kind: Hashable
    result: Future[R]


class Together(Generic[T, R]):
    """Does a piece of work for several threads at once, as far as their items are alike.

    No item waits for others to come: whoever finds that there is room takes the item that has
    waited longest, and all like it that wait already, and does the work in its own thread.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        kind: Callable[[T], Hashable],
        most: int,
        at_once: int = 1,
        tell: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Settle how to work.

        Args:
            work: gives a result for each of several items.
            kind: equal of items that may be worked on together.
            most: how many these are at most.
            at_once: how many such groups are worked on side by side.
            tell: is told how many items each group has.
        """
        self._work, self._kind, self._most, self._tell = work, kind, most, tell
        self._room = at_once
        self._waiting: list[_Waiting[T, R]] = []
        self._changed = threading.Condition()

    def __call__(self, item: T) -> R:
        """Return the result for an item; whatever the work raises for it is raised here."""
        mine = _Waiting[T, R](item, self._kind(item), Future())
        with self._changed:
            self._waiting.append(mine)
        while not mine.result.done():
            group = self._next_group(mine)
            if group:
                self._do(group)
        return mine.result.result()

    def _next_group(self, mine: _Waiting[T, R]) -> list[_Waiting[T, R]]:
        """Wait until `mine` is done, or there is room for some group: then take that."""
        with self._changed:
            self._changed.wait_for(lambda: mine.result.done() or (self._room and self._waiting))
            if mine.result.done():
                return []
            kind = self._waiting[0].kind
            group = [each for each in self._waiting if each.kind == kind][: self._most]
            for each in group:
                self._waiting.remove(each)
            self._room -= 1
            return group

    def _do(self, group: list[_Waiting[T, R]]) -> None:
        try:
            self._tell(len(group))
            results = self._work([each.item for each in group])
            for each, result in zip(group, results, strict=True):
                each.result.set_result(result)
        except Exception as error:
            self._do_alone(group, error)
        finally:
            with self._changed:
                self._room += 1
                self._changed.notify_all()

    def _do_alone(self, group: list[_Waiting[T, R]], error: Exception) -> None:
        """Work on each by itself, lest one spoils it for the others."""
        for each in group:
            try:
                if len(group) == 1:
                    raise error
                (result,) = self._work([each.item])
                each.result.set_result(result)
            except Exception as own:
                each.result.set_exception(own)
