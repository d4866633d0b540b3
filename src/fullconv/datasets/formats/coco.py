"""COCO: a JSON file of images, annotations and categories; instances, stuff and panoptic."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fullconv.base.files import write_json
from fullconv.base.fill import Covered, as_ring, covered
from fullconv.base.images import ImageReader
from fullconv.base.progress import Reporter
from fullconv.base.shapes import run_lengths
from fullconv.datasets.formats.annotated import (
    AnnotatedImage,
    Outline,
    Pixels,
    Polygons,
    Region,
    Size,
    Source,
    Values,
    left_out,
)
from fullconv.datasets.formats.draft import Draft, DraftedRegion, rounded
from fullconv.datasets.formats.files import ImageIndex, Place, read_json, split_in, split_of
from fullconv.datasets.formats.masks import IGNORED
from fullconv.datasets.formats.pixels import coco_mask, coco_text

NAME = "COCO"


class _File(NamedTuple):
    path: Path
    content: dict[str, Any]
    names: Mapping[int, str]  # of categories
    split: str


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise JSON files with images, annotations and categories."""
    files = [file for path in place.files(".json") if (file := _file(place.root, path))]
    if not files:
        return None
    names = dict(sorted(pair for file in files for pair in file.names.items()))
    used = _used(files)
    # Roboflow's first category is the name of the project, and has no annotations.
    kept = [number for number in names if number in used or not _is_parent(number, files)]
    classes = tuple(dict.fromkeys(names[number] for number in kept))
    panoptic = any(_is_panoptic(file.content) for file in files)
    return Source(
        f"{NAME} {'panoptic' if panoptic else ''}".strip(),
        place.root,
        classes,
        sum(len(file.content["images"]) for file in files),
        partial(_read, place, files),
        values={number: names[number] for number in names} if panoptic else {},
        notes=_notes(files),
    )


def write(drafts: Iterable[Draft], classes: Sequence[str], folder: Path) -> None:
    """Write annotations.json: regions with holes as run lengths, others as polygons."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for draft in drafts:
        height, width = draft.size
        name = os.path.relpath(draft.path.resolve(), folder.resolve())
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        for region in draft.regions:
            found = covered([region.rim, *region.holes], draft.size)
            low, high = region.rim.min(0), region.rim.max(0)
            about = {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": 1 + classes.index(region.name),
                "iscrowd": 0,
                "area": int(found.pixels.sum()),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "segmentation": _segmentation(region, found, draft.size),
            }
            score = {} if region.confidence is None else {"score": round(region.confidence, 4)}
            annotations.append({**about, **score})
    categories = [{"id": 1 + at, "name": name} for at, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "annotations.json", content)


def _segmentation(region: DraftedRegion, found: Covered, size: Size) -> Any:
    if not region.holes:
        return [[number for point in rounded(region.rim) for number in point]]
    mask = np.zeros(size, bool)
    y, x, pixels = found
    mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return {"size": [*size], "counts": coco_text(run_lengths(mask))}


def _file(root: Path, path: Path) -> _File | None:
    content = read_json(path)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        return None
    if not all(isinstance(each, dict) for key in keys for each in content[key]):
        return None
    if content["annotations"] and not any(
        "segmentation" in each or "segments_info" in each for each in content["annotations"]
    ):
        return None
    names = {
        each["id"]: str(each.get("name", each["id"]))
        for each in content["categories"]
        if isinstance(each.get("id"), int)
    }
    split = split_of(path.relative_to(root).parts[:-1]) or split_in(path.stem)
    return _File(path, content, names, split)


def _is_panoptic(content: dict[str, Any]) -> bool:
    return any("segments_info" in each for each in content["annotations"])


def _used(files: Sequence[_File]) -> set[int]:
    annotations = [each for file in files for each in file.content["annotations"]]
    segments = [part for each in annotations for part in each.get("segments_info", ())]
    return {each.get("category_id") for each in (*annotations, *segments)}


def _notes(files: Sequence[_File]) -> tuple[str, ...]:
    boxes: list[str] = []
    strays: list[str] = []
    for file in files:
        images = {each.get("id") for each in file.content["images"]}
        for each in file.content["annotations"]:
            if each.get("image_id") not in images:
                strays.append(file.path.name)
            elif not (each.get("segmentation") or "segments_info" in each):
                number = each.get("category_id")
                boxes.append(file.names.get(number, str(number)))
    return left_out(
        {"annotations without polygons": boxes, "annotations of images that are not listed": strays}
    )


def _is_parent(number: int, files: Sequence[_File]) -> bool:
    """Tell a category that is what others say they belong to."""
    every = [each for file in files for each in file.content["categories"]]
    own = [each.get("name") for each in every if each.get("id") == number]
    return any(each.get("supercategory") in own and each.get("id") != number for each in every)


def _read(place: Place, files: Sequence[_File]) -> Iterator[AnnotatedImage]:
    index = ImageIndex(place.root)
    for file in files:
        of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for each in file.content["annotations"]:
            of_image[each.get("image_id")].append(each)
        panoptic = _is_panoptic(file.content)
        for image in file.content["images"]:
            name = str(image.get("file_name", ""))
            found = index.find(name, file.path.parent, file.split)
            height, width = image.get("height"), image.get("width")
            size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
            own = of_image.pop(image.get("id"), [])
            common = (index.name(found.path), found.path, file.path)
            values = partial(_panoptic, file.path, own, place.reader) if panoptic else None
            regions = None if panoptic else partial(_regions, own, file.names, size)
            yield AnnotatedImage(*common, regions, values, size, file.split, found)


def _regions(
    annotations: Sequence[dict[str, Any]], names: Mapping[int, str], size: Size | None
) -> list[Region]:
    return [
        Region(None if each.get("iscrowd") else names[each["category_id"]], outline)
        for each in annotations
        if (outline := _outline(each.get("segmentation"), size)) is not None
    ]


def _outline(segmentation: Any, size: Size | None) -> Outline | None:
    if not segmentation:
        return None  # a box alone
    if isinstance(segmentation, list):
        parts = [[as_ring(list(zip(part[::2], part[1::2], strict=True)))] for part in segmentation]
        return Polygons(parts)
    own = tuple(segmentation["size"])
    if size is not None and own != size:
        raise ValueError(f"run lengths of {own[1]} x {own[0]} pixels")

    def decode(size: Size) -> Any:
        if own != size:
            raise ValueError(f"run lengths of {own[1]} x {own[0]} pixels")
        return coco_mask(segmentation["counts"], size)

    return Pixels(decode)


def _panoptic(about: Path, annotations: Sequence[dict[str, Any]], reader: ImageReader) -> Values:
    """Read the PNG of the segments: its colours are numbers, of three digits to the base 256."""
    if len(annotations) != 1:
        raise ValueError(f"{len(annotations)} panoptic annotations of one image")
    file = annotations[0]["file_name"]
    folders = (about.with_suffix(""), about.parent)
    path = next((each / file for each in folders if (each / file).is_file()), folders[0] / file)
    red, green, blue = np.moveaxis(reader.image(path).astype(np.int64), 2, 0)
    category = {
        each["id"]: IGNORED if each.get("iscrowd") else each["category_id"]
        for each in annotations[0]["segments_info"]
    }
    found, places = np.unique(red + 256 * green + 65536 * blue, return_inverse=True)
    categories = np.array([category.get(each, IGNORED) for each in found.tolist()], np.int64)
    values: Values = categories[places].reshape(red.shape)
    return values
