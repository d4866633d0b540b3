"""Checking a dataset folder before hours are spent on it: what is wrong, where, what to do."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError, few_named, nearest
from fullconv.base.images import IMAGE_SUFFIXES, ImageReader
from fullconv.base.pipeline import ahead
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.remote import RemotePath
from fullconv.data.check_report import CheckReport
from fullconv.data.fingerprint import Fingerprint, LabelCounts, Size
from fullconv.data.folder import (
    SPLITS,
    DatasetFolder,
    Input,
    foreign_ids,
    not_png,
    require_same_size,
)
from fullconv.data.info import LABELS, DatasetInfo, HeadInfo
from fullconv.data.listing import Listing, Sample
from fullconv.data.ranges import Extent, joined
from fullconv.data.thinness import pixels_by_id

_IDS = 256  # what an 8-bit mask can hold
_SHOWN = 5  # findings of one kind that are told one by one
_MOST_WORKERS = 16  # each has an image and its mask in memory


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        is_error: False for a warning.
        kind: a plural that fits "and 95 more ...".
        line: the file, what is wrong and what to do.
    """

    is_error: bool
    kind: str
    line: str


_IN_PART = "images that are read in part"

_error = partial(Finding, True)
_warning = partial(Finding, False)


class _ImageLook(NamedTuple):
    """What was seen of one image; no digest nor extent of its values where no pixel was read."""

    size: Size
    bits: int
    digest: bytes | None = None
    extent: Extent | None = None


class _Seen(NamedTuple):
    """What was seen of a sample; None where it could not be read or was not looked at.

    `pixels` is by head, `looks` by input; those are left out that could not be read.
    """

    name: str
    image: Path
    size: Size | None
    digest: bytes | None
    pixels: dict[str, NDArray[np.int64]]
    looks: dict[str, _ImageLook]
    findings: tuple[Finding, ...]


def check_folder(
    root: str | Path,
    reader: ImageReader = ImageReader(),
    *,
    quick: bool = False,
    reporter: Reporter = SILENT,
    inputs: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
) -> CheckReport:
    """Look for all in a dataset folder that would spoil training or evaluation.

    The pixels of only a few images are in memory at a time; of each image its name, its size and
    16 bytes are kept, by which the same picture is found in two splits.

    Args:
        root: the dataset folder.
        reader: reads its files; what it refuses is an error.
        quick: judge by dataset.yaml, names and headers alone; decode nothing.
        reporter: shows the progress.
        inputs: which are checked, as though there were no others; None: all. "color" also stands
            for the first.
        heads: likewise; "labels" also stands for the only one.

    Raises:
        FullconvError: the folder is no dataset, dataset.yaml is wrong, or it has no such input or
            head: nothing can be checked.
    """
    folder = DatasetFolder(root, reader)
    info = _narrowed(folder.info, inputs, heads)
    shown = tuple(info.inputs), tuple(info.heads)
    listings = {name: folder.listing(name, *shown) for name in folder.splits}
    findings = _Findings()
    findings.add(_unused(folder))
    for name, listing in listings.items():
        if not (folder.held_out and name == "val"):
            findings.add(_pairing(folder, name, listing))
    if folder.held_out:
        findings.add(_held_out(folder, listings["train"], listings["val"]))

    kinds = tuple(folder.input(name) for name in info.inputs)
    look = _Looker(kinds, info, folder.reader, quick)
    splits = _looked_at(folder, listings, look, findings, reporter)
    for head in info.heads:
        findings.add(_only_class(folder, head, splits))
        findings.add(_labels_used(folder, head, splits))
    return CheckReport(
        folder.root, info, kinds, tuple(splits), findings.errors(), findings.warnings(), quick
    )


def _looked_at(
    folder: DatasetFolder,
    listings: Mapping[str, Listing],
    look: _Looker,
    findings: _Findings,
    reporter: Reporter,
) -> list[Fingerprint]:
    """Look at all files, and add what is wrong with them; return what each split is like."""
    seen_before: dict[bytes, tuple[str, Path]] = {}
    far = isinstance(folder.root, RemotePath)  # most of the time is waiting then
    workers = _MOST_WORKERS if far else min(os.cpu_count() or 1, _MOST_WORKERS)
    total = sum(len(listing.samples) for listing in listings.values())
    splits = []
    with reporter.bar(total, f"checking {folder.root}") as bar:
        for name, listing in listings.items():
            gathered = _Gathered(look.inputs, {} if look.quick else look.info.heads)
            for seen in ahead(partial(look, files=len(listing.samples)), listing.samples, workers):
                gathered.add(seen)
                findings.add(seen.findings)
                findings.add(_repeated(name, seen, seen_before))
                bar.advance()
            splits.append(gathered.fingerprint(name, folder.held_out and name == "val"))
    return splits


