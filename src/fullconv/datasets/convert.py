"""Annotations of any known format, as a dataset folder: the whole of ``data convert``."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from fullconv.base import files
from fullconv.base.errors import FullconvError, few_named, one_line
from fullconv.base.fill import Fill
from fullconv.base.images import IMAGE_SUFFIXES, ImageReader
from fullconv.base.palette import palette_image, voc_palette
from fullconv.base.progress import SILENT, Progress, Reporter
from fullconv.base.settings import first_mistake
from fullconv.data.folder import SPLITS
from fullconv.data.info import COLOR, MAX_CLASSES, DatasetInfo, HeadInfo
from fullconv.datasets.archives import unpack
from fullconv.datasets.formats.annotated import AnnotatedImage, Overlap, Size, Source
from fullconv.datasets.formats.catalogue import recognised
from fullconv.datasets.formats.classes import (
    IGNORED,
    ClassPlan,
    ClassSettings,
    palette,
    plan_classes,
)
from fullconv.datasets.formats.painting import DAMAGED, Labels, paint_regions, paint_values
from fullconv.datasets.formats.splitting import Shares, divide, parse_pattern

_UNDIVIDED = "undivided"  # a folder of images whose split is not known yet


@dataclass(frozen=True)
class ConvertSettings:
    """What to convert, and how.

    Attributes:
        classes: which label ids the classes get.
        overlap: which of two regions is seen; None: as the format's tool shows them.
        fill: which pixels polygons cover (see `fullconv.base.fill.covered`); None: those that the
            format's own tool does.
        shares: of train, val and test; None: as the source divides its images, all train if it
            doesn't.
        group_by: a regular expression; images whose names have the same there stay together.
        seed: of the division.
        skip: leaves out what can't be converted, instead of failing.
        table: a list of classes with their values or colours.
        reader: reads images.
    """

    classes: ClassSettings = field(default_factory=ClassSettings)
    overlap: Overlap | None = None
    fill: Fill | None = "centres"
    shares: Shares | None = None
    group_by: str | None = None
    seed: int = 0
    skip: bool = False
    table: Path | None = None
    reader: ImageReader = ImageReader()


DEFAULTS = ConvertSettings()


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Attributes:
        format: what the source was.
        classes: names of the classes, by id.
        counts: images by split.
        notes: lines to tell the user.
    """

    format: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]


class _TroubleError(Exception):
    """An image that can't be converted: a plural of what is wrong, and which it is."""

    def __init__(self, kind: str, which: str) -> None:
        super().__init__(kind, which)
        self.kind, self.which = kind, which


