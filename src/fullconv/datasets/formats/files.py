"""Files of annotations, read within bounds: JSON, images that they name, lists of classes."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

from fullconv.base.errors import FullconvError
from fullconv.base.files import files_below
from fullconv.base.images import IMAGE_SUFFIXES, ImageReader

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
_LAYOUT_FOLDERS = {"images", "img", "data", "default", "jpegimages"}  # that tell no image apart
_FOREIGN = re.compile(r"/|[a-z][a-z0-9+.-]*:", re.I)  # a path of another machine, or an address
_MOST_BYTES = 2 << 30  # of a JSON file; COCO's largest has 0.5 GB


@dataclass(frozen=True)
class Place:
    """What is to be recognised: a folder, or a file in it.

    Attributes:
        root: the folder.
        only: the file; None: all of the folder's.
        table: the file with names of classes, and their values or colours; None: to be looked for.
        reader: reads images and masks.
    """

    root: Path
    only: Path | None = None
    table: Path | None = None
    reader: ImageReader = ImageReader()

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


class Found(NamedTuple):
    """The image that an annotation names.

    Attributes:
        path: its file; one that isn't there, if none is, or several may be it.
        rivals: the files that may be it, where nothing tells which is.
        elsewhere: whether it was found by its name alone, in another folder than the annotation.
    """

    path: Path
    rivals: Sequence[Path] = ()
    elsewhere: bool = False


class ImageIndex:
    """Finds the images that annotations name, wherever below a folder they lie.

    Files are sorted by their paths read backwards, so that those that end alike lie side by side.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        pairs = sorted((_plain(path.relative_to(root))[::-1], path) for path in images_below(root))
        self._keys = [key for key, _ in pairs]
        self._paths = [path for _, path in pairs]
        self._deepest = max(map(len, self._keys), default=0)

    def find(self, name: str, near: Path, split: str = "") -> Found:
        """Return the file that `name` means.

        The folders of both must agree, but for those of layouts. A path of another machine, whose
        folders are not to be found here, and a name alone also mean the only file of that name.

        Args:
            name: a file's name or path, or an address.
            near: the folder of the file that names it.
            split: that of the annotation, if any.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        foreign = _FOREIGN.match(str(wanted)) is not None
        if not foreign and (near / wanted).is_file():
            return Found(near / wanted)
        inside = wanted.name if foreign else "/".join(p for p in wanted.parts if p != "..")
        missing = self._root / (inside or "?")
        if not wanted.name:
            return Found(missing)
        asked = _plain(wanted)
        found = next(filter(None, self._candidates(asked, self._beside(near, asked))), ())
        if found:
            return _only(self._likeliest(found, wanted, near, split), missing)
        namesakes = self._ending(asked[-1:])
        moved = foreign or ".." in wanted.parts
        if len(asked) > 1 and not (moved and len(namesakes) == 1):
            return Found(missing)
        chosen = self._likeliest(namesakes, wanted, near, split)
        return _only(chosen, missing)._replace(elsewhere=True)

    def _candidates(
        self, asked: tuple[str, ...], beside: tuple[str, ...]
    ) -> Iterator[Sequence[Path]]:
        """Yield the files whose folders agree with a plain path's, the likeliest first.

        Args:
            asked: the path.
            beside: the same, from the folder of the file that names it.
        """
        yield self._called(beside)
        yield self._ending(beside)
        if len(asked) > 1:
            yield self._called(asked)
            yield self._ending(asked)
        for length in range(min(len(asked) - 1, self._deepest), 1, -1):
            yield self._called(asked[-length:])  # what lay deeper where it was annotated
        if len(self._ending(asked[-1:])) == 1 or len(asked) == 1:
            yield self._called(asked[-1:])  # in no folder, it contradicts none

    def _beside(self, near: Path, asked: tuple[str, ...]) -> tuple[str, ...]:
        if not near.is_relative_to(self._root) or near.name == "annotations":
            return asked
        return (*_plain(near.relative_to(self._root) / asked[0]), *asked[1:])

    def _likeliest(
        self, found: Sequence[Path], wanted: PurePosixPath, near: Path, split: str
    ) -> Sequence[Path]:
        """Return those of several files that speak for themselves, or all of them."""

        def of_split(path: Path) -> bool:
            folders = path.relative_to(self._root).parts[:-1]
            return bool(split) and any(split_in(each) == split for each in folders)

        def as_told(path: Path) -> bool:
            return path.parts[-len(wanted.parts) :] == wanted.parts

        for likely in (as_told, lambda path: path.is_relative_to(near), of_split):
            if len(found) > 1:
                found = [path for path in found if likely(path)] or found
        return found

    def other(self, mask: Path, folder: str) -> Found:
        """Return the image called as a mask, one in `folder` first."""
        found = [
            path
            for suffix in sorted(IMAGE_SUFFIXES)
            for path in self._ending((mask.stem + suffix,))
            if path.parent != mask.parent and not path.parent.name.startswith("Segmentation")
        ]
        preferred = [path for path in found if path.parent.name == folder]
        missing = mask.parent.parent / folder / f"{mask.stem}.jpg"
        return _only(preferred[:1] or found, missing)

    def _called(self, parts: tuple[str, ...]) -> Sequence[Path]:
        """Return the files whose plain path this is."""
        key = parts[::-1]
        return self._paths[bisect_left(self._keys, key) : bisect_right(self._keys, key)]

    def _ending(self, parts: tuple[str, ...]) -> Sequence[Path]:
        """Return the files whose plain paths end so."""
        key = parts[::-1]
        after = (*key[:-1], f"{key[-1]}\0")  # than which whatever begins with the key is less
        return self._paths[bisect_left(self._keys, key) : bisect_left(self._keys, after)]

    def name(self, path: Path) -> str:
        """Return the name of an image in the dataset: its path, but for folders of a layout."""
        if not path.is_relative_to(self._root):
            return path.stem
        *folders, _ = _plain(path.relative_to(self._root))
        return "/".join((*(each for each in folders if not split_of([each])), path.stem))


def _plain(path: PurePath) -> tuple[str, ...]:
    """Return the parts of a relative path that tell an image: not those of its tool's layout."""
    *folders, name = path.parts
    return (*(each for each in folders if _tells(each)), name)


def _tells(folder: str) -> bool:
    return folder.lower() not in _LAYOUT_FOLDERS and folder.strip("/") not in ("", "..")


def _only(found: Sequence[Path], missing: Path) -> Found:
    return Found(found[0]) if len(found) == 1 else Found(missing, tuple(found))


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
