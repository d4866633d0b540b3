"""The dataset folder: dataset.yaml, images/<split>/NAME.jpg and masks/<split>/NAME.png."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError, few_named
from fullconv.base.files import Disk, Files
from fullconv.base.images import IMAGE_SUFFIXES, Encoded, ImageReader
from fullconv.base.remote import place
from fullconv.base.stored import RGB, Stored
from fullconv.data.info import COLOR, DatasetInfo, HeadInfo, read_info
from fullconv.data.listing import Listing, Sample, held_out_names, list_split
from fullconv.data.shard_index import read_index

SPLITS = ("train", "val", "test")


class Input(NamedTuple):
    """One kind of image that there is of every scene.

    Attributes:
        name: in dataset.yaml.
        folder: where its files are, such as "images".
        channels: 3 (bytes: colours, or HHA); 1 (16-bit grey, which stands for distances in
            millimetres and is read as float32 with its values kept); or those of files of more
            bands, whose values are kept, too.
        kind: numpy's name of the least type that holds the values of its first file: "u1", "u2" or
            "f4".
        bands: names of its channels; empty where it is none of bands (see `DatasetInfo.bands`).
        show: numbers, from 1, of those that are shown as red, green and blue.
    """

    name: str
    folder: str
    channels: int = 3
    kind: str = "u1"
    bands: tuple[str, ...] = ()
    show: tuple[int, ...] = ()

    def read(self, path: Path, reader: ImageReader) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Read one of its files: (H, W, channels), uint8 or float32 (see `ImageReader.input`).

        Raises:
            FullconvError: the file can't be read, or is of another kind than the input.
        """
        if self.name == COLOR:
            return reader.image(path)
        pixels = reader.input(path)
        self._require_kind(path, pixels.shape[2])
        return pixels

    def header(self, path: Path, reader: ImageReader) -> Stored:
        """Tell what is in one of its files from the header alone.

        Raises:
            FullconvError: it can't be read, or is of another kind than the input.
        """
        stored = reader.describe(path)
        if self.name != COLOR:
            self._require_kind(path, stored.channels)
        return stored

    def values(self, path: Path, reader: ImageReader) -> NDArray[Any]:
        """Read the values of one of its files as they are stored, in order to measure them.

        Raises:
            FullconvError: as for `read`.
        """
        return reader.values(path) if self.name == COLOR else reader.input(path)

    def remarks(self, path: Path, reader: ImageReader) -> tuple[str, ...]:
        """Say what `read` leaves out of a file (see `ImageReader.remarks`)."""
        return reader.remarks(path, as_image=self.name == COLOR)

    def _require_kind(self, path: Path, channels: int) -> None:
        if channels != self.channels:
            raise FullconvError(
                f"{path}: holds {_kind(channels)} but the first file of {self.folder} "
                f"{_kind(self.channels)}; save all its files alike"
            )


def _kind(channels: int) -> str:
    kinds = {1: "16-bit grey (distances)", 3: "colours or 8-bit grey"}
    return kinds.get(channels, f"{channels} bands")


class LabelledImage(NamedTuple):
    """A sample read.

    Attributes:
        name: of the sample.
        image: (H, W, C), the channels of the inputs one after the other: uint8, or float32 if one
            of them holds distances. Colours are RGB in 0..255.
        labels: uint8 (K, H, W) label ids, one layer a head.
    """

    name: str
    image: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.uint8]


