"""A training step by one process and by two, as torchrun starts them, on the same batch.

    python -m benchmarks.speed.processes [--rounds 3] [--small]

One process uses all cores; of two each has half of them and half of each batch, as torchrun gives
them. Medians of seconds a step, what a process hands the other in a step, and the share of the
time that this takes, waiting for each other included. On two cores two processes can't be quicker
than one: what they cost more is what their exchange costs.

Results: benchmarks/results/processes.csv and processes-machine.json.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch

from benchmarks.frame import Results, arguments, in_own_process
from fullconv import FCN
from fullconv.base.processes import Processes, launched
from fullconv.data.loading import Batch, Part, Share
from fullconv.train.optimizer import make_optimizer
from fullconv.train.recipe import Recipe
from fullconv.train.step import Objective, made_ready, take_step

# name: classifier, batch, height, width, classes, steps timed
CASES = {
    "MobileNetV2 FCN-8s, 8 x 352x480": ("mobilenet_v2", 8, 352, 480, 12, 6),
    "ResNet-18 FCN-8s, 8 x 352x480": ("resnet18", 8, 352, 480, 12, 4),
    "VGG16 FCN-8s, 2 x 500x500": ("vgg16", 2, 500, 500, 21, 3),
}
SMALL = {"SqueezeNet FCN-16s, 2 x 64x64": ("squeezenet1_1", 2, 64, 64, 3, 3)}
COUNTS = (1, 2)


def main() -> None:
    """Measure every case with each number of processes, print and write it."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a tiny net, and nothing is written")
    parser.add_argument("--measure", metavar="CASE", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        with launched() as processes:
            measured = measure(processes, asked.measure)
        if processes.leads:
            print(json.dumps(measured))
        return
    rows = []
    for case in SMALL if asked.small else CASES:
        found = {count: list[tuple[float, float, float]]() for count in COUNTS}
        for _ in range(asked.rounds):
            for count in COUNTS:
                found[count].append(tuple(json.loads(in_processes(count, case))))
        rows += [row(case, count, found) for count in COUNTS]
    if asked.small:
        print(*rows, sep="\n")
    else:
        Results("processes").replace(rows)


def in_processes(count: int, case: str) -> str:
    """Return what the first of `count` processes prints last."""
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return in_own_process(*torchrun, "-m", "benchmarks.speed.processes", "--measure", case)


def measure(processes: Processes, case: str) -> tuple[float, float, float]:
    """Return the median seconds of a step, megabytes handed over in it, and the share of time."""
    classifier, batch, height, width, classes, steps = {**CASES, **SMALL}[case]
    torch.manual_seed(0)
    recipe, share = Recipe(batch_size=batch), Share(batch, processes)
    net = made_ready(FCN(classifier, 8 if height > 64 else 16, classes), torch.device("cpu"))
    objective = Objective(net.train(), recipe, processes=processes).train()
    forward, optimizer = processes.spread(objective), make_optimizer(net, recipe)
    images = torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)
    labels = torch.randint(classes, (batch, 1, height, width), dtype=torch.uint8)
    own = list(processes.block(batch))
    some = Batch([Part(images[own], labels[own])], [str(each) for each in own])
    assert len(own) == share.part
    times, traffic = [], processes.traffic
    for step in range(steps + 1):
        if step == 1:  # the first warms up
            handed, under_way = traffic.bytes, traffic.seconds
        begun = time.perf_counter()
        take_step(objective, optimizer, some, forward)
        times.append(time.perf_counter() - begun)
    handed, under_way = traffic.bytes - handed, traffic.seconds - under_way
    return median(times[1:]), handed / steps / 1e6, under_way / sum(times[1:])


def row(
    case: str, count: int, found: dict[int, list[tuple[float, float, float]]]
) -> dict[str, str]:
    """Return a row of medians over all rounds."""
    seconds, megabytes, share = (median(each) for each in zip(*found[count], strict=True))
    alone = median(each[0] for each in found[1])
    return {
        "case": case,
        "processes": str(count),
        "seconds a step": f"{seconds:.3f}",
        "times one process": f"{seconds / alone:.2f}",
        "MB handed over a step": f"{megabytes:.2f}",
        "share of time": f"{share:.2f}",
    }


if __name__ == "__main__":
    main()