def _narrowed(
    info: DatasetInfo, inputs: Sequence[str] | None, heads: Sequence[str] | None
) -> DatasetInfo:
    """Return `info` with no other inputs and heads than those asked for."""
    asked = [info.input_name(name) for name in inputs or info.inputs]
    return info.model_copy(
        update={
            "inputs": {name: info.inputs[name] for name in asked},
            "heads": {name: info.head(name) for name in heads or info.heads},
        }
    )


class _Gathered:
    """Gathers what was seen of the samples of a split."""

    def __init__(self, inputs: Sequence[Input], heads: Mapping[str, HeadInfo]) -> None:
        self._heads = heads
        self._sizes: dict[str, Size] = {}
        self._channels = {each.name: each.channels for each in inputs}
        self._bits = dict.fromkeys(self._channels, 0)
        self._labels = {head: LabelCounts() for head in heads}
        self._extents: dict[str, list[Extent]] = {name: [] for name in self._channels}

    def add(self, seen: _Seen) -> None:
        if seen.size is not None:
            self._sizes[seen.name] = seen.size
        for head, pixels in seen.pixels.items():
            self._labels[head].add(pixels, len(self._heads[head].classes))
        for name, look in seen.looks.items():
            self._bits[name] = max(self._bits[name], look.bits)
            if look.extent is not None:
                self._extents[name].append(look.extent)

    def fingerprint(self, name: str, held_out: bool) -> Fingerprint:
        ranges = joined(self._extents, self._bits)
        return Fingerprint(
            name, self._sizes, self._channels, self._bits, held_out, ranges, self._labels
        )


class _Findings:
    """Gathers findings; of each kind the first few are kept and the others counted."""

    def __init__(self) -> None:
        self._lines: dict[tuple[bool, str], list[str]] = {}
        self._counts: Counter[tuple[bool, str]] = Counter()

    def add(self, findings: Iterable[Finding]) -> None:
        for is_error, kind, line in findings:
            self._counts[is_error, kind] += 1
            lines = self._lines.setdefault((is_error, kind), [])
            if len(lines) < _SHOWN:
                lines.append(line)

    def errors(self) -> tuple[str, ...]:
        return tuple(self._told(True))

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._told(False))

    def _told(self, errors: bool) -> Iterator[str]:
        for (is_error, kind), lines in self._lines.items():
            if is_error == errors:
                yield from lines
                more = self._counts[is_error, kind] - len(lines)
                if more:
                    yield f"and {more} more {kind}"


def _unused(folder: DatasetFolder) -> Iterator[Finding]:
    """Find what is missing from, or lies beside, images/<split> and masks/<split>."""
    images = folder.images
    if not folder.splits:
        yield _error("missing splits", f"{images}/train: is missing; put images and masks there")
    elif "train" not in folder.splits:
        yield _warning("missing splits", f"{images}/train: is missing: nothing to learn from")
    for name in folder.info.folders:
        for path in _children(folder.root / name):
            if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
                why = "it lies beside the folders of the splits; move it into one"
            elif path.is_dir() and path.name not in SPLITS:
                why = f"the splits are {', '.join(SPLITS)}{nearest(path.name, SPLITS)}"
            elif path.is_dir() and not (images / path.name).is_dir():
                why = f"there is no {images / path.name}"
            else:
                continue
            yield _warning("things that are not used", f"{path}: is not used: {why}")


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _pairing(folder: DatasetFolder, split: str, listing: Listing) -> Iterator[Finding]:
    """Judge by their names the files of a split."""
    inputs = set(folder.info.inputs.values())
    if not (listing.samples or listing.missing or listing.twins):
        where = folder.images / split
        yield _error("empty splits", f"{where}: holds no images; put some there or remove it")
    for path, lacking, instead in listing.missing:
        if instead is not None and lacking not in inputs:
            yield _error("masks that are no PNG", not_png(path, instead))
        elif lacking in inputs:
            advice = f"add one of the same name to {lacking}/{split} or remove the image"
            yield _error("incomplete images", f"{path}: has no image in {lacking}; {advice}")
        else:
            advice = f"add {path.stem}.png to {lacking}/{split} or remove the image"
            yield _error("images without a mask", f"{path}: has no mask; {advice}")
    told = {each.instead for each in listing.missing}
    for path in listing.orphans:
        if path in told:
            continue
        if path.relative_to(folder.root).parts[0] in inputs:
            advice = "name it as that, or remove it"
            problem = f"belongs to no image in {folder.images / split}; {advice}"
            yield _error("images that belong to no other", f"{path}: {problem}")
        else:
            problem = "belongs to no image" if path.suffix.lower() == ".png" else "is no PNG"
            advice = "name it as its image, ending in .png, or remove it"
            yield _error("masks without an image", f"{path}: the mask {problem}; {advice}")
    for paths in listing.twins:
        others = few_named([path.name for path in paths[1:]])
        problem = f"has the same name as {others}; rename or remove one"
        yield _error("files of the same name", f"{paths[0]}: {problem}")
    for path in listing.again:
        problem = "leads to a folder that is searched already, and is passed over; remove the link"
        yield _warning("links that lead back", f"{path}: {problem}")
    for path in listing.strangers:
        problem = "is passed over: images are jpg, png, bmp, webp or tif files"
        yield _warning("files that are passed over", f"{path}: {problem}")