@dataclass
class _Troubles:
    """What can't be converted: how often, and which the first ones are."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def tell(self, kind: str, which: str) -> None:
        self.counts[kind] += 1
        if which not in self.first[kind] and len(self.first[kind]) < 3:
            self.first[kind].append(which)

    def lines(self) -> list[str]:
        lines = []
        for kind, count in self.counts.items():
            first = ", ".join(self.first[kind])
            lines.append(f"{count:,} {kind} ({first}{', …' * (count > len(self.first[kind]))})")
        return lines


def convert(
    source: Path, out: Path, settings: ConvertSettings = DEFAULTS, reporter: Reporter = SILENT
) -> Converted:
    """Make a dataset folder of annotations.

    One image is in memory at a time. The folder is filled under another name and renamed, so that
    it is whole or not there.

    Args:
        source: a folder, a file of annotations, or a zip of either.
        out: is made; must not exist, or be empty.
        settings: what becomes of classes, overlaps, splits and troubles.
        reporter: shows progress.

    Raises:
        FullconvError: the source is of no known format, or something in it can't be converted and
            is not to be skipped; nothing is left behind.
    """
    pattern = parse_pattern(settings.group_by)
    require_new(out)
    with replacing_folder(out) as part, _unpacked(source, part, reporter) as folder:
        found = recognised(folder, settings.table, reporter, settings.reader)
        plan = plan_classes(found, settings.classes)
        info = _info(found, plan, source, out)
        work = _Work(found, plan, settings, part, info.folders)
        with reporter.bar(found.count, f"convert {found.format}") as bar:
            work.write_all(bar)
        work.require_sound(source)
        if settings.shares is not None:
            work.divide(divide(work.present, settings.shares, settings.seed, pattern))
        text = yaml.safe_dump(info.to_dict(), sort_keys=False, default_flow_style=None)
        files.write_text(part / "dataset.yaml", text)
        return Converted(found.format, plan.names, dict(work.splits()), tuple(work.notes()))


def _info(found: Source, plan: ClassPlan, source: Path, out: Path) -> DatasetInfo:
    """Return what dataset.yaml is to say.

    Raises:
        FullconvError: there are more classes than fit masks, or one is called by no name.
    """
    from pydantic import ValidationError

    try:
        if found.info is not None:
            return _converted(found.info, found, plan)
        return DatasetInfo.plain(out.name or "dataset", plan.names, palette(found, plan))
    except ValidationError as error:
        mistake = first_mistake(error)
        if mistake.path == ("name",):
            raise FullconvError(f"--out: {mistake.reason}; give another folder") from None
        if len(plan.names) > MAX_CLASSES:
            cure = "name those wanted by --classes, or put several together by --map"
        else:
            cure = "call each class by a name of its own, in the annotations or by --classes"
        raise FullconvError(f"{source}: {mistake.reason}; {cure}") from None


def _converted(info: DatasetInfo, source: Source, plan: ClassPlan) -> DatasetInfo:
    """Return what dataset.yaml said, but for the classes and their values in masks."""
    ((name, head),) = info.heads.items()
    new = {old: plan.ids.get(old) for old in head.classes}
    scored = {new[old] for old in head.classes if old not in head.unscored}
    unscored = {new[old] for old in head.unscored} - scored
    colours = palette(source, plan)
    own = HeadInfo(
        masks=head.masks,
        classes=plan.names,
        palette=None if colours is None else tuple(colours),
        unscored=tuple(each for at, each in enumerate(plan.names) if at in unscored),
    )
    return info.model_copy(update={"heads": {name: own}, "ignore_index": IGNORED})


@dataclass
class _Work:
    """A conversion that is under way.

    Attributes:
        kinds: the folders of the images and of their masks.
        present: the classes that each image has, by its place: SPLIT/NAME.
        places: those of the files that images were taken from.
        empty: names of images without regions.
        elsewhere: images that were found by their names alone.
    """

    source: Source
    plan: ClassPlan
    settings: ConvertSettings
    folder: Path
    kinds: Sequence[str]
    present: dict[str, frozenset[int]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    troubles: _Troubles = field(default_factory=_Troubles)
    empty: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def write_all(self, bar: Progress) -> None:
        """Write all images and masks; what can't be is told."""
        for kind, names in self.source.left_over.items():
            for name in names:
                self.troubles.tell(kind, name)
        try:
            for image in self.source.read():
                self._write(image)
                bar.advance()
        except DAMAGED as error:
            raise FullconvError(
                f"{self.source.root}: is damaged {self.source.format} ({type(error).__name__}: "
                f"{one_line(error)})"
            ) from error

    def _write(self, image: AnnotatedImage) -> None:
        try:
            self._require_image(image)
            labels = self._labels(image)
        except _TroubleError as trouble:
            self.troubles.tell(trouble.kind, trouble.which)
        except FullconvError as error:
            self.troubles.tell("files that can't be read", str(error))
        except DAMAGED as error:
            words = one_line(error)
            said = words if isinstance(error, ValueError) else f"{type(error).__name__} {words}"
            self.troubles.tell("damaged annotations", f"{image.about.name}: {said}")
        else:
            self._place(self._place_of(image), image, labels)

    def _place_of(self, image: AnnotatedImage) -> str:
        split = image.split or ("train" if self.settings.shares is None else _UNDIVIDED)
        return f"{split}/{image.name}"

    def _require_image(self, image: AnnotatedImage) -> None:
        inside = PurePosixPath(image.name)
        if not inside.parts or inside.is_absolute() or ".." in inside.parts:
            raise _TroubleError("names that are none of images", image.name)
        if image.found is not None and image.found.rivals:
            which = few_named([*map(self._told, image.found.rivals)], 2)
            raise _TroubleError("images that several files may be", which)
        self._require_unshared(image)
        if self._place_of(image) in self.present:
            raise _TroubleError("images that are called alike", image.name)
        if not image.path.is_file():
            raise _TroubleError("images that are missing", self._told(image.path))
        if image.path.suffix.lower() not in IMAGE_SUFFIXES:
            raise _TroubleError("images of a kind that is not read", image.path.name)

    def _require_unshared(self, image: AnnotatedImage) -> None:
        """Refuse an image that was another annotation's; it is taken from that, too.

        Raises:
            _TroubleError: it was.
        """
        kind, file = "annotations that share an image", os.path.normpath(image.path)
        if file not in self.places:
            return
        place = self.places[file]
        if place in self.present:
            self.troubles.tell(kind, self._told(image.path))
            for path in self._files(place, image.path.suffix):
                path.unlink()
            del self.present[place]
        raise _TroubleError(kind, self._told(image.path))

    def _told(self, path: Path) -> str:
        root = self.source.root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    def _files(self, place: str, suffix: str) -> tuple[Path, Path]:
        """Return where the image of a place and its mask are."""
        images, masks = self.kinds
        image = self.folder / images / f"{place}{suffix.lower()}"
        return image, self.folder / masks / f"{place}.png"

    def _labels(self, image: AnnotatedImage) -> Labels:
        """Return an image's labels, of its own size, upright.

        Raises:
            _TroubleError: its annotation is of another size.
        """
        size = self._size(image.path)
        if image.size is not None:
            _require_size(image, size, image.size)
        if image.values is not None:
            values = image.values()
            _require_size(image, size, values.shape)
            names = dict(self.source.values)
            return paint_values(image, values, names, self.plan, self.troubles.tell)
        regions = image.regions() if image.regions is not None else ()
        if not regions:
            self.empty.append(image.name)
        return paint_regions(
            regions,
            size,
            self.plan,
            fill=self.settings.fill or self.source.fill,
            overlap=self.settings.overlap or self.source.overlap,
            tell=self.troubles.tell,
        )

    def _size(self, path: Path) -> Size:
        """Return an image's size; of a dataset folder also where it is no picture."""
        reader, info = self.settings.reader, self.source.info
        if info is None or COLOR in info.inputs:
            return reader.image_size(path)
        return reader.describe(path).size

    def _place(self, place: str, image: AnnotatedImage, labels: Labels) -> None:
        file, mask = self._files(place, image.path.suffix)
        for path in (file, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.path, file)
        palette_image(labels, voc_palette(), None).save(mask)
        self.present[place] = frozenset(np.unique(labels).tolist()) - {IGNORED}
        self.places[os.path.normpath(image.path)] = place
        if image.found is not None and image.found.elsewhere:
            self.elsewhere.append(self._told(image.path))

    def require_sound(self, source: Path) -> None:
        """Raise FullconvError for what couldn't be converted, unless it is to be skipped."""
        lines = self.troubles.lines()
        if lines and not self.settings.skip:
            raise FullconvError(
                f"{source}: has {'; '.join(lines)}; repair that, or leave it out by --skip"
            )
        if not self.present:
            more = f": {'; '.join(lines)}" if lines else ""
            raise FullconvError(f"{source}: has no image that can be converted{more}")

    def divide(self, splits: dict[str, str]) -> None:
        """Move each image and mask from its place into a split."""
        moved: dict[str, frozenset[int]] = {}
        staging = self.folder / ".undivided"  # as no folder of a dataset is called
        images, masks = self.kinds
        for kind in self.kinds:
            staging.mkdir(exist_ok=True)
            (self.folder / kind).rename(staging / kind)
        suffixes = {
            path.relative_to(staging / images).with_suffix("").as_posix(): path.suffix
            for path in files.files_below(staging / images)
        }
        for place, split in splits.items():
            was, _, name = place.partition("/")
            target = f"{split}/{name}"
            if target in moved:
                target = f"{split}/{was}-{name.replace('/', '-')}"
            for kind, suffix in ((images, suffixes[place]), (masks, ".png")):
                path = self.folder / kind / f"{target}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                (staging / kind / f"{place}{suffix}").rename(path)
            moved[target] = self.present[place]
        shutil.rmtree(staging)
        self.present = moved

    def splits(self) -> Iterator[tuple[str, int]]:
        """Yield the splits and how many images they have."""
        counts = Counter(place.partition("/")[0] for place in self.present)
        return ((split, counts[split]) for split in SPLITS if counts[split])

    def notes(self) -> Iterator[str]:
        """Yield what a user should know."""
        yield from (f"left out: {line}" for line in self.troubles.lines())
        if self.empty:
            yield f"{len(self.empty):,} images have no regions: {few_named(self.empty)}"
        if self.elsewhere:
            yield (
                f"{len(self.elsewhere):,} images were found by their names alone, in other folders "
                f"than their annotations say: {few_named(self.elsewhere)}"
            )
        used = {label for classes in self.present.values() for label in classes}
        unused = [name for at, name in enumerate(self.plan.names) if at not in used]
        if unused:
            yield f"{len(unused)} classes have no pixels: {few_named(unused)}"
        yield from self.source.notes


def _require_size(image: AnnotatedImage, size: Sequence[int], by_annotation: Sequence[int]) -> None:
    if tuple(size) != tuple(by_annotation):
        (height, width), (rows, columns) = size, by_annotation
        raise _TroubleError(
            "images of another size than their annotations'",
            f"{image.path.name}: {width} x {height}, by {image.about.name} {columns} x {rows}",
        )


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`, which gets its name where the body succeeds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        with suppress(OSError):
            out.rmdir()  # if it is empty
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def _unpacked(source: Path, part: Path, reporter: Reporter) -> Iterator[Path]:
    """Yield the source, or the folder that its archive was unpacked into meanwhile."""
    if not source.is_file() or not zipfile.is_zipfile(source):
        yield source
        return
    folder = part / ".unpacked"
    unpack(source, folder, reporter=reporter)
    yield folder
    shutil.rmtree(folder)


def require_new(out: Path) -> None:
    """Raise FullconvError where something stands in a new folder's place."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FullconvError(f"{out}: exists already; give another folder or remove it")
