"""labelme: beside each image NAME.json, whose shapes are drawn one over the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.base.files import write_json
from fullconv.base.fill import as_ring
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import (
    AnnotatedImage,
    Ellipse,
    Line,
    Outline,
    Pixels,
    Polygons,
    Region,
    Source,
    rectangle,
)
from fullconv.datasets.formats.draft import Draft, DraftedRegion, rounded
from fullconv.datasets.formats.files import ImageIndex, Place, numbered, read_json, split_of
from fullconv.datasets.formats.pixels import png_mask

NAME = "labelme"
_HEAD = 4096  # bytes, within which its JSON tells itself
_LINE_WIDTH, _POINT_RADIUS = 10, 5  # pixels, of labelme's shape_to_mask
_IGNORED, _BACKGROUND = "__ignore__", "_background_"


def recognise(place: Place, reporter: Reporter) -> Source | None:
    """Recognise JSON files with "shapes"; classes are the labels there are, sorted."""
    files = [path for path in place.files(".json") if _is_labelme(path)]
    if not files:
        return None
    labels: set[str] = set()
    with reporter.bar(len(files), "look for classes", unit="files") as bar:
        for path in files:
            labels |= {_name(shape) or "" for shape in _shapes(read_json(path))}
            bar.advance()
    classes = tuple(sorted(labels - {""}, key=numbered))
    return Source(
        NAME,
        place.root,
        classes,
        len(files),
        partial(_read, place.root, files),
        fill="outline",
        overlap="later",
    )


def write(drafts: Iterable[Draft], classes: Sequence[str], folder: Path) -> None:  # noqa: ARG001
    """Write NAME.json for each image, which refers to it; labelme shows the later shape."""
    for draft in drafts:
        path = folder / f"{draft.name}.json"
        shapes: list[dict[str, Any]] = [
            {
                "label": region.name,
                "points": rounded(region.rim),
                "group_id": None,
                "description": _confidence(region),
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for region in draft.regions
        ]
        content: dict[str, Any] = {
            "version": "5.5.0",  # whose form this is, and later ones read
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(draft.path.resolve(), path.parent.resolve()),
            "imageData": None,
            "imageHeight": draft.size[0],
            "imageWidth": draft.size[1],
        }
        write_json(path, content)


def _confidence(region: DraftedRegion) -> str:
    return "" if region.confidence is None else f"confidence {region.confidence:.2f}"


def _is_labelme(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return b'"shapes"' in head or (b'"imageData"' in head and b'"imagePath"' in head)


def _shapes(content: Any) -> list[Any]:
    found = content.get("shapes") if isinstance(content, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _name(shape: dict[str, Any]) -> str | None:
    label = str(shape.get("label", ""))
    return {_IGNORED: None, _BACKGROUND: "background"}.get(label, label)


def _read(root: Path, files: Sequence[Path]) -> Iterator[AnnotatedImage]:
    index = ImageIndex(root)
    for path in files:
        content = read_json(path)
        named = content.get("imagePath") if isinstance(content, dict) else None
        name = named if isinstance(named, str) else path.stem
        found = index.find(name, path.parent)
        height, width = content.get("imageHeight"), content.get("imageWidth")
        yield AnnotatedImage(
            index.name(path),  # images may lie elsewhere
            found.path,
            path,
            partial(_regions, content),
            size=(height, width) if isinstance(height, int) and isinstance(width, int) else None,
            split=split_of(path.relative_to(root).parts[:-1]),
            found=found,
        )


def _regions(content: dict[str, Any]) -> list[Region]:
    return [Region(_name(shape), _outline(shape)) for shape in content["shapes"]]


def _outline(shape: dict[str, Any]) -> Outline:
    points, kind = shape["points"], shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return Polygons([[as_ring(points)]])
    if kind in ("line", "linestrip"):
        return Line(np.array(points, np.float64).reshape(-1, 2), _LINE_WIDTH)
    (x, y), *further = points
    if kind == "point":
        return Ellipse(x, y, _POINT_RADIUS, _POINT_RADIUS)
    if kind in ("rectangle", "mask"):
        ((x1, y1),) = further
        if kind == "rectangle":
            return rectangle(x, y, x1, y1)
        return Pixels(lambda _: png_mask(shape["mask"]), round(y), round(x))
    if kind == "circle":
        radius = float(np.hypot(further[0][0] - x, further[0][1] - y))
        return Ellipse(x, y, radius, radius)
    raise ValueError(f"a shape of type {kind!r}, which is not known")