def _held_out(folder: DatasetFolder, train: Listing, val: Listing) -> Iterator[Finding]:
    """Judge whether a val could be held out of train: it takes two images."""
    if train.samples and not val.samples:
        where = folder.images / "train"
        yield _error("empty splits", f"{where}: holds one image; val needs another: add some")


@dataclass(frozen=True)
class _Looker:
    """Looks at one sample: at its headers if `quick`, else at its pixels."""

    inputs: Sequence[Input]
    info: DatasetInfo
    reader: ImageReader
    quick: bool

    def __call__(self, sample: Sample, files: int) -> _Seen:
        """Look at a sample of a split of so many."""
        findings: list[Finding] = []
        sizes: dict[Path, Size] = {}
        looks: dict[str, _ImageLook] = {}
        pixels: dict[str, NDArray[np.int64]] = {}
        for each, path in zip(self.inputs, sample.images, strict=True):
            try:
                looks[each.name] = self._image(each, path, files)
                remarks = each.remarks(path, self.reader)
            except FullconvError as problem:
                findings.append(_error("images that can't be read", str(problem)))
                continue
            sizes[path] = looks[each.name].size
            findings += (_warning(_IN_PART, f"{path}: {remark}") for remark in remarks)
        for head, path in zip(self.info.heads, sample.masks, strict=True):
            try:
                sizes[path], counts = _look_at_mask(path, self.reader, self.quick)
            except FullconvError as problem:
                findings.append(_error("masks that can't be read", str(problem)))
                continue
            if counts is not None:
                pixels[head] = _by_label_id(counts, self.info, head)
                findings += _foreign(path, counts, self.info, head)
        image, first = sample.images[0], looks.get(self.inputs[0].name)
        findings += _misfits(image, sizes, self.reader)
        size, digest = (first.size, first.digest) if first else (None, None)
        return _Seen(sample.name, image, size, digest, pixels, looks, tuple(findings))

    def _image(self, kind: Input, path: Path, files: int) -> _ImageLook:
        """Look at an image, one of so many; where it has more than 8 bits, at its own values."""
        stored = kind.header(path, self.reader)
        if self.quick:
            return _ImageLook(stored.size, stored.bits)
        deep = stored.bits > 8
        values = kind.values(path, self.reader) if deep else kind.read(path, self.reader)
        digest = hashlib.blake2b(repr(values.shape).encode(), digest_size=16)
        digest.update(values.data)
        extent = Extent.of(values, files) if deep else None
        return _ImageLook(stored.size, stored.bits, digest.digest(), extent)


def _look_at_mask(
    path: Path, reader: ImageReader, quick: bool
) -> tuple[Size, NDArray[np.int64] | None]:
    """Return the (height, width) of a mask and its pixels per label id, None if `quick`."""
    if quick:
        return reader.mask_size(path), None
    labels = reader.mask(path)
    return (labels.shape[0], labels.shape[1]), pixels_by_id(labels)


def _by_label_id(counts: NDArray[np.int64], info: DatasetInfo, head: str) -> NDArray[np.int64]:
    """Turn pixels per value in a mask into those per label id; foreign values stay as they are."""
    values = np.arange(_IDS, dtype=np.uint8)
    ids = np.where(info.foreign(values, head), values, info.label_ids(values, head))
    found = np.zeros(_IDS, np.int64)
    np.add.at(found, ids, counts)
    return found


