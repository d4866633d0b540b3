"""What labelling and learning cost by image size, classes and batch, and what limits them now.

    python -m benchmarks.speed.cost

An FCN-8s on MobileNetV2 with random weights, medians, in turns:

- an image in memory to its labels, from 128x128 to 2048x2048 pixels, by eager PyTorch with
  full-resolution scores and by fullconv's engines (12 classes);
- the same from 2 to 150 classes at 512x512;
- a training step in bfloat16 with 1 to 16 crops of 352x480, by image, plain (but with freed memory
  kept, being in the same process) and fullconv's;
- a profile: the share of each kind of operation in a training step (torch.profiler, own time),
  and how near forward passes come to the machine's fastest convolution, measured here.

Results: benchmarks/results/cost.csv, profile.csv, their machines, and docs/cost.png.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.frame import Results, Row, arguments, in_turns, plain, save_figure
from benchmarks.speed.predict import Plain
from benchmarks.speed.training import made_step
from fullconv.export.verified import EngineConfig
from fullconv.net.fcn import FCN
from fullconv.predict.engines import build, configs
from fullconv.predict.labeller import Labeller
from fullconv.train.optimizer import make_optimizer
from fullconv.train.recipe import Recipe
from fullconv.train.step import made_ready

SIDES = (128, 256, 512, 1024, 2048)
CLASSES = (2, 5, 12, 21, 60, 150)
BATCHES = (1, 2, 4, 8, 16)
CPU = torch.device("cpu")
EAGER, PLAIN_STEP, STEP = "eager torch", "plain step, bf16", "fullconv step, bf16"
WAYS = (EngineConfig("torch"), EngineConfig("openvino"), EngineConfig("openvino", "bf16"))
KINDS = {  # of torch's operations
    "convolutions, backward": {"convolution_backward"},
    "convolutions, forward": {"mkldnn_convolution"},
    "normalisation and clamps": {  # what convolutions do along the way is time of theirs
        "_Convolution",
        "_ConvolutionBackward",
        "_Normalised",
        "_NormalisedBackward",
        "native_batch_norm",
        "native_batch_norm_backward",
        "clamp_",
        "hardtanh_backward",
    },
    "loss": {"_Fused", "bmm", "log_", "sum", "mul_"},
    "conversions, copies, additions": {"copy_", "add", "add_"},
    "optimizer": {"_fused_adamw_"},
}


def main() -> None:
    """Measure all, print, write and draw it."""
    arguments(__doc__).parse_args()
    rows = [*by_size(), *by_classes(), *by_batch()]
    Results("cost").replace(rows)
    draw(rows)
    Results("profile").replace([*step_profile(), *forward_rates()])


def made(classes: int = 12) -> FCN:
    """Return an FCN-8s on MobileNetV2 whose scores are random."""
    torch.manual_seed(0)
    net = FCN("mobilenet_v2", 8, classes)
    for score in net.scores.values():
        nn.init.normal_(score.weight, std=0.01)  # type: ignore[arg-type]
    return net


def by_size() -> list[Row]:
    """Measure labels by the sides of a square image."""
    net = made().eval().requires_grad_(requires_grad=False)
    return [row for side in SIDES for row in labelled(net, side, "pixels a side", side)]


def by_classes() -> list[Row]:
    """Measure labels by the number of classes."""
    rows = []
    for classes in CLASSES:
        net = made(classes).eval().requires_grad_(requires_grad=False)
        rows += labelled(net, 512, "classes", classes)
    return rows


def labelled(net: FCN, side: int, by: str, value: int) -> list[Row]:
    """Measure the labels of a square image, by eager torch and by each engine that is there."""
    random = np.random.default_rng(0)
    image = np.kron(random.integers(256, size=(side // 16, side // 16, 3)), np.ones((16, 16, 1)))
    image = image.astype(np.uint8)
    plain = Plain(net, torch.channels_last)
    work: dict[str, Callable[[], Any]] = {
        EAGER: torch.inference_mode()(lambda: plain(torch.from_numpy(image)[None]))
    }
    for way in [way for way in WAYS if way in configs("auto", "auto", CPU)]:
        work[f"fullconv, {way}"] = partial(Labeller(net, build(net, way, [image])), image)
    spent = in_turns(work, 1, 9)
    return [row(by, value, name, ms) for name, ms in spent.items()]


def row(by: str, value: int, way: str, ms: float) -> Row:
    """Return a row of the results."""
    return {"by": by, "value": str(value), "way": way, "ms": f"{ms:.2f}"}


def by_batch() -> list[Row]:
    """Measure a training step by the images that pass the net at once."""
    rows = []
    for batch in BATCHES:
        steps: dict[str, Callable[[], Any]] = {
            PLAIN_STEP: step(batch, own=False),
            STEP: step(batch, own=True),
        }
        spent = in_turns(steps, batch, 3)
        rows += [row("images a batch", batch, name, ms) for name, ms in spent.items()]
    return rows


def step(batch: int, *, own: bool) -> Callable[[], None]:
    """Return what makes one step in bfloat16, forward and backward and the optimizer's."""
    net = made().train()
    if own:
        made_ready(net, CPU)
    net.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 352, 480).contiguous(memory_format=torch.channels_last)
    truth = torch.randint(0, 12, (batch, 352, 480), dtype=torch.uint8)
    return made_step(net, make_optimizer(net, Recipe()), images, truth, fused=own, low=True)


