"""report.html: one self-contained page of what a run learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from numpy.typing import NDArray

from fullconv.base.files import write_text
from fullconv.base.palette import Colour
from fullconv.base.progress import duration
from fullconv.measure.borders import WIDTHS, Borders
from fullconv.report.figures import (
    Line,
    curves_svg,
    errors_marked,
    finite,
    labels_uri,
    photo_uri,
)

PICTURE_PIXELS = 3_000_000
"""All pictures together: at worst a byte each, so that the page stays well under 5 MB."""

BORDER_IMAGES = 32
"""Of a run, that what happens at borders is measured on."""

DASH = "–"
MOST_CLASSES_IN_MATRIX = 40
MOST_CLASSES_WITH_NUMBERS = 16
TOP_CONFUSIONS = 25
METRICS = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iu": "mean IU",
    "frequency_weighted_iu": "f.w. IU",
}


@dataclass(frozen=True)
class ReportedHead:
    """One labelling that the nets learn.

    Attributes:
        name: shown only where there are several.
        classes: their names; the index is the label id.
        palette: RGB in 0..255 for each class.
        unscored: names of the classes that the means leave out.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    unscored: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetResult:
    """One net trained.

    Attributes:
        name: for people, such as "FCN-8s".
        log: the rows of log.csv; None or NaN where something was not measured.
        metrics: the contents of metrics.json.
        seconds: how long the training took.
        parameters: how many numbers the net learns.
        borders: how well it follows borders, by head; empty where that was not measured.
    """

    name: str
    log: tuple[dict[str, float | None], ...]
    metrics: dict[str, Any]
    seconds: float
    parameters: int
    borders: Mapping[str, Borders] = field(default_factory=dict)

    def of(self, head: ReportedHead) -> dict[str, Any]:
        """Return the metrics of one head."""
        of_head: dict[str, Any] = self.metrics.get("heads", {}).get(head.name, self.metrics)
        return of_head


@dataclass(frozen=True)
class Example:
    """A photograph with its truth and every net's prediction, both by the heads' names.

    Attributes:
        name: the sample's name.
        caption: why it is shown, such as "best: mean IU 0.81".
        image: uint8 RGB array (H, W, 3).
        truth: uint8 class ids (H, W) of each head.
        predictions: the same for each net.
    """

    name: str
    caption: str
    image: NDArray[np.uint8]
    truth: Mapping[str, NDArray[np.uint8]]
    predictions: tuple[Mapping[str, NDArray[np.uint8]], ...]

    def maps(self, head: ReportedHead) -> list[NDArray[np.uint8]]:
        """Return truth and predictions of one head."""
        return [labels[head.name] for labels in (self.truth, *self.predictions)]


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        title, intro: plain text.
        heads: what the nets label; one as a rule.
        ignore_index: the label id that is no class.
        nets: in the order of training, at least one; the last is what the run is for.
        examples: the rows of the figure; may be empty.
        facts: name and value of settings and circumstances.
    """

    title: str
    intro: str
    heads: tuple[ReportedHead, ...]
    ignore_index: int
    nets: tuple[NetResult, ...]
    examples: tuple[Example, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """What the figure's columns show."""
        return ("photo", "truth", *(net.name for net in self.nets))

    def titled(self, text: str, head: ReportedHead) -> str:
        """Add a head's name to `text`, where there are several."""
        return f"{text}, {head.name}" if len(self.heads) > 1 else text


class ClassRow(NamedTuple):
    """A class in the list of IUs: one value a net, and its share of the true pixels."""

    name: str
    colour: Colour
    values: tuple[float | None, ...]
    share: float | None


class HeadView(NamedTuple):
    """What the page shows of one head; `matrix` holds shares of its rows, or is None."""

    head: ReportedHead
    best: dict[str, float | None]
    legend: list[tuple[str, Colour | None]]
    class_rows: list[ClassRow]
    has_absent: bool
    matrix: list[list[float | None]] | None
    confusions: list[Confusion]
    borders: list[NetBorders]


class NetBorders(NamedTuple):
    """How well a net follows borders: the mean boundary IU, and the accuracy by width."""

    net: str
    boundary_iu: float | None
    trimap: list[tuple[int, float | None]]


class Confusion(NamedTuple):
    """Pixels of one class taken for another."""

    truth: str
    predicted: str
    share: float
    pixels: int


def write_report(path: Path, report: Report) -> None:
    """Write the page to `path`, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """Return the page as HTML that needs no other file and runs no script."""
    return rendered(
        "report.html.j2",
        report,
        metric_names=METRICS,
        curves=_curves(report),
        border_images=BORDER_IMAGES,
    )


def rendered(template: str, report: Report, **others: Any) -> str:
    """Return a page of this room's templates on a report, as HTML."""
    return (
        environment()
        .get_template(template)
        .render(
            report=report,
            final=report.nets[-1],
            duration=duration(sum(finite(net.seconds) or 0.0 for net in report.nets)),
            scenes=_pictures(report),
            views=[_view(report, head) for head in report.heads],
            most_with_numbers=MOST_CLASSES_WITH_NUMBERS,
            widths=WIDTHS,
            **others,
        )
    )


