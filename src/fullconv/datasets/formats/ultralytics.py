"""Ultralytics: data.yaml with names; polygons in labels/NAME.txt, or masks in `masks_dir`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fullconv.base.errors import FullconvError
from fullconv.base.files import replacing, write_text
from fullconv.base.fill import as_ring
from fullconv.base.images import IMAGE_SUFFIXES, ImageReader
from fullconv.base.progress import Reporter
from fullconv.base.settings import read_yaml
from fullconv.datasets.formats.annotated import AnnotatedImage, Polygons, Region, Source
from fullconv.datasets.formats.draft import Draft
from fullconv.datasets.formats.files import Place, images_below
from fullconv.datasets.formats.masks import read_values

NAME = "Ultralytics"


class _Image(NamedTuple):
    split: str
    name: str
    path: Path


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise a YAML file with `names`, and `train` or `val`."""
    for path in place.files(".yaml", ".yml"):
        if path.parent != place.root or path.name == "dataset.yaml":
            continue
        content = _settings(path)
        if content is not None:
            return _source(path, content, place.reader)
    return None


def write(drafts: Iterable[Draft], classes: Sequence[str], folder: Path) -> None:
    """Write data.yaml, labels/train/NAME.txt, and the images as they are beside them."""
    for draft in drafts:
        image = folder / "images" / "train" / f"{draft.name}{draft.path.suffix}"
        with replacing(image) as temporary:
            shutil.copyfile(draft.path, temporary)
        lines = [
            " ".join(
                (
                    str(classes.index(region.name)),
                    *(f"{share:.6g}" for share in (region.rim / draft.size[::-1]).ravel()),
                )
            )
            for region in draft.regions
        ]
        write_text(folder / "labels" / "train" / f"{draft.name}.txt", "\n".join([*lines, ""]))
    content = {"path": ".", "train": "images/train", "val": "images/train"}
    text = yaml.safe_dump({**content, "names": dict(enumerate(classes))}, sort_keys=False)
    write_text(folder / "data.yaml", text)


def _settings(path: Path) -> dict[str, Any] | None:
    try:
        content = read_yaml(path.read_bytes())
    except ValueError as error:
        raise FullconvError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        return None
    return content if {"train", "val", "test"} & set(content) else None


def _source(path: Path, content: dict[str, Any], reader: ImageReader) -> Source:
    listed = content["names"]
    names = dict(enumerate(listed)) if isinstance(listed, list) else listed
    names = {int(number): str(name) for number, name in sorted(names.items())}
    root = path.parent / str(content.get("path") or "")
    root = root if root.is_dir() else path.parent
    found = (
        image
        for split in ("train", "val", "test")
        for where in _listed(content.get(split))
        for image in _images(root, split, where)
    )
    once: dict[Path, _Image] = {}  # an image of several splits belongs to the first
    for image in found:
        once.setdefault(image.path, image)
    images = [*once.values()]
    masks = content.get("masks_dir")
    return Source(
        f"{NAME}, {'masks' if masks else 'polygons'}",
        path.parent,
        tuple(names.values()),
        len(images),
        partial(_read, images, names, str(masks) if masks else None, reader),
        values={**names, 255: None} if masks else {},
    )


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)] * bool(value)


def _images(root: Path, split: str, where: str) -> Iterator[_Image]:
    """Yield the images of a folder, or those that a text file lists."""
    # Roboflow writes ../train/images, which it means from data.yaml's own folder.
    folder = next(
        (each for each in (root / where, root / where.removeprefix("../")) if each.exists()), None
    )
    if folder is None:
        raise FullconvError(f"{root / where}: is missing, though data.yaml names it as {split}")
    if folder.is_dir():
        for path in images_below(folder):
            name = path.relative_to(folder).with_suffix("").as_posix()
            yield _Image(split, name, path)
        return
    for line in folder.read_text(encoding="utf-8-sig").split("\n"):
        if Path(line).suffix.lower() in IMAGE_SUFFIXES:
            yield _Image(split, Path(line).stem, folder.parent / line.strip())


def _read(
    images: Sequence[_Image], names: Mapping[int, str], masks: str | None, reader: ImageReader
) -> Iterator[AnnotatedImage]:
    for split, name, path in images:
        if masks:
            about = _beside(path, masks, ".png")
            values = partial(read_values, about, reader)
            yield AnnotatedImage(name, path, about, values=values, split=split)
        else:
            about = _beside(path, "labels", ".txt")
            regions = partial(_regions, about, path, names, reader)
            yield AnnotatedImage(name, path, about, regions, split=split)


def _beside(image: Path, folder: str, suffix: str) -> Path:
    """Return the file of an image in the folder that stands where `images` does."""
    parts = list(image.with_suffix(suffix).parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            parts[at] = folder
            return Path(*parts)
    return image.with_suffix(suffix)


def _regions(
    about: Path, image: Path, names: Mapping[int, str], reader: ImageReader
) -> list[Region]:
    """Read a line a polygon: the class's number, then x and y as shares of width and height."""
    if not about.is_file():  # an image with nothing in it
        return []
    height, width = reader.image_size(image)
    regions = []
    for line in about.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip():
            continue
        number, *shares = line.split()
        if len(shares) == 4:
            raise ValueError("boxes instead of polygons, which have no pixels")
        points = np.array(shares, np.float64).reshape(-1, 2) * (width, height)
        regions.append(Region(names.get(int(number), number), Polygons([[as_ring(points)]])))
    return regions
