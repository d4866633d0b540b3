"""shards.jsonl: where in which shard each file of a dataset folder lies that was packed.

One line a sample, in JSON, and a last one that tells the shards and their sizes:

    {"key": "000000012", "shard": SHARD, "files": {PATH: [OFFSET, SIZE, CRC-32], …}}
    {"format": "fullconv shards", "version": 1, "samples": 367, "shards": {SHARD: BYTES, …}}

It is written last: shards without it are not whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fullconv.base import remote
from fullconv.base.errors import FullconvError
from fullconv.base.packed import Packed, Part

INDEX = "shards.jsonl"
_FORMAT, _VERSION = "fullconv shards", 1
_ANEW = "write it anew: fullconv data shard"
Parts = dict[str, dict[str, Part]]


class Line(NamedTuple):
    """A sample in the index.

    Attributes:
        key: of its members in the shard.
        files: by their paths below the dataset's folder.
    """

    key: str
    files: Mapping[str, Part]

    def __str__(self) -> str:
        shard = next(iter(self.files.values())).archive
        files = {path: part[1:] for path, part in self.files.items()}
        return _compact({"key": self.key, "shard": shard, "files": files})


def last_line(samples: int, shards: Mapping[str, int]) -> str:
    """Return what ends an index of so many samples, in shards of so many bytes."""
    return _compact(
        {"format": _FORMAT, "version": _VERSION, "samples": samples, "shards": dict(shards)}
    )


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def read_index(root: Path) -> Packed | None:
    """Return the files of a dataset that was packed into shards; None: it is an ordinary folder.

    Args:
        root: a folder, or an address.

    Raises:
        FullconvError: the index is missing, cut short or wrong, or a shard is missing or of another
            size than it says.
    """
    content = _content(root)
    if content is None:
        return None
    path = root / INDEX
    *lines, last = content.splitlines() or [b""]
    samples, sizes = _told(path, last)
    if samples != len(lines):
        raise FullconvError(f"{path}: has {len(lines):,} of {samples:,} samples; {_ANEW}")
    parts: Parts = {}
    for number, line in enumerate(lines, 1):
        try:
            _note(parts, json.loads(line), sizes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FullconvError(f"{path}: line {number:,} tells no sample; {_ANEW}") from error
    _require_whole(root, sizes)
    return Packed(root, parts)


def _content(root: Path) -> bytes | None:
    """Return what is in the index; None where there is none, nor should be."""
    path = root / INDEX
    if isinstance(root, remote.RemotePath):
        try:
            return remote.read(str(path))
        except FullconvError as error:
            raise FullconvError(
                f"{error}; at an address nothing is read but what fullconv data shard wrote, whole"
            ) from error
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise FullconvError(f"{path}: can't be read ({error.strerror})") from error
    if any(root.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar")):
        raise FullconvError(f"{root}: has shards but no {INDEX}, which is written last; {_ANEW}")
    return None


def _told(path: Path, last: bytes) -> tuple[int, dict[str, int]]:
    """Return from the last line how many samples there are, and the sizes of shards by name."""
    try:
        values = json.loads(last)
        kind, version = values["format"], values["version"]
        samples, sizes = int(values["samples"]), dict(values["shards"])
    except (ValueError, KeyError, TypeError) as error:
        raise FullconvError(f"{path}: is cut short, or no index of shards; {_ANEW}") from error
    if kind != _FORMAT or version != _VERSION:
        raise FullconvError(f"{path}: is of version {version}, not {_VERSION}; {_ANEW}")
    for name, size in sizes.items():
        if not re.fullmatch(r"[^/\\]+\.tar", name) or not isinstance(size, int):
            raise FullconvError(f"{path}: tells no shards in its last line; {_ANEW}")
    return samples, sizes


def _note(parts: Parts, line: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Add the files of a sample; ValueError where they can't be in their shard."""
    shard = line["shard"]
    for path, (offset, size, crc) in line["files"].items():
        one, two, name = path.split("/", 2)
        if not 0 <= offset <= offset + size <= sizes[shard]:
            raise ValueError(path)
        parts.setdefault(f"{one}/{two}", {})[name] = Part(shard, offset, size, int(crc))


def _require_whole(root: Path, sizes: Mapping[str, int]) -> None:
    """Raise FullconvError where a shard is missing, or of another size."""
    for (name, size), found in zip(sizes.items(), _sizes(root, sizes), strict=True):
        if found is not None and found != size:
            what = "is cut short" if found < size else "has grown"
            raise FullconvError(
                f"{root / name}: {what}: {found:,} bytes, but {size:,} by {INDEX}; copy it again"
            )


def _sizes(root: Path, names: Mapping[str, int]) -> Iterator[int | None]:
    paths = [root / name for name in names]
    if isinstance(root, remote.RemotePath):
        yield from remote.sizes([str(path) for path in paths])
        return
    for path in paths:
        try:
            yield path.stat().st_size
        except OSError as error:
            raise FullconvError(
                f"{path}: can't be read ({error.strerror}), but is in {INDEX}; copy it again"
            ) from error
