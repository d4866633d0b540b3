"""The lock of a run folder: one training at a time writes into it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from fullconv.base.errors import FullconvError

PATIENCE = 10.0  # seconds; processes that prepare images outlive a killed training, and its lock


class RunLock:
    """Holds a run folder while the body of ``with`` runs, from `take` on.

    The system frees it if this process dies, however that happens.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / ".lock"
        self._lock: FileLock | None = None

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Let another process have a lock that it has not taken."""
        return type(self), (self.out,)

    def take(self) -> None:
        """Hold the folder, which is there.

        Raises:
            FullconvError: another training holds it.
            OSError: it can't be written.
        """
        if self._lock is not None:
            return
        lock = FileLock(self.path, timeout=PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise FullconvError(
                f"{self.out}: another process trains into it; wait for its end, or choose another "
                "--out"
            ) from None
        except NotImplementedError:  # a file system without locks
            return
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            with suppress(OSError):
                self.path.unlink()
            self._lock.release()
            self._lock = None
