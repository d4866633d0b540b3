"""Annotations in place of a dataset folder: converted into a cache, once for each state of them."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path

from filelock import FileLock

from fullconv.base import files
from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.remote import RemotePath
from fullconv.datasets.convert import ConvertSettings, convert
from fullconv.datasets.formats.catalogue import recognise


def dataset_of(
    path: Path, reporter: Reporter = SILENT, reader: ImageReader = ImageReader()
) -> Path:
    """Return the dataset folder of what --data names: itself, or annotations made into one.

    They are converted into a cache, once, and again when a file's name, size or time changes.

    Args:
        path: a dataset folder or shards of one, or a folder or file of a known format.
        reporter: is told what it is, and where its dataset folder lies.
        reader: reads images and masks.

    Raises:
        FullconvError: it can't be converted.
    """
    if isinstance(path, RemotePath) or (path / "dataset.yaml").is_file() or not path.exists():
        return path
    source = recognise(path, reporter=reporter, reader=reader)
    cache = files.cache_folder()
    if source is None or cache is None:
        return path
    out = cache / "converted" / f"{path.resolve().name}-{_key(path, source.root)}"
    reporter.warn(
        f"{path}: is {source.format}, {source.count:,} images; converted by the defaults of: "
        f"fullconv data convert {shlex.quote(str(path))} --out DIR (kept in {out})"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f"{out.name}.lock")):
        if (out / "dataset.yaml").is_file():
            return out
        for note in convert(path, out, ConvertSettings(reader=reader), reporter).notes:
            reporter.warn(note)
    return out


def _key(path: Path, root: Path) -> str:
    """Hash the path, and the names, sizes and times of all files below the folder that they are of.

    That of a file in `annotations` is the folder that holds this, where the images are.
    """
    root = path if path.is_dir() else root
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    for file in sorted(files.files_below(root)):
        about = file.stat()
        line = f"{file.relative_to(root)}\0{about.st_size}\0{about.st_mtime_ns}\n"
        digest.update(os.fsencode(line))
    return digest.hexdigest()[:16]
