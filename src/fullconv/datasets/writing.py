"""Writing a dataset folder: images as they are, masks as 8-bit PNG, all checked on the way."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from fullconv.base import files
from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.palette import palette_image, voc_palette
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.info import IGNORE, DatasetInfo

Content = Path | Callable[[], NDArray[Any]]


class Item(NamedTuple):
    """One image with its masks.

    Attributes:
        split: train, val or test.
        name: without suffix.
        images: content by the name of a folder of the dataset ("images", "depth", …): a file, which
            stays as it is, or a function that makes the pixels, uint8 (H, W, 3) or uint16 (H, W).
        masks: the same for "masks" and so on; the pixels are integer label ids (H, W).
    """

    split: str
    name: str
    images: Mapping[str, Content]
    masks: Mapping[str, Content]


@dataclass(frozen=True)
class Conversion:
    """What goes into a dataset folder.

    Attributes:
        count: how many items there are.
        items: one an image, made as they are asked for.
        absent: inputs of the dataset that no item has.
        notes: lines to tell the user at the end.
    """

    count: int
    items: Iterator[Item]
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def write_dataset(
    info: DatasetInfo,
    conversion: Conversion,
    folder: Path,
    linkable: Path,
    reporter: Reporter = SILENT,
) -> Counter[str]:
    """Write a dataset folder, dataset.yaml last.

    Args:
        info: the contents of dataset.yaml.
        conversion: the images and masks.
        folder: where; it is emptied first.
        linkable: a folder whose files are hard-linked where the file system can. Others are copied,
            so that a change of the dataset never changes a user's own file.
        reporter: shows progress.

    Returns:
        How many images each split has.

    Raises:
        FullconvError: an image or mask is missing or unreadable, their sizes differ, or a mask
            has ids outside the classes.
    """
    if folder.exists():
        shutil.rmtree(folder)
    inputs = {name: kind for name, kind in info.inputs.items() if name not in conversion.absent}
    info = info.model_copy(update={"inputs": inputs})
    classes = {head.masks: len(head.classes) for head in info.heads.values()}
    counts: Counter[str] = Counter()
    with reporter.bar(conversion.count, "convert") as bar:
        for item in conversion.items:
            _write_item(item, folder, linkable, classes)
            counts[item.split] += 1
            bar.advance()
    text = yaml.safe_dump(info.to_dict(), sort_keys=False, default_flow_style=None)
    files.write_text(folder / "dataset.yaml", text)
    return counts


def listed_names(path: Path) -> tuple[str, ...]:
    """Read a list of image names, one a line.

    Raises:
        FullconvError: the list is missing or is none.
    """
    try:
        return tuple(path.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        raise FullconvError(f"{path}: is missing; it should list the images") from None
    except UnicodeDecodeError:
        raise FullconvError(f"{path}: is no list of image names") from None


def _write_item(item: Item, folder: Path, linkable: Path, classes: Mapping[str, int]) -> None:
    if not re.fullmatch(r"\w[\w.-]*", item.name):
        raise FullconvError(f"{item.name!r}: is no image name; the dataset's list is damaged")
    sizes: dict[Path, tuple[int, int]] = {}
    reader = ImageReader()
    for kind, content in item.images.items():
        path = _place(folder / kind / item.split, item.name, content, linkable)
        sizes[path] = reader.image_size(path)
    for kind, content in item.masks.items():
        made = content if isinstance(content, Path) else _checked(item, content(), classes[kind])
        path = _place(folder / kind / item.split, item.name, made, linkable)
        sizes[path] = reader.mask_size(path)
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{path.parent.parent.name} {w} x {h}" for path, (h, w) in sizes.items())
        raise FullconvError(f"{item.name}: its image and masks differ in size: {told}")


def _checked(item: Item, labels: NDArray[Any], classes: int) -> NDArray[np.uint8]:
    """Return `labels` as uint8 if all are ids of classes or to be ignored."""
    wrong = labels[(labels < 0) | ((labels >= classes) & (labels != IGNORE))]
    if wrong.size:
        raise FullconvError(
            f"{item.name}: its labels hold {wrong[0]} but there are {classes} classes; the file "
            "is damaged or of another dataset"
        )
    return labels.astype(np.uint8)


def _place(folder: Path, name: str, content: Content | NDArray[Any], linkable: Path) -> Path:
    """Put `content` into `folder` under `name`: a file as it is, pixels as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        return _take(content, folder / f"{name}{content.suffix.lower()}", linkable)
    pixels = content() if callable(content) else content
    ids = pixels.dtype == np.uint8 and pixels.ndim == 2
    image = palette_image(pixels, voc_palette(), None) if ids else Image.fromarray(pixels)
    path = folder / f"{name}.png"
    image.save(path)
    return path


def _take(source: Path, path: Path, linkable: Path) -> Path:
    if not source.is_file():
        raise FullconvError(f"{source}: is missing, though the dataset's list names it")
    if source.is_relative_to(linkable):
        try:
            os.link(source, path)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, path)
    else:
        shutil.copyfile(source, path)
    return path
