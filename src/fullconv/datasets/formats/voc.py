"""PASCAL VOC's layout: JPEGImages, SegmentationClass, ImageSets/Segmentation, labelmap.txt.

CVAT's "Segmentation mask" and datumaro's voc_segmentation have it, too, with colours in place of
palettes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from fullconv.base.errors import few_named
from fullconv.base.palette import voc_palette
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import AnnotatedImage, Source
from fullconv.datasets.formats.files import ImageIndex, Place, split_of
from fullconv.datasets.formats.masks import (
    is_coloured,
    packed,
    read_table,
    read_values,
    unpacked,
)
from fullconv.papers.classes import VOC

NAME = "Pascal VOC"
_BORDER = packed(224, 224, 192)  # what 255 looks like


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise a folder SegmentationClass with PNGs."""
    masks = place.root / "SegmentationClass"
    if place.only is not None or not masks.is_dir():
        return None
    files = sorted(masks.glob("*.png"))
    if not files:
        return None
    coloured = is_coloured(files[0], place.reader)
    names = _names(place, coloured=coloured)
    splits = _splits(place.root / "ImageSets" / "Segmentation")
    unlabelled = sorted(splits.keys() - {path.stem for path in files})
    if splits:  # of VOC a part of the images is not listed
        files = [path for path in files if path.stem in splits]
    values: dict[int, str | None] = {**names}
    values |= {_BORDER: None} if coloured else {255: None}
    colours = voc_palette()
    palette = {
        name: unpacked(value) if coloured else colours[value] for value, name in names.items()
    }
    return Source(
        f"{NAME}, {'colours' if coloured else 'palette'}",
        place.root,
        tuple(dict.fromkeys(names.values())),
        len(files),
        partial(_read, place, files, splits),
        values=values,
        palette=palette,
        notes=_notes(unlabelled),
    )


def _notes(unlabelled: Sequence[str]) -> tuple[str, ...]:
    if not unlabelled:
        return ()
    return (f"left out: {len(unlabelled):,} listed images without a mask: {few_named(unlabelled)}",)


def _names(place: Place, *, coloured: bool) -> dict[int, str]:
    """Return names by value or colour: those of the list, whose order gives both, or VOC's own."""
    colours = [packed(*colour) for colour in voc_palette()]
    table = place.table or place.root / "labelmap.txt"
    if place.table is None and not table.is_file():
        return {colours[at] if coloured else at: name for at, name in enumerate(VOC)}
    found = read_table(table)
    if found.coloured == coloured:
        return dict(found.names)
    names = found.names.values()
    return {colours[at] if coloured else at: name for at, name in enumerate(names)}


def _splits(folder: Path) -> dict[str, str]:
    """Read which split each name is in; VOC's trainval says nothing new."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
        if path.stem == "trainval":
            continue
        for name in path.read_text(encoding="utf-8-sig").split():
            found[name] = split_of([path.stem])
    return found


def _read(place: Place, files: list[Path], splits: Mapping[str, str]) -> Iterator[AnnotatedImage]:
    index = ImageIndex(place.root)
    for path in files:
        found = index.other(path, "JPEGImages")
        values = partial(read_values, path, place.reader)
        split = splits.get(path.stem, "")
        yield AnnotatedImage(path.stem, found.path, path, values=values, split=split, found=found)
