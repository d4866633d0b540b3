"""Files of annotations, read within bounds: JSON, images that they name, lists of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fullconv.base.errors import FullconvError
from fullconv.base.files import files_below
from fullconv.base.images import IMAGE_SUFFIXES

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_OF_LAYOUTS = {*SPLIT_NAMES, "images", "img", "data", "default", "jpegimages"}
_MOST_BYTES = 2 << 30  # of a JSON file; COCO's largest has 0.5 GB


@dataclass(frozen=True)
class Place:
    """What is to be recognised: a folder, or a file in it.

    Attributes:
        root: the folder.
        only: the file; None: all of the folder's.
        table: the file with names of classes, and their values or colours; None: to be looked for.
    """

    root: Path
    only: Path | None = None
    table: Path | None = None

    def files(self, *suffixes: str) -> list[Path]:
        """Return the file, or all files below the folder, that end so; sorted."""
        files = files_below(self.root) if self.only is None else iter([self.only])
        return sorted(path for path in files if path.suffix.lower() in suffixes)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FullconvError: it is missing, damaged, nested too deep, or larger than annotations are.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FullconvError(f"{path}: is larger than {_MOST_BYTES >> 30} GiB; divide it")
        return json.loads(path.read_bytes())
    except RecursionError:
        problem = "is nested deeper than annotations are"
    except ValueError:
        problem = "is no JSON, or damaged"
    except OSError as error:
        problem = f"can't be read ({error.strerror})"
    raise FullconvError(f"{path}: {problem}; restore it or remove it")


def split_of(words: Iterable[str]) -> str:
    """Return the split that one of some names is for, or ""."""
    return next((SPLIT_NAMES[word.lower()] for word in words if word.lower() in SPLIT_NAMES), "")


def split_in(stem: str) -> str:
    """Return the split in a name such as "instances_val2017", or ""."""
    return split_of(re.findall("[a-z]+", stem.lower()))


def images_below(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that are images by their names."""
    return (path for path in files_below(root) if path.suffix.lower() in IMAGE_SUFFIXES)


class ImageIndex:
    """Finds the images that annotations name, wherever below a folder they lie."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[Path]] = {}
        for path in images_below(root):
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, name: str, near: Path) -> Path:
        """Return the file that `name` may mean; one that isn't there if none is.

        Args:
            name: a file's name or path, or an address.
            near: the folder of the file that names it.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        there = near / wanted
        if not wanted.is_absolute() and wanted.suffix.lower() in IMAGE_SUFFIXES and there.is_file():
            return there
        found = self._by_name.get(wanted.name, [])
        return max(
            found,
            key=lambda path: self._likeness(path, wanted, near),
            default=near / (wanted.name or "?"),
        )

    def other(self, mask: Path, folder: str) -> Path:
        """Return the image called as a mask, one in `folder` first; it may be missing."""
        found = [
            path
            for suffix in sorted(IMAGE_SUFFIXES)
            for path in self._by_name.get(mask.stem + suffix, [])
            if path.parent != mask.parent and not path.parent.name.startswith("Segmentation")
        ]
        preferred = [path for path in found if path.parent.name == folder]
        return next(iter((*preferred, *found)), mask.parent.parent / folder / f"{mask.stem}.jpg")

    @staticmethod
    def _likeness(path: Path, wanted: PurePosixPath, near: Path) -> tuple[int, bool]:
        same = 0
        for own, asked in zip(reversed(path.parts), reversed(wanted.parts), strict=False):
            if own != asked:
                break
            same += 1
        return same, path.is_relative_to(near)

    def name(self, path: Path) -> str:
        """Return the name of an image in the dataset: its path, but for folders of a layout."""
        if not path.is_relative_to(self._root):
            return path.stem
        *folders, _ = path.relative_to(self._root).parts
        kept = [each for each in folders if each.lower() not in _OF_LAYOUTS and each != ".."]
        return "/".join((*kept, path.stem))


def numbered(name: str) -> tuple[int | str, ...]:
    """Sort key by which "10" comes after "9"."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def number(value: Any, what: str) -> float:
    """Return a number of a file.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{what} is no number")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{what} is no number") from None
