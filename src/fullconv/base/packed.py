"""Files that are parts of larger ones, on a disk or at an address, read where they lie.

They have paths as though they lay in a folder, two folders deep or deeper: ROOT/images/train/a.jpg.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from fullconv.base import remote
from fullconv.base.errors import FullconvError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HEADER = 1 << 16  # bytes that are read first of a file whose header is asked for
_KEPT = 64  # headers: of one file several things are asked, one after the other


class Part(NamedTuple):
    """Where the bytes of a file are.

    Attributes:
        archive: name of the larger file, beside the index.
        offset: of the first byte in it.
        size: bytes.
        crc: of them, CRC-32.
    """

    archive: str
    offset: int
    size: int
    crc: int


class Packed:
    """Files in larger ones (`Files`); nothing is kept open, so that processes may share it.

    Args:
        root: where the larger files lie, and below which the paths of the others are.
        parts: by two folders, such as "images/train", then by the path below these.
    """

    def __init__(self, root: Path, parts: Mapping[str, Mapping[str, Part]]) -> None:
        self._root, self._parts = root, parts
        self._begins: dict[Part, bytes] = {}

    def is_folder(self, path: Path) -> bool:
        """Tell whether there is a folder, of those of two names."""
        return self._name(path) in self._parts

    def below(self, folder: Path, again: list[Path] | None = None) -> Iterator[Path]:  # noqa: ARG002
        """Yield the files below a folder of two names."""
        return (folder / name for name in self._parts.get(self._name(folder), ()))

    @contextmanager
    def opened(self, path: Path, *, whole: bool = True) -> Iterator[IO[bytes]]:
        """Open a file: with one request for the whole, or with one for its begin, then its rest.

        Raises:
            FullconvError: its bytes are not those that were packed, or can't be read.
            FileNotFoundError: there is none.
        """
        part = self._part(path)
        if whole:
            yield io.BytesIO(self._read(path, part, self._begins.get(part, b"")))
            return
        begin = self._begin(path, part)
        yield io.BufferedReader(_Rest(begin, part.size, lambda: self._read(path, part, begin)))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _part(self, path: Path) -> Part:
        one, two, name = self._name(path).split("/", 2)
        part = self._parts.get(f"{one}/{two}", {}).get(name)
        if part is None:
            raise FileNotFoundError(path)
        return part

    def _begin(self, path: Path, part: Part) -> bytes:
        """Return the begin of a file, of a small one the whole."""
        begin = self._begins.get(part)
        if begin is not None:
            return begin
        if part.size <= _HEADER:
            return self._read(path, part)
        return self._kept(part, self._fetched(part, 0, _HEADER))

    def _kept(self, part: Part, content: bytes) -> bytes:
        """Keep the begin of a file for a while, and return what was given."""
        self._begins[part] = content[:_HEADER]
        for oldest in list(self._begins)[:-_KEPT]:
            self._begins.pop(oldest, None)  # another thread may have done so
        return content

    def _read(self, path: Path, part: Part, begin: bytes = b"") -> bytes:
        """Return all bytes of a file, whose begin may be there already."""
        content = begin + self._fetched(part, len(begin), part.size)
        if zlib.crc32(content) != part.crc:
            self._begins.pop(part, None)
            raise FullconvError(
                f"{self._root / part.archive}: the {part.size:,} bytes at {part.offset:,} are not "
                f"{path}, as it was packed; restore the file, or pack its folder anew"
            )
        return self._kept(part, content)

    def _fetched(self, part: Part, start: int, end: int) -> bytes:
        """Return the bytes of a file from `start` to before `end`."""
        archive = self._root / part.archive
        if start == end:
            return b""
        content = _bytes_of(archive, part.offset + start, part.offset + end)
        if len(content) != end - start:
            raise FullconvError(
                f"{archive}: gave {len(content):,} bytes where {end - start:,} were asked for; is "
                "it cut short, or does its server know no ranges?"
            )
        return content


def _bytes_of(archive: Path, start: int, end: int) -> bytes:
    if isinstance(archive, remote.RemotePath):
        return remote.read(str(archive), start, end)
    try:
        with archive.open("rb") as file:
            file.seek(start)
            return file.read(end - start)
    except OSError as error:
        raise FullconvError(f"{archive}: can't be read ({error.strerror})") from error


class _Rest(io.RawIOBase):
    """A file whose begin is there, and whose rest comes when it is asked for."""

    def __init__(self, begin: bytes, size: int, read: Callable[[], bytes]) -> None:
        super().__init__()
        self._content, self._size, self._read = begin, size, read
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max((0, self._at, self._size)[whence] + offset, 0)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end > len(self._content):
            self._content = self._read()
        found = self._content[self._at : end]
        view[: len(found)] = found
        self._at += len(found)
        return len(found)
