"""What it is worth that a trunk sees small images magnified, and large ones reduced.

    python -m benchmarks.accuracy.scale --weights mobilenet_v2.safetensors --camvid CAMVID

trains an FCN-8s on each of the five small sets (benchmarks/datasets/unlike_sets.py) for `--minutes`
(3): seeing images as they are, magnified twice and four times; on CamVid as they are and twice; and
on a part of CamVid whose photographs were enlarged four times, to 1920x1440 pixels, as they are and
reduced. Then an FCN-4s that sees images as they are, on sets whose masks hold what is thinnest.
`default` tells what the default recipe would choose. Each model is the best on val and is measured
on test once.

Expected: on every set what the default recipe chooses is within 0.02 of the best factor's mean IU.
Results: benchmarks/results/scale.csv. What is there already is not trained again; a training that
was cut short goes on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks.accuracy.measuring import Model
from benchmarks.datasets.unlike_sets import unlike_sets, write_missing
from benchmarks.frame import Results, Row, arguments
from fullconv.data.folder import DatasetFolder
from fullconv.net.fcn import load
from fullconv.train.recipe import read_recipe
from fullconv.train.resolution import Resolution, resolutions
from fullconv.train.settings import TrainSettings

ENLARGED_CAMVID = "camvid-enlarged"
ENLARGED, COUNTS = 4, {"train": 120, "val": 30, "test": 50}  # times, and of each split
THIN = ("street", "defect", "vessels")


class Way(NamedTuple):
    """One training of a dataset."""

    dataset: str
    name: str
    model: str = "fcn8s"
    settings: tuple[str, ...] = ()


def main() -> None:
    """Train what is not known yet, measure it, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid's dataset folder")
    parser.add_argument("--sets", type=Path, default=Path("runs/unlike"), help="the small sets")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=3)
    given = parser.parse_args()
    write_missing(given.sets)
    large = given.sets / ENLARGED_CAMVID
    if not (large / "dataset.yaml").exists():
        enlarge(given.camvid, large)
    results = Results("scale")
    for way in ways():
        identity = {"dataset": way.dataset, "way": way.name, "limit_minutes": f"{given.minutes:g}"}
        if results.lacks(identity):
            results.add(identity, trained(given, way))


def ways() -> Iterator[Way]:
    """Yield what is trained."""
    names = [each.info.name for each in unlike_sets()]
    for name, factors in (*((name, (1, 2, 4)) for name in names), ("camvid", (1, 2))):
        for factor in factors:
            yield Way(name, f"magnify={factor}", settings=("reduce=1", f"magnify={factor}"))
    for factor in (1, 2):
        yield Way(ENLARGED_CAMVID, f"reduce={factor}", settings=(f"reduce={factor}", "magnify=1"))
    for name in THIN:
        yield Way(name, "FCN-4s", model="fcn4s", settings=("reduce=1", "magnify=1"))


def enlarge(camvid: Path, folder: Path) -> None:
    """Write a part of CamVid as a dataset of large photographs; dataset.yaml comes last."""
    source = DatasetFolder(camvid)
    for split, count in COUNTS.items():
        for sample in source.split(split).few(count).samples:
            for path, how in (
                (sample.images[0], Image.Resampling.BICUBIC),
                (sample.masks[0], Image.Resampling.NEAREST),
            ):
                target = folder / path.relative_to(camvid)
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(path) as small:
                    small.resize((small.width * ENLARGED, small.height * ENLARGED), how).save(
                        target
                    )
    shutil.copy(camvid / "dataset.yaml", folder)


def trained(given: argparse.Namespace, way: Way) -> Row:
    """Train one way and measure the net."""
    data = given.camvid if way.dataset == "camvid" else given.sets / way.dataset
    asked = {
        "data": data,
        "weights": given.weights,
        "model": way.model,
        "recipe": read_recipe("default", [f"minutes={given.minutes:g}", *way.settings]),
    }
    out = given.out / f"{way.dataset}-{way.name}".replace(",", "").replace(" ", "-")
    model = Model.trained(out, asked, out.name)
    metrics, net = model.on_test(), load(model.folder)
    default = TrainSettings(data=data, recipe=read_recipe("default"))
    chosen = resolutions(default, DatasetFolder(data))[0]
    own = Resolution(net.stride, net.scale, net.arguments.coarsest)
    return {
        "minutes": model.minutes,
        "epochs": model.epochs,
        "default": "yes" if own == chosen else "",
        "val_mean_iu": model.val_mean_iu,
        "test_mean_iu": f"{metrics.mean_iu:.4f}",
        "iu": model.by_class(metrics),
    }


if __name__ == "__main__":
    main()
