"""Dataset folders of fullconv itself, which are divided anew, or whose classes are mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fullconv.base.errors import FullconvError
from fullconv.base.packed import Packed
from fullconv.base.progress import Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.data.listing import Listing
from fullconv.datasets.formats.annotated import AnnotatedImage, Source, Values
from fullconv.datasets.formats.files import Place

NAME = "a dataset folder"


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise dataset.yaml."""
    if not (place.root / "dataset.yaml").is_file():
        return None
    folder = DatasetFolder(place.root, place.reader)
    info = folder.info
    if isinstance(folder.reader.files, Packed):
        raise FullconvError(
            f"{place.root}: is packed into shards; divide the dataset folder that they are made of"
        )
    if len(info.inputs) > 1 or len(info.heads) > 1:
        raise FullconvError(f"{place.root}: has several inputs or heads, which are not converted")
    classes = info.classes
    values: dict[int, str | None] = {**dict(enumerate(classes)), info.ignore_index: None}
    palette = dict(zip(classes, info.palette, strict=True)) if info.palette else {}
    listings = [folder.listing(split) for split in folder.splits]
    return Source(
        NAME,
        place.root,
        classes,
        sum(len(listing.samples) for listing in listings),
        partial(_read, folder),
        values=values,
        palette=palette,
        info=info,
        left_over=_left_over(place.root, listings),
        notes=_notes(listings),
    )


def _left_over(root: Path, listings: Sequence[Listing]) -> dict[str, tuple[str, ...]]:
    """Return what a training would refuse: images without a mask, and files called alike."""
    lacking = (each.image for listing in listings for each in listing.missing)
    twins = (path for listing in listings for paths in listing.twins for path in paths)
    by_kind = {"images without a mask": lacking, "files of the same name": twins}
    return {  # once: where a part of train is held out, both parts list what is wrong with all
        kind: tuple(dict.fromkeys(path.relative_to(root).as_posix() for path in paths))
        for kind, paths in by_kind.items()
    }


def _notes(listings: Sequence[Listing]) -> tuple[str, ...]:
    """Say what a training passes over."""
    idle = {path for listing in listings for path in (*listing.orphans, *listing.strangers)}
    if not idle:
        return ()
    return (f"left out: {len(idle):,} files that belong to no image (see data check)",)


def _read(folder: DatasetFolder) -> Iterator[AnnotatedImage]:
    for split in folder.splits:
        for sample in folder.listing(split).samples:

            def values(mask: object = sample.masks[0]) -> Values:
                stored = folder.reader.mask(str(mask))
                return folder.info.label_ids(stored).astype(np.int64)

            where = "train" if folder.held_out else split
            yield AnnotatedImage(
                sample.name, sample.images[0], sample.masks[0], values=values, split=where
            )