def gaps_in(image: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where an image, H x W x C, has no data in any band: NaN; None: nowhere."""
    if image.dtype.kind != "f":
        return None
    gaps: NDArray[np.bool_] = np.isnan(image).all(2)
    return gaps if gaps.any() else None


def evenly_chosen(total: int, most: int) -> list[int]:
    """Return the indices of at most `most` of `total` things, from the first to the last."""
    indices: list[int] = np.linspace(0, total - 1, min(most, total)).round().astype(int).tolist()
    return indices


class Split:
    """The samples of one split; `split[i]` reads one from disk, `split.labels(i)` its masks.

    Attributes:
        name: "train", "val" or "test".
        samples: names and paths.
        inputs: by the names they were asked for, in that order.
        heads: likewise; layer k of the labels belongs to the k-th.
    """

    def __init__(
        self,
        name: str,
        samples: Iterable[Sample],
        info: DatasetInfo,
        *,
        inputs: Mapping[str, Input],
        heads: Mapping[str, HeadInfo],
        reader: ImageReader,
    ) -> None:
        self.name = name
        self.samples = tuple(samples)
        self.inputs, self.heads = dict(inputs), dict(heads)
        self._info = info
        self._reader = reader

    def __len__(self) -> int:
        return len(self.samples)

    def few(self, count: int) -> Split:
        """Return a split of at most `count` of the samples (1 or more), evenly chosen."""
        fewer = copy.copy(self)
        fewer.samples = tuple(self.samples[index] for index in evenly_chosen(len(self), count))
        return fewer

    def __getitem__(self, index: int) -> LabelledImage:
        """Read sample `index`.

        Raises:
            FullconvError: an image or a mask can't be read, their sizes differ, or a mask holds
                ids outside the classes.
        """
        sample = self.samples[index]
        inputs = zip(self.inputs.values(), sample.images, strict=True)
        images = [each.read(path, self._reader) for each, path in inputs]
        first = (sample.images[0], images[0].shape[:2])
        for path, pixels in zip(sample.images[1:], images[1:], strict=True):
            require_same_size((path, pixels.shape[:2]), first)
        image: NDArray[Any] = np.concatenate(images, 2)
        labels = self._labels(sample, first[1])
        if (gaps := gaps_in(image)) is not None:
            labels[:, gaps] = self._info.ignore_index
        return LabelledImage(sample.name, image, labels)

    def labels(self, index: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Read the labels of sample `index` alone: uint8 (K, H, W), one layer a head.

        `size` is the (height, width) of its image, if known; else its header is read.

        Raises:
            FullconvError: a mask can't be read, differs in size from its image, or holds ids
                outside the classes.
        """
        return self._labels(self.samples[index], size or self.size(index))

    def _labels(self, sample: Sample, size: Sequence[int]) -> NDArray[np.uint8]:
        masks = [self._reader.mask(path) for path in sample.masks]
        for path, labels in zip(sample.masks, masks, strict=True):
            require_same_size((path, labels.shape), (sample.images[0], size))
        for head, path, labels in zip(self.heads, sample.masks, masks, strict=True):
            wrong = labels[self._info.foreign(labels, head)]
            if wrong.size:
                raise FullconvError(foreign_ids(path, np.bincount(wrong), self._info, head))
        ids = zip(self.heads, masks, strict=True)
        return np.stack([self._info.label_ids(values, head) for head, values in ids])

    def size(self, index: int) -> tuple[int, int]:
        """Return the (height, width) of sample `index`, from the header of its first image."""
        first = next(iter(self.inputs.values()))
        return first.header(self.samples[index].images[0], self._reader).size

    def headers(self, index: int) -> tuple[Stored, ...]:
        """Tell what is in the images of sample `index`, one an input, from their headers alone.

        Raises:
            FullconvError: one can't be read, or is of another kind than its input.
        """
        inputs = zip(self.inputs.values(), self.samples[index].images, strict=True)
        return tuple(each.header(path, self._reader) for each, path in inputs)

    def values(self, index: int, input_: str) -> NDArray[Any]:
        """Read an image of sample `index` as it is stored, in order to measure its values.

        Raises:
            FullconvError: it can't be read.
        """
        path = self.samples[index].images[list(self.inputs).index(input_)]
        return self.inputs[input_].values(path, self._reader)


class DatasetFolder:
    """A folder with dataset.yaml, images/<split>/ and masks/<split>/, or those it names.

    What an input holds is known from the folder alone: the input "color" is always read as RGB.
    Of any other the first file that can be read decides: 16-bit grey stands for distances, one
    channel whose values are kept, all else for three channels of bytes. Its other files must be
    of the same kind.

    Where there is no images/val, about a tenth of train is held out as val. A hash of each name
    decides, so that images added later change no other image's side.

    What `shards.shard_folder` packed stands for the folder that it was, here or at an address.

    Attributes:
        root: the folder, or a `RemotePath`.
        reader: reads its files.
        info: the contents of dataset.yaml.
        splits: names of the splits there are, val included when held out.
        held_out: whether val is taken from train.
    """

    def __init__(self, root: str | Path, reader: ImageReader = ImageReader()) -> None:
        """Read dataset.yaml and see which splits there are.

        Raises:
            FullconvError: the folder is no dataset, dataset.yaml is wrong, or shards are not whole.
        """
        self.root = place(root)
        self.info = read_info(self.root)
        files: Files = read_index(self.root) or Disk()
        self.reader = replace(reader, every_band=self.info.has_bands, files=files)
        present = [name for name in SPLITS if files.is_folder(self.images / name)]
        self.held_out = "train" in present and "val" not in present
        self.splits = tuple(name for name in SPLITS if name in present or self._is_held_out(name))

    def with_reader(self, reader: ImageReader) -> DatasetFolder:
        """Return the same folder, read by another reader."""
        other = copy.copy(self)
        other.reader = replace(reader, every_band=self.info.has_bands, files=self.reader.files)
        return other

    @property
    def images(self) -> Path:
        """The folder of the first input, which decides which images there are."""
        return self.root / next(iter(self.info.inputs.values()))

    def split(
        self, name: str, inputs: Sequence[str] = (COLOR,), heads: Sequence[str] | None = None
    ) -> Split:
        """Return the split "train", "val" or "test".

        Args:
            name: of the split.
            inputs: what to read of each scene, in that order; "color" also stands for the first.
            heads: whose labels to read, in that order; "labels" also stands for the only one.
                None: all, in the order of dataset.yaml.

        Raises:
            FullconvError: there is no such split, input or head, the split is empty, or files in
                it don't pair up.
        """
        if name not in self.splits:
            there = f"there are {', '.join(self.splits)}" if self.splits else "there is none"
            where = f"{self.images.name}/{name}"
            raise FullconvError(f"{self.root}: has no split {name!r} ({where}); {there}")
        heads = tuple(self.info.heads) if heads is None else heads
        asked = {each: self.input(each) for each in inputs}
        labellings = {each: self.info.head(each) for each in heads}
        listing = self.listing(name, inputs, heads)
        require_pairs(self.root, "train" if self._is_held_out(name) else name, listing, self.info)
        if not listing.samples:
            raise FullconvError(f"{self.root}: split {name!r} has no images; {self._cure(name)}")
        return Split(
            name,
            listing.samples,
            self.info,
            inputs=asked,
            heads=labellings,
            reader=self.reader,
        )

    def listing(
        self, name: str, inputs: Sequence[str] | None = None, heads: Sequence[str] | None = None
    ) -> Listing:
        """List the files of one of `splits`, also where they don't pair up.

        Args:
            name: of the split.
            inputs: which are listed; None: all.
            heads: whose masks are listed; None: all.

        Raises:
            FullconvError: there is no such input or head.
        """
        names = [self.info.input_name(each) for each in inputs or self.info.inputs]
        images = [self.root / self.info.inputs[each] for each in names]
        masks = [self.root / self.info.head(each).masks for each in heads or self.info.heads]
        files = self.reader.files
        if not (self.held_out and name in ("train", "val")):
            return list_split(name, images, masks, self.images, files)
        whole = list_split("train", images, masks, self.images, files)
        held = held_out_names([sample.name for sample in whole.samples])
        own = tuple(s for s in whole.samples if (s.name in held) == (name == "val"))
        return replace(whole, samples=own)

    def input(self, name: str) -> Input:
        """Return what an input holds; "color" also stands for the first one.

        Raises:
            FullconvError: there is no such input.
        """
        own = self.info.input_name(name)
        folder = self.info.inputs[own]
        first = None if own == COLOR else self._first(folder)
        if first is None or first.measured is None:
            return Input(own, folder)
        whole = first.dtype.kind in "bu" and not (first.every_band and first.nodata is not None)
        byte, word = (whole and first.bits <= bits for bits in (8, 16))
        kind = "u1" if byte else "u2" if word else "f4"
        if not self.info.has_bands or folder != self.images.name:
            return Input(own, folder, first.channels, kind)
        bands, show = (
            self._bands(first),
            self.info.show or ((1, 2, 3) if first.channels >= len(RGB) else (1,)),
        )
        return Input(own, folder, first.channels, kind, bands, show)

    def _bands(self, first: Stored) -> tuple[str, ...]:
        """Return what bands are called: as dataset.yaml says, or the file, or by their numbers."""
        count, where = first.channels, self.root / "dataset.yaml"
        if self.info.bands and len(self.info.bands) != count:
            raise FullconvError(
                f"{where}: key 'bands': names {len(self.info.bands)} bands, but the images of "
                f"{self.images} have {count}"
            )
        if max(self.info.show or (1,)) > count:
            raise FullconvError(
                f"{where}: key 'show': band {max(self.info.show or ())}, but the images of "
                f"{self.images} have {count}"
            )
        numbered = tuple(f"band {at + 1}" for at in range(count))
        return self.info.bands or first.names or numbered

    def require_inputs(self, inputs: Mapping[str, int]) -> None:
        """Refuse inputs that this folder does not have, or not with so many channels.

        Args:
            inputs: a net's: channels by name.

        Raises:
            FullconvError: the first misfit.
        """
        for name, channels in inputs.items():
            own = self.input(name)
            if own.channels == channels:
                continue
            where = self.root / own.folder
            number = "1 channel" if own.channels == 1 else f"{own.channels} channels"
            if own.channels == 1:
                cure = f"call it {COLOR!r} in dataset.yaml if it is to be read as grey RGB images"
            else:
                cure = "distances are read from 16-bit grey PNG or TIFF files, as one channel"
            raise FullconvError(
                f"{where}: the input {own.name!r} has {number} but the net's input "
                f"{name!r} has {channels}; {cure}"
            )

    def _first(self, folder: str) -> Stored | None:
        """Tell what the first readable file of an input holds; None where there is none."""
        for split in SPLITS:
            for path in sorted(self.reader.files.below(self.root / folder / split)):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    with suppress(FullconvError):  # it is told when it is read
                        return self.reader.describe(path)
        return None

    def _is_held_out(self, name: str) -> bool:
        return self.held_out and name == "val"

    def _cure(self, name: str) -> str:
        images = self.images.name
        if self._is_held_out(name):
            return f"one image is too few to hold some out: add images to {images}/train"
        masks = next(iter(self.info.heads.values())).masks
        return f"put some into {images}/{name} and their masks into {masks}/{name}"


def require_same_size(
    file: tuple[Path | Encoded, Sequence[int]], image: tuple[Path | Encoded, Sequence[int]]
) -> None:
    """Raise FullconvError where a file, with its (height, width), differs in size from its image's.

    Args:
        file: a mask, or an image of a further input.
        image: that of the first input.
    """
    (path, size), (first, expected) = file, image
    if tuple(size) != tuple(expected):
        raise FullconvError(
            f"{path}: is {size[1]} x {size[0]} but its image {first} is {expected[1]} x "
            f"{expected[0]}; make them the same size"
        )


def not_png(image: Path, mask: Path) -> str:
    """Say in one line that the mask of an image is there, but no PNG."""
    return (
        f"{mask}: the mask of {image} is no PNG; save it as 8-bit grey or palette PNG, one label "
        "id per pixel"
    )


def foreign_ids(
    mask: Path, counts: NDArray[np.int64], info: DatasetInfo, head: str | None = None
) -> str:
    """Say in one line which ids in `mask` are outside the classes of `head`.

    Args:
        mask: the file.
        counts: pixels per such id, 0 for all other ids.
        info: tells the valid ids.
        head: whose mask it is; None: the only one's.
    """
    values = [f"{value} ({counts[value]} pixels)" for value in np.flatnonzero(counts)]
    whose = f"head {head!r}" if head in info.heads and len(info.heads) > 1 else "the dataset"
    return (
        f"{mask}: the mask has value {few_named(values)} but {whose} has "
        f"{info.describe_ids(head)}; map the value to one of these or add its class to dataset.yaml"
    )


def require_pairs(root: Path, split: str, listing: Listing, info: DatasetInfo) -> None:
    """Raise FullconvError where images and masks of a split don't pair up.

    Args:
        root: of the dataset.
        split: its name.
        listing: its files.
        info: tells which folders are those of inputs.
    """
    if listing.twins:
        names = few_named([path.name for path in listing.twins[0]])
        raise FullconvError(
            f"{listing.twins[0][0].parent}: {names} have the same name; rename or remove one"
        )
    for image, folder, instead in listing.missing:
        if instead is not None and folder not in info.inputs.values():
            raise FullconvError(not_png(image, instead))
    if listing.missing:
        folder = listing.missing[0].folder
        lacking = [each.image.name for each in listing.missing if each.folder == folder]
        what = "image of the same name" if folder in info.inputs.values() else "mask"
        raise FullconvError(
            f"{root}: {len(lacking)} images of split {split!r} have no {what} in "
            f"{folder}/{split} ({few_named(lacking)}); add NAME.png for each or remove them"
        )
