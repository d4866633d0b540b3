"""What is gained where a net scores finer strides in place of magnified images.

    python -m benchmarks.accuracy.finer --weights mobilenet_v2.safetensors

trains on each of the five small sets (benchmarks/datasets/unlike_sets.py) for `--minutes` (3) with
nothing given, which scores finer strides, and as an FCN-8s with cells of the same size, which sees
images magnified; with each of `--seeds`, in turns. `--ways "finer strides, whole trunk"` keeps what
trunks that see magnified images do without. Each model is the best on val and is measured on test
once. How long labels take is measured by benchmarks/speed/peers.py.

Expected: the mean IU of finer strides is at most 0.005 below that of magnified images.
Results: benchmarks/results/finer.csv. What is there already is not trained again; a training that
was cut short goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.accuracy.measuring import Model
from benchmarks.datasets.unlike_sets import unlike_sets, write_missing
from benchmarks.frame import Results, Row, arguments
from fullconv.data.folder import DatasetFolder
from fullconv.net.fcn import load
from fullconv.train.recipe import read_recipe
from fullconv.train.resolution import resolutions
from fullconv.train.settings import TrainSettings

WAYS = FINER, MAGNIFIED, UNCUT = "finer strides", "magnified", "finer strides, whole trunk"


def main() -> None:
    """Train what is not known yet, measure it, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--sets", type=Path, default=Path("runs/unlike"), help="the small sets")
    parser.add_argument("--out", type=Path, default=Path("runs/finer"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=(FINER, MAGNIFIED))
    parser.add_argument("--only", nargs="+", help="names of sets")
    given = parser.parse_args()
    write_missing(given.sets)
    results = Results("finer")
    for seed in given.seeds:
        for made in unlike_sets():
            if given.only and made.info.name not in given.only:
                continue
            for way in given.ways:
                identity = {"dataset": made.info.name, "way": way, "seed": str(seed)}
                identity["limit_minutes"] = f"{given.minutes:g}"
                if results.lacks(identity):
                    results.add(identity, trained(given, made.info.name, way, seed))


def trained(given: argparse.Namespace, dataset: str, way: str, seed: int) -> Row:
    """Train one way and measure the net."""
    data = given.sets / dataset
    changes = [f"minutes={given.minutes:g}", f"seed={seed}"]
    if way == MAGNIFIED:
        default = TrainSettings(data=data, recipe=read_recipe("default"))
        changes.append(f"magnify={resolutions(default, DatasetFolder(data))[-1].scale}")
    if way == UNCUT:
        changes.append("coarsest=32")
    asked = {"data": data, "weights": given.weights, "recipe": read_recipe("default", changes)}
    name = f"{dataset}-{way}-{seed}".replace(",", "").replace(" ", "-")
    model = Model.trained(given.out / name, asked, name)
    metrics, net = model.on_test(), load(model.folder)
    return {
        "stride": str(net.stride),
        "coarsest": str(net.taps[0].stride),
        "magnify": str(net.arguments.magnify),
        "minutes": model.minutes,
        "epochs": model.epochs,
        "val_mean_iu": model.val_mean_iu,
        "test_mean_iu": f"{metrics.mean_iu:.4f}",
        "iu": model.by_class(metrics),
    }


if __name__ == "__main__":
    main()
