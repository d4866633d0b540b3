"""Side by side with segmentation-models-pytorch: equal minutes, equal weights, the same images.

    pip install -c constraints.txt segmentation-models-pytorch==0.6.0 albumentations==2.0.8
    python -m benchmarks.accuracy.peers --data CAMVID --weights FILE --minutes 45
    python -m benchmarks.datasets.unlike_sets --out runs/unlike
    python -m benchmarks.accuracy.peers --data runs/unlike/cells --weights FILE --minutes 4

trains segmentation-models-pytorch's Unet, FPN and DeepLabV3Plus on MobileNetV2 (FILE holds its
ImageNet weights) as its own examples do (benchmarks/accuracy/peer_training.py names them), and
fullconv with nothing but --data, --weights and the minutes; each in a process of its own, on the
CPU, one after the other. Minutes are wall-clock: reading, timing and validations included; of its
own, fullconv sets 15 s aside for its start and its report, which the peers use for training. Each
keeps its best weights on val and is then measured on test once, by the same confusion matrix at
the images' own resolution. Finally labelling is timed, an image in memory to its labels, in eager
float32 and channels_last, in turns, in a process that keeps its memory, as `fullconv predict`
does.
--loss and --lr give the peers other settings than their examples', in rows of their own; --tuned,
in their place, trains them by AdamW, one cycle, cross entropy and fullconv's own plain views.

Expected: fullconv's test mean IU is the highest on every dataset.
Results: benchmarks/results/peers-DATASET.csv. A training that is there already is not done again; a
peer's that was cut short begins anew, fullconv's goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.accuracy.measuring import Model
from benchmarks.accuracy.peer_training import ARCHITECTURES, Peer, Practice, measure, package, train
from benchmarks.frame import Results, Row, arguments, in_own_process, in_turns
from benchmarks.speed.predict import each
from fullconv.base.errors import FullconvError
from fullconv.base.files import replacing
from fullconv.base.runtime import keep_freed_memory
from fullconv.data.folder import DatasetFolder, evenly_chosen
from fullconv.measure.metrics import Metrics
from fullconv.net.described import Pixels
from fullconv.net.fcn import load
from fullconv.train.recipe import read_recipe

OWN = "fullconv"
NETS = (*ARCHITECTURES, OWN)
TIMED_IMAGES, ROUNDS = 4, 7


def main() -> None:
    """Train what is asked for and not yet known, time the labelling, write the results."""
    given = command_line()
    if given.train:
        print(json.dumps(trained(given, given.train)))
        return
    if set(given.nets) & set(ARCHITECTURES):  # rather now than after the first training
        package("segmentation_models_pytorch")
        package("albumentations")
    name = f"peers-{dataset(given)}"
    results = Results(name)
    for net in given.nets:
        if results.lacks(identity(given, net)) or given.again:
            results.add(identity(given, net), trained_apart(net))
        else:
            print(f"{net}: is in {name}.csv already; --again trains it anew")
    results.replace(with_speeds(given, results.rows))


def command_line() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2's, safetensors")
    parser.add_argument("--minutes", type=float, required=True, help="for each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder of the models")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    parser.add_argument("--loss", choices=("dice", "dice+ce"), default=Practice.loss)
    parser.add_argument("--lr", type=float, default=Practice.lr, help="the peers' learning rate")
    parser.add_argument("--tuned", action="store_true", help="train peers better: see Practice")
    parser.add_argument("--again", action="store_true", help="train also what is known already")
    parser.add_argument("--train", choices=NETS, help=argparse.SUPPRESS)
    return parser.parse_args()


def dataset(given: argparse.Namespace) -> str:
    """Return what the dataset is called in the results."""
    return str(given.data.resolve().name)


def identity(given: argparse.Namespace, net: str) -> Row:
    """Return the columns that tell one training from another."""
    of_peer = "tuned" if given.tuned else f"{given.loss} lr={given.lr:g}"
    training = "defaults" if net == OWN else of_peer
    return {
        "dataset": dataset(given),
        "net": net,
        "training": training,
        "seed": str(given.seed),
        "limit_minutes": f"{given.minutes:g}",
    }


def folder_of(given: argparse.Namespace, net: str) -> Path:
    """Return where the model of a training is kept."""
    name, *rest = (part.replace(" ", "-") for part in identity(given, net).values())
    out: Path = given.out
    return out / name / "-".join(rest)


def trained_apart(net: str) -> Row:
    """Train a net with these arguments in a new process; return its row."""
    try:
        last = in_own_process("benchmarks.accuracy.peers", *sys.argv[1:], "--train", net)
    except subprocess.CalledProcessError:
        raise FullconvError(f"{net}: its training failed, for the reason above") from None
    new: Row = json.loads(last)
    return new


def trained(given: argparse.Namespace, net: str) -> Row:
    """Train a net, keep its model and return its row, but for the speed."""
    return trained_fullconv(given) if net == OWN else trained_peer(given, net)


def trained_peer(given: argparse.Namespace, net: str) -> Row:
    """Train and measure one of the peers."""
    data = DatasetFolder(given.data)
    test = data.split("test")  # what is wrong with it is better known now
    practice = Practice.tuned() if given.tuned else Practice(loss=given.loss, lr=given.lr)
    done = train(net, given.weights, data, practice, minutes=given.minutes, seed=given.seed)
    state = {key: value.contiguous() for key, value in done.peer.state_dict().items()}
    with replacing(folder_of(given, net) / "model.safetensors") as path:
        save_file(state, path)
    return as_row(
        given,
        net,
        data.info.classes,
        measure(done.peer, test),
        minutes=done.minutes,
        epochs=done.epochs,
        val_mean_iu=done.val_mean_iu,
        parameters=parameters(done.peer),
    )


def trained_fullconv(given: argparse.Namespace) -> Row:
    """Train and measure fullconv's default net by its default recipe."""
    out = folder_of(given, OWN)
    if given.again and (out / "recipe.yaml").is_file():
        shutil.rmtree(out)
    asked = {
        "data": given.data,
        "weights": str(given.weights),
        "device": "cpu",
        "recipe": read_recipe("default", [f"minutes={given.minutes}", f"seed={given.seed}"]),
    }
    model = Model.trained(out, asked, OWN)
    net = load(model.folder)
    return as_row(
        given,
        OWN,
        net.classes,
        model.on_test(),
        minutes=(model.log[-1]["seconds"] or 0) / 60,
        epochs=model.log[-1]["epoch"] or 0,
        val_mean_iu=float(model.val_mean_iu),
        parameters=parameters(net),
    )


