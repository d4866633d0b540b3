"""Unpacking archives that nobody vouches for: what is written, where and how much is bounded.

`tarfile` with ``filter="data"`` and `zipfile.extractall` would not do. They mend a name that leads
outside, write links, let a second member overwrite the first, and take a tar file that ends early
for whole (tests/datasets/test_get_archives.py: test_names_that_lead_outside,
test_links_and_devices, test_nothing_is_overwritten, test_a_tar_file_cut_between_members).
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from fullconv.base.errors import FullconvError
from fullconv.base.progress import SILENT, Reporter

_MEGABYTE = 1_000_000
_MOST_AT_ONCE = 1 << 24  # tarfile reads its headers' extensions whole, whatever size they claim
_IMPOSSIBLE_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_NOT_OF_THE_DISK = (None, errno.EINVAL)  # errors of bz2 and gzip; a seek to a negative offset
_LONGEST_SHOWN = 80  # letters of a name
_DAMAGES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # zipfile's way to say: encrypted
    ValueError,
)


@dataclass(frozen=True)
class Limits:
    """The most that an archive may hold: how many members, and bytes once unpacked."""

    members: int = 200_000
    size: int = 16_000_000_000


LIMITS = Limits()


class _Member(NamedTuple):
    name: str
    size: int
    is_file: bool
    is_folder: bool
    open: Callable[[], IO[bytes]]
    position: int  # bytes of the archive read so far


def unpack(
    archive: Path,
    folder: Path,
    wanted: Sequence[str] = ("*",),
    *,
    limits: Limits = LIMITS,
    reporter: Reporter = SILENT,
) -> None:
    """Unpack the regular files of a .zip, .tar or .tar.gz archive into a new folder.

    The folder is filled under another name and renamed, so that it is whole or not there.
    Permissions, owners and times are not restored.

    Args:
        archive: the file.
        folder: is made; must not exist.
        wanted: patterns of the members' names; others are passed over. "*" also matches "/".
        limits: the most that all members together may hold, those passed over included.
        reporter: shows progress.

    Raises:
        FullconvError: the archive is damaged, exceeds `limits`, has an absolute name, one that
            leads outside or an empty one, or a wanted member is a link, a device or there twice.
    """
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    try:
        _unpack(archive, part, wanted, limits, reporter)
    except (*_DAMAGES, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_OF_THE_DISK:
            raise
        reason = str(error) or type(error).__name__
        raise FullconvError(
            f"{archive}: is damaged or no archive ({reason}); remove the file and run the same "
            "command again"
        ) from error
    part.rename(folder)


def _unpack(
    archive: Path, folder: Path, wanted: Sequence[str], limits: Limits, reporter: Reporter
) -> None:
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    count = size = 0
    total = -(-archive.stat().st_size // _MEGABYTE)
    with reporter.bar(total, f"unpack {archive.name}", unit="MB") as bar:
        for member in members(archive):
            if member.size < 0:  # tarfile would read this header again and again
                raise tarfile.ReadError(f"a member of {member.size:,} bytes")
            count, size = count + 1, size + member.size
            if count > limits.members or size > limits.size:
                raise FullconvError(
                    f"{archive}: holds more than {limits.members:,} files or {limits.size:,} "
                    "bytes; it is not the archive it should be"
                )
            path = _inside(archive, member)
            if not member.is_folder and any(fnmatchcase(str(path), each) for each in wanted):
                _write(archive, member, folder / path)
            if steps := min(member.position // _MEGABYTE, total) - bar.done:
                bar.advance(steps)


def _inside(archive: Path, member: _Member) -> PurePosixPath:
    """Return a member's name as a relative path; backslashes separate too, as on Windows."""
    plain = member.name.replace("\\", "/")
    path = PurePosixPath(plain)
    if path.is_absolute() or ".." in path.parts or "\0" in plain or re.match(r"\w:", plain):
        raise FullconvError(
            f"{archive}: has a member {_shortened(member.name)}, which leads outside the archive; "
            "it is not the archive it should be"
        )
    if not path.parts and not member.is_folder:
        raise FullconvError(
            f"{archive}: has a member without a name; it is not the archive it should be"
        )
    return path


def _write(archive: Path, member: _Member, path: Path) -> None:
    if not member.is_file:
        raise FullconvError(
            f"{archive}: {_shortened(member.name)} is a link or a device, not a file; it is not "
            "the archive it should be"
        )
    with _created(archive, member.name, path) as file, member.open() as content:
        shutil.copyfileobj(content, file)


def _created(archive: Path, name: str, path: Path) -> IO[bytes]:
    """Create a file and the folders above it; refuse a name that no new file can have."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
    except (FileExistsError, NotADirectoryError):
        problem = "twice, or in what is also a file"
    except OSError as error:
        if error.errno not in _IMPOSSIBLE_NAMES:
            raise
        problem = "which is no name of a file here"
    raise FullconvError(
        f"{archive}: holds {_shortened(name)} {problem}; it is not the archive it should be"
    )


def _shortened(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        position = 0
        for info in opened.infolist():
            position += info.compress_size
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not made on Unix
            yield _Member(
                info.filename,
                info.file_size,  # ZipFile yields no byte more than this
                is_file=kind in (0, stat.S_IFREG),
                is_folder=info.filename.endswith(("/", "\\")),
                open=lambda info=info: opened.open(info),  # type: ignore[misc]
                position=position,
            )


def _tar_members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        content = cast("IO[bytes]", gzip.GzipFile(fileobj=raw) if packed else raw)
        with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(content)), mode="r:") as opened:
            for info in opened:
                yield _Member(
                    info.name,
                    info.size,
                    is_file=info.isreg() and not info.issparse(),
                    is_folder=info.isdir(),
                    open=lambda info=info: opened.extractfile(info) or io.BytesIO(),  # type: ignore[misc]
                    position=raw.tell(),
                )
            _require_end(content, opened.offset)


def _require_end(content: IO[bytes], offset: int) -> None:
    """Require zeros after the last member, and read on to where gzip has its checksum."""
    content.seek(offset)
    if content.read(_MOST_AT_ONCE)[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends early")


class _Bounded:
    """A file that refuses to be read in large pieces."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)
