"""The page that compares models: one self-contained file, without scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fullconv.base.files import write_text
from fullconv.measure.bootstrap import Interval
from fullconv.report.figures import finite
from fullconv.report.page import METRICS, Report, ReportedHead, rendered


@dataclass(frozen=True)
class Contender:
    """What is told of a model beyond its metrics.

    Attributes:
        kind: what runs it.
        milliseconds: the median time that an image takes, reading left out.
        size: of its files, in bytes.
        intervals: of each metric, by head.
        differences: between its mean IU and that of the first model on the same images, by head.
    """

    kind: str
    milliseconds: float
    size: int
    intervals: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """All that the page shows.

    Attributes:
        report: the models as nets, with their metrics, and the images on which they differ most.
        contenders: the same models, in that order.
    """

    report: Report
    contenders: tuple[Contender, ...]


class Axis(NamedTuple):
    """A part of 0..1 that intervals are drawn on."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Return where a value lies on it, in percent."""
        return 100 * (value - self.low) / (self.high - self.low)


class Ranked(NamedTuple):
    """A head's models, and the axis of their mean IUs; None where there is none."""

    head: ReportedHead
    axis: Axis | None


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the page to `path`, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, render(comparison))


def render(comparison: Comparison) -> str:
    """Return the page as HTML that needs no other file and runs no script."""
    report = comparison.report
    return rendered(
        "comparison.html.j2",
        report,
        contenders=comparison.contenders,
        ranked=[Ranked(head, _axis(comparison, head)) for head in report.heads],
        metric_names=dict(sorted(METRICS.items(), key=lambda each: each[0] != "mean_iu")),
    )


def _axis(comparison: Comparison, head: ReportedHead) -> Axis | None:
    """Return an axis with round ends on which all intervals of the mean IU lie."""
    spans = [each.intervals[head.name]["mean_iu"] for each in comparison.contenders]
    ends = [end for span in spans for end in (span.low, span.high) if finite(end) is not None]
    if not ends:
        return None
    low, high = math.floor(20 * min(ends)) / 20, math.ceil(20 * max(ends)) / 20
    return Axis(low, high if high > low else low + 0.05)
