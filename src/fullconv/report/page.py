"""report.html: one self-contained page of what a run learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from numpy.typing import NDArray

from fullconv.files import write_text
from fullconv.palette import Colour
from fullconv.progress import duration
from fullconv.report.figures import Line, curves_svg, finite, labels_uri, photo_uri

PICTURE_PIXELS = 3_000_000
"""All pictures together: at worst a byte each, so that the page stays well under 5 MB."""

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
class Stage:
    """One net trained.

    Attributes:
        name: for people, such as "FCN-8s".
        log: the rows of log.csv; None or NaN where something was not measured.
        metrics: the contents of metrics.json.
        seconds: how long the training took.
        parameters: how many numbers the net learns.
    """

    name: str
    log: tuple[dict[str, float | None], ...]
    metrics: dict[str, Any]
    seconds: float
    parameters: int


@dataclass(frozen=True)
class Scene:
    """A photograph with its truth and every stage's prediction.

    Attributes:
        name: the sample's name.
        caption: why it is shown, such as "best: mean IU 0.81".
        image: uint8 RGB array (H, W, 3).
        truth: uint8 class ids (H, W).
        predictions: uint8 class ids (H, W), one array a stage.
    """

    name: str
    caption: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predictions: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class Report:
    """All that the page shows; the last stage is the result.

    Attributes:
        title, intro: plain text.
        classes: their names; the index is the label id.
        palette: RGB in 0..255 for each class.
        ignore_index: the label id that is no class.
        stages: in the order of training, at least one.
        scenes: the rows of the figure; may be empty.
        facts: name and value of settings and circumstances.
    """

    title: str
    intro: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int
    stages: tuple[Stage, ...]
    scenes: tuple[Scene, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the figure's columns."""
        return ("photo", "truth", *(stage.name for stage in self.stages))


class ClassRow(NamedTuple):
    """A class in the list of IUs: one value a stage, and its share of the true pixels."""

    name: str
    colour: Colour
    values: tuple[float | None, ...]
    share: float | None


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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fullconv.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {f.__name__: f for f in (fraction, percent, minutes, count)}
    final = report.stages[-1]
    matrix = np.array(final.metrics.get("confusion") or [], dtype=np.int64)
    shown = len(report.classes) <= MOST_CLASSES_IN_MATRIX and matrix.size > 0
    return environment.get_template("report.html.j2").render(
        report=report,
        final=final,
        metric_names=METRICS,
        best={key: _best(report.stages, key) for key in METRICS},
        duration=duration(sum(finite(stage.seconds) or 0.0 for stage in report.stages)),
        rows=_picture_rows(report),
        legend=legend(report),
        curves=_curves(report.stages),
        class_rows=(class_rows := _class_rows(report, matrix)),
        absent=any(None in row.values for row in class_rows),
        matrix=_row_shares(matrix) if shown else None,
        numbers=len(report.classes) <= MOST_CLASSES_WITH_NUMBERS,
        confusions=[] if shown else _top_confusions(report.classes, matrix),
    )


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


def _best(stages: Sequence[Stage], key: str) -> float | None:
    """Return the best of several stages; None for one alone, which needs no mark."""
    values = [v for stage in stages if (v := finite(stage.metrics.get(key))) is not None]
    return max(values, default=None) if len(stages) > 1 else None


def _picture_rows(report: Report) -> list[tuple[Scene, list[tuple[str, str]]]]:
    """Return for each scene its pictures as (column head, data URI)."""
    pixels = PICTURE_PIXELS // max(1, len(report.scenes) * len(report.columns))
    rows = []
    for scene in report.scenes:
        maps = [
            labels_uri(labels, report.palette, report.ignore_index, pixels)
            for labels in (scene.truth, *scene.predictions)
        ]
        uris = [photo_uri(scene.image, pixels), *maps]
        rows.append((scene, list(zip(report.columns, uris, strict=True))))
    return rows


def legend(report: Report) -> tuple[list[tuple[str, Colour]], bool]:
    """Return the classes that some scene shows with their colours, and whether any is ignored."""
    seen: set[int] = set()
    for scene in report.scenes:
        for labels in (scene.truth, *scene.predictions):
            seen.update(np.unique(labels).tolist())
    known = seen & set(range(len(report.classes))) - {report.ignore_index}
    return [(report.classes[i], report.palette[i]) for i in sorted(known)], bool(seen - known)


def _curves(stages: Sequence[Stage]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return (title, SVG, key of (colour, name)) of each plot that has something to show."""
    logs = [(stage.name, stage.log) for stage in stages]
    loss = [Line("train_loss", "train", "training")]
    if any(finite(row.get("val_loss")) is not None for _, log in logs for row in log):
        loss.append(Line("val_loss", "val", "validation"))
    iu = [Line("val_mean_iu", "val", "validation, dot at the best", mark_best=True)]
    return [
        (title, svg, [(line.colour, line.name) for line in lines])
        for title, lines in (("Loss", loss), ("Mean IU", iu))
        if (svg := curves_svg(logs, lines, title))
    ]


def _class_rows(report: Report, matrix: NDArray[np.int64]) -> list[ClassRow]:
    """Return the classes by falling IU of the last stage, those without one last."""
    total = int(matrix.sum())
    ius = [stage.metrics.get("iu") or {} for stage in report.stages]
    rows = [
        ClassRow(
            name=name,
            colour=report.palette[i],
            values=tuple(finite(iu.get(name)) for iu in ius),
            share=int(matrix[i].sum()) / total if total else None,
        )
        for i, name in enumerate(report.classes)
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
