"""Files on other machines, by addresses such as s3://bucket/key, gs://… or https://…, by fsspec.

`file://` and `memory://` are addresses, too. Nothing is kept open: a process that was forked from
this one asks anew, since connections don't survive that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator

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
def failing_in_a_line(address: str, doing: str = "read") -> Iterator[None]:
    """Turn whatever fails in the body, which reads `address`, into one line; or `doing` else."""
    try:
        yield
    except FullconvError:
        raise
    except FileNotFoundError:
        what = "file" if doing == "read" else "folder or bucket"
        raise FullconvError(f"{address}: no such {what}") from None
    except PermissionError as error:
        reason = one_line(error)
        raise FullconvError(
            f"{address}: may not be {doing}: check your credentials ({reason})"
        ) from error
    except Exception as error:  # what clients of so many services raise is not a closed list
        raise FullconvError(f"{address}: can't be {doing} ({one_line(error)})") from error


def read(address: str, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of a file, or those from `start` to before `end`.

    Raises:
        FullconvError: it is not there, or can't be read.
    """
    system, path = filesystem(address)
    with failing_in_a_line(address):
        content: bytes = system.cat_file(path, start=start, end=end)
        return content


def sizes(addresses: Sequence[str]) -> list[int | None]:
    """Return how many bytes files have, all asked for at once; None where a server doesn't tell.

    Args:
        addresses: of one scheme and one server.

    Raises:
        FullconvError: one is not there, or can't be read.
    """
    if not addresses:
        return []
    found = [filesystem(each) for each in addresses]
    system, paths = found[0][0], [path for _, path in found]
    try:
        return list(system.sizes(paths))
    except FileNotFoundError:
        for address, path in zip(addresses, paths, strict=True):
            with failing_in_a_line(address):
                system.size(path)
        raise FullconvError(f"{addresses[0]}: can't be read; try again") from None
    except Exception as error:  # see `failing_in_a_line`
        raise FullconvError(f"{addresses[0]}: can't be read ({one_line(error)})") from error


class RemotePath(PosixPath):
    """An address as a path: what concerns names works, and no file is there for this system.

    `str` is the address, whose two slashes pathlib would make one.
    """

    def __str__(self) -> str:
        """Return the address."""
        return super().__str__().replace(":/", "://", 1)

    def absolute(self) -> Self:
        """Return itself: an address depends on no folder."""
        return self


def place(where: str | Path) -> Path:
    """Return where a text leads: a path; of an address a `RemotePath`, but a path of file://."""
    text = str(where)
    if isinstance(where, RemotePath) or not is_remote(text):
        return Path(where) if isinstance(where, str) else where
    return Path(text.removeprefix("file://")) if text.startswith("file://") else RemotePath(text)


def _placed(value: Any) -> Any:
    return place(value) if isinstance(value, str) else value


Place = Annotated[Path, BeforeValidator(_placed)]
"""A path in settings, which an address may stand for."""
