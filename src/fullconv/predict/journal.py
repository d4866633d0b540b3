"""What is done of a raster, kept beside its result until all is: a killed run is gone on with.

Each record is a row of tiles: its labels, and what the next one needs. It counts when it is on the
disk whole; the end of a record that was being written is cut off.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct(">IQ")  # check sum and length of what follows
Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Journal:
    """The finished rows of tiles of one raster.

    Attributes:
        path: of the file.
        key: tells by what they were made; those made by another key don't count.
        ends: where each record lies in the file: its first byte behind the check sum, and its end.
    """

    path: Path
    key: str
    ends: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def opened(cls, path: Path, key: str) -> Journal:
        """Go on with a file, if there is one of this key; else begin one.

        Raises:
            OSError: it can't be written.
        """
        journal, first = cls(path, key), f"fullconv rows of tiles 2 {key}\n".encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            if file.read(len(first)) != first:
                file.truncate(0)
                file.write(first)
            else:
                journal.ends = list(_whole_records(file))
            file.truncate(journal.ends[-1][1] if journal.ends else len(first))
            _flush(file)
        return journal

    def __len__(self) -> int:
        """Return how many rows of tiles are done."""
        return len(self.ends)

    def add(self, arrays: Arrays) -> None:
        """Note the next row of tiles, and wait until it is on the disk."""
        packed = io.BytesIO()
        np.savez(packed, **dict[str, Any](arrays))
        data = packed.getbuffer()
        with self.path.open("ab") as file:
            begin = file.tell() + _HEAD.size
            file.write(_HEAD.pack(zlib.crc32(data), len(data)))
            file.write(data)
            _flush(file)
        self.ends.append((begin, begin + len(data)))

    def __iter__(self) -> Iterator[Arrays]:
        """Yield what was noted of each row of tiles, in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Arrays:
        """Return what was noted of a row of tiles; arrays are read when they are asked for."""
        begin, end = self.ends[index]
        with self.path.open("rb") as file:
            file.seek(begin)
            return np.load(io.BytesIO(file.read(end - begin)), allow_pickle=False)  # type: ignore[no-any-return]

    def remove(self) -> None:
        """Remove the file: all is done."""
        self.path.unlink(missing_ok=True)


def _whole_records(file: Any) -> Iterator[tuple[int, int]]:
    size = os.fstat(file.fileno()).st_size
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        checksum, length = _HEAD.unpack(head)
        begin = file.tell()
        if length > size - begin:
            return
        data = file.read(length)
        if zlib.crc32(data) != checksum:
            return
        yield begin, begin + length


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
