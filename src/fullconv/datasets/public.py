"""Getting a public dataset: fetch, unpack, convert, and only then give the folder its name."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fullconv.base.errors import FullconvError
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.info import DatasetInfo, read_info
from fullconv.datasets.mat import require_readers
from fullconv.datasets.sources import Source, Sources
from fullconv.datasets.writing import Conversion, write_dataset


@dataclass(frozen=True)
class PublicDataset:
    """A dataset that `get_dataset` can make.

    Attributes:
        name: what the command line calls it.
        info: the contents of its dataset.yaml.
        sources: the files it is made of.
        convert: says what goes into the dataset folder, given the sources.
        expected: how many images each split should have.
        also: further names for it.
        needs: modules that its conversion imports.
    """

    name: str
    info: DatasetInfo
    sources: tuple[Source, ...]
    convert: Callable[[Sources], Conversion]
    expected: Mapping[str, int]
    also: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A dataset folder that is there now.

    Attributes:
        counts: how many images each split has; empty if the folder was there before.
        notes: what the user should know, a line each.
    """

    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()


def get_dataset(
    dataset: PublicDataset,
    folder: Path,
    given: Path | None = None,
    *,
    reporter: Reporter = SILENT,
) -> Result:
    """Make the dataset folder of a public dataset; interrupted, the next call continues.

    Beside `folder`, fetched files are kept in NAME.downloads. Unfinished work is in
    .NAME.unfinished, which becomes the folder or is removed.

    Args:
        dataset: what to get.
        folder: is made; may exist if it is empty, or is this very dataset.
        given: a folder of files that were fetched before, packed or unpacked.
        reporter: shows progress, and warns of what could not be verified.

    Raises:
        FullconvError: `folder` holds something else, a module is missing, a file is not what it
            should be, or another run is getting the same folder.
        WorkFailedError: a file could not be fetched.
    """
    folder = folder.absolute()  # "." has a name too, and neighbours
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    downloads = folder.with_name(f"{folder.name}.downloads")
    if given is not None and not given.is_dir():
        raise FullconvError(f"{given}: is no folder; --from names one with files already fetched")
    if _is_there(dataset, folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        return Result({}, _about_downloads(downloads))
    require_readers(dataset.name, dataset.needs)
    sources = Sources(dataset.sources, downloads, unfinished / "unpacked", given, reporter)
    with _alone_in(unfinished):
        conversion, made = dataset.convert(sources), unfinished / "dataset"
        counts = write_dataset(dataset.info, conversion, made, sources.unpacked, reporter)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    shutil.rmtree(unfinished)
    notes = (*_surprises(dataset, counts), *conversion.notes, *_about_val(dataset, folder))
    return Result(counts, (*notes, *_about_downloads(downloads)))


def _is_there(dataset: PublicDataset, folder: Path) -> bool:
    """Tell whether `folder` is this dataset already; raise where it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if (folder / "dataset.yaml").is_file():
        name = read_info(folder).name
        if name == dataset.info.name:
            return True
        raise FullconvError(f"{folder}: is another dataset, {name!r}; give another folder")
    raise FullconvError(f"{folder}: is in use; give a folder that does not exist")


@contextmanager
def _alone_in(unfinished: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the system frees if this process dies."""
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(unfinished / "lock", timeout=0):
            yield
    except Timeout:
        raise FullconvError(
            f"{unfinished}: another run of this command is at work; wait for it to end"
        ) from None


def _surprises(dataset: PublicDataset, counts: Mapping[str, int]) -> Iterator[str]:
    for split, expected in dataset.expected.items():
        if counts.get(split, 0) != expected:
            yield f"note: {split} has {counts.get(split, 0):,} images; published are {expected:,}"


def _about_val(dataset: PublicDataset, folder: Path) -> tuple[str, ...]:
    """Tell what becomes of train where the publisher names no val."""
    if "val" in dataset.expected:
        return ()
    kinds = " ".join(name for name in dataset.info.folders if (folder / name).is_dir())
    return (
        "note: there is no val, so fullconv train holds a tenth of train out to measure on. The "
        "paper's authors trained on all of it; to do as they did, let test be val: "
        f"cd {shlex.quote(str(folder))} && for kind in {kinds}; do ln -s test $kind/val; done "
        "(data check then finds the same pictures in val and test; train by a recipe of the "
        "paper, which keeps the last weights, or else the model is chosen on test)",
    )


def _about_downloads(downloads: Path) -> tuple[str, ...]:
    if not downloads.is_dir():
        return ()
    size = sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
    return (f"{downloads}: keeps what was fetched ({size / 1e6:,.0f} MB); remove it at will",)
