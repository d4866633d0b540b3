"""How good labels get from 5, 10, 20 and 40 images, beside segmentation-models-pytorch.

    pip install -c constraints.txt segmentation-models-pytorch==0.6.0 albumentations==2.0.8
    python -m benchmarks.accuracy.tiny --weights mobilenet_v2.safetensors [--camvid CAMVID]

draws so many images of a small set's train (benchmarks/datasets/unlike_sets.py; with `--camvid`
CamVid's besides), a quarter of which, one at least, is kept for val, as by somebody who has no
more; `--draws` (5) times. On each draw fullconv is trained with nothing given but the data, the
weights and `--minutes` (1), and each of `--peers` (Unet) for the same minutes, by AdamW, one cycle,
cross entropy and fullconv's own plain views, or as its examples do (`--as-examples`). `--ways
color=0.6` trains fullconv with that setting besides, and so on. Each is the best on val, and is
measured on at most `--test` (60) images of test, once.

Expected: fullconv's mean over the draws is the highest at every number of images, and no training
of its own collapses: each is better than the commonest class alone.
Results: benchmarks/results/tiny.csv, and docs/tiny.png. What is there already is not trained again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from benchmarks.accuracy.defaults import majority_alone
from benchmarks.accuracy.measuring import Model
from benchmarks.accuracy.next import link
from benchmarks.accuracy.peer_training import ARCHITECTURES, Practice, measure, package, train
from benchmarks.accuracy.peers import OWN
from benchmarks.datasets.unlike_sets import write_missing
from benchmarks.frame import Results, Row, arguments, plain, save_figure
from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import evaluate
from fullconv.net.fcn import load
from fullconv.train.recipe import read_recipe

SETS = ("cells", "vessels", "defect")
COUNTS = (5, 10, 20, 40)
VAL_SHARE = 1 / 4


def main() -> None:
    """Train what is not known yet, measure it, write the results and draw them."""
    given = command_line()
    if given.peers:  # rather now than after the first training
        package("segmentation_models_pytorch")
        package("albumentations")
    write_missing(given.sets)
    results = Results("tiny")
    for draw in range(given.draws):
        for source in sources(given):
            for count in given.counts:
                if count > len(DatasetFolder(source).split("train")):
                    continue
                for net in (OWN, *(f"{OWN} {way}" for way in given.ways), *given.peers):
                    identity = {"dataset": source.resolve().name, "images": str(count)}
                    identity |= {"draw": str(draw), "net": net, "limit_minutes": given.minutes}
                    if results.lacks(identity):
                        data = drawn(given.out / "data", source, count, draw)
                        results.add(identity, trained(given, net, data, source, draw))
    picture(results.rows)


def command_line() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2's, safetensors")
    parser.add_argument("--camvid", type=Path, help="CamVid's dataset folder")
    parser.add_argument("--sets", type=Path, default=Path("runs/unlike"), help="the five sets")
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS, help="of the small sets")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of images")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--minutes", default="1", help="for each training")
    parser.add_argument("--test", type=int, default=60, help="images to measure on")
    parser.add_argument("--peers", nargs="*", choices=ARCHITECTURES, default=["Unet"])
    parser.add_argument("--ways", nargs="*", default=[], help="settings of fullconv to try besides")
    parser.add_argument("--as-examples", action="store_true", help="train peers as these do")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="folder of the runs")
    return parser.parse_args()


def sources(given: argparse.Namespace) -> list[Path]:
    """Return the dataset folders that are drawn from."""
    small = [given.sets / name for name in given.only]
    return small + ([given.camvid] if given.camvid else [])


def drawn(out: Path, source: Path, count: int, draw: int) -> Path:
    """Return a dataset folder of so many of a dataset's training images, for train and val."""
    folder = out / f"{source.resolve().name}-{count}-{draw}"
    samples = list(DatasetFolder(source).split("train").samples)
    random.Random(draw).shuffle(samples)
    kept = max(round(count * VAL_SHARE), 1)
    for index, sample in enumerate(samples[:count]):
        split = "val" if index < kept else "train"
        for kind, path in (("images", sample.images[0]), ("masks", sample.masks[0])):
            link(path.absolute(), folder / kind / split / path.name)
    shutil.copy(source / "dataset.yaml", folder)
    return folder


def trained(given: argparse.Namespace, net: str, data: Path, source: Path, seed: int) -> Row:
    """Train a net on a draw, and measure it on the test images of its source."""
    test = DatasetFolder(source).split("test").few(given.test)
    own, *way = net.split()
    if own == OWN:
        recipe = read_recipe("default", [f"minutes={given.minutes}", f"seed={seed}", *way])
        asked = {"data": data, "weights": str(given.weights), "device": "cpu", "recipe": recipe}
        name = "-".join((data.name, given.minutes, *way))
        model = Model.trained(given.out / name, asked, OWN)
        metrics = evaluate(load(model.folder), test).metrics
        minutes, epochs = model.minutes, model.epochs
    else:
        limit, folder = float(given.minutes), DatasetFolder(data)
        practice = Practice() if given.as_examples else Practice.tuned()
        done = train(net, given.weights, folder, practice, minutes=limit, seed=seed)
        metrics = measure(done.peer, test)
        minutes, epochs = f"{done.minutes:.1f}", f"{done.epochs:.1f}"
    return {
        "minutes": minutes,
        "epochs": epochs,
        "test_mean_iu": f"{metrics.mean_iu:.4f}",
        "baseline": f"{majority_alone(metrics).mean_iu:.4f}",
    }


def picture(rows: Sequence[Row]) -> None:
    """Draw mean IU by the number of images: each draw as a dot, a net's means as a line."""
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    figure = Figure((3.0 * len(names), 3.2), layout="constrained")
    panels = plain(figure.subplots(1, len(names), squeeze=False)[0])
    for name, axes in zip(names, panels, strict=True):
        for colour, net in enumerate(dict.fromkeys(row["net"] for row in rows)):
            own = [row for row in rows if (row["dataset"], row["net"]) == (name, net)]
            found: dict[int, list[float]] = {}
            for row in own:
                found.setdefault(int(row["images"]), []).append(float(row["test_mean_iu"]))
            counts, shade = sorted(found), f"C{colour}"
            axes.plot(counts, [mean(found[n]) for n in counts], color=shade, label=net)
            for n in counts:
                axes.scatter([n] * len(found[n]), found[n], s=12, alpha=0.6, color=shade)
        alone = mean(float(row["baseline"]) for row in rows if row["dataset"] == name)
        axes.axhline(alone, color="0.5", linestyle=":", label="the commonest class alone")
        axes.set(title=name, xlabel="labelled images", xscale="log", ylim=(0, None))
        axes.set_xticks(COUNTS, [str(n) for n in COUNTS], minor=False)
        axes.minorticks_off()
    told = axes.get_legend_handles_labels()
    figure.legend(*told, loc="outside upper center", ncols=len(told[0]), frameon=False)
    figure.supylabel("mean IU on test")
    save_figure(figure, "tiny")


if __name__ == "__main__":
    try:
        main()
    except FullconvError as error:
        sys.exit(str(error))
