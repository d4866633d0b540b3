"""A training step against plain PyTorch: the same net, interpolate + cross_entropy, AdamW.

    python -m benchmarks.speed.training [--rounds 3] [--cases MobileNetV2 ...]

Each variant runs in a process of its own, in turns: plain float32 eager, the same in channels_last,
plain bfloat16 autocast in channels_last, and fullconv's step (`take_step`'s parts: coarse loss,
layers exchanged for faster twins, fused optimizer, freed memory kept) in both precisions, and
without one of these.
Where the processor only emulates bfloat16, in which a step takes minutes, it is left out.
Medians of seconds a step, and by how much steps raise the process's peak memory.

Expected, for FCN-8s in bfloat16 against plain bfloat16: on MobileNetV2 at least 2.3 times the steps
at 0.65 of its memory at most, on VGG16 1.35 times at 0.85 of it. Without
bfloat16, against the quicker of both plain ways: 1.3 times on VGG16, 1.8 on MobileNetV2.
Results: benchmarks/results/training.csv and training-machine.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from unittest import mock

import torch
from torch.nn import functional as F

from benchmarks.frame import Results, Row, arguments, highest_memory, in_own_process
from fullconv import FCN
from fullconv.base.runtime import has_bf16
from fullconv.train.optimizer import make_optimizer
from fullconv.train.recipe import Recipe
from fullconv.train.step import made_ready

# name: classifier, batch, height, width, classes, steps timed
CASES = {
    "MobileNetV2 FCN-8s, 8 x 352x480": ("mobilenet_v2", 8, 352, 480, 12, 4),
    "VGG16 FCN-8s, 8 x 352x480": ("vgg16", 8, 352, 480, 21, 2),
    "VGG16 FCN-8s, 1 x 500x500": ("vgg16", 1, 500, 500, 21, 3),
    "ResNet-50 FCN-8s, 8 x 352x480": ("resnet50", 8, 352, 480, 12, 2),
    "EfficientNet-Lite0 FCN-8s, 8 x 352x480": (
        "timm:tf_efficientnet_lite0",
        8,
        352,
        480,
        12,
        4,
    ),
}
LOW = has_bf16(torch.device("cpu"))
PLAIN = ("plain fp32", "plain channels_last fp32", "plain bf16")
VARIANTS = (*PLAIN, "fullconv fp32", "fullconv bf16")
# fullconv, in the lowest precision that there is, without one of its tricks: what is done away
# with; shown for the first case
WITHOUT = {
    "without kept memory": "fullconv.train.step.keep_freed_memory",
    "without exchanged layers": "fullconv.train.step.quicken",
    "without the fused loss": "",
    "without the fused optimizer": "",
}


def main() -> None:
    """Measure every variant of every case, print and write them."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=[""], help="those whose names begin so")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure)))
        return
    results = Results("training")
    for case in (case for case in CASES if case.startswith(tuple(asked.cases))):
        named = (*VARIANTS, *WITHOUT) if case == next(iter(CASES)) else VARIANTS
        variants = [name for name in named if LOW or not name.endswith("bf16")]
        found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
        for _ in range(asked.rounds):
            for variant in variants:
                done = in_own_process("benchmarks.speed.training", "--measure", case, variant)
                found[variant].append(tuple(json.loads(done)))
        for variant, measured in _measured(found).items():
            results.add({"case": case, "variant": variant}, measured, order=_place)


def measure(case: str, variant: str) -> tuple[float, float]:
    """Return the median seconds of a step and the MiB by which steps raise the peak."""
    classifier, batch, height, width, classes, steps = CASES[case]
    torch.manual_seed(0)
    net = FCN(classifier, 8, classes).train()
    images = torch.randn(batch, 3, height, width)
    truth = torch.randint(0, classes, (batch, height, width), dtype=torch.uint8)
    own, low = not variant.startswith("plain"), LOW and not variant.endswith("fp32")
    if own:
        without = WITHOUT.get(variant)
        with mock.patch(without) if without else nullcontext():
            made_ready(net, images.device)
        optimizer = make_optimizer(net, Recipe(), "bf16" if low else "fp32")
        for group in optimizer.param_groups if "optimizer" in variant else ():
            group["fused"] = None
    else:
        optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    if own or low or "channels_last" in variant:
        if not own:  # else its weights lie as they are used
            net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    fused = own and "loss" not in variant
    step = made_step(net, optimizer, images, truth, fused=fused, low=low)
    before, times = highest_memory(), []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return median(times[1:]), highest_memory() - before


def made_step(
    net: FCN,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    truth: torch.Tensor,
    *,
    fused: bool,
    low: bool,
) -> Callable[[], None]:
    """Return what makes one step: forward, loss, backward and the optimizer's."""

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            coarse = net.coarse(images)
        assert isinstance(coarse, torch.Tensor)
        if fused:
            loss = net.head.losses(coarse, truth, 255).sum() / truth.numel()
        else:
            loss = plain_loss(coarse, truth, 255)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def plain_loss(coarse: torch.Tensor, truth: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Return the mean cross entropy by way of full-resolution scores."""
    size = truth.shape[-2:]
    scores = F.interpolate(coarse.float(), size=size, mode="bilinear", align_corners=False)
    return F.cross_entropy(scores, truth.long(), ignore_index=ignore_index)


def _place(row: Row) -> float:
    """Return where a case stands among all, whichever are measured anew."""
    return list(CASES).index(row["case"])


def _measured(found: dict[str, list[tuple[float, float]]]) -> dict[str, Row]:
    """Return each variant's columns, its medians against the plain ones'."""
    seconds = {name: median(s for s, _ in runs) for name, runs in found.items()}
    memory = {name: median(m for _, m in runs) for name, runs in found.items()}
    rows = dict[str, Row]()
    for name in found:
        row = rows[name] = {"ms": f"{seconds[name] * 1e3:.0f}"}
        for of in PLAIN:
            key = f"speed_to_{of.replace(' ', '_')}"
            row[key] = f"{seconds[of] / seconds[name]:.2f}" if of in found else ""
        row["mib"] = f"{memory[name]:.0f}"
        for of in PLAIN:
            key = f"memory_to_{of.replace(' ', '_')}"
            row[key] = f"{memory[name] / memory[of]:.2f}" if of in found else ""
    return rows


if __name__ == "__main__":
    main()
