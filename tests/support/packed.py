"""Dataset folders packed into shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

from fullconv.data.folder import DatasetFolder
from fullconv.data.shards import Sharded, ShardSettings, shard_folder


def pack(root: str | Path, out: Path, **settings: Any) -> Sharded:
    return shard_folder(DatasetFolder(root), out, ShardSettings(**settings))


def uploaded(shards: Path, name: str) -> str:
    """Copy shards to memory://, and return their address."""
    system = fsspec.filesystem("memory")
    for path in shards.iterdir():
        system.pipe(f"/{name}/{path.name}", path.read_bytes())
    return f"memory://{name}"
