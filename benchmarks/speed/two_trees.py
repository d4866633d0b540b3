"""One version of fullconv against another: the same work by the public API, in turns.

    python -m benchmarks.speed.two_trees --before OLD/src [--after src] [--rounds 5]

Each tree has a process of its own, which stays; the two work in turns, so that no mood of the
machine falls on one of them alone, and the medians are compared.

Expected of a change that is to be neutral: no ratio (before to after) below 0.97.
Results: benchmarks/results/two-trees.csv and two-trees-machine.json.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

PHOTO, PAPER = (360, 480), (500, 500)  # height and width in pixels
PHOTOS, PAPER_PHOTOS, SCENES = 48, 4, 12
STEPS = 12


class Places(NamedTuple):
    """Where the files are that both trees read, and where a tree's own go."""

    shared: Path
    own: Path


def main() -> None:
    """Measure both trees and write the results."""
    from benchmarks.frame import ROOT, Results, arguments

    parser = arguments(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="the src folder of a version")
    parser.add_argument("--after", type=Path, default=ROOT / "src", help="that of another")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="works whose names hold this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trees = {"before": options.before.resolve(), "after": options.after.resolve()}
        _prepared(trees["before"], Path(folder))
        workers = {name: _worker(tree, Path(folder) / name) for name, tree in trees.items()}
        results = Results("two-trees")
        for work in (each for each in WORKS if options.only in each):
            times: dict[str, list[float]] = {name: [] for name in workers}
            for turn in range(options.rounds + 1):  # the first one warms up
                for name in (*workers,) if turn % 2 else reversed((*workers,)):
                    times[name].append(_asked(workers[name], work))
            before, after = (median(times[name][1:]) for name in ("before", "after"))
            measured = {"before_ms": f"{before:.2f}", "after_ms": f"{after:.2f}"}
            results.add({"work": work}, {**measured, "ratio": f"{before / after:.3f}"})
        for worker in workers.values():
            worker.communicate("\n")


def _prepared(tree: Path, folder: Path) -> None:
    """Let a tree write the models, photographs and dataset that both work on."""
    command = [sys.executable, __file__, "prepare", str(folder)]
    subprocess.run(command, check=True, env=_environment(tree))


def _worker(tree: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "work", str(folder)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(tree),
    )


def _environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree)}


def _asked(worker: subprocess.Popen[str], work: str) -> float:
    """Let a worker do a piece of work; return the milliseconds that it took."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{work}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


# What runs on either tree: names of the public API alone.


def prepare(folder: Path) -> None:
    """Write what all works read."""
    import numpy as np
    import torch
    import yaml
    from PIL import Image

    import fullconv

    counts = ("--train", "24", "--val", "2", "--test", str(SCENES))
    _command("data", "synth", str(folder / "streets"), *counts, "--size", f"{PHOTO[0]}x{PHOTO[1]}")
    classes = yaml.safe_load((folder / "streets" / "dataset.yaml").read_text())["classes"]
    torch.manual_seed(0)
    small = fullconv.FCN("mobilenet_v2", 8, len(classes), classes=classes)
    for net, name in ((small, "small"), (fullconv.paper("voc-fcn8s"), "paper")):
        for score in net.scores.values():
            torch.nn.init.normal_(cast(torch.Tensor, score.weight), std=0.02)
        net.eval().save_pretrained(folder / name)
    random = np.random.default_rng(0)
    for where, size, count in (("photos", PHOTO, PHOTOS), ("large", PAPER, PAPER_PHOTOS)):
        (folder / where).mkdir()
        for index in range(count):
            coarse = random.integers(0, 256, (size[0] // 20, size[1] // 20, 3), np.uint8)
            smooth = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
            smooth.save(folder / where / f"{index}.jpg", quality=92)


def work(folder: Path) -> None:
    """Do what standard input asks for, a line each; print the milliseconds."""
    for line in iter(sys.stdin.readline, "\n"):
        run = WORKS[line.strip()]
        begun = time.perf_counter()
        run(Places(folder.parent, folder))
        print((time.perf_counter() - begun) * 1e3, flush=True)


def _command(*words: str) -> None:
    """Run the command line in this process, without its words."""
    from fullconv.cli import main as command_line

    sys.argv = ["fullconv", *words, "--quiet"]
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        command_line()


def _one_photo(at: Places) -> None:
    import numpy as np
    from PIL import Image

    import fullconv

    net = NETS.setdefault("small", fullconv.load(at.shared / "small"))
    pixels = np.array(Image.open(at.shared / "photos" / "0.jpg"))
    for _ in range(20):
        net.predict(pixels)


def _folder(engine: str, model: str = "small", photos: str = "photos") -> Callable[..., None]:
    def run(at: Places) -> None:
        options = ("--engine", engine, "--precision", "fp32", "--out", str(at.own / engine / model))
        _command("predict", str(at.shared / model), str(at.shared / photos), *options)

    return run


def _evaluated(at: Places) -> None:
    _command("evaluate", str(at.shared / "small"), "--data", str(at.shared / "streets"))


def _trained(precision: str) -> Callable[..., None]:
    def run(at: Places) -> None:
        out = Path(tempfile.mkdtemp(dir=at.shared))
        settings = (f"steps={STEPS}", f"precision={precision}", "workers=0", "crop=352x480")
        options = [word for setting in (*settings, "magnify=1") for word in ("--set", setting)]
        data = ("--data", str(at.shared / "streets"), "--weights", "none")
        _command("train", *data, "--out", str(out / at.own.name), *options)

    return run


def _kernels(_: Places) -> None:
    import torch

    from fullconv.kernels import upsample_argmax, upsample_cross_entropy

    torch.manual_seed(0)
    scores = torch.randn(2, 21, 63, 63)
    truth = torch.randint(0, 21, (2, 504, 504), dtype=torch.uint8)
    for _turn in range(10):
        upsample_argmax(scores, 8, (504, 504))
        learnt = scores.clone().requires_grad_()
        upsample_cross_entropy(learnt, truth, 8).backward()  # type: ignore[no-untyped-call]


NETS: dict[str, Any] = {}
WORKS: dict[str, Callable[[Places], None]] = {
    "20 times FCN.predict, 480x360, FCN-8s on MobileNetV2": _one_photo,
    f"fullconv predict, {PHOTOS} photos, torch": _folder("torch"),
    f"fullconv predict, {PHOTOS} photos, openvino": _folder("openvino"),
    f"fullconv predict, {PHOTOS} photos, onnxruntime": _folder("onnxruntime"),
    f"fullconv predict, {PAPER_PHOTOS} photos of 500x500, voc-fcn8s, torch": _folder(
        "torch", "paper", "large"
    ),
    f"fullconv evaluate, {SCENES} scenes": _evaluated,
    f"fullconv train, {STEPS} steps, bf16": _trained("bf16"),
    f"fullconv train, {STEPS} steps, fp32": _trained("fp32"),
    "labels and losses from coarse scores, 21 classes, 504x504": _kernels,
}

if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("prepare", "work"):
        {"prepare": prepare, "work": work}[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
