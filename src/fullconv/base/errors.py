"""The errors that a user can cause, told in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FullconvError(Exception):
    """Bad usage or bad data: the message names the thing, what is wrong and what to do.

    The command line prints the message alone, on one line, and exits with `exit_code`.
    """

    exit_code = 2


class WorkFailedError(FullconvError):
    """The request was sound but the work failed, wholly or for some inputs."""

    exit_code = 1


class ToldElsewhereError(FullconvError):
    """Another process of the same work has failed and told of it: this one says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process has told of a failure")
        self.exit_code = exit_code


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return a clause that names the likeliest intended spellings, or "" if none is near.

    Example: ``nearest("resnet8", ["resnet18", "vgg16"])`` is ``"; did you mean resnet18?"``.
    """
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def few_named(names: Sequence[str], most: int = 3) -> str:
    """Join the first `most` names of a list that may be long: "a, b, c and 7 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def one_line(error: Exception, most: int = 300) -> str:
    """Return what an error says, that is not ours, in one line of bounded length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) < most else f"{words[:most]}..."
