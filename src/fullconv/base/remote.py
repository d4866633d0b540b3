"""Files on other machines, by addresses such as s3://bucket/key, gs://… or https://…, by fsspec.

`file://` and `memory://` are addresses, too. Nothing is kept open: a process that was forked from
this one asks anew, since connections don't survive that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError, one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_EXTRA = "pip install 'fullconv[remote]'"


def is_remote(text: str) -> bool:
    """Tell whether a text is an address, such as s3://bucket/photos, and no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def filesystem(address: str) -> tuple[AbstractFileSystem, str]:
    """Return what reads an address, and what it calls it: s3fs, "bucket/photos".

    Raises:
        FullconvError: its scheme is unknown, or the package that reads it isn't installed.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(address)
    except ImportError as error:
        reason = one_line(error)
        raise FullconvError(f"{address}: can't be read ({reason}): {_EXTRA}") from error
    except ValueError as error:
        raise FullconvError(f"{address}: is no address that fsspec reads ({error})") from error
    return system, path


@contextmanager
def failing_in_a_line(address: str) -> Iterator[None]:
    """Turn whatever fails in the body, which reads `address`, into one line."""
    try:
        yield
    except FullconvError:
        raise
    except FileNotFoundError:
        raise FullconvError(f"{address}: no such file") from None
    except PermissionError as error:
        reason = one_line(error)
        raise FullconvError(
            f"{address}: may not be read: check your credentials ({reason})"
        ) from error
    except Exception as error:  # what clients of so many services raise is not a closed list
        raise FullconvError(f"{address}: can't be read ({one_line(error)})") from error


def read(address: str, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of a file, or those from `start` to before `end`.

    Raises:
        FullconvError: it is not there, or can't be read.
    """
    system, path = filesystem(address)
    with failing_in_a_line(address):
        content: bytes = system.cat_file(path, start=start, end=end)
        return content