def parameters(net: torch.nn.Module) -> int:
    """Return how many numbers a net has learnt or might."""
    return sum(parameter.numel() for parameter in net.parameters())


def as_row(
    given: argparse.Namespace,
    net: str,
    classes: tuple[str, ...],
    test: Metrics,
    *,
    minutes: float,
    epochs: float,
    val_mean_iu: float,
    parameters: int,
) -> Row:
    """Return a row of the results; the speed is still open."""
    return {
        **identity(given, net),
        "minutes": f"{minutes:.2f}",
        "epochs": f"{epochs:.1f}",
        "val_mean_iu": f"{val_mean_iu:.4f}",
        "test_mean_iu": f"{test.mean_iu:.4f}",
        "parameters_m": f"{parameters / 1e6:.2f}",
        "inference_ms": "",
        **{f"iu_{name}": f"{iu:.3f}" for name, iu in zip(classes, test.iu, strict=True)},
    }


def with_speeds(given: argparse.Namespace, rows: list[Row]) -> list[Row]:
    """Return the rows, those of the trainings that were asked for with speeds timed in turns.

    All of these are timed anew if one of them has no speed yet.
    """
    own = {
        net: row
        for net in NETS
        for row in rows
        if identity(given, net).items() <= row.items() and folder_of(given, net).exists()
    }
    if all(row["inference_ms"] for row in own.values()):
        return rows
    test = DatasetFolder(given.data).split("test")
    images: list[Any] = [test[index].image for index in evenly_chosen(len(test), TIMED_IMAGES)]
    runs: dict[str, Callable[[], object]] = {
        net: partial(each, labeller(given, net), images) for net in own
    }
    keep_freed_memory()
    for net, ms in in_turns(runs, len(images), ROUNDS).items():
        print(f"{net}: {ms:.1f} ms an image")
        own[net]["inference_ms"] = f"{ms:.1f}"
    return rows


def labeller(given: argparse.Namespace, net: str) -> Callable[[Pixels], object]:
    """Return what labels an image by a trained net in eager float32 and channels_last."""
    folder = folder_of(given, net)
    if net == OWN:
        finest = min(folder.glob("fcn*s"), key=lambda path: int(path.name[3:-1]))
        return load(finest).to(memory_format=torch.channels_last).predict
    classes = len(DatasetFolder(given.data).info.classes)
    peer = Peer(net, classes, given.weights).eval()
    peer.load_state_dict(load_file(folder / "model.safetensors"))
    return peer.label


if __name__ == "__main__":
    try:
        main()
    except FullconvError as error:
        sys.exit(str(error))
