"""The formats that are recognised, in the order in which they are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.files import files_below
from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.datasets.formats import (
    cityscapes,
    coco,
    cvat,
    label_studio,
    label_studio_png,
    labelme,
    own,
    pairs,
    supervisely,
    ultralytics,
    voc,
)
from fullconv.datasets.formats.annotated import Source
from fullconv.datasets.formats.files import Place

_DEEPEST = 3  # folders that hold nothing but a folder
_MOST_FILES = 100_000  # that are counted to say what there is


class Format(NamedTuple):
    """A format of annotations.

    Attributes:
        recognise: returns the source at a place, or None if it is of another format.
        marks: what it is recognised by, in words.
        takes_table: whether a list of classes tells it anything.
    """

    recognise: Callable[[Place, Reporter], Source | None]
    marks: str
    takes_table: bool = False


FORMATS = (
    Format(own.recognise, "dataset.yaml"),
    Format(cityscapes.recognise, "leftImg8bit and gtFine (Cityscapes)"),
    Format(voc.recognise, "SegmentationClass (Pascal VOC, CVAT's masks)", takes_table=True),
    Format(supervisely.recognise, "meta.json (Supervisely)"),
    Format(ultralytics.recognise, "data.yaml (Ultralytics)"),
    Format(cvat.recognise, "annotations.xml (CVAT)"),
    Format(labelme.recognise, "JSON with shapes (labelme)"),
    Format(coco.recognise, "JSON with images, annotations and categories (COCO)"),
    Format(label_studio.recognise, "JSON with tasks (Label Studio)"),
    Format(label_studio_png.recognise, "task-1-annotation-… .png (Label Studio's PNG export)"),
    Format(
        pairs.recognise,
        "images and masks in two folders, or x.jpg beside x_mask.png",
        takes_table=True,
    ),
)


def recognise(
    path: Path,
    table: Path | None = None,
    reporter: Reporter = SILENT,
    reader: ImageReader = ImageReader(),
) -> Source | None:
    """Return what is at a path; None if it is nothing that is known.

    Args:
        path: a folder or a file.
        table: a list of classes with their values or colours, where masks have none beside them.
        reporter: shows progress where files must be read for that.
        reader: reads images and masks.

    Raises:
        FullconvError: it isn't there, or is of a format but damaged, or of one to which the list of
            classes says nothing.
    """
    if not path.exists():
        raise FullconvError(f"{path}: there is no such folder or file")
    place = replace(_place_of(path), table=table, reader=reader)
    for _ in range(_DEEPEST):
        for each in FORMATS:
            source = _recognised(each, place, reporter)
            if source is not None and source.count:
                _require_use(table, each, source)
                return source
        inside = [child for child in place.root.iterdir() if not child.name.startswith(".")]
        if place.only is not None or len(inside) != 1 or not inside[0].is_dir():
            return None
        place = replace(place, root=inside[0])
    return None


def _place_of(path: Path) -> Place:
    """Return a folder, or a file of annotations in the folder in which its images are."""
    if path.is_dir():
        return Place(path)
    file = path.absolute()
    folder = file.parent
    return Place(folder.parent if folder.name == "annotations" else folder, file)


def _require_use(table: Path | None, format_: Format, source: Source) -> None:
    if table is not None and not format_.takes_table:
        raise FullconvError(
            f"--table {table}: tells nothing of {source.format}, which names its classes itself; "
            "leave it out, and see --map"
        )


def recognised(
    path: Path,
    table: Path | None = None,
    reporter: Reporter = SILENT,
    reader: ImageReader = ImageReader(),
) -> Source:
    """Return what is at a path.

    Raises:
        FullconvError: nothing that is known; the message says what was looked for and what found.
    """
    source = recognise(path, table, reporter, reader)
    if source is not None:
        return source
    looked_for = "; ".join(each.marks for each in FORMATS)
    raise FullconvError(
        f"{path}: is of no known format: it holds {_holding(path)}; looked for {looked_for}"
    )


def _recognised(format_: Format, place: Place, reporter: Reporter) -> Source | None:
    try:
        return format_.recognise(place, reporter)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        where = place.only or place.root
        raise FullconvError(
            f"{where}: has {format_.marks}, but is damaged ({type(error).__name__}: "
            f"{one_line(error)})"
        ) from error


def _holding(path: Path) -> str:
    """Say which files there are: "12 .jpg, 3 .txt"."""
    if not path.is_dir():
        return f"one file, {path.suffix or path.name}"
    counts: Counter[str] = Counter()
    for at, file in enumerate(files_below(path)):
        if at == _MOST_FILES:
            break
        counts[file.suffix.lower() or "files without suffix"] += 1
    return ", ".join(f"{n:,} {suffix}" for suffix, n in counts.most_common(6)) or "no files"
