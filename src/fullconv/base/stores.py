"""Folders for results, on this machine or elsewhere: what is written there is whole."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fullconv.base.files import files_below, replacing
from fullconv.base.remote import failing_in_a_line, filesystem, is_remote, read
from fullconv.base.remote_files import below, is_hidden

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# Where a file appears whole or not at all; elsewhere it is written by another name, and renamed.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})


class Store(Protocol):
    """A folder for results, here or elsewhere."""

    def names(self) -> set[str]:
        """Return the paths of the files in it, with slashes; hidden ones left out."""

    def read(self, name: str) -> bytes:
        """Return what is in a file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, in place of any that has its name."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


@dataclass(frozen=True)
class LocalStore:
    """A folder of this machine, or one that it shares with others (see `Store`).

    Attributes:
        folder: its path.
    """

    folder: Path

    def __str__(self) -> str:
        """Return the path."""
        return str(self.folder)

    def names(self) -> set[str]:
        """Return the paths of the files in it (see `Store`)."""
        return {path.relative_to(self.folder).as_posix() for path in files_below(self.folder)}

    def read(self, name: str) -> bytes:
        """Return what is in a file."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file (see `Store`)."""
        with replacing(self.folder / name) as temporary:
            temporary.write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and its folder if it held nothing else."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        if path.parent != self.folder:
            with suppress(OSError):  # it holds other files
                path.parent.rmdir()


@dataclass(frozen=True)
class RemoteStore:
    """A folder elsewhere (see `Store`). All that fails is a FullconvError that names it.

    Attributes:
        url: its address.
    """

    url: str

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    def names(self) -> set[str]:
        """Return the paths of the files in it (see `Store`)."""
        files, path = filesystem(self.url)
        with failing_in_a_line(self.url):
            files.invalidate_cache()
            found = (below(path.rstrip("/"), each) for each in files.find(path))
            return {name for name in found if not is_hidden(name)}

    def read(self, name: str) -> bytes:
        """Return what is in a file."""
        return read(self._of(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file (see `Store`)."""
        files, path = filesystem(self._of(name))
        with failing_in_a_line(self._of(name), "written"):
            if _OBJECT_STORES.intersection(_protocols(files)):
                files.pipe_file(path, content)
                return
            folder, _, own = path.rpartition("/")
            temporary = f"{folder}/.{own}.{uuid.uuid4().hex[:8]}.tmp"
            files.makedirs(folder, exist_ok=True)
            files.pipe_file(temporary, content)
            files.mv(temporary, path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        files, path = filesystem(self._of(name))
        with failing_in_a_line(self._of(name), "removed"):
            if files.exists(path):
                files.rm_file(path)

    def _of(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"


def store_at(place: str) -> LocalStore | RemoteStore:
    """Return the folder of a path or an address."""
    return RemoteStore(place) if is_remote(place) else LocalStore(Path(place))


def _protocols(files: AbstractFileSystem) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)
