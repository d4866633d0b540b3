"""Defaults on data that nobody tuned for: five unlike sets, and CamVid.

    python benchmarks/defaults.py --weights mobilenet_v2.safetensors [--camvid CAMVID]

trains on each dataset folder with nothing given but data, out, weights and the minutes (`--set
minutes=4`, or what stands there instead), and measures the model on test once. The five sets are
those of benchmarks/unlike_sets.py, written where they are missing. A run that was cut short goes
on when the command is repeated.

Expected: every curve climbs to its end, every class is found (no IU of 0), and the mean IU is far
above that of `baseline`, which is what a net that answers with the commonest class alone would
get. A net on its way there gives itself away by `majority_predicted`, the share of that class in
its labels, well above `majority_true`, that in the masks.
Results: benchmarks/results/defaults.csv, defaults-machine.json and docs/defaults.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import record
from fullconv.base.files import replacing
from fullconv.base.progress import Reporter
from fullconv.measure.metrics import Metrics
from fullconv.net.fcn import load
from fullconv.train.outcome import read_log
from fullconv.train.recipe import read_recipe
from fullconv.train.run import run
from measuring import on_test, val_mean_iu
from unlike_sets import unlike_sets, write_missing

Curve = list[tuple[float, float]]
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Train on every set, measure, write the results and draw the curves."""
    parser = argparse.ArgumentParser(description="See the docstring of benchmarks/defaults.py.")
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
    rows, curves = [], {}
    for name, folder in data.items():
        asked = {"data": folder, "weights": given.weights, "recipe": recipe}
        model = run(given.out / name, asked, resume=True, reporter=Reporter()).folder
        rows.append(measure(name, model, folder))
        curves[name] = curve(model)
        record.write(rows, "defaults")
        draw(curves, DOCS / "defaults.png")


def measure(name: str, model: Path, data: Path) -> dict[str, str]:
    """Measure a trained model on test."""
    metrics, classes = on_test(model, data, name), load(model).classes
    last = read_log(model / "log.csv")[-1]
    true, predicted = (metrics.confusion.sum(axis) for axis in (1, 0))
    majority = true.argmax()
    row = {
        "dataset": name,
        "minutes": f"{(last['seconds'] or 0) / 60:.1f}",
        "epochs": f"{last['epoch']:g}",
        "steps": f"{last['step']:g}",
        "val_mean_iu": f"{val_mean_iu(model):.4f}",
        "test_mean_iu": f"{metrics.mean_iu:.4f}",
        "baseline": f"{majority_alone(metrics).mean_iu:.4f}",
        "majority": classes[majority],
        "majority_true": f"{true[majority] / true.sum():.4f}",
        "majority_predicted": f"{predicted[majority] / predicted.sum():.4f}",
        "iu": ", ".join(f"{c} {iu:.3f}" for c, iu in zip(classes, metrics.iu, strict=True)),
    }
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def majority_alone(metrics: Metrics) -> Metrics:
    """Return what would have been measured had every label been the commonest class of truth."""
    true = metrics.confusion.sum(1)
    confusion = np.zeros_like(metrics.confusion)
    confusion[:, true.argmax()] = true
    return Metrics.of(confusion, metrics.unscored)


def curve(model: Path) -> Curve:
    """Return (minutes of training, mean IU on val) of each validation."""
    return [
        (row["seconds"] / 60, row["val_mean_iu"])
        for row in read_log(model / "log.csv")
        if row["seconds"] is not None and row["val_mean_iu"] is not None
    ]


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Draw mean IU on val by minute, a line for each dataset, named at its end."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    axes.set(xlabel="minutes of training", ylabel="mean IU on val", xlim=(0, None), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", ncols=2)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


if __name__ == "__main__":
    main()
