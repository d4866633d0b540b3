"""The standard streams, such that nothing printed can turn a success into a failure."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import TextIO


def settle_streams() -> None:
    """Let standard output and errors take any text, also where nobody reads them.

    A character that a stream's encoding lacks is printed as an escape. What goes into a closed
    stream, or into a pipe whose reader has left, is dropped. Streams that others put in the place
    of Python's own are left alone.
    """
    for number in range(3):  # else the next file opened would be taken for a standard stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _settled(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _settled(sys.stderr, sys.__stderr__, 2)


def log_warnings() -> None:
    """Send Python's warnings to the log, and that to standard error.

    There a reader of images takes those about an image for its own line about it.
    """
    logging.captureWarnings(True)
    warnings.filterwarnings("always", module="PIL")  # the same of a second image is heard, too
    if logging.lastResort is not None:
        logging.getLogger("py.warnings").addHandler(logging.lastResort)


def _settled(stream: TextIO | None, own: TextIO | None, number: int) -> TextIO:
    if stream is None:
        return _Stream(io.FileIO(number, "w", closefd=False), "utf-8", "backslashreplace")
    if stream is not own or not isinstance(stream, io.TextIOWrapper):
        return stream
    return _Stream(
        stream.buffer,
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,  # where PYTHONUNBUFFERED asks for it
    )


class _Stream(io.TextIOWrapper):
    """A standard stream that outlives its reader."""

    def write(self, text: str, /) -> int:
        """Write text, or drop it if the pipe's reader has left."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()
            super().flush()

    def _drop(self) -> None:
        """Send to nowhere what this stream holds and what is still to come."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError):
            os.dup2(nowhere, self.fileno())
        os.close(nowhere)
