"""The manifest of a job on many machines: a Parquet file that says what came of each image."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fullconv.base.errors import FullconvError

if TYPE_CHECKING:
    import pyarrow as pa

    from fullconv.base.stores import Store
    from fullconv.predict.stream import Done

NAME = "manifest.parquet"
PARTS = "manifest.parts"
DONE, FAILED = "done", "failed"
PART_ROWS = 1000  # after so many, or so many seconds, a part is written
PART_SECONDS = 20.0
_ABOUT = b"fullconv"

Heads = Mapping[str, Sequence[str]]  # the classes of each


def schema(heads: Heads) -> pa.Schema:
    """Return the columns of a manifest.

    path: of the image, whole. name: of its results, without suffix. status: "done" or "failed".
    reason: why it failed, in a line. pixels: how many were labelled. shares: which share of them
    each class got. unsure: which share of labels is unsure. seconds: from the file's bytes to its
    results. Of several heads shares and unsure are by head.
    """
    import pyarrow as pa

    by_head = [
        pa.field(name, pa.struct([pa.field(each, pa.float64()) for each in classes]))
        for name, classes in heads.items()
    ]
    several = len(heads) > 1
    unsure = pa.struct([pa.field(name, pa.float64()) for name in heads])
    return pa.schema(
        {
            "path": pa.string(),
            "name": pa.string(),
            "status": pa.string(),
            "reason": pa.string(),
            "pixels": pa.int64(),
            "shares": pa.struct(by_head) if several else by_head[0].type,
            "unsure": unsure if several else pa.float64(),
            "seconds": pa.float64(),
        }
    )


def row(path: str, name: str, result: Done | str, seconds: float, heads: Heads) -> dict[str, Any]:
    """Return what came of an image as a row: what was found, or why nothing came of it."""
    own: dict[str, Any] = {"path": path, "name": name, "seconds": seconds}
    if isinstance(result, str):
        return own | {"status": FAILED, "reason": result}
    shares = {}
    for head, classes in heads.items():
        counts = result.pixels[head]
        every = (counts / max(1, counts.sum())).tolist()
        shares[head] = dict(zip(classes, every, strict=True))
    first = next(iter(heads))
    several = len(heads) > 1
    return own | {
        "status": DONE,
        "pixels": int(result.pixels[first].sum()),
        "shares": shares if several else shares[first],
        "unsure": result.unsure if several else result.unsure.get(first),
    }


def table_of(rows: Sequence[Mapping[str, Any]], heads: Heads) -> pa.Table:
    """Return rows as a table."""
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema(heads))


@dataclass(frozen=True)
class Known:
    """What a manifest tells of earlier runs.

    Attributes:
        table: its rows, one a name; None: there is none.
        about: by what, and how, they were labelled.
    """

    table: pa.Table | None
    about: Mapping[str, Any]

    def done(self) -> dict[str, str]:
        """Return the images that were labelled: their paths, by the names of their results."""
        if self.table is None:
            return {}
        columns = (self.table.column(name).to_pylist() for name in ("name", "path", "status"))
        return {name: path for name, path, status in zip(*columns, strict=True) if status == DONE}


class Manifest:
    """Writes what came of images, part by part; at the end they become one file.

    What an interrupted run has written is there for the next one.
    """

    def __init__(self, store: Store, heads: Heads, about: Mapping[str, Any]) -> None:
        """Begin, or go on.

        Args:
            store: the folder of the results.
            heads: their classes.
            about: by what, and how, images are labelled: what JSON can hold.
        """
        self._store, self._heads = store, heads
        self._schema = schema(heads).with_metadata({_ABOUT: json.dumps(dict(about))})
        self._waiting: list[pa.Table] = []
        self._last = time.monotonic()

    def add(self, table: pa.Table) -> None:
        """Note rows, of `schema`."""
        self._waiting.append(table)
        rows = sum(each.num_rows for each in self._waiting)
        if rows >= PART_ROWS or time.monotonic() - self._last > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a part of its own."""
        if self._waiting:
            name = f"{PARTS}/{time.time_ns():020}-{uuid.uuid4().hex[:8]}.parquet"
            self._store.write(name, _encoded(_joined(self._waiting, self._schema)))
        self._waiting, self._last = [], time.monotonic()

    def close(self) -> pa.Table:
        """Write the one file, in the order of names, and remove the parts; return it."""
        self.flush()
        parts = _parts(self._store.names())
        whole = _joined([_decoded(self._store.read(name)) for name in parts], self._schema)
        whole = _latest(whole).sort_by("name")
        self._store.write(NAME, _encoded(whole))
        for name in parts:
            if name != NAME:
                self._store.remove(name)
        return whole


def known(store: Store, names: Collection[str]) -> Known:
    """Read what a manifest tells, its file and the parts of an interrupted run.

    Args:
        store: the folder of the results.
        names: of the files in it.

    Raises:
        FullconvError: it is damaged, or of different models.
    """
    found = _parts(names)
    tables = []
    for name in found:
        try:
            tables.append(_decoded(store.read(name)))
        except Exception as error:  # of pyarrow, which has several kinds
            raise FullconvError(
                f"{store}/{name}: can't be read as a manifest ({error}); remove it"
            ) from error
    if not tables:
        return Known(None, {})
    about: list[dict[str, Any]] = [
        json.loads((each.schema.metadata or {}).get(_ABOUT, b"{}")) for each in tables
    ]
    return Known(_latest(_joined(tables, tables[0].schema)), about[0])


def _parts(names: Collection[str]) -> list[str]:
    """Return the manifest's files, the oldest first."""
    return [NAME] * (NAME in names) + sorted(
        name for name in names if name.startswith(f"{PARTS}/") and name.endswith(".parquet")
    )


def _latest(table: pa.Table) -> pa.Table:
    """Return the last row of each name."""
    last = {name: at for at, name in enumerate(table.column("name").to_pylist())}
    return table.take(list(last.values()))


def _joined(tables: Sequence[pa.Table], columns: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([columns.empty_table(), *(each.cast(columns) for each in tables)])


def _encoded(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _decoded(content: bytes) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content))
