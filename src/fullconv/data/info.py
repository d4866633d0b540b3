"""dataset.yaml: what the images and masks of a dataset folder are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fullconv.base import remote
from fullconv.base.errors import FullconvError, nearest
from fullconv.base.files import is_plain_name
from fullconv.base.settings import Line, Mistake, first_mistake, read_yaml, shortened

FILE = "dataset.yaml"
COLOR, LABELS = "color", "labels"  # the only input and the only head of a plain folder
IGNORE = 255  # the label id that is left out, where a dataset names no other
BANDS = "bands"  # the input of a plain folder whose images have bands in place of colours
MAX_BANDS = 1000
MAX_CLASSES = 255  # ids 0..254; masks are 8-bit and one value is left to mean "ignore"
_MOST_IN_MASKS = 255

_PLAIN_KEYS = ("classes", "palette", "unscored", "offset")


def _is_name(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError("may hold letters, digits, _ and - only, a letter first")
    return name


def _is_folder(folder: str) -> str:
    if not folder.isprintable() or not re.fullmatch(r"[^\s./\\:][^/\\:]*", folder):
        raise ValueError(f"{shortened(folder)} should be the name of a folder beside dataset.yaml")
    return folder


_Byte = Annotated[StrictInt, Field(ge=0, le=255)]
_BandNumber = Annotated[StrictInt, Field(ge=1, le=MAX_BANDS)]
_Palette = tuple[tuple[_Byte, _Byte, _Byte], ...]
_Name = Annotated[StrictStr, AfterValidator(_is_name)]
_Folder = Annotated[StrictStr, AfterValidator(_is_folder)]


class HeadInfo(BaseModel):
    """One labelling of the images, which one head of a net learns.

    Attributes:
        masks: the folder of its masks.
        classes: class names; the index is the label id.
        palette: one (red, green, blue) in 0..255 per class, or None.
        unscored: names of classes that the means of the metrics leave out.
        offset: the value of the first class in the files of its masks: 1 where 0 means "ignore"
            and classes begin at 1, as in ADE20K. Everywhere else ids begin at 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    masks: _Folder
    classes: tuple[Line, ...]
    palette: _Palette | None = None
    unscored: tuple[Line, ...] = ()
    offset: _Byte = 0

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
            raise ValueError(f"names {shortened(twice[0])} twice")
        return classes

    @field_validator("palette")
    @classmethod
    def _a_colour_each(cls, palette: _Palette | None, info: ValidationInfo) -> _Palette | None:
        count = len(info.data.get("classes", ()))  # none: they are wrong themselves
        if palette is not None and count and len(palette) != count:
            raise ValueError(f"has {len(palette)} colours for {count} classes")
        return palette

    @field_validator("unscored")
    @classmethod
    def _are_classes(cls, unscored: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        classes = info.data.get("classes", unscored)
        unknown = [name for name in unscored if name not in classes]
        if unknown:
            raise ValueError(
                f"{shortened(unknown[0])} is none of the classes{nearest(unknown[0], classes)}"
            )
        if classes and set(unscored) == set(classes):
            raise ValueError("names every class; leave one to be scored")
        return unscored

    @field_validator("offset")
    @classmethod
    def _fits_bytes(cls, offset: int, info: ValidationInfo) -> int:
        last = offset + len(info.data.get("classes", ())) - 1
        if last > _MOST_IN_MASKS:
            raise ValueError(f"makes {last} the value of the last class, but masks are 8-bit")
        return offset


class DatasetInfo(BaseModel):
    """The contents of dataset.yaml.

    A plain folder's `classes`, `palette` and `unscored` are those of its one head, which is
    called "labels" and whose masks are in masks/; its one input is "color", in images/.

    Attributes:
        name: what the dataset is called in reports.
        inputs: folders of images by the names of the inputs. The first one decides which images
            there are; each other one holds an image of the same name and size for each.
        heads: the labellings of the images.
        bands: what the bands of the first input are called: it is not colours then, but has as many
            channels as bands, whose values are kept. Empty: as its files call them.
        show: numbers, from 1, of the bands that are shown as red, green and blue.
        ignore_index: the label id that counts nowhere, in any head, and its value in masks. Values
            below a head's `offset` count nowhere either, and become it when masks are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line
    inputs: Mapping[_Name, _Folder] = Field(default={COLOR: "images"}, min_length=1)
    heads: Mapping[_Name, HeadInfo] = Field(min_length=1)
    bands: tuple[Line, ...] = ()
    show: tuple[_BandNumber, _BandNumber, _BandNumber] | None = None
    ignore_index: _Byte = IGNORE

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, values: Any) -> Any:
        """Make the keys of a plain folder those of its one head."""
        if not isinstance(values, Mapping):
            return values
        if "inputs" not in values and {"bands", "show"} & values.keys():
            values = {**values, "inputs": {BANDS: "images"}}
        own = {key: values[key] for key in _PLAIN_KEYS if key in values}
        if values.get("ignore_index") == 0 and _begins_after_0(values):  # as its offset says too
            values = {key: value for key, value in values.items() if key != "ignore_index"}
        if "heads" not in values:
            others = {key: value for key, value in values.items() if key not in own}
            return {**others, "heads": {LABELS: {"masks": "masks", **own}}}
        if own:
            key = next(iter(own))
            raise ValueError(f"key {key!r}: stands beside 'heads'; write it into each head instead")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> DatasetInfo:
        for name, head in self.heads.items():
            if self.ignore_index < len(head.classes):
                begins = f"; or, if {head.classes[0]!r} has 1 in the masks, offset: 1"
                whose = "" if len(self.heads) == 1 else f" of head {name!r}"
                raise ValueError(
                    f"key 'ignore_index': {self.ignore_index} is also the id of class "
                    f"{head.classes[self.ignore_index]!r}{whose}; use {len(head.classes)} or "
                    f"more, 255 as a rule{begins if self.ignore_index == 0 else ''}"
                )
        self._require_bands()
        folders = Counter(folder.casefold() for folder in self.folders)
        (folder, times), *_ = folders.most_common(1)
        if times > 1:
            raise ValueError(
                f"the folder {folder!r} serves {times} times; give each input and each head its own"
            )
        return self

    def _require_bands(self) -> None:
        """Raise ValueError where bands are named of colours, twice, or shown that aren't there."""
        key = "bands" if self.bands else "show"
        if self.has_bands and COLOR in self.inputs:
            raise ValueError(
                f"key {key!r}: the input {COLOR!r} is read as red, green and blue; leave 'inputs' "
                f"out, or call it otherwise: {{{BANDS}: images}}"
            )
        if len(set(self.bands)) < len(self.bands):
            raise ValueError("key 'bands': names a band twice")
        if self.bands and max(self.show or (1,)) > len(self.bands):
            raise ValueError(f"key 'show': band {max(self.show or ())} of {len(self.bands)}")

    @property
    def has_bands(self) -> bool:
        """Whether the first input is bands, whose values are kept, and no picture."""
        return bool(self.bands) or self.show is not None

    @classmethod
    def plain(
        cls,
        name: str,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]] | None = None,
        unscored: Sequence[str] = (),
        ignore_index: int = IGNORE,
    ) -> DatasetInfo:
        """Describe a plain folder: one input in images/, one head with masks in masks/."""
        own = {"classes": classes, "palette": palette, "unscored": unscored}
        return cls.model_validate({"name": name, **own, "ignore_index": ignore_index})

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the only head.

        Raises:
            FullconvError: there are several heads.
        """
        return self.head().classes

    @property
    def palette(self) -> _Palette | None:
        """The palette of the only head, or None.

        Raises:
            FullconvError: there are several heads.
        """
        return self.head().palette

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders of all inputs, then of all heads' masks."""
        return (*self.inputs.values(), *(head.masks for head in self.heads.values()))

    def head(self, name: str | None = None) -> HeadInfo:
        """Return a head by its name; None, or "labels", stands for the only one.

        Raises:
            FullconvError: there is no such head, or there are several.
        """
        if name is not None and name in self.heads:
            return self.heads[name]
        if name in (None, LABELS) and len(self.heads) == 1:
            return next(iter(self.heads.values()))
        there = f"the dataset {self.name!r} has the heads {', '.join(self.heads)}"
        if name is None:
            raise FullconvError(f"{there}; what is asked for needs a dataset with one")
        close = nearest(name, self.heads)
        raise FullconvError(f"{there}, none called {name!r}{close}; see its dataset.yaml")

    def input_name(self, name: str) -> str:
        """Return under which name an input stands here; "color" stands for the first one.

        Raises:
            FullconvError: there is no such input.
        """
        if name in self.inputs:
            return name
        if name == COLOR:
            return next(iter(self.inputs))
        raise FullconvError(
            f"the dataset {self.name!r} has the inputs {', '.join(self.inputs)}, none called "
            f"{name!r}{nearest(name, self.inputs)}; see its dataset.yaml"
        )

    def foreign(self, values: NDArray[np.uint8], head: str | None = None) -> NDArray[np.bool_]:
        """Mark, in masks of any shape, the values that are no class of `head`, nor ignored."""
        known = self.head(head)
        last = known.offset + len(known.classes) - 1
        found: NDArray[np.bool_] = (values > last) & (values != self.ignore_index)
        return found

    def label_ids(self, values: NDArray[np.uint8], head: str | None = None) -> NDArray[np.uint8]:
        """Turn the values of masks, uint8 of any shape and none foreign, into label ids."""
        known = self.head(head)
        if not known.offset:
            return values
        table = np.full(_MOST_IN_MASKS + 1, self.ignore_index, np.uint8)
        table[known.offset :][: len(known.classes)] = np.arange(len(known.classes))
        ids: NDArray[np.uint8] = table[values]
        return ids

    def describe_ids(self, head: str | None = None) -> str:
        """Say which values masks may have: "11 classes (0..10, 255 = ignore)"."""
        known = self.head(head)
        first, last = known.offset, known.offset + len(known.classes) - 1
        below = ["0"] if first == 1 else [f"0..{first - 1}"] * (first > 1)
        ignored = [*below, *([str(self.ignore_index)] * (self.ignore_index > last))]
        return f"{len(known.classes)} classes ({first}..{last}, {' and '.join(ignored)} = ignore)"

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of dataset.yaml, a plain folder's in the plain form."""
        heads = {
            name: head.model_dump(mode="json", exclude_defaults=True)
            for name, head in self.heads.items()
        }
        values: dict[str, Any] = {"name": self.name}
        if dict(self.inputs) != {BANDS if self.has_bands else COLOR: "images"}:
            values["inputs"] = dict(self.inputs)
        if self.bands:
            values["bands"] = list(self.bands)
        if self.show is not None:
            values["show"] = list(self.show)
        if list(heads) == [LABELS] and heads[LABELS]["masks"] == "masks":
            values |= {key: heads[LABELS][key] for key in _PLAIN_KEYS if key in heads[LABELS]}
        else:
            values["heads"] = heads
        return {**values, "ignore_index": self.ignore_index}


