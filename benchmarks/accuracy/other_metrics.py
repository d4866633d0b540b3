"""One worked example of mean IU through other libraries: who says what of the same labels.

``python -m benchmarks.accuracy.other_metrics``, where segmentation-models-pytorch, torchmetrics,
scikit-learn and mmsegmentation are installed (an environment of their own; of what is missing the
rows stay as they are in the results).
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.frame import DOCS, Results, Row, arguments
from fullconv.measure.metrics import ConfusionMatrix

# Two images of 2 x 6 pixels. Road is 0, car 1; nothing is a person, 2; 255 is "ignore".
CLASSES = 3
IGNORE = 255
TRUTH = np.array(
    [
        [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]],
        [[0, 0, 0, 0, 0, 0], [255, 255, 255, 255, 255, 255]],
    ],
    np.uint8,
)
PREDICTED = np.array(
    [
        [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 0]],
        [[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
    ],
    np.uint8,
)

PAGE = DOCS / "other-libraries-metrics.md"
START, END = "<!-- other-metrics.csv -->\n", "<!-- end -->"

Way = Callable[[NDArray[Any], NDArray[Any]], float]


def fullconv(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Pixels of all images in one matrix; an absent class is left out of the mean."""
    counts = ConfusionMatrix(CLASSES)
    counts.update(truth, predicted)
    return counts.metrics().mean_iu


def smp(reduction: str, **options: Any) -> Way:
    """Return what segmentation-models-pytorch calls iou_score."""

    def mean_iu(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
        torch, metrics = (
            import_module("torch"),
            import_module("segmentation_models_pytorch.metrics"),
        )
        pair = (torch.from_numpy(each.astype(np.int64)) for each in (predicted, truth))
        counts = metrics.get_stats(*pair, mode="multiclass", num_classes=CLASSES, **options)
        return float(metrics.iou_score(*counts, reduction=reduction))

    return mean_iu


def torchmetrics(kind: str, *, counted: bool = False, **options: Any) -> Way:
    """Return a class of torchmetrics, updated image by image; `counted`: without ignored pixels."""

    def mean_iu(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
        torch = import_module("torch")
        module, _, name = kind.rpartition(".")
        metric = getattr(import_module(f"torchmetrics.{module}"), name)(
            num_classes=CLASSES, **options
        )
        for one, other in zip(truth, predicted, strict=True):
            kept = (one != IGNORE) | (not counted)
            pair = (torch.from_numpy(each[kept].astype(np.int64))[None] for each in (other, one))
            metric.update(*pair)
        return float(metric.compute())

    return mean_iu


def sklearn(**options: Any) -> Way:
    """Return scikit-learn's jaccard_score of all pixels."""

    def mean_iu(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
        score = import_module("sklearn.metrics").jaccard_score
        return float(score(truth.ravel(), predicted.ravel(), average="macro", **options))

    return mean_iu


def without_ignored(way: Way) -> Way:
    """Leave out ignored pixels before a library sees them."""

    def mean_iu(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
        counted = truth != IGNORE
        return way(truth[counted], predicted[counted])

    return mean_iu


def mmseg(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Add up MMSegmentation's areas image by image, and take its mIoU."""
    torch = import_module("torch")
    metric = import_module("mmseg.evaluation.metrics.iou_metric").IoUMetric
    areas = [
        metric.intersect_and_union(
            torch.from_numpy(other.astype(np.int64)),
            torch.from_numpy(one.astype(np.int64)),
            CLASSES,
            IGNORE,
        )
        for one, other in zip(truth, predicted, strict=True)
    ]
    total = (sum(parts) for parts in zip(*areas, strict=True))
    found = metric.total_area_to_metrics(*total, ["mIoU"])
    return float(np.nanmean(found["IoU"]))


SMP, TORCHMETRICS, SKLEARN, MMSEG = (
    "segmentation-models-pytorch",
    "torchmetrics",
    "scikit-learn",
    "mmsegmentation",
)
WAYS: Mapping[tuple[str, str], Way] = {
    ("fullconv", "`fullconv evaluate`"): fullconv,
    (MMSEG, '`IoUMetric`, `["mIoU"]`'): mmseg,
    (SMP, '`reduction="macro"`'): smp("macro"),
    (SMP, '`reduction="macro"`, `ignore_index=255`'): smp("macro", ignore_index=IGNORE),
    (SMP, '`reduction="macro-imagewise"`, `ignore_index=255`'): smp(
        "macro-imagewise", ignore_index=IGNORE
    ),
    (SMP, '`reduction="micro"`, `ignore_index=255`'): smp("micro", ignore_index=IGNORE),
    (TORCHMETRICS, '`segmentation.MeanIoU`, `input_format="index"`'): torchmetrics(
        "segmentation.MeanIoU", input_format="index"
    ),
    (TORCHMETRICS, "the same, ignored pixels left out before"): torchmetrics(
        "segmentation.MeanIoU", counted=True, input_format="index"
    ),
    (TORCHMETRICS, "`MulticlassJaccardIndex`, `ignore_index=255`"): torchmetrics(
        "classification.MulticlassJaccardIndex", ignore_index=IGNORE
    ),
    (SKLEARN, '`jaccard_score`, `average="macro"`'): sklearn(),
    (SKLEARN, "the same, ignored pixels left out before"): without_ignored(sklearn()),
    (SKLEARN, "the same, `labels=[0, 1, 2]`"): without_ignored(
        sklearn(labels=[0, 1, 2], zero_division=0)
    ),
}


def measured(library: str, way: Way) -> tuple[str, str]:
    """Return a library's version and the figure that it gives, or what it refuses with."""
    number = "" if library == "fullconv" else version(library)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure = way(TRUTH, PREDICTED)
    except (ValueError, RuntimeError, IndexError) as error:
        return number, f"refused: {type(error).__name__}"
    return number, "nan" if math.isnan(figure) else f"{figure:.4f}"


def with_table(page: str, rows: Sequence[Row]) -> str:
    """Return the page of the documents with the results as its table."""
    before, _, rest = page.partition(START)
    lines = ["| library | called | mean IU |", "| --- | --- | ---: |"]
    for row in rows:
        library = f"{row['library']} {row['version']}".strip()
        figure = row["mean_iu"]
        same = figure == rows[0]["mean_iu"]
        lines.append(f"| {library} | {row['settings']} | {f'**{figure}**' if same else figure} |")
    return "\n".join([f"{before}{START}", *lines, "", f"{END}{rest.partition(END)[2]}"])


def _place(row: Row) -> int:
    return [*WAYS].index((row["library"], row["settings"]))


def main() -> None:
    """Measure with each library that is here, and write the page's table."""
    arguments(__doc__).parse_args()
    results = Results("other-metrics")
    for (library, settings), way in WAYS.items():
        try:
            number, figure = measured(library, way)
        except (ImportError, PackageNotFoundError) as error:
            print(f"{library}: left as it is ({error})", file=sys.stderr)
            continue
        identity = {"library": library, "settings": settings}
        results.add(identity, {"version": number, "mean_iu": figure}, _place)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), results.rows), encoding="utf-8")


if __name__ == "__main__":
    main()
