"""Staged or at once: FCN-32s, 16s, 8s and 4s on two trunks, for the same number of epochs.

    python benchmarks/staged.py --data CAMVID --weights FOLDER

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

import record
from fullconv.base.files import replacing
from fullconv.base.progress import Reporter
from fullconv.train.outcome import read_log
from fullconv.train.recipe import read_recipe
from fullconv.train.run import run
from measuring import on_test, val_mean_iu

DOCS = Path(__file__).parents[1] / "docs"
WAYS = ("at once", "staged")
STRIDES = {"mobilenet_v2": (32, 16, 8, 4), "squeezenet1_0": (16, 8, 4)}

Row = dict[str, str]


def main() -> None:
    """Train what is not known yet, measure it, write the results and draw them."""
    parser = argparse.ArgumentParser(description="See the docstring of benchmarks/staged.py.")
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the classifiers'")
    parser.add_argument("--out", type=Path, default=Path("runs/staged"), help="folder of the runs")
    parser.add_argument("--epochs", type=float, nargs="+", default=[8.0])
    given = parser.parse_args()
    rows = record.read("staged")
    for row in trainings(given.epochs):
        if not any(row.items() <= known.items() for known in rows):
            rows.append(row | trained(given, row))
            record.write(rows, "staged")
            draw(rows, DOCS / "staged.png")


def trainings(lengths: Sequence[float]) -> Iterator[Row]:
    """Yield what tells a training from others; the coarsest nets have one way."""
    for epochs in lengths:
        for trunk, strides in STRIDES.items():
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
    folder = run(out, asked, resume=True, reporter=Reporter()).folder
    metrics = on_test(folder, given.data, out.name)
    seconds = [read_log(path)[-1]["seconds"] or 0 for path in out.glob("fcn*s/log.csv")]
    measured = {
        "minutes": f"{sum(seconds) / 60:.1f}",
        "val_mean_iu": f"{val_mean_iu(folder):.4f}",
        "test_mean_iu": f"{metrics.mean_iu:.4f}",
    }
    print(", ".join(f"{key} {value}" for key, value in (row | measured).items()), flush=True)
    return measured


def draw(rows: list[Row], path: Path) -> None:
    """Draw mean IU on test by net, a panel for each trunk and number of epochs."""
    from matplotlib.figure import Figure

    panels = sorted({(row["trunk"], float(row["epochs"])) for row in rows})
    figure = Figure((3.4 * len(panels), 3.4), layout="constrained")
    for axes, (trunk, epochs) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        own = [row for row in rows if (row["trunk"], float(row["epochs"])) == (trunk, epochs)]
        names = [f"fcn{stride}s" for stride in STRIDES[trunk]]
        for way, marker in zip(WAYS, ("o", "s"), strict=True):
            points = {row["net"]: float(row["test_mean_iu"]) for row in own if row["way"] == way}
            shown = [name for name in names if name in points]
            axes.plot(shown, [points[name] for name in shown], marker=marker, label=way)
        axes.set(title=f"{trunk}, {epochs:g} epochs in all", ylabel="mean IU on test")
        axes.label_outer()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


if __name__ == "__main__":
    main()
