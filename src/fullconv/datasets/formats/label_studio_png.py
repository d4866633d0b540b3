"""Label Studio's PNG export of brushes, a file a region, beside a JSON that tells whose they are.

Its files are called ``task-1-annotation-11-by-1-tag-Road-0.png``: the number of the task, the
annotation, its author, the name of the brushes in the labelling interface, the label, and the
region's number. Their values are 0 and 255. What image a task is of stands in a JSON or JSON-MIN
export alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import AnnotatedImage, Pixels, Region, Size, Source
from fullconv.datasets.formats.files import ImageIndex, Place, numbered, read_json
from fullconv.datasets.formats.label_studio import find_image, image_of

NAME = "Label Studio's PNGs"
_PNG = re.compile(r"^task-(\d+)-annotation-(\d+)-by-[^-]*-(.+)-(\d+)\.png$")


class _File(NamedTuple):
    path: Path
    task: int
    annotation: int
    name: str  # of the brushes, and of the label
    number: int


class _Task(NamedTuple):
    about: Path
    image: str
    keys: frozenset[str]  # of the task, names of brushes among them


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise the files by their names, and their images by the tasks of a JSON beside them."""
    files = [file for path in place.files(".png") if (file := _file(path))]
    if not files:
        return None
    tasks = {number: task for path in place.files(".json") for number, task in _tasks(path)}
    missing = sorted({file.task for file in files} - set(tasks))
    if missing:
        numbers = f"task {missing[0]}" + (f" and {len(missing) - 1} more" * (len(missing) > 1))
        raise FullconvError(
            f"{place.root}: is Label Studio's PNG export, whose files have the numbers of tasks, "
            f"not the names of images, and no JSON tells the image of {numbers}; put a JSON export "
            "of the project and the images beside it"
        )
    of_task: dict[int, list[_File]] = defaultdict(list)
    for file in files:
        of_task[file.task].append(file)
    named = {file.path: _label(file.name, tasks[file.task].keys) for file in files}
    classes = tuple(sorted(set(named.values()), key=numbered))
    read = partial(_read, place, of_task, tasks, named)
    return Source(NAME, place.root, classes, len(of_task), read)


def _file(path: Path) -> _File | None:
    match = _PNG.match(path.name)
    if match is None:
        return None
    task, annotation, name, number = match.groups()
    return _File(path, int(task), int(annotation), name, int(number))


def _tasks(path: Path) -> Iterator[tuple[int, _Task]]:
    """Yield the numbers of tasks of a JSON or JSON-MIN export."""
    content = read_json(path)
    for task in content if isinstance(content, list) else []:
        if isinstance(task, dict) and isinstance(task.get("id"), int):
            data = task["data"] if isinstance(task.get("data"), dict) else task
            yield task["id"], _Task(path, image_of(data), frozenset(task))


def _label(name: str, keys: frozenset[str]) -> str:
    """Part a label from the name of the brushes: one of the task's keys, or what has no hyphen."""
    for key in sorted(keys, key=len, reverse=True):
        if name.startswith(f"{key}-"):
            return name[len(key) + 1 :]
    return name.partition("-")[2] or name


def _read(
    place: Place,
    of_task: Mapping[int, Sequence[_File]],
    tasks: Mapping[int, _Task],
    named: Mapping[Path, str],
) -> Iterator[AnnotatedImage]:
    index = ImageIndex(place.root)
    for number in sorted(of_task):
        task = tasks[number]
        found = find_image(index, task.image, task.about.parent)
        last = max(file.annotation for file in of_task[number])
        files = [file for file in of_task[number] if file.annotation == last]
        files.sort(key=lambda file: (named[file.path], file.number))
        common = (index.name(found.path), found.path, task.about)
        regions = partial(_regions, files, named, place.reader)
        yield AnnotatedImage(*common, regions, found=found)


def _regions(
    files: Sequence[_File], named: Mapping[Path, str], reader: ImageReader
) -> list[Region]:
    return [Region(named[file.path], Pixels(partial(_pixels, file.path, reader))) for file in files]


def _pixels(path: Path, reader: ImageReader, size: Size) -> NDArray[np.bool_]:
    values: NDArray[Any] = reader.image(path)[..., 0]
    if values.shape != size:
        raise ValueError(
            f"{path.name} is {values.shape[1]} x {values.shape[0]} pixels, its image {size[1]} x "
            f"{size[0]}"
        )
    covered: NDArray[np.bool_] = values > 0
    return covered