def step_profile() -> list[Row]:
    """Return the share of each kind of operation in a training step of 8 crops."""
    make = step(8, own=True)
    for _ in range(3):
        make()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(3):
            make()
    times: Counter[str] = Counter()
    for event in profiled.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, names in KINDS.items() if name in names), "rest")
        times[kind] += event.self_cpu_time_total
    whole = times.total()
    return [
        {"what": kind, "ms": f"{spent / 3e3:.1f}", "share": f"{spent / whole:.3f}", "gflops": ""}
        for kind, spent in times.most_common()
    ]


def forward_rates() -> list[Row]:
    """Return how many GFLOP/s forward passes reach, and the machine's fastest convolution."""
    layer = nn.Conv2d(256, 256, 3, padding=1)
    rows = []
    for name, low in (("float32", False), ("bfloat16", True)):
        fast = rate(layer, torch.randn(1, 256, 128, 128), low=low)
        rows.append(rate_row(f"3x3 convolution of 256 channels, {name}", fast))
        for classifier, size in (("vgg16", 500), ("mobilenet_v2", 512)):
            trunk = FCN(classifier, 8, 12).trunk.layers
            assert isinstance(trunk, nn.Module)
            reached = rate(trunk, torch.randn(1, 3, size, size), low=low)
            rows.append(rate_row(f"trunk of {classifier}, eager torch, {name}", reached))
    return rows


def rate_row(what: str, gflops: float) -> Row:
    """Return a row of the profile."""
    return {"what": what, "ms": "", "share": "", "gflops": f"{gflops:.0f}"}


@torch.inference_mode()
def rate(layer: nn.Module, x: Tensor, *, low: bool) -> float:
    """Return the GFLOP/s of a forward pass, best of several."""
    from torch.utils.flop_counter import FlopCounterMode

    layer = layer.eval().to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    if low:
        layer, x = layer.bfloat16(), x.bfloat16()
    with FlopCounterMode(display=False) as counter:
        layer(x)
    times = []
    for _ in range(8):
        begun = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - begun)
    return float(counter.get_total_flops() / median(times) / 1e9)


def draw(rows: Sequence[Row]) -> None:
    """Draw three plots of time, a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure((10, 3.4), layout="constrained")
    for axes, by, title in zip(
        plain(figure.subplots(1, 3)),
        ("pixels a side", "classes", "images a batch"),
        ("labels of a square image", "labels of 512x512", "a training step, by image"),
        strict=True,
    ):
        own = [row for row in rows if row["by"] == by]
        for way in dict.fromkeys(row["way"] for row in own):
            points = [(float(r["value"]), float(r["ms"])) for r in own if r["way"] == way]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=way)
        ticks = sorted({int(row["value"]) for row in own})
        axes.set(xlabel=by, ylabel="ms", title=title)
        axes.set_xscale("log", base=2)
        if by == "pixels a side":
            axes.set_yscale("log")
        else:
            axes.set_ylim(0)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    save_figure(figure, "cost")


if __name__ == "__main__":
    main()