def _begins_after_0(values: Mapping[Any, Any]) -> bool:
    """Tell of the unchecked contents of dataset.yaml whether 0 is no class in any head's masks."""
    heads = values.get("heads", {LABELS: values})
    return isinstance(heads, Mapping) and all(
        isinstance(head, Mapping) and head.get("offset") for head in heads.values()
    )


def info_bytes(root: Path) -> bytes:
    """Return what is in dataset.yaml of the folder, or at the address, `root`.

    Raises:
        FullconvError: it is missing.
    """
    path = root / FILE
    if isinstance(root, remote.RemotePath):
        return remote.read(str(path))
    if not path.is_file():
        problem = "has no dataset.yaml" if root.is_dir() else "is no folder"
        raise FullconvError(
            f"{root}: {problem}; a dataset folder has dataset.yaml (name, classes), "
            "images/<split>/NAME.jpg and masks/<split>/NAME.png, split being train, val or test"
        )
    return path.read_bytes()


def read_info(root: Path) -> DatasetInfo:
    """Read dataset.yaml in the folder, or at the address, `root`.

    Raises:
        FullconvError: it is missing or wrong; the message names the key.
    """
    path, content = root / FILE, info_bytes(root)
    try:
        values = read_yaml(content)
    except ValueError as error:
        raise FullconvError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise FullconvError(f"{path}: should be keys and values: name, classes and so on")
    try:
        return DatasetInfo.model_validate(values)
    except ValidationError as error:
        told = _told(first_mistake(error), plain="heads" not in values)
        raise FullconvError(f"{path}: {told}") from None


def _told(mistake: Mistake, *, plain: bool) -> str:
    """Tell a mistake by its key, which in a plain folder's file stands outside any head."""
    path = mistake.path
    in_head = len(path) > 2 and path[0] == "heads"
    if plain and path[:2] == ("heads", LABELS):
        mistake = mistake._replace(path=path[2:])
    fields = HeadInfo.model_fields if in_head else DatasetInfo.model_fields
    known = [*fields, *_PLAIN_KEYS] if plain and not in_head else [*fields]
    reason = mistake.reason
    if mistake.kind == "extra_forbidden":
        usual = ", ".join(key for key in known if key != "offset")
        reason = f"is unknown{nearest(str(*path[-1:]), known)} (known: {usual})"
    elif mistake.kind == "model_type":
        reason = "should be keys and values: masks, classes and so on"
    return f"key {mistake.key!r}: {reason}" if mistake.key else reason
