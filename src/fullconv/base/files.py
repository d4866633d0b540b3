"""Files: found, read, and written so that a reader never sees half of one, whatever happens."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from fullconv.base.errors import FullconvError


def is_plain_name(name: str) -> bool:
    """Tell whether a name may become part of a path: letters, digits, _ and -, a letter first."""
    return re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", name) is not None


def files_below(folder: Path, again: list[Path] | None = None) -> Iterator[Path]:
    """Yield what lies below a folder and is none itself, hidden things left out.

    Links are followed, but no folder is entered twice, by whatever name: links may lead back. Real
    folders come before links to them. A folder that is not there holds nothing.

    Args:
        folder: where to look.
        again: gets the paths by which folders were met again, and passed over.

    Raises:
        FullconvError: a folder may not be read.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = deque([folder] * folder.is_dir()), deque[Path]()
    while folders or links:
        here = (folders or links).popleft()
        try:
            about = here.stat()
            inside = sorted(here.iterdir()) if (about.st_dev, about.st_ino) not in seen else None
        except OSError as error:
            raise FullconvError(f"{here}: can't be searched ({error.strerror})") from error
        if inside is None:
            if again is not None:
                again.append(here)
            continue
        seen.add((about.st_dev, about.st_ino))
        for path in inside:
            if path.name.startswith("."):
                continue
            if path.is_dir():
                (links if path.is_symlink() else folders).append(path)
            else:
                yield path


class Files(Protocol):
    """Where files are read: a disk, or what stands for one."""

    def is_folder(self, path: Path) -> bool:
        """Tell whether there is a folder."""
        ...

    def below(self, folder: Path, again: list[Path] | None = None) -> Iterator[Path]:
        """Yield what `files_below` would."""
        ...

    def opened(self, path: Path, *, whole: bool = True) -> AbstractContextManager[IO[bytes]]:
        """Open a file in which any place can be sought, of which the `whole` is to be read or not.

        Raises:
            FullconvError: what is there is no file.
            OSError: there is none, or it can't be read.
        """
        ...


class Disk:
    """The files of this system (`Files`)."""

    def is_folder(self, path: Path) -> bool:
        """Tell whether there is a folder."""
        return path.is_dir()

    def below(self, folder: Path, again: list[Path] | None = None) -> Iterator[Path]:
        """Yield what lies below a folder (see `files_below`)."""
        return files_below(folder, again)

    def opened(self, path: Path, *, whole: bool = True) -> IO[bytes]:  # noqa: ARG002
        """Open a regular file; opening anything else might wait for ever.

        Raises:
            FullconvError: it is a folder, or a pipe, a socket or a device.
            OSError: there is none, or it can't be read.
        """
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FullconvError(f"{path}: is a folder, not an image")
        if not stat.S_ISREG(mode):
            raise FullconvError(f"{path}: is a pipe, a socket or a device, not a file; remove it")
        return path.open("rb")


def cache_folder() -> Path | None:
    """Return where this user's caches of fullconv lie; None for a user who has no home.

    The variable FULLCONV_CACHE overrides the system's custom.
    """
    from platformdirs import user_cache_path

    own = os.environ.get("FULLCONV_CACHE")
    if own:
        return Path(own)
    try:
        folder = user_cache_path("fullconv", appauthor=False, opinion=False)
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def is_left_over(name: str) -> bool:
    """Tell whether a file's name is that of one that `replacing` was stopped from writing."""
    return re.fullmatch(r"\..+\.\d+\.tmp", name) is not None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    If the body raises (a full disk, an interrupt), the temporary file is removed and whatever
    stood at `path` before is untouched. The parent folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()}{secrets.randbelow(10**6):06}"  # other machines have the same process ids
    temporary = path.with_name(f".{path.name}.{own}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors would keep its files from other users
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, whole or not at all.

    Lists and objects that fit into a line of 100 characters stand on one. NumPy's numbers are
    numbers.

    Raises:
        ValueError: it is no JSON (NaN isn't).
    """
    try:
        text = _json(value, "")
    except TypeError as error:
        raise ValueError(f"{path}: is no JSON: {error}") from error
    write_text(path, text + "\n")


def _number(value: object) -> Any:
    import numpy as np

    if isinstance(value, np.number | np.bool_):
        return value.item()
    raise TypeError(f"{type(value).__name__} is neither number, text, list nor object")


def _json(value: Any, indent: str) -> str:
    line = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_number)
    if len(indent) + len(line) <= 100 or not value or not isinstance(value, dict | list | tuple):
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        rows = [
            f"{json.dumps(str(key), ensure_ascii=False)}: {_json(each, inner)}"
            for key, each in value.items()
        ]
        opening, closing = "{}"
    else:
        rows = [_json(each, inner) for each in value]
        opening, closing = "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(rows) + f"\n{indent}{closing}"
