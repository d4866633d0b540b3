"""The files of a batch of images, read on any machine of a cluster; it needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.images import fetched
from fullconv.base.pipeline import ahead
from fullconv.base.remote_files import file_at

if TYPE_CHECKING:
    import pyarrow as pa

SIDE_BY_SIDE = 8  # files: each waits for a disk or a server


def read_files(batch: pa.Table) -> pa.Table:
    """Return a batch with the content of its files.

    Args:
        batch: name of the results, path or address of the file.

    Returns:
        The same, and content: the file's bytes; null where it can't be read, and reason: why.
    """
    import pyarrow as pa

    found = list(ahead(_content, batch.column("path").to_pylist(), SIDE_BY_SIDE))
    contents = pa.array([content for content, _ in found], pa.large_binary())
    reasons = pa.array([reason for _, reason in found], pa.string())
    return batch.append_column("content", contents).append_column("reason", reasons)


def _content(path: str) -> tuple[bytes | None, str | None]:
    """Return the bytes of a file, or why there are none."""
    try:
        file = fetched(file_at(path))
    except FullconvError as error:
        return None, str(error)
    except Exception as error:  # nothing that one file has may stop the others
        return None, f"{path}: can't be read ({type(error).__name__}: {one_line(error)})"
    return file.content.read(), None
