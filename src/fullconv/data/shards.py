"""Packing a dataset folder into shards: tar files that are read where they lie, here or far away.

The webdataset library reads them as well: a sample's members have its number as their key, since
that library's keys end at the first dot of a name, then the folder that they come from, as
000000012.images.jpg and 000000012.masks.png. 000000012.json tells their own names.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from fullconv.base.errors import FullconvError
from fullconv.base.files import is_left_over, replacing
from fullconv.base.packed import Part
from fullconv.base.pipeline import ahead
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import DatasetFolder, require_pairs
from fullconv.data.info import FILE, info_bytes
from fullconv.data.listing import Listing, Sample
from fullconv.data.shard_index import INDEX, Line, last_line

SHARD_BYTES = 1_000_000_000
_SHARD = r"\w+-\d{6,}\.tar"  # its name


@dataclass(frozen=True)
class ShardSettings:
    """How much a shard holds.

    Attributes:
        size: bytes; none is larger, unless a single sample is.
        count: samples; None: as many as fit.
    """

    size: int = SHARD_BYTES
    count: int | None = None

    def has_room(self, begun: int, taken: int, size: int) -> bool:
        """Tell whether a shard of so many bytes, with so many samples, takes one of `size`."""
        end = -(-(begun + size + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        return not taken or (end <= self.size and (self.count is None or taken < self.count))


@dataclass
class Sharded:
    """What was packed.

    Attributes:
        images: by split.
        shards: bytes by name of the file.
        passed_over: how many files belong to no image, or can't be read as one.
    """

    images: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    passed_over: int = 0

    def shards_of(self, split: str) -> int:
        """Return how many shards a split has."""
        return sum(name.startswith(f"{split}-") for name in self.shards)


def shard_folder(
    folder: DatasetFolder,
    out: Path,
    settings: ShardSettings = ShardSettings(),
    reporter: Reporter = SILENT,
) -> Sharded:
    """Pack a dataset into shards, byte by byte; the same files make the same shards.

    Args:
        folder: the dataset.
        out: a new folder, an empty one, or one where this was cut short.
        settings: how much a shard holds.
        reporter: shows progress.

    Raises:
        FullconvError: images and masks don't pair up, one can't be read, or `out` holds something.
        OSError: `out` can't be written.
    """
    about = info_bytes(folder.root)
    _require_free(out, about)
    listings = dict(_listings(folder))
    done = Sharded(passed_over=sum(len(e.orphans) + len(e.strangers) for e in listings.values()))
    out.mkdir(parents=True, exist_ok=True)
    for left in _shards_in(out):
        left.unlink()
    with replacing(out / FILE) as temporary:
        temporary.write_bytes(about)
    total = sum(len(listing.samples) for listing in listings.values())
    with (
        replacing(out / INDEX) as temporary,
        temporary.open("w", encoding="ascii") as index,
        reporter.bar(total, f"pack {folder.root}") as bar,
    ):
        for split, listing in listings.items():
            done.images[split] = len(listing.samples)
            members = _members(folder, listing.samples)
            for line in _written(out, split, members, settings, done.shards):
                index.write(f"{line}\n")
                bar.advance()
        index.write(f"{last_line(total, done.shards)}\n")
    return done


def _require_free(out: Path, about: bytes) -> None:
    """Refuse a folder that holds anything but what is left of a packing of the same cut short."""
    if (out / INDEX).exists():
        raise FullconvError(f"{out}: holds shards already; choose another --out")
    if out.exists() and not out.is_dir():
        raise FullconvError(f"{out}: is a file; --out names a folder")
    paths = set(out.iterdir()) if out.is_dir() else set()
    begun = out / FILE in paths and (out / FILE).read_bytes() == about
    if paths - ({out / FILE, *_shards_in(out)} if begun else set()):
        raise FullconvError(f"{out}: is not empty; choose another --out")


def _shards_in(out: Path) -> list[Path]:
    """Return shards, and what is left of one that was being written."""
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    return [out / name for name in names if re.fullmatch(_SHARD, name) or is_left_over(name)]


def _listings(folder: DatasetFolder) -> Iterator[tuple[str, Listing]]:
    """Yield the files of each split, with those of val in train where they are held out of it."""
    for split in folder.splits:
        if folder.held_out and split == "val":
            continue
        listing = folder.listing(split)
        require_pairs(folder.root, split, listing, folder.info)
        if folder.held_out and split == "train":
            both = (*listing.samples, *folder.listing("val").samples)
            listing = replace(listing, samples=tuple(sorted(both, key=lambda each: each.images[0])))
        if not listing.samples:
            raise FullconvError(f"{folder.images / split}: holds no images; remove the folder")
        yield split, listing


class _Members(NamedTuple):
    """A sample's members: their content by the ends of their names, and their paths likewise."""

    key: str
    contents: Mapping[str, bytes]
    paths: Mapping[str, str]

    @property
    def size(self) -> int:
        """How many bytes of a tar file they take."""
        return sum(tarfile.BLOCKSIZE + _in_blocks(len(each)) for each in self.contents.values())


def _members(folder: DatasetFolder, samples: tuple[Sample, ...]) -> Iterator[_Members]:
    """Read all files of each sample of a split, ahead of what packs them."""
    return ahead(partial(_read, folder), enumerate(samples))


def _read(folder: DatasetFolder, numbered: tuple[int, Sample]) -> _Members:
    number, sample = numbered
    contents, paths, names = {}, {}, {"name": sample.name}
    for below, path in zip(folder.info.folders, (*sample.images, *sample.masks), strict=True):
        end = f"{below}{path.suffix.lower()}"
        contents[end] = _content(folder, path)
        paths[end] = path.relative_to(folder.root).as_posix()
        names[below] = "/".join(path.relative_to(folder.root).parts[2:])
    contents["json"] = json.dumps(names).encode()
    return _Members(f"{number:09}", contents, paths)


def _content(folder: DatasetFolder, path: Path) -> bytes:
    try:
        with folder.reader.files.opened(path) as file:
            return file.read()
    except OSError as error:
        raise FullconvError(f"{path}: can't be read ({error.strerror})") from error


def _written(
    out: Path,
    split: str,
    members: Iterator[_Members],
    settings: ShardSettings,
    sizes: dict[str, int],
) -> Iterator[Line]:
    """Write the shards of a split, note their sizes, and yield a line for each sample."""
    waiting = next(members, None)
    for number in count():
        if waiting is None:
            return
        path, taken = out / f"{split}-{number:06}.tar", 0
        with (
            replacing(path) as temporary,
            tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar,
        ):
            while waiting is not None and settings.has_room(tar.offset, taken, waiting.size):
                yield _added(tar, path.name, waiting)
                waiting, taken = next(members, None), taken + 1
        sizes[path.name] = path.stat().st_size


def _added(tar: tarfile.TarFile, shard: str, members: _Members) -> Line:
    """Add a sample to a shard, and return where its files lie there."""
    files = {}
    for end, content in members.contents.items():
        about = tarfile.TarInfo(f"{members.key}.{end}")  # of no time and no owner
        about.size = len(content)
        tar.addfile(about, io.BytesIO(content))
        if end in members.paths:
            offset = tar.offset - _in_blocks(len(content))
            files[members.paths[end]] = Part(shard, offset, len(content), zlib.crc32(content))
    return Line(members.key, files)


def _in_blocks(size: int) -> int:
    """Return how many bytes so many take in a tar file."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
