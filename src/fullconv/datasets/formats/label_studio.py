"""Label Studio: its JSON export, with brushes as run lengths, polygons, boxes and ellipses."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from fullconv.base.files import write_json
from fullconv.base.fill import as_ring
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import (
    AnnotatedImage,
    Ellipse,
    Outline,
    Pixels,
    Polygons,
    Region,
    Source,
    left_out,
    rectangle,
)
from fullconv.datasets.formats.draft import Draft
from fullconv.datasets.formats.files import Found, ImageIndex, Place, numbered, read_json
from fullconv.datasets.formats.pixels import brush_mask

NAME = "Label Studio"
_KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what it puts before names of uploaded files


class _Task(NamedTuple):
    about: Path
    image: str
    results: list[dict[str, Any]]


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise a JSON list of tasks with annotations or predictions."""
    tasks = [task for path in place.files(".json") for task in _tasks(path)]
    if not tasks:
        return None
    names = {name for task in tasks for result in task.results for name in _names(result)}
    classes = tuple(sorted(names, key=numbered))
    read = partial(_read, place.root, tasks)
    return Source(NAME, place.root, classes, len(tasks), read, notes=_notes(tasks))


def write(drafts: Iterable[Draft], classes: Sequence[str], folder: Path) -> None:  # noqa: ARG001
    """Write tasks.json with predictions, and images by their paths in local storage.

    Label Studio shows them where its labels are called "label" and its image "image".
    """
    tasks = []
    for draft in drafts:
        height, width = draft.size
        results = [
            {
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_height": height,
                "original_width": width,
                "image_rotation": 0,
                "value": {
                    "points": (100 * region.rim / (width, height)).tolist(),
                    "closed": True,
                    "polygonlabels": [region.name],
                },
                **({} if region.confidence is None else {"score": round(region.confidence, 4)}),
            }
            for region in draft.regions
        ]
        address = f"/data/local-files/?d={quote(draft.path.resolve().as_posix().lstrip('/'))}"
        predicted = {"model_version": "fullconv", "result": results}
        tasks.append({"data": {"image": address}, "predictions": [predicted]})
    write_json(folder / "tasks.json", tasks)


def _tasks(path: Path) -> Iterator[_Task]:
    content = read_json(path)
    for task in content if isinstance(content, list) else []:
        if not isinstance(task, dict) or not {"annotations", "predictions"} & set(task):
            return
        given = task.get("annotations") or task.get("predictions") or []
        done = [each for each in given if not each.get("was_cancelled")]
        image = image_of(task.get("data", {}))
        # What nobody has corrected is taken as predicted; of several annotations, the last.
        yield _Task(path, image, list(done[-1].get("result", ())) if done else [])


def image_of(data: Mapping[str, Any]) -> str:
    """Return the address of a task's image: the one called so, or else the first text."""
    named = next((value for value in data.values() if isinstance(value, str)), "")
    return str(data.get("image", named))


def find_image(index: ImageIndex, address: str, near: Path) -> Found:
    """Return the file of a task's image, with what the tool puts before its name or without."""
    parts = urlsplit(address)
    name = unquote(parts.query.removeprefix("d=") or parts.path)
    found = index.find(f"/{name}", near)  # from a root of the tool's own machine
    if found.path.is_file() or found.rivals:
        return found
    return index.find(_UPLOADED.sub("", Path(name).name), near)


def _names(result: dict[str, Any]) -> list[str]:
    value = result.get("value", {})
    return [str(name) for kind in _KINDS for name in value.get(kind, ())]


def _notes(tasks: Sequence[_Task]) -> tuple[str, ...]:
    """Tell of labels of other kinds, such as keypoints, which have no pixels."""
    names: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        for result in task.results:
            for kind, labels in result.get("value", {}).items():
                if kind.endswith("labels") and kind not in _KINDS:
                    names[kind] += map(str, labels)
    return left_out(names)


def _read(root: Path, tasks: Sequence[_Task]) -> Iterator[AnnotatedImage]:
    index = ImageIndex(root)
    for task in tasks:
        found = find_image(index, task.image, task.about.parent)
        sizes = {
            (result["original_height"], result["original_width"])
            for result in task.results
            if "original_height" in result and "original_width" in result
        }
        size = next(iter(sizes)) if len(sizes) == 1 else None
        common = (index.name(found.path), found.path, task.about)
        regions = partial(_regions, task.results)
        yield AnnotatedImage(*common, regions, size=size, found=found)


def _regions(results: Sequence[dict[str, Any]]) -> list[Region]:
    return [Region(names[0], _outline(result)) for result in results if (names := _names(result))]


def _outline(result: dict[str, Any]) -> Outline:
    value = result["value"]
    size = (int(result["original_height"]), int(result["original_width"]))
    if "rle" in value:
        return Pixels(lambda _: brush_mask(value["rle"], size))
    height, width = (side / 100 for side in size)  # all is told in hundredths of the image
    if "points" in value:
        return Polygons([[as_ring(np.array(value["points"], np.float64) * (width, height))]])
    if value.get("rotation") or result.get("image_rotation"):
        raise ValueError("a turned shape, which is not read; draw it as a polygon")
    x, y = value["x"] * width, value["y"] * height
    if "radiusX" in value:
        return Ellipse(x, y, value["radiusX"] * width, value["radiusY"] * height)
    return rectangle(x, y, x + value["width"] * width, y + value["height"] * height)
