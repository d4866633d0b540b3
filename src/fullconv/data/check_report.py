"""What a check of a dataset folder found, and the tables that show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fullconv.base.errors import FullconvError
from fullconv.data.fingerprint import Fingerprint, LabelCounts
from fullconv.data.folder import Input
from fullconv.data.info import DatasetInfo


@dataclass(frozen=True)
class CheckReport:
    """The result of `check_folder`.

    Attributes:
        root: the dataset folder.
        info: its dataset.yaml, as far as it was checked.
        inputs: what the inputs that were checked hold.
        splits: what was found in each split; of its pixels nothing if `quick`.
        errors: lines that each name a file, what is wrong and what to do; the data can't be used.
        warnings: the same for what is allowed but may not be meant.
        quick: whether only names and headers were read.
    """

    root: Path
    info: DatasetInfo
    inputs: tuple[Input, ...]
    splits: tuple[Fingerprint, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    quick: bool

    def split(self, name: str) -> Fingerprint:
        """Return what was found in a split; nothing if there is none of that name."""
        return next((each for each in self.splits if each.name == name), Fingerprint(name, {}, {}))

    def require_sound(self) -> None:
        """Raise FullconvError, with the first error, if there are errors."""
        if self.errors:
            more = ", and there are more" if len(self.errors) > 1 else ""
            raise FullconvError(f"{self.errors[0]}{more} (see: fullconv data check {self.root})")

    def tables(self) -> tuple[Table, ...]:
        """Return a table of the splits, one of the inputs if several or of many bits, one a head.

        A quick check knows nothing of the labels: the last are left out.
        """
        deep = any(split.ranges for split in self.splits)
        inputs = (_input_table(self),) * (len(self.inputs) > 1 or deep)
        heads = () if self.quick else self.info.heads
        return (_split_table(self), *inputs, *(_class_table(self, head) for head in heads))


def _split_table(report: CheckReport) -> Table:
    table = Table(title=Text(report.info.name), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("split", no_wrap=True)
    heads = report.info.heads
    ignored = ("ignored",) if len(heads) == 1 else (f"{head}\nignored" for head in heads)
    for column in ("images", "smallest", "largest", "most common", *ignored):
        table.add_column(column, justify="right")
    for split in report.splits:
        counts = (split.labels.get(head, LabelCounts()).pixels for head in heads)
        table.add_row(
            "val (of train)" if split.held_out else split.name,
            f"{split.sizes.total():,}",
            *_size_cells(split.sizes),
            *(_share(pixels[report.info.ignore_index], pixels) for pixels in counts),
        )
    return table


def _input_table(report: CheckReport) -> Table:
    ranges = report.split("train").ranges
    values = ("values in train",) if ranges else ()
    table = Table("input", "folder", "channels", *values, box=SIMPLE_HEAD)
    for name, folder, channels, *_ in report.inputs:
        told = "1 (16-bit distances)" if channels == 1 else str(channels)
        used = (str(ranges.get(name, "")),) if ranges else ()
        table.add_row(name, Text(folder), told, *used)
    return table


def _size_cells(sizes: Counter[tuple[int, int]]) -> tuple[str, str, str]:
    """Write width x height of the smallest, the largest and the most common images."""
    if not sizes:
        return "", "", ""
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    (common, count), *_ = sizes.most_common(1)
    smallest, largest, usual = (f"{w} x {h}" for h, w in (by_area[0], by_area[-1], common))
    return smallest, largest, f"{usual} ({count:,})"


def _class_table(report: CheckReport, head: str) -> Table:
    title = f"head {head}" if len(report.info.heads) > 1 else None
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("id", justify="right")
    table.add_column("class", no_wrap=True)
    for split in report.splits:
        table.add_column(f"{split.name}\npixels", justify="right")
        table.add_column("\nimages", justify="right")
    counts = [split.labels[head] for split in report.splits]
    for label, name in enumerate(report.info.heads[head].classes):
        cells = ((_compact(each.pixels[label]), f"{each.images[label]:,}") for each in counts)
        table.add_row(str(label), Text(name), *(cell for pair in cells for cell in pair))
    return table


def _compact(count: int) -> str:
    """Write a count in few characters: "9,999", "12.3 k", "4.5 M", "678.9 G"."""
    if count < 10_000:
        return f"{count:,}"
    unit, name = next(pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if count >= pair[0])
    return f"{count / unit:,.1f} {name}"


def _share(part: int, pixels: NDArray[np.int64]) -> str:
    return f"{part / pixels.sum():.1%}" if pixels.any() else ""
