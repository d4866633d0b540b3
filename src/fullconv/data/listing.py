"""The files of a split, paired by name and not opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fullconv.base.files import Disk, Files
from fullconv.base.images import IMAGE_SUFFIXES

_HELD_OUT_SHARE = 0.1
Found = dict[Path, dict[str, list[Path]]]  # by folder, then by name; twins share one


class Sample(NamedTuple):
    """Where the images and masks of a scene are; `name` is the path below the split, no suffix.

    `images` has one path an input, `masks` one a head, in the order in which they were asked for.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]


class Missing(NamedTuple):
    """An image of the first input that has no file of its name in `folder`, such as "masks".

    `instead` is one of its name that is not read, because of its suffix.
    """

    image: Path
    folder: str
    instead: Path | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a split, paired by name and not opened.

    Attributes:
        samples: what has an image in every input and a mask in every head, by name.
        missing: which images of the first input lack what.
        orphans: files of the other folders that belong to no image, and masks that are no PNG.
        strangers: files of the inputs' folders of no suffix that is read.
        twins: files of one name within the split; they are in no sample.
        again: links to folders that are searched already; they are passed over.
    """

    samples: tuple[Sample, ...]
    missing: tuple[Missing, ...] = ()
    orphans: tuple[Path, ...] = ()
    strangers: tuple[Path, ...] = ()
    twins: tuple[tuple[Path, ...], ...] = ()
    again: tuple[Path, ...] = ()


def list_split(
    split: str,
    images: Sequence[Path],
    masks: Sequence[Path],
    first: Path,
    files: Files = Disk(),
) -> Listing:
    """Pair the files of a split by name.

    Args:
        split: its name.
        images: the folders of the inputs that are asked for.
        masks: those of the heads.
        first: that of the dataset's first input, asked for or not.
        files: where the folders are.
    """
    found: Found = {}
    others: dict[Path, list[Path]] = {}
    again: list[Path] = []
    for folder in dict.fromkeys((first, *images, *masks)):
        suffixes = {".png"} if folder in masks else IMAGE_SUFFIXES
        found[folder], others[folder] = _by_name(files, folder / split, suffixes, again)
    further = [folder for folder in found if folder != first]
    return Listing(
        samples=_samples(found, images, masks, first),
        missing=_missing(found, others, first, split),
        orphans=tuple(
            path
            for folder in further
            for path in (
                *(paths[0] for name, paths in found[folder].items() if name not in found[first]),
                *(others[folder] if folder in masks else ()),
            )
        ),
        strangers=tuple(
            path for folder in others if folder not in masks for path in others[folder]
        ),
        twins=tuple(
            tuple(paths) for each in found.values() for paths in each.values() if len(paths) > 1
        ),
        again=tuple(again),
    )


def _samples(
    found: Found, images: Sequence[Path], masks: Sequence[Path], first: Path
) -> tuple[Sample, ...]:
    """Return what is there once in all folders, in the order of the first."""
    return tuple(
        Sample(
            name,
            tuple(found[folder][name][0] for folder in images),
            tuple(found[folder][name][0] for folder in masks),
        )
        for name in found[first]
        if all(len(paths.get(name, ())) == 1 for paths in found.values())
    )


def _missing(
    found: Found, others: Mapping[Path, list[Path]], first: Path, split: str
) -> tuple[Missing, ...]:
    """Return what the further folders lack of the first's names, and files that may be meant."""
    meant = {
        folder: {_name(path, folder / split): path for path in paths}
        for folder, paths in others.items()
    }
    return tuple(
        Missing(paths[0], folder.name, meant[folder].get(name))
        for folder in found
        if folder != first
        for name, paths in found[first].items()
        if name not in found[folder]
    )


def _by_name(
    files: Files, folder: Path, suffixes: Collection[str], again: list[Path]
) -> tuple[dict[str, list[Path]], list[Path]]:
    """Find the files below `folder`: by name where the suffix is one of `suffixes`, and others."""
    found: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in sorted(files.below(folder, again)):
        if path.suffix.lower() in suffixes:
            name = _name(path, folder)
            found.setdefault(name, []).append(path)
        else:
            others.append(path)
    return found, others


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def held_out_names(names: Sequence[str]) -> set[str]:
    """Choose about a tenth of the names by their hash alone; at least one on either side."""
    ranked = sorted(names, key=_rank)
    chosen = sum(_rank(name) < _HELD_OUT_SHARE for name in ranked)
    return set(ranked[: min(max(chosen, 1), len(ranked) - 1)])


def _rank(name: str) -> float:
    """Map a name to [0, 1), evenly and the same everywhere and always."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64
