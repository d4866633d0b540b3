"""What one pass over a split finds; every default of a training derives from it.

    found = Fingerprint.of(split)        # the headers of its first images alone: quick
    found.images, found.median_size      # 367, (360, 480); also found.sizes, found.size_of[name]
    found = found.with_pixels(split)     # its pixels too, or those of some of very many
    found.labels["sem"].pixels           # also .images, .beside: int64 (256,), by id
    found.thinness["sem"][32].mean_iu    # to which cells of 32 pixels can draw its masks
    found.ranges.get("color")            # where files have more than 8 bits: which values they use
    found.to_dict()                      # plain values, for recipe.yaml

`check_folder` gives one for each split in `report.splits` (`report.split("train")`): with
``quick=True`` it holds what headers tell, for `with_pixels` to complete without reading them again;
else pixels are counted already. `cached_splits` takes `size_of`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.pipeline import ahead
from fullconv.data.ranges import Extent, Range, Spread, joined
from fullconv.data.thinness import Drawn, drawn_counts, pixels_by_id

if TYPE_CHECKING:
    from fullconv.data.folder import Split
    from fullconv.data.info import HeadInfo

Size = tuple[int, int]

SIDES = tuple(1 << power for power in range(1, 10))  # of the cells that nets have, and then some
MASKS_COUNTED, PIXELS_COUNTED = 1000, 1 << 29  # at most, of all together; seconds tell enough
MASKS_DRAWN, PIXELS_DRAWN = 32, 1 << 26  # likewise
_IDS = 256  # what an 8-bit mask can hold
_SIZES_TOLD = 20


def _none() -> NDArray[np.int64]:
    return np.zeros(_IDS, np.int64)


@dataclass(frozen=True)
class LabelCounts:
    """How often the label ids occur in masks of one head.

    Attributes:
        pixels: int64 (256,), pixels per label id.
        images: int64 (256,), masks in which the label id occurs.
        beside: int64 (256,), pixels of any class in those masks.
    """

    pixels: NDArray[np.int64] = field(default_factory=_none)
    images: NDArray[np.int64] = field(default_factory=_none)
    beside: NDArray[np.int64] = field(default_factory=_none)

    def add(self, pixels: NDArray[np.int64], classes: int) -> None:
        """Count a mask of so many classes by its pixels per label id, int64 (256,)."""
        self.pixels[:] += pixels
        self.images[:] += pixels > 0
        self.beside[:] += np.where(pixels > 0, pixels[:classes].sum(), 0)


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a split: by the headers of its images or, once read, by its pixels.

    Attributes:
        name: "train", "val" or "test".
        size_of: the (height, width) of the first image of each sample, by the sample's name.
        channels: of each input, by its name.
        bits: of a value in the files of each input, the most there are, by dataset.yaml's names.
        held_out: whether the split is taken from train.
        ranges: by input, which values files of more than 8 bits hold; empty where no pixel was
            read, or no file has so many.
        labels: what is in the masks, by head; empty where no pixel was read.
        thinness: how well cells of some sizes draw the masks, by head and side in pixels; likewise.
        spreads: by input of bands, how the values of each are distributed; likewise.
    """

    name: str
    size_of: Mapping[str, Size]
    channels: Mapping[str, int]
    bits: Mapping[str, int] = field(default_factory=dict)
    held_out: bool = False
    ranges: Mapping[str, Range] = field(default_factory=dict)
    labels: Mapping[str, LabelCounts] = field(default_factory=dict)
    thinness: Mapping[str, Mapping[int, Drawn]] = field(default_factory=dict)
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    @classmethod
    def of(cls, split: Split) -> Fingerprint:
        """Read the headers of a split's images.

        Raises:
            FullconvError: one can't be read, or is of another kind than its input.
        """
        sizes: dict[str, Size] = {}
        bits = {each.name: 0 for each in split.inputs.values()}
        headers = ahead(split.headers, range(len(split)))
        for sample, stored in zip(split.samples, headers, strict=True):
            sizes[sample.name] = stored[0].size
            for name, each in zip(bits, stored, strict=True):
                bits[name] = max(bits[name], each.bits)
        channels = {name: each.channels for name, each in split.inputs.items()}
        return cls(split.name, sizes, channels, bits)

    @property
    def images(self) -> int:
        """How many there are whose headers could be read."""
        return len(self.size_of)

    @property
    def sizes(self) -> Counter[Size]:
        """How many images there are of each (height, width)."""
        return Counter(self.size_of.values())

    @property
    def median_size(self) -> Size:
        """The median height and the median width, in whole pixels, over all images."""
        height, width = np.median(list(self.size_of.values()), axis=0)
        return int(height), int(width)

    def with_pixels(self, split: Split, sides: Collection[int] = SIDES) -> Fingerprint:
        """Return it with what the pixels of `split` tell, each file of which is read once.

        Those are its masks, and its images where files have more than 8 bits. Of many, or large
        ones, 1,000 are counted and 32 masks are drawn, evenly chosen.

        Args:
            split: that of which this is the fingerprint, with the heads that are asked about.
            sides: of the cells whose drawing is judged, in pixels.

        Raises:
            FullconvError: a file can't be read, or a mask holds a wrong label or misfits its image.
        """
        counted = self._few(split, MASKS_COUNTED, PIXELS_COUNTED)
        drawn = self._few(counted, MASKS_DRAWN, PIXELS_DRAWN).samples
        asked = [tuple(sides) if sample in drawn else () for sample in counted.samples]
        labels = {name: LabelCounts() for name in split.heads}
        totals = {
            name: {side: np.zeros((3, len(head.classes)), np.int64) for side in sides}
            for name, head in split.heads.items()
        }
        extents: dict[str, list[Extent]] = {name: [] for name in split.inputs}
        bits = {name: self.bits.get(each.name, 0) for name, each in split.inputs.items()}
        spreads: dict[str, Spread] = {}
        for look in ahead(partial(self._look, counted, asked), range(len(counted))):
            for (name, head), mask in zip(split.heads.items(), look.masks, strict=True):
                labels[name].add(mask.pixels, len(head.classes))
                for side, counts in mask.drawn.items():
                    totals[name][side] += counts
            for name, extent in look.extents.items():
                extents[name].append(extent)
            for name, spread in look.spreads.items():
                spreads[name] = spreads[name] + spread if name in spreads else spread
        thinness = {name: _thinness(head, totals[name]) for name, head in split.heads.items()}
        return replace(
            self, labels=labels, thinness=thinness, ranges=joined(extents, bits), spreads=spreads
        )

    def _few(self, split: Split, count: int, pixels: int) -> Split:
        """Return a split of at most `count` samples, as many as have about `pixels` together."""
        return split.few(max(min(count, pixels // math.prod(self.median_size)), 1))

    def _look(self, split: Split, asked: list[tuple[int, ...]], index: int) -> _Look:
        """Look at the masks of a sample, and at its images of more than 8 bits."""
        layers = split.labels(index, self.size_of.get(split.samples[index].name))
        masks = [
            _MaskLook(pixels_by_id(labels), drawn_counts(labels, asked[index], len(head.classes)))
            for head, labels in zip(split.heads.values(), layers, strict=True)
        ]
        extents, spreads = dict[str, Extent](), dict[str, Spread]()
        for name, own in split.inputs.items():
            deep = self.bits.get(own.name, 0) > 8
            if not (deep or own.bands):
                continue
            values = split.values(index, name)
            if own.bands:
                spreads[name] = Spread.of(values)
            if deep and (extent := Extent.of(values, len(split))) is not None:
                extents[name] = extent
        return _Look(masks, extents, spreads)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the commonest sizes as "HxW", what was counted by class id."""
        values: dict[str, Any] = {
            "images": self.images,
            "sizes": {f"{h}x{w}": count for (h, w), count in self.sizes.most_common(_SIZES_TOLD)},
            "channels": dict(self.channels),
        }
        if self.ranges:
            values["ranges"] = {name: asdict(each) for name, each in self.ranges.items()}
        if self.spreads:
            values["bands"] = {
                name: {"mean": list(each.mean), "std": list(each.std)}
                for name, each in self.spreads.items()
            }
        if self.labels:
            values["labels"] = {name: _plain(counts) for name, counts in self.labels.items()}
        if self.thinness:
            values["drawn"] = {
                name: {side: _rounded(each.mean_iu) for side, each in by_side.items()}
                for name, by_side in self.thinness.items()
            }
        return values


class _MaskLook(NamedTuple):
    pixels: NDArray[np.int64]
    drawn: dict[int, NDArray[np.int64]]


class _Look(NamedTuple):
    masks: list[_MaskLook]
    extents: dict[str, Extent]
    spreads: dict[str, Spread]


def _thinness(head: HeadInfo, counts: Mapping[int, NDArray[np.int64]]) -> dict[int, Drawn]:
    scored = [name not in head.unscored for name in head.classes]
    return {side: Drawn.of(each, scored) for side, each in counts.items()}


def _plain(counts: LabelCounts) -> dict[str, dict[int, int]]:
    ids = np.flatnonzero(counts.pixels).tolist()
    return {
        "pixels": {each: int(counts.pixels[each]) for each in ids},
        "images": {each: int(counts.images[each]) for each in ids},
    }


def _rounded(share: float) -> float | None:
    return None if math.isnan(share) else round(share, 4)
