"""What `fullconv data next` saves: how many labelled images a mean IU takes, chosen or at random.

    python -m benchmarks.accuracy.next --data CAMVID --weights mobilenet_v2.safetensors

begins with the same 30 images of CamVid's train; all others have no labels until they are chosen.
In rounds (60, 100, 150 and 220 images, or `--rounds`), one arm labels next what `data next` ranks
first by the net of its last round, the other what a seeded draw gives. Each net is an FCN-8s that
is trained anew for the same number of steps (`--steps`, as many as three epochs of all 367), from
the same weights and by the same recipe, and the last weights count: val and test have no say. The
mark is what the same training reaches on all images. Test measures each net; `--every N` takes each
N-th of its images.

Expected: chosen images reach the mark with at most 60% of the number that random ones need.
Results: benchmarks/results/next.csv, a row a training, and next-summary.csv, the numbers of images
at which each arm reaches the mark (between rounds by straight lines). What is there already is not
trained again; a training that was cut short goes on.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.accuracy.measuring import Model
from benchmarks.frame import Results, Row, arguments
from fullconv.base.progress import Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.data.listing import Sample
from fullconv.measure.evaluation import evaluate
from fullconv.net.fcn import load
from fullconv.predict.next import NextSettings, run
from fullconv.train.recipe import read_recipe

ARMS = ("next", "random")
ALL = "all"


def main() -> None:
    """Train what is not known yet, measure it, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--out", type=Path, default=Path("runs/next"), help="folder of the runs")
    parser.add_argument("--start", type=int, default=30, help="images that are labelled at first")
    parser.add_argument("--rounds", type=int, nargs="+", default=[60, 100, 150, 220])
    parser.add_argument("--steps", type=int, default=138, help="of each training")
    parser.add_argument("--every", type=int, default=1, help="measure on each N-th test image")
    parser.add_argument("--seed", type=int, default=0, help="of the first images and the draw")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--only", choices=ARMS, nargs="+", default=ARMS)
    given = parser.parse_args()
    loop = Loop(given, DatasetFolder(given.data).split("train").samples)
    loop.measured(ALL, [sample.name for sample in loop.samples])
    for arm in given.only:
        loop.walk(arm)
    summarise(loop.results.rows)


class Loop:
    """The simulation of one seed: which images are labelled, and what nets learn of them.

    Attributes:
        results: a row a training.
        samples: all that might be labelled.
    """

    def __init__(self, given: argparse.Namespace, samples: Sequence[Sample]) -> None:
        self.given, self.samples = given, samples
        self.results = Results("next")
        names = [sample.name for sample in samples]
        random.Random(given.seed).shuffle(names)
        self.drawn = names  # the first of which both arms begin with

    def walk(self, arm: str) -> None:
        """Label images round by round, and train on them."""
        chosen = self.drawn[: self.given.start]
        folder = self.measured("start", chosen)
        for count in self.given.rounds:
            chosen = (
                self.drawn[:count]
                if arm == "random"
                else [*chosen, *self.next_images(folder, chosen, count - len(chosen))]
            )
            folder = self.measured(arm, chosen)

    def measured(self, arm: str, names: Sequence[str]) -> Path:
        """Train on images if that is not done yet, measure the net, and return its folder."""
        given = self.given
        identity = {
            "arm": arm,
            "images": str(len(names)),
            "steps": str(given.steps),
            "seed": str(given.seed),
            "every": str(given.every),
        }
        out = given.out / f"{arm}-{len(names)}-{given.steps}-{given.seed}"
        # All alike: what few images hold would choose another scale, the clock another precision.
        changes = [
            f"steps={given.steps}",
            f"precision={given.precision}",
            *("magnify=1", "reduce=1", "keep=last", "validate_every=100000"),
        ]
        asked = {
            "data": self.labelled(out.name, names),
            "weights": given.weights,
            "recipe": read_recipe("default", changes),
        }
        model = Model.trained(out, asked, out.name)
        if self.results.lacks(identity):
            split = DatasetFolder(given.data).split("test")
            split = split.few(-(-len(split) // given.every))
            with Reporter().bar(len(split), f"{out.name} on test") as bar:
                metrics = evaluate(load(model.folder), split, bar=bar).metrics
            found = {"mean_iu": f"{metrics.mean_iu:.4f}", "minutes": model.minutes}
            self.results.add(identity, {**found, "iu": model.by_class(metrics)})
        return model.folder

    def next_images(self, model: Path, labelled: Sequence[str], count: int) -> list[str]:
        """Return the names of what `data next` ranks first of all that has no label yet."""
        pool = [sample for sample in self.samples if sample.name not in set(labelled)]
        paths = {str(sample.images[0]): sample.name for sample in pool}
        data = self.labelled(f"ranking-{len(labelled)}", labelled)
        settings = NextSettings(
            str(model), tuple(paths), self.given.out / "ranking", count=count, data=data
        )
        return [paths[str(each.job.source)] for each in run(settings, Reporter()).chosen]

    def labelled(self, name: str, names: Sequence[str]) -> Path:
        """Return a dataset folder that holds the labels of these images of train alone."""
        folder = (Path(self.given.out) / "data" / name).absolute()
        if (folder / "dataset.yaml").is_file():
            return folder
        wanted = set(names)
        source = self.given.data.absolute()
        for sample in self.samples:
            if sample.name in wanted:
                for path in (sample.images[0], sample.masks[0]):
                    link(path.absolute(), folder / path.absolute().relative_to(source))
        for kind in ("images", "masks"):
            link(source / kind / "val", folder / kind / "val")
        shutil.copy(source / "dataset.yaml", folder)
        return folder


def link(source: Path, target: Path) -> None:
    """Make a link to a file or folder, in place of one that is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source)


def summarise(rows: Sequence[Row]) -> None:
    """Write how many images each arm needs to reach the mark, for each seed and length."""
    kinds = {(row["steps"], row["seed"], row["every"]) for row in rows}
    summary = []
    for steps, seed, every in sorted(kinds):
        own = [r for r in rows if (r["steps"], r["seed"], r["every"]) == (steps, seed, every)]
        (whole,) = (row for row in own if row["arm"] == ALL)
        mark = float(whole["mean_iu"])
        done = {row["arm"] for row in own}
        needed = {arm: images_needed(own, arm, mark) for arm in ARMS if arm in done}
        both = len(needed) == len(ARMS)
        summary.append(
            {
                "steps": steps,
                "seed": seed,
                "every": every,
                "mean_iu_of_all": whole["mean_iu"],
                **{f"{arm}_needs": f"{needed[arm]:.0f}" if arm in needed else "" for arm in ARMS},
                "share": f"{needed['next'] / needed['random']:.2f}" if both else "",
            }
        )
    Results("next-summary").replace(summary)


def images_needed(rows: Sequence[Row], arm: str, mark: float) -> float:
    """Return the number of images at which an arm first reaches a mean IU."""
    own = [row for row in rows if row["arm"] in (arm, "start", ALL)]
    points = sorted((int(row["images"]), float(row["mean_iu"])) for row in own)
    for (before, low), (after, high) in pairwise(points):
        if high >= mark:
            return before + (after - before) * max(0.0, mark - low) / max(high - low, 1e-9)
    return float(points[-1][0])


if __name__ == "__main__":
    main()