def _misfits(image: Path, sizes: Mapping[Path, Size], reader: ImageReader) -> Iterator[Finding]:
    """Judge whether the files of a sample, those that can be read, fit its first image."""
    if image not in sizes:
        return
    image_turned = reader.is_turned(image)
    for path, size in sizes.items():
        if path == image:
            continue
        try:
            require_same_size((path, size), (image, sizes[image]))
        except FullconvError as problem:
            yield _error("files of another size than their image", str(problem))
        if reader.is_turned(path) != image_turned:
            turned, other = (image, path) if image_turned else (path, image)
            yield _warning(
                "files turned by EXIF data alone",
                f"{turned}: is turned by its EXIF data but {other} is not; look whether they fit",
            )


def _foreign(
    mask: Path, pixels: NDArray[np.int64], info: DatasetInfo, head: str
) -> Iterator[Finding]:
    """Find label ids outside the classes."""
    wrong = np.where(info.foreign(np.arange(_IDS, dtype=np.uint8), head), pixels, 0)
    if wrong.any():
        yield _error("masks with ids outside the classes", foreign_ids(mask, wrong, info, head))


def _repeated(split: str, seen: _Seen, before: dict[bytes, tuple[str, Path]]) -> Iterator[Finding]:
    """Find a picture that was seen in another split, whatever its file is called or made of."""
    if seen.digest is None:
        return
    first_split, first = before.setdefault(seen.digest, (split, seen.image))
    if first_split != split:
        yield _error(
            "images that are in two splits",
            f"{seen.image}: is the same picture as {first} (splits {first_split!r} and {split!r}), "
            "so that scores would be too good; keep it in one",
        )


def require_several_classes(folder: DatasetFolder) -> None:
    """Raise FullconvError where dataset.yaml gives a head one class: nothing is to be learnt."""
    for head in folder.info.heads:
        for found in _only_class(folder, head, ()):
            raise FullconvError(found.line)


def _only_class(
    folder: DatasetFolder, head: str, splits: Sequence[Fingerprint]
) -> Iterator[Finding]:
    """Judge whether there is anything to tell apart."""
    known = folder.info.head(head)
    if len(known.classes) > 1:
        return
    key = "classes" if LABELS in folder.info.heads else f"heads.{head}.classes"
    name, masks = known.classes[0], folder.root / known.masks
    line = (
        f"{folder.root / 'dataset.yaml'}: key {key!r}: {name!r} is the only class, so that every "
        f"pixel would be right; background is a class of its own: write [background, {name}], with "
        "the ids 0 and 1 in the masks"
    )
    if set(np.flatnonzero(_pixels(splits, head))) == {0, 255}:
        line += f"; to turn every 255 into 1: {_remapping(masks)}"
    yield _error("heads of one class", line)


def _pixels(splits: Sequence[Fingerprint], head: str) -> NDArray[np.int64]:
    """Return the pixels per label id, int64 (256,), of all splits."""
    counts = [each.labels[head].pixels for each in splits if head in each.labels]
    return np.sum(counts, 0) if counts else np.zeros(_IDS, np.int64)


def _labels_used(
    folder: DatasetFolder, head: str, splits: Sequence[Fingerprint]
) -> Iterator[Finding]:
    """Judge which label ids occur in all masks of a head."""
    known = folder.info.head(head)
    classes, masks = known.classes, folder.root / known.masks
    if (
        len(classes) == 2
        and not known.offset
        and set(np.flatnonzero(_pixels(splits, head))) == {0, 255}
    ):
        yield _error(
            "masks of 0 and 255",
            f"{masks}: the masks hold only 0 and 255, but {classes[1]!r} has the id 1 and 255 "
            f"means ignore; to turn every 255 into 1: {_remapping(masks)}",
        )
        return
    for split in splits:
        pixels = _pixels([split], head)
        needed = classes if split.name == "train" else set(classes) - set(known.unscored)
        absent = [
            name for label, name in enumerate(classes) if name in needed and not pixels[label]
        ]
        if absent and pixels.any():
            harm, ways = "learnt", "add images that show it or drop the class"
            if split.name != "train":
                harm, ways = "measured", f"{ways}, or list it under 'unscored'"
            yield _warning(
                "splits without a class",
                f"{masks / split.name}: has no pixel of {few_named(absent)}, which can't be {harm} "
                f"there; {ways}",
            )


def _remapping(masks: Path) -> str:
    """Return a shell command that rewrites masks of 0 and 255 as masks of 0 and 1."""
    program = (
        "import sys, pathlib; from PIL import Image; "
        "[Image.open(p).point(lambda v: v // 255).save(p) "
        "for p in pathlib.Path(sys.argv[1]).rglob('*.png')]"
    )
    return f'python -c "{program}" {shlex.quote(str(masks))}'
