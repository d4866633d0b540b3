"""Supervisely: meta.json, and for each image DATASET/img/NAME and DATASET/ann/NAME.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.base.fill import as_ring
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import (
    AnnotatedImage,
    Line,
    Outline,
    Pixels,
    Polygons,
    Region,
    Source,
    rectangle,
)
from fullconv.datasets.formats.files import Place, read_json, split_of
from fullconv.datasets.formats.pixels import png_mask

NAME = "Supervisely"
_LINE_WIDTH = 1  # pixels


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise meta.json with classes, beside or above the folders ann and img."""
    meta = place.root / "meta.json"
    if not meta.is_file():
        return None
    content = read_json(meta)
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        return None
    classes = {
        str(each["title"]): str(each.get("color", ""))
        for each in content["classes"]
        if isinstance(each, dict) and "title" in each
    }
    files = [path for path in place.files(".json") if path.parent.name == "ann"]
    return Source(
        NAME,
        place.root,
        tuple(classes),
        len(files),
        partial(_read, place.root, files),
        fill="outline",
        overlap="later",
        palette=_colours(classes),
    )


def _colours(classes: Mapping[str, str]) -> dict[str, tuple[int, int, int]]:
    found = {}
    for name, text in classes.items():
        if len(text) == 7 and text.startswith("#"):
            red, green, blue = bytes.fromhex(text[1:])
            found[name] = (red, green, blue)
    return found


def _read(root: Path, files: Sequence[Path]) -> Iterator[AnnotatedImage]:
    for path in files:
        content = read_json(path)
        image = path.parent.parent / "img" / path.stem
        size = content["size"]["height"], content["size"]["width"]
        inside = path.relative_to(root).parts[:-2]
        name = "/".join((*inside, Path(path.stem).stem))
        read = partial(_regions, content)
        yield AnnotatedImage(name, image, path, read, size=size, split=split_of(inside))


def _regions(content: dict[str, Any]) -> list[Region]:
    return [Region(str(each["classTitle"]), _outline(each)) for each in content["objects"]]


def _outline(shape: dict[str, Any]) -> Outline:
    kind = shape["geometryType"]
    if kind == "bitmap":
        x, y = shape["bitmap"]["origin"]
        return Pixels(lambda _: png_mask(shape["bitmap"]["data"], packed=True), int(y), int(x))
    points = shape["points"]["exterior"]
    if kind == "polygon":
        return Polygons([[as_ring(ring) for ring in (points, *shape["points"]["interior"])]])
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        return rectangle(x0, y0, x1, y1)
    if kind == "line":
        return Line(np.array(points, np.float64).reshape(-1, 2), _LINE_WIDTH)
    raise ValueError(f"a {kind}, which has no known pixels")
