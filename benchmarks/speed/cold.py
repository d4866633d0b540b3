"""One photo, cold: `fullconv predict MODEL photo.jpg --out o`, the whole process from the shell.

    python -m benchmarks.speed.cold --before OLD/src [--after src] [--rounds 7]
        [--model MODEL] [--photo FILE]

One version of fullconv against another, in turns: by a model folder, and by its exports to ONNX
and OpenVINO. Without `--model` the default net labels (FCN-8s on MobileNetV2, 11 classes, random
scores), without `--photo` a picture of 640 x 480 pixels. Each tree has a cache of its own. The
first run by a model folder, of which nothing is known yet, has a row of its own, of one run a tree;
the others are medians of `--rounds`. Memory is the highest that is resident. Labels of both trees
are compared.

Expected: by a model at most 0.45 times the time and 0.5 times the memory; by exports at most 1.0 s.
Results: benchmarks/results/cold.csv and cold-machine.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import fullconv
from benchmarks.frame import ROOT, Results, Row, arguments
from fullconv.export.run import ExportSettings, export

SIZE = (480, 640)
CLASSES = 11
EXPORTS = {"onnx": "net.onnx", "openvino": "net.xml"}
TREES = ("before", "after")


# Starts a process from one that is small: the memory of what starts it counts as its own at first.
START = """
import os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(time.perf_counter() - begun, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))
"""


class Cost(NamedTuple):
    """Seconds on the clock, and MiB at the highest, of a process."""

    seconds: float
    memory: float


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="the src folder of a version")
    parser.add_argument("--after", type=Path, default=ROOT / "src", help="that of another")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", type=Path, help="a model folder in place of the default net")
    parser.add_argument("--photo", type=Path, help="a file in place of a generated picture")
    given = parser.parse_args()
    results = Results("cold")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, photo = given.model or _model(folder / "model"), given.photo or _photo(folder)
        trees = {"before": given.before.resolve(), "after": given.after.resolve()}
        results.add({"by": "a model, the first run"}, _measured(trees, folder, model, photo, 0))
        results.add({"by": "a model"}, _measured(trees, folder, model, photo, given.rounds))
        for form, file in EXPORTS.items():
            export(ExportSettings(model, form, folder / file))
            row = _measured(trees, folder, folder / file, photo, given.rounds)
            results.add({"by": f"its export, {form}"}, row)


def _measured(trees: dict[str, Path], folder: Path, model: Path, photo: Path, rounds: int) -> Row:
    """Return the medians of both trees, of some rounds after one that isn't counted.

    Without rounds it is that one alone.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in trees}
    for turn in range(rounds + 1):
        for name in TREES if turn % 2 else reversed(TREES):
            costs[name].append(_cost(trees[name], folder / name, model, photo))
    labels = [np.array(Image.open(folder / name / f"{photo.stem}.png")) for name in TREES]
    counted = {name: found[1:] or found for name, found in costs.items()}
    seconds = {name: median(each.seconds for each in found) for name, found in counted.items()}
    memory = {name: median(each.memory for each in found) for name, found in counted.items()}
    return {
        **{f"{name}_s": f"{seconds[name]:.2f}" for name in TREES},
        "of_the_time": f"{seconds['after'] / seconds['before']:.2f}",
        **{f"{name}_mib": f"{memory[name]:.0f}" for name in TREES},
        "of_the_memory": f"{memory['after'] / memory['before']:.2f}",
        "labels_equal": f"{float((labels[0] == labels[1]).mean()):.5f}",
    }


def _cost(tree: Path, out: Path, model: Path, photo: Path) -> Cost:
    """Run one process to its end; raises CalledProcessError where it fails."""
    cache = str(out.with_name(f"{out.name}-cache"))
    environment = {**os.environ, "PYTHONPATH": str(tree), "FULLCONV_CACHE": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once
    command = [sys.executable, "-m", "fullconv", "predict", str(model), str(photo)]
    command += ["--out", str(out), "--quiet"]
    start = [sys.executable, "-S", "-c", START, *command]
    done = subprocess.run(start, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds, memory, code = done.stdout.split()
    if int(code):
        raise subprocess.CalledProcessError(int(code), command)
    return Cost(float(seconds), float(memory))


def _model(folder: Path) -> Path:
    """Write the default net with random scores."""
    torch.manual_seed(0)
    net = fullconv.FCN("mobilenet_v2", 8, CLASSES)
    for score in net.scores.values():
        assert isinstance(score, torch.nn.Conv2d)
        torch.nn.init.normal_(score.weight, std=0.02)
    net.eval().save_pretrained(folder)
    return folder


def _photo(folder: Path) -> Path:
    """Write a picture of smooth colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    path = folder / "photo.jpg"
    Image.fromarray(pixels).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(path)
    return path


if __name__ == "__main__":
    main()
