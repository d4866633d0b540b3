"""Staged or at once: FCN-32s, 16s, 8s and 4s on two trunks, for the same number of epochs.

    python -m benchmarks.accuracy.staged --data CAMVID --weights FOLDER

trains each net on CamVid twice by the default recipe, both times for `--epochs` passes over the
images in all (8, or what is given): at once, from the classifier; and staged, the coarser nets
first, each started from the one before (paper, section 4.1; the coarsest net is the same both
ways). FOLDER holds mobilenet_v2.safetensors and squeezenet1_0.safetensors. Each net is the best on
val and is measured on test once.

Expected: at once is at least as good wherever batch normalisation keeps the skips' features of one
size; where trunks have none, the question is open, and this answers it.
Results: benchmarks/results/staged.csv, staged-machine.json and docs/staged.png. What is there
already is not trained again; a training that was cut short goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accuracy.measuring import Model
from benchmarks.frame import Results, Row, arguments, plain, save_figure
from fullconv.train.recipe import read_recipe

WAYS = ("at once", "staged")
NETS = {"mobilenet_v2": (32, 16, 8, 4), "squeezenet1_0": (16, 8, 4)}


def main() -> None:
    """Train what is not known yet, measure it, write the results and draw them."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the classifiers'")
    parser.add_argument("--out", type=Path, default=Path("runs/staged"), help="folder of the runs")
    parser.add_argument("--epochs", type=float, nargs="+", default=[8.0])
    given = parser.parse_args()
    results = Results("staged")
    for row in trainings(given.epochs):
        if results.lacks(row):
            results.add(row, trained(given, row))
            draw(results.rows)


def trainings(lengths: Sequence[float]) -> Iterator[Row]:
    """Yield what tells a training from others; the coarsest nets have one way."""
    for epochs in lengths:
        for trunk, strides in NETS.items():
            for stride in strides:
                for way in WAYS[: 1 if stride == strides[0] else 2]:
                    row = {"trunk": trunk, "net": f"fcn{stride}s", "way": way}
                    yield {**row, "epochs": f"{epochs:g}"}


def trained(given: argparse.Namespace, row: Row) -> Row:
    """Train a net one way and measure it."""
    asked = {
        "data": given.data,
        "weights": str(given.weights / f"{row['trunk']}.safetensors"),
        "backbone": row["trunk"],
        "model": row["net"],
        "staged": row["way"] == "staged",
        "recipe": read_recipe("default", [f"epochs={row['epochs']}"]),
    }
    out = given.out / "-".join(row.values()).replace(" ", "-")
    model = Model.trained(out, asked, out.name)
    return {
        "minutes": model.minutes,
        "val_mean_iu": model.val_mean_iu,
        "test_mean_iu": f"{model.on_test().mean_iu:.4f}",
    }


def draw(rows: Sequence[Row]) -> None:
    """Draw mean IU on test by net, a panel for each trunk and number of epochs."""
    from matplotlib.figure import Figure

    panels = sorted({(row["trunk"], float(row["epochs"])) for row in rows})
    figure = Figure((3.4 * len(panels), 3.4), layout="constrained")
    row_of_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (trunk, epochs) in zip(plain(row_of_axes), panels, strict=True):
        own = [row for row in rows if (row["trunk"], float(row["epochs"])) == (trunk, epochs)]
        names = [f"fcn{stride}s" for stride in NETS[trunk]]
        for way, marker in zip(WAYS, ("o", "s"), strict=True):
            points = {row["net"]: float(row["test_mean_iu"]) for row in own if row["way"] == way}
            shown = [name for name in names if name in points]
            axes.plot(shown, [points[name] for name in shown], marker=marker, label=way)
        axes.set(title=f"{trunk}, {epochs:g} epochs in all", ylabel="mean IU on test")
        axes.label_outer()
    figure.axes[0].legend(frameon=False, loc="lower right")
    save_figure(figure, "staged")


if __name__ == "__main__":
    main()
