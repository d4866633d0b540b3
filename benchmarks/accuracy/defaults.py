"""Defaults on data that nobody tuned for: five unlike sets, and CamVid.

    python -m benchmarks.accuracy.defaults --weights mobilenet_v2.safetensors [--camvid CAMVID]

trains on each dataset folder with nothing given but data, out, weights and the minutes (`--set
minutes=4`, or what stands there instead), and measures the model on test once. The five sets are
those of benchmarks/datasets/unlike_sets.py, written where they are missing. A run that was cut
short goes on when the command is repeated.

Expected: every curve climbs to its end, every class is found (no IU of 0), and the mean IU is far
above that of `baseline`, which is what a net that answers with the commonest class alone would
get. A net on its way there gives itself away by `majority_predicted`, the share of that class in
its labels, well above `majority_true`, that in the masks.
Results: benchmarks/results/defaults.csv, defaults-machine.json and docs/defaults.png.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.accuracy.measuring import Model
from benchmarks.datasets.unlike_sets import unlike_sets, write_missing
from benchmarks.frame import Results, Row, arguments, plain, save_figure
from fullconv.measure.metrics import Metrics
from fullconv.net.fcn import load
from fullconv.train.recipe import read_recipe

Curve = list[tuple[float, float]]


def main() -> None:
    """Train on every set, measure, write the results and draw the curves."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--sets", type=Path, default=Path("runs/unlike"), help="the five sets")
    parser.add_argument("--camvid", type=Path, help="CamVid's dataset folder")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/defaults"), help="folder of the runs"
    )
    parser.add_argument(
        "--set", nargs="*", default=["minutes=4"], help="KEY=VALUE changes of the recipe"
    )
    given = parser.parse_args()
    write_missing(given.sets)
    data = {each.info.name: given.sets / each.info.name for each in unlike_sets()}
    data |= {"camvid": given.camvid} if given.camvid else {}
    recipe = read_recipe("default", given.set)
    results, curves = Results("defaults"), {}
    for name, folder in data.items():
        asked = {"data": folder, "weights": given.weights, "recipe": recipe}
        model = Model.trained(given.out / name, asked, name)
        results.add({"dataset": name}, measure(model))
        curves[name] = curve(model)
        draw(curves)


def measure(model: Model) -> Row:
    """Measure a trained model on test."""
    metrics, classes = model.on_test(), load(model.folder).classes
    true, predicted = (metrics.confusion.sum(axis) for axis in (1, 0))
    majority = true.argmax()
    return {
        "minutes": model.minutes,
        "epochs": model.epochs,
        "steps": f"{model.log[-1]['step']:g}",
        "val_mean_iu": model.val_mean_iu,
        "test_mean_iu": f"{metrics.mean_iu:.4f}",
        "baseline": f"{majority_alone(metrics).mean_iu:.4f}",
        "majority": classes[majority],
        "majority_true": f"{true[majority] / true.sum():.4f}",
        "majority_predicted": f"{predicted[majority] / predicted.sum():.4f}",
        "iu": model.by_class(metrics),
    }


def majority_alone(metrics: Metrics) -> Metrics:
    """Return what would have been measured had every label been the commonest class of truth."""
    true = metrics.confusion.sum(1)
    confusion = np.zeros_like(metrics.confusion)
    confusion[:, true.argmax()] = true
    return Metrics.of(confusion, metrics.unscored)


def curve(model: Model) -> Curve:
    """Return (minutes of training, mean IU on val) of each validation."""
    return [
        (row["seconds"] / 60, row["val_mean_iu"])
        for row in model.log
        if row["seconds"] is not None and row["val_mean_iu"] is not None
    ]


def draw(curves: dict[str, Curve]) -> None:
    """Draw mean IU on val by minute, a line for each dataset, named at its end."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.6), layout="constrained")
    (axes,) = plain([figure.subplots()])
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    axes.set(xlabel="minutes of training", ylabel="mean IU on val", xlim=(0, None), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right", ncols=2)
    save_figure(figure, "defaults")


if __name__ == "__main__":
    main()
