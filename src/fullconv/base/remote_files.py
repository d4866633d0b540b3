"""The files that addresses mean: one, those of a folder, or those of a pattern."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from fullconv.base.errors import FullconvError
from fullconv.base.remote import failing_in_a_line, filesystem, is_remote, read

_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Remote:
    """A file that lies elsewhere.

    Attributes:
        url: its address.
        size: its bytes, where a listing has told them.
    """

    url: str
    size: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    @property
    def suffix(self) -> str:
        """The ending of its name, with the dot."""
        return PurePosixPath(path_of(self.url)).suffix

    def read(self) -> bytes:
        """Return what is in it.

        Raises:
            FullconvError: it can't be read; the message names it.
        """
        return read(self.url)


def file_at(text: str) -> Path | Remote:
    """Return the file that a path or an address means, there or not."""
    return Remote(text) if is_remote(text) else Path(text)


def path_of(url: str) -> str:
    """Return the path of an address without its protocol; of the web without what is asked of it.

    A store's own first part (its bucket, or host) is part of it.
    """
    if url.startswith(_WEB):
        parts = urlsplit(url)
        return parts.netloc + unquote(parts.path)
    return url.partition("://")[2].lstrip("/")


def files_at(url: str) -> list[tuple[Remote, str]]:
    """Return the files that an address means, and their paths below the folder that was searched.

    A pattern (``*``, ``**``, ``?``) or a folder means all that it holds, hidden files left out; a
    file itself. On the web there are no patterns.

    Raises:
        FullconvError: there is no such file or folder, or it can't be reached.
    """
    files, path = filesystem(url)
    with failing_in_a_line(url):
        magic = glob.has_magic(path) and not url.startswith(_WEB)
        if not magic and files.isfile(path):
            return [(Remote(url), PurePosixPath(path_of(url)).name)]
        base = _fixed_part(path) if magic else path.rstrip("/")
        found = (files.glob if magic else files.find)(path, detail=True)
        told = [
            (Remote(files.unstrip_protocol(name), about.get("size")), below(base, name))
            for name, about in sorted(found.items())
            if about.get("type") != "directory"
        ]
    if not told and not magic:
        raise FullconvError(f"{url}: no such file or folder")
    return [(file, name) for file, name in told if not is_hidden(name)]


def _fixed_part(pattern: str) -> str:
    """Return the folder of a pattern's parts before the first that stands for several."""
    parts = pattern.split("/")
    return "/".join(parts[: next(at for at, part in enumerate(parts) if glob.has_magic(part))])


def below(base: str, path: str) -> str:
    """Return a path below a folder, as its path from there."""
    return path.removeprefix(base).lstrip("/")


def is_hidden(name: str) -> bool:
    """Tell whether a file, or a folder that it is in, has a name that begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))
