"""How work goes, told to a person on stderr: lines, and bars with rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from fullconv.base.console import plain_console

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts `total` steps of long work and shows how far it is.

    Use `Reporter.bar` to make one. `advance` may carry a note, such as the current loss.
    """

    def __init__(self, total: int, what: str, unit: str, done: int = 0) -> None:
        """Start counting at `done`, which the rate leaves out (work of an earlier run)."""
        self.total, self.what, self.unit = total, what, unit
        self.done = self._first = done
        self.note = ""
        self._start = time.monotonic()

    @property
    def rate(self) -> float:
        """Units a second since the start, 0.0 before the first."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the present rate; None before the first step."""
        return (self.total - self.done) / self.rate if self.done > self._first else None

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more as done; a `note` stays until the next one."""
        self.done += steps
        self.note = note or self.note
        self._show()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        _print(line)

    def _show(self) -> None:
        """Show nothing: this class is the quiet one."""


class _Lines(Progress):
    """Plain lines on stderr, few enough for a log file."""

    _last = 0.0

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and self.done < self.total:
            return
        self._last = now
        left = self.seconds_left
        ending = f", {duration(left)} left" if left is not None else ""
        note = f"  {self.note}" if self.note else ""
        self.say(
            f"{self.what}: {self.done}/{self.total}, {self.rate:.1f} {self.unit}/s{ending}{note}"
        )


class _Bar(Progress):
    """A live bar on the terminal."""

    def __init__(self, total: int, what: str, unit: str, done: int = 0) -> None:
        super().__init__(total, what, unit, done)
        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="cyan", markup=False),
            console=plain_console(stderr=True),
        )
        self._task = self._rich.add_task(what, total=total, completed=done, note="", rate="")
        self._rich.start()

    def _show(self) -> None:
        rate = f"{self.rate:.1f} {self.unit}/s"
        self._rich.update(
            self._task, completed=self.done, total=self.total, note=self.note, rate=rate
        )

    def say(self, line: str) -> None:
        self._rich.console.print(line, soft_wrap=True)

    def close(self) -> None:
        self._rich.stop()


@dataclass(frozen=True)
class Reporter:
    """Tells a person how work goes, on stderr.

    Attributes:
        quiet: progress is not told; what failed, or was dropped or guessed, is told all the same.
        mute: nothing is told, for another process tells it.
    """

    quiet: bool = False
    mute: bool = False

    def say(self, line: str) -> None:
        """Tell a line of progress; nothing where `quiet`."""
        if not self.quiet:
            self.warn(line)

    def warn(self, line: str) -> None:
        """Tell a line in any case, unless `mute`."""
        if not self.mute:
            _print(line)

    @contextmanager
    def bar(
        self, total: int, what: str, *, unit: str = "images", done: int = 0
    ) -> Iterator[Progress]:
        """Show the progress of `total` steps of `what` while the body runs.

        On a terminal it is a live bar; elsewhere a line every few seconds; where `quiet`, nothing.
        """
        if self.quiet:
            yield Progress(total, what, unit, done)
        elif sys.stderr is None or not sys.stderr.isatty():
            yield _Lines(total, what, unit, done)
        else:
            bar = _Bar(total, what, unit, done)
            try:
                yield bar
            finally:
                bar.close()


SILENT = Reporter(quiet=True)


def _print(line: str) -> None:
    """Print a line on stderr, if there is one: work doesn't fail because nobody hears of it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr)


def duration(seconds: float) -> str:
    """Write a time span for people: "45 s", "12 min", "3 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
