"""Cityscapes: leftImg8bit and gtFine (or gtCoarse), by split and city."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fullconv.base.fill import as_ring
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import AnnotatedImage, Polygons, Region, Source
from fullconv.datasets.formats.files import Place, read_json, split_of
from fullconv.datasets.formats.masks import read_values

NAME = "Cityscapes"
# The 19 classes that are trained and scored, in the order of trainIds: name, labelId, colour.
CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_KINDS = ("_labelTrainIds.png", "_labelIds.png", "_polygons.json")


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise the folders gtFine or gtCoarse beside leftImg8bit."""
    if not (place.root / "leftImg8bit").is_dir():
        return None
    for truth in ("gtFine", "gtCoarse"):
        for kind in _KINDS:
            files = sorted((place.root / truth).glob(f"*/*/*_{truth}{kind}"))
            if files:
                return _source(place, files, truth, kind)
    return None


def _source(place: Place, files: Sequence[Path], truth: str, kind: str) -> Source:
    names = [name for name, _, _ in CLASSES]
    by_id: dict[int, str | None] = dict.fromkeys(range(34))
    by_id |= {number: name for name, number, _ in CLASSES}
    by_train_id: dict[int, str | None] = {**dict(enumerate(names)), 255: None}
    by_value = {_KINDS[0]: by_train_id, _KINDS[1]: by_id}
    return Source(
        f"{NAME}, {kind[1:]}",
        place.root,
        tuple(names),
        len(files),
        partial(_read, place, files, f"_{truth}{kind}"),
        overlap="later",
        complete=True,
        values=by_value.get(kind, {}),
        palette={name: colour for name, _, colour in CLASSES},
    )


def _read(place: Place, files: Sequence[Path], ending: str) -> Iterator[AnnotatedImage]:
    for path in files:
        split, city = path.parts[-3:-1]
        name = path.name.removesuffix(ending)
        image = place.root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
        common = (f"{city}/{name}", image, path)
        if path.suffix == ".png":
            values = partial(read_values, path, place.reader)
            yield AnnotatedImage(*common, values=values, split=split_of([split]))
        else:
            yield AnnotatedImage(*common, partial(_regions, path), split=split_of([split]))


def _regions(path: Path) -> list[Region]:
    """Read polygons; labels of other than the 19 classes are ignored, as is what none covers."""
    content: dict[str, Any] = read_json(path)
    height, width = content["imgHeight"], content["imgWidth"]
    whole = [[0, 0], [width, 0], [width, height], [0, height]]
    names = {name for name, _, _ in CLASSES}
    regions = [Region(None, Polygons([[as_ring(whole)]]))]
    for each in content["objects"]:
        label = each["label"].removesuffix("group")
        if not each.get("deleted"):
            outline = Polygons([[as_ring(each["polygon"])]])
            regions.append(Region(label if label in names else None, outline))
    return regions
