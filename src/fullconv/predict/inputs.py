"""Which images a command line means: files, folders, patterns, addresses, lists of paths."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

from fullconv.base.errors import FullconvError
from fullconv.base.files import files_below
from fullconv.base.images import IMAGE_SUFFIXES, fetched
from fullconv.base.remote import is_remote
from fullconv.base.remote_files import Remote, file_at, files_at, path_of

LIST = ".txt"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def images_of(text: str, out: Path | str, again: list[Path]) -> Iterator[tuple[Path | Remote, str]]:
    """Yield each image that an input means, and the name of its results: a path without suffix.

    An input is a file, a folder (searched recursively) or a glob pattern (``**`` too), or the
    address of such; images found below a folder, or below the fixed part of a pattern, keep their
    path relative to it. What lies in `out` is no input, unless named itself. No folder is searched
    twice. A list (NAME.txt) has a path or an address of an image on each line, in UTF-8, or in
    UTF-16 behind its mark; they keep their paths below the folder that all of them have in common.
    Whether they are there shows when they are read.

    Args:
        text: as typed.
        out: folder of all results: a path, or an address.
        again: gets the paths by which folders were met again, and passed over.

    Raises:
        FullconvError: the input isn't there, or is no list of lines.
    """
    if PurePosixPath(text).suffix.lower() == LIST and (is_remote(text) or Path(text).is_file()):
        yield from _listed(text)
    elif is_remote(text):
        yield from _elsewhere(text, str(out))
    else:
        yield from _here(text, Path(out), again)


def _here(text: str, out: Path, again: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield what an input of this machine means."""
    path = Path(text)
    if path.is_file():
        yield path, path.stem
        return
    if path.is_dir():
        base, pattern = path, "**"
    elif glob.has_magic(text):
        fixed = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        base, pattern = Path(*path.parts[:fixed]), str(PurePath(*path.parts[fixed:]))
    elif path.exists():
        raise FullconvError(f"{text}: is a pipe, a socket or a device, not a file")
    else:
        raise FullconvError(f"{text}: no such file or folder")
    results = out.resolve() if base.resolve() != out.resolve() else None
    for source, name in images_below(base, pattern, again):
        if results is None or results not in source.resolve().parents:
            yield source, name


def images_below(base: Path, pattern: str, again: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the images below `base` that match, and their relative paths without suffix."""
    parts = PurePath(pattern).parts
    if "**" in parts:  # glob would follow links that lead back for ever
        below = (path.relative_to(base) for path in files_below(base, again))
        names = [path for path in below if _matches(path.parts, parts)]
    else:
        names = list(map(Path, glob.glob(pattern, root_dir=base)))  # noqa: PTH207 (no hidden files)
    for name in sorted(names, key=Path.as_posix):
        source = base / name
        if source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
            yield source, name.with_suffix("").as_posix()


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a relative path is of a pattern, in which ** stands for any folders, or all."""
    if not pattern:
        return not path
    first, *others = pattern
    if first == "**":
        return not others or any(_matches(path[at:], others) for at in range(len(path)))
    return bool(path) and fnmatch(path[0], first) and _matches(path[1:], others)


def _elsewhere(url: str, out: str) -> Iterator[tuple[Remote, str]]:
    """Yield what an address means."""
    for file, name in files_at(url):
        is_result = file.url.startswith(f"{out.rstrip('/')}/") and file.url != url
        if file.url == url or (file.suffix.lower() in IMAGE_SUFFIXES and not is_result):
            yield file, PurePosixPath(name).with_suffix("").as_posix()


def _listed(text: str) -> Iterator[tuple[Path | Remote, str]]:
    """Yield the images of a list's lines."""
    lines = _lines(text)
    paths = [_parts(line) for line in lines]
    for line, parts in zip(lines, paths, strict=True):
        if not parts or ".." in parts:
            raise FullconvError(f"{text}: {line!r} names no file; give paths without '..'")
    first, last = (min(paths), max(paths)) if paths else ((), ())  # which differ soonest
    pairs = zip(first[:-1], last[:-1], strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    for line, parts in zip(lines, paths, strict=True):
        name = PurePosixPath(*parts[common:]).with_suffix("").as_posix()
        yield file_at(line), name


def _lines(text: str) -> list[str]:
    """Return the lines of a list that aren't empty, as Unix or Windows writes them."""
    content = fetched(file_at(text)).content.read()
    if content.startswith(_UTF16):  # PowerShell's > writes it
        words = content.decode("utf-16", "replace")
    else:
        words = content.decode("utf-8-sig", "surrogateescape")
    if "\0" in words:
        raise FullconvError(f"{text}: holds zero bytes; write a path on each line, in UTF-8")
    return [line for line in words.splitlines() if line]


def _parts(line: str) -> tuple[str, ...]:
    """Return the parts of a line's path, from the root on."""
    whole = path_of(line) if is_remote(line) else Path(os.path.abspath(line)).as_posix()  # noqa: PTH100 (as it is typed)
    return tuple(part for part in whole.split("/") if part)