def environment() -> jinja2.Environment:
    """Return what renders this room's templates."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("fullconv.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {f.__name__: f for f in (fraction, percent, minutes, count)}
    return made


def fraction(value: Any) -> str:
    """Write a fraction with three decimals, or a dash where there is no number."""
    number = finite(value)
    return DASH if number is None else f"{number:.3f}"


def percent(value: Any, decimals: int = 1) -> str:
    """Write a fraction as a percentage, without the sign, or a dash."""
    number = finite(value)
    return DASH if number is None else f"{100 * number:.{decimals}f}"


def minutes(seconds: Any) -> str:
    """Write seconds as minutes with one decimal, or a dash."""
    number = finite(seconds)
    return DASH if number is None else f"{number / 60:.1f}"


def count(value: float) -> str:
    """Write a large count for people: "2.24 M", "950 k", "312"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def _view(report: Report, head: ReportedHead) -> HeadView:
    matrix = np.array(report.nets[-1].of(head).get("confusion") or [], dtype=np.int64)
    class_rows = _class_rows(report, head, matrix)
    shown = len(head.classes) <= MOST_CLASSES_IN_MATRIX and matrix.size > 0
    return HeadView(
        head=head,
        best={key: _best([net.of(head) for net in report.nets], key) for key in METRICS},
        legend=legend(report, head),
        class_rows=class_rows,
        has_absent=any(None in row.values for row in class_rows),
        matrix=_row_shares(matrix) if shown else None,
        confusions=[] if shown else _top_confusions(head.classes, matrix),
        borders=[
            NetBorders(
                net.name,
                finite(own.mean_boundary_iu),
                [(w, finite(v)) for w, v in own.trimap.items()],
            )
            for net in report.nets
            if (own := net.borders.get(head.name)) is not None
        ],
    )


def _best(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the best of several nets; None for one alone, which needs no mark."""
    values = [v for each in metrics if (v := finite(each.get(key))) is not None]
    return max(values, default=None) if len(metrics) > 1 else None


class Scene(NamedTuple):
    """An example's pictures as (title, data URI): the photo, then labels and errors head by head.

    The errors are those of each net.
    """

    example: Example
    labels: list[tuple[str, str]]
    errors: list[tuple[str, str]]


def _pictures(report: Report) -> list[Scene]:
    """Return the pictures of each example."""
    nets = len(report.nets)
    pictures = 1 + len(report.heads) * (1 + 2 * nets)
    pixels = PICTURE_PIXELS // max(1, len(report.examples) * pictures)
    scenes = []
    for example in report.examples:
        scene = Scene(example, [(report.columns[0], photo_uri(example.image, pixels))], [])
        for head in report.heads:
            truth, *found = maps = example.maps(head)
            for title, labels in zip(report.columns[1:], maps, strict=True):
                uri = labels_uri(labels, head.palette, report.ignore_index, pixels)
                scene.labels.append((report.titled(title, head), uri))
            for title, labels in zip(report.columns[2:], found, strict=True):
                marked = errors_marked(example.image, truth, labels, len(head.classes))
                uri = photo_uri(marked, pixels)
                scene.errors.append((report.titled(f"errors of {title}", head), uri))
        scenes.append(scene)
    return scenes


def legend(report: Report, head: ReportedHead) -> list[tuple[str, Colour | None]]:
    """Return the classes of a head that examples show, and their colours; "ignored" has None."""
    seen: set[int] = set()
    for example in report.examples:
        for labels in example.maps(head):
            seen.update(np.unique(labels).tolist())
    known = seen & set(range(len(head.classes))) - {report.ignore_index}
    named: list[tuple[str, Colour | None]] = [
        (head.classes[i], head.palette[i]) for i in sorted(known)
    ]
    return named + [("ignored", None)] * bool(seen - known)


def _curves(report: Report) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return (title, SVG, key of (colour, name)) of each plot that has something to show."""
    logs = [(net.name, net.log) for net in report.nets]
    loss = [Line("train_loss", "train", "training")]
    if any(finite(row.get("val_loss")) is not None for _, log in logs for row in log):
        loss.append(Line("val_loss", "val", "validation"))
    iu = [Line("val_mean_iu", "val", "validation, dot at the best", mark_best=True)]
    mean = "Mean IU" if len(report.heads) == 1 else "Mean IU, averaged over the heads"
    return [
        (title, svg, [(line.colour, line.name) for line in lines])
        for title, lines in (("Loss", loss), (mean, iu))
        if (svg := curves_svg(logs, lines, title))
    ]


def _class_rows(report: Report, head: ReportedHead, matrix: NDArray[np.int64]) -> list[ClassRow]:
    """Return the classes by falling IU of the last net, those without one last."""
    total = int(matrix.sum())
    ius = [net.of(head).get("iu") or {} for net in report.nets]
    rows = [
        ClassRow(
            name=name,
            colour=head.palette[i],
            values=tuple(finite(iu.get(name)) for iu in ius),
            share=int(matrix[i].sum()) / total if total else None,
        )
        for i, name in enumerate(head.classes)
    ]
    return sorted(rows, key=lambda row: math.inf if row.values[-1] is None else -row.values[-1])


def _row_shares(matrix: NDArray[np.int64]) -> list[list[float | None]]:
    """Divide each row by its sum; None where a class has no true pixel."""
    return [
        [int(cell) / total if total else None for cell in row]
        for row in matrix
        for total in (int(row.sum()),)
    ]


def _top_confusions(classes: Sequence[str], matrix: NDArray[np.int64]) -> list[Confusion]:
    """Return the mistakes that cost the most pixels, worst first."""
    if not matrix.size:
        return []
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:TOP_CONFUSIONS]
    return [
        Confusion(classes[i], classes[j], matrix[i, j] / matrix[i].sum(), int(matrix[i, j]))
        for i, j in zip(*np.unravel_index(order, matrix.shape), strict=True)
        if mistakes[i, j] > 0
    ]
