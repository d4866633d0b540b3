"""The dataset folder: dataset.yaml, images/<split>/NAME.jpg and masks/<split>/NAME.png."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from fullconv.data.images import IMAGE_SUFFIXES, MAX_PIXELS, read_image, read_mask
from fullconv.errors import FullconvError, nearest

SPLITS = ("train", "val", "test")
MAX_CLASSES = 255  # ids 0..254; masks are 8-bit and one value is left to mean "ignore"

_HELD_OUT_SHARE = 0.1
_SHOWN = 3  # names listed in a message before "and N more"
_Byte = Annotated[StrictInt, Field(ge=0, le=255)]


class DatasetInfo(BaseModel):
    """The contents of dataset.yaml.

    Attributes:
        name: what the dataset is called in reports.
        classes: class names; the index is the label id.
        palette: one (red, green, blue) in 0..255 per class, or None.
        ignore_index: the label id that counts nowhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: StrictStr
    classes: tuple[StrictStr, ...]
    palette: tuple[tuple[_Byte, _Byte, _Byte], ...] | None = None
    ignore_index: _Byte = 255

    @field_validator("classes")
    @classmethod
    def _distinct_names(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) > MAX_CLASSES:
            raise ValueError(f"has {len(classes)} classes; at most {MAX_CLASSES} fit 8-bit masks")
        if not classes:
            raise ValueError("is empty; list the class names, the first having the label id 0")
        if not all(name.strip() for name in classes):
            raise ValueError("has an empty class name")
        twice = [name for i, name in enumerate(classes) if name in classes[:i]]
        if twice:
            raise ValueError(f"names {twice[0]!r} twice")
        return classes

    @model_validator(mode="after")
    def _consistent(self) -> DatasetInfo:
        count = len(self.classes)
        if self.palette is not None and len(self.palette) != count:
            raise ValueError(f"key 'palette': has {len(self.palette)} colours for {count} classes")
        if self.ignore_index < count:
            raise ValueError(
                f"key 'ignore_index': {self.ignore_index} is also the id of class "
                f"{self.classes[self.ignore_index]!r}; use {count} or more, 255 as a rule"
            )
        return self

    def foreign(self, labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Mark, in an array of any shape, the ids that are neither a class nor `ignore_index`."""
        found: NDArray[np.bool_] = (labels >= len(self.classes)) & (labels != self.ignore_index)
        return found

    def describe_ids(self) -> str:
        """Say which ids are valid: "11 classes (0..10, 255 = ignore)"."""
        count = len(self.classes)
        return f"{count} classes (0..{count - 1}, {self.ignore_index} = ignore)"


class Sample(NamedTuple):
    """Where an image and its mask are; `name` is the path below the split, without suffix."""

    name: str
    image: Path
    mask: Path


class LabelledImage(NamedTuple):
    """A sample read: `image` is uint8 (H, W, 3) RGB, `labels` uint8 (H, W) label ids."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Listing:
    """The files of a split, paired by name and not opened.

    Attributes:
        samples: images with a mask, by name.
        unlabelled: images without a mask.
        orphans: files below masks/ that belong to no image, those that are no PNG included.
        strangers: files below images/ of no suffix that is read.
        twins: files of one name within the split; they are in no sample.
    """

    samples: tuple[Sample, ...]
    unlabelled: tuple[Path, ...] = ()
    orphans: tuple[Path, ...] = ()
    strangers: tuple[Path, ...] = ()
    twins: tuple[tuple[Path, ...], ...] = ()


class Split:
    """The samples of one split; `split[i]` reads one from disk."""

    def __init__(
        self, name: str, samples: Iterable[Sample], info: DatasetInfo, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.name = name
        self.samples = tuple(samples)
        self._info = info
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> LabelledImage:
        """Read sample `index`.

        Raises:
            FullconvError: the image or the mask can't be read, their sizes differ, or the mask
                holds ids outside the classes.
        """
        sample = self.samples[index]
        image = read_image(sample.image, self._max_pixels)
        labels = read_mask(sample.mask, self._max_pixels)
        require_same_size(sample, image.shape[:2], labels.shape)
        wrong = labels[self._info.foreign(labels)]
        if wrong.size:
            raise FullconvError(foreign_ids(sample.mask, np.bincount(wrong), self._info))
        return LabelledImage(sample.name, image, labels)


class DatasetFolder:
    """A folder with dataset.yaml, images/<split>/ and masks/<split>/.

    Where there is no images/val, about a tenth of train is held out as val. A hash of each name
    decides, so that images added later change no other image's side.

    Attributes:
        root: the folder.
        info: the contents of dataset.yaml.
        splits: names of the splits there are, val included when held out.
        held_out: whether val is taken from train.
    """

    def __init__(self, root: str | Path, max_pixels: int = MAX_PIXELS) -> None:
        """Read dataset.yaml and see which splits there are.

        Raises:
            FullconvError: the folder is no dataset, or dataset.yaml is wrong.
        """
        self.root = Path(root)
        self.info = _read_info(self.root)
        self._max_pixels = max_pixels
        present = [name for name in SPLITS if (self.root / "images" / name).is_dir()]
        self.held_out = "train" in present and "val" not in present
        self.splits = tuple(name for name in SPLITS if name in present or self._is_held_out(name))

    def split(self, name: str) -> Split:
        """Return the split "train", "val" or "test".

        Raises:
            FullconvError: there is no such split, it is empty, or files in it don't pair up.
        """
        if name not in self.splits:
            there = f"there are {', '.join(self.splits)}" if self.splits else "there is none"
            raise FullconvError(f"{self.root}: has no split {name!r} (images/{name}); {there}")
        listing = self.listing(name)
        _require_pairs(self.root, name, listing)
        if not listing.samples:
            raise FullconvError(f"{self.root}: split {name!r} has no images; {self._cure(name)}")
        return Split(name, listing.samples, self.info, self._max_pixels)

    def listing(self, name: str) -> Listing:
        """List the files of one of `splits`, also where they don't pair up."""
        if not (self.held_out and name in ("train", "val")):
            return _list_split(self.root, name)
        whole = _list_split(self.root, "train")
        held = _hold_out([sample.name for sample in whole.samples])
        if name == "val":
            return Listing(tuple(s for s in whole.samples if s.name in held))
        return replace(whole, samples=tuple(s for s in whole.samples if s.name not in held))

    def _is_held_out(self, name: str) -> bool:
        return self.held_out and name == "val"

    def _cure(self, name: str) -> str:
        if self._is_held_out(name):
            return "one image is too few to hold some out: add images to images/train"
        return f"put some into images/{name} and their masks into masks/{name}"


def require_same_size(sample: Sample, image: Sequence[int], mask: Sequence[int]) -> None:
    """Raise FullconvError where the (height, width) of a sample's image and mask differ."""
    if tuple(image) != tuple(mask):
        raise FullconvError(
            f"{sample.mask}: the mask is {mask[1]} x {mask[0]} but its image "
            f"{sample.image.name} is {image[1]} x {image[0]}; make them the same size"
        )


def foreign_ids(mask: Path, counts: NDArray[np.int64], info: DatasetInfo) -> str:
    """Say in one line which ids in `mask` are outside the classes.

    Args:
        mask: the file.
        counts: pixels per such id, 0 for all other ids.
        info: tells the valid ids.
    """
    values = [f"{value} ({counts[value]} pixels)" for value in np.flatnonzero(counts)]
    return (
        f"{mask}: the mask has value {first_few(values)} but the dataset has "
        f"{info.describe_ids()}; map the value to one of these or add its class to dataset.yaml"
    )


def first_few(names: Sequence[str]) -> str:
    """Join the first names of a list that may be long: "a, b, c and 7 more"."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read_info(root: Path) -> DatasetInfo:
    path = root / "dataset.yaml"
    if not path.is_file():
        problem = "has no dataset.yaml" if root.is_dir() else "is no folder"
        raise FullconvError(
            f"{root}: {problem}; a dataset folder has dataset.yaml (name, classes), "
            "images/<split>/NAME.jpg and masks/<split>/NAME.png, split being train, val or test"
        )
    try:
        values = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, for one
        raise FullconvError(f"{path}: is not valid YAML: {_yaml_problem(error)}") from None
    if not isinstance(values, dict):
        raise FullconvError(f"{path}: should be keys and values: name, classes and so on")
    for key in ("inputs", "heads"):
        if key in values:
            raise FullconvError(f"{path}: key {key!r}: several {key} are not supported yet")
    try:
        return DatasetInfo.model_validate(values)
    except ValidationError as error:
        raise FullconvError(f"{path}: {_validation_problem(error)}") from None


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return " ".join(f"{getattr(error, 'problem', None) or error}{where}".split())


def _validation_problem(error: ValidationError) -> str:
    """Tell the first problem, by its key and in plain words."""
    first: Any = error.errors()[0]
    key = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in first["loc"])
    known = DatasetInfo.model_fields
    plain = {
        "extra_forbidden": f"is unknown{nearest(key, known)} (known: {', '.join(known)})",
        "missing": "is missing",
        "tuple_type": "should be a list, written [a, b]",
        "string_type": f"should be text but is {first['input']!r}; put it in quotes",
    }
    pydantics = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = plain.get(first["type"], pydantics)
    return f"key {key!r}: {message}" if key else message


def _list_split(root: Path, split: str) -> Listing:
    images, strangers = _by_name(root / "images" / split, IMAGE_SUFFIXES)
    masks, no_masks = _by_name(root / "masks" / split, {".png"})
    unlabelled = [paths[0] for name, paths in images.items() if name not in masks]
    orphans = [paths[0] for name, paths in masks.items() if name not in images]
    twins = [paths for paths in (*images.values(), *masks.values()) if len(paths) > 1]
    return Listing(
        samples=tuple(
            Sample(name, paths[0], masks[name][0])
            for name, paths in images.items()
            if len(paths) == 1 and len(masks.get(name, ())) == 1
        ),
        unlabelled=tuple(unlabelled),
        orphans=(*orphans, *no_masks),
        strangers=tuple(strangers),
        twins=tuple(tuple(paths) for paths in twins),
    )


def _by_name(folder: Path, suffixes: Collection[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Find the files below `folder`: by name where the suffix is one of `suffixes`, and others."""
    found: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in sorted(_files(folder)):
        if path.suffix.lower() in suffixes:
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.setdefault(name, []).append(path)
        else:
            others.append(path)
    return found, others


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` except hidden ones, such as those that macOS leaves."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _require_pairs(root: Path, split: str, listing: Listing) -> None:
    if listing.twins:
        names = first_few([path.name for path in listing.twins[0]])
        raise FullconvError(
            f"{listing.twins[0][0].parent}: {names} have the same name; rename or remove one"
        )
    if listing.unlabelled:
        names = first_few([path.name for path in listing.unlabelled])
        raise FullconvError(
            f"{root}: {len(listing.unlabelled)} images of split {split!r} have no mask in "
            f"masks/{split} ({names}); add NAME.png for each or remove them"
        )


def _hold_out(names: Sequence[str]) -> set[str]:
    """Choose about a tenth of the names by their hash alone; at least one on either side."""
    ranked = sorted(names, key=_rank)
    chosen = sum(_rank(name) < _HELD_OUT_SHARE for name in ranked)
    return set(ranked[: min(max(chosen, 1), len(ranked) - 1)])


def _rank(name: str) -> float:
    """Map a name to [0, 1), evenly and the same everywhere and always."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
