"""The fused kernels against what they stand for: torch's interpolation, then argmax or loss.

    python -m benchmarks.speed.kernels [--model runs/camvid/fcn8s --photo PHOTO]

measures in turns, in one process, medians: labels of 21 and 150 classes from 64x64 cells to 512x512
pixels, on smooth maps and on pure noise (and a trained net's scores of a photo, if given); loss and
gradient of 150 classes, batch 4, and of a CamVid batch, with the memory that each takes. Expected:
labels at least 15 times (21 classes) and 30 times (150) as fast as interpolate + argmax on smooth
maps, and never slower on noise; the loss in at most half the time and a tenth of the memory.
Results: benchmarks/results/kernels.csv and kernels-machine.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.frame import Results, arguments, highest_memory, in_own_process
from fullconv.kernels import upsample_argmax, upsample_cross_entropy

ROUNDS = 15
FACTOR = 8


def main() -> None:
    """Measure everything, print and write it."""
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="a trained FCN-8s")
    parser.add_argument("--photo", type=Path, help="what to take its scores of")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        print(_peak(asked.peak))
        return
    torch.manual_seed(0)
    rows = []
    maps = {f"{kind}, {n} classes": of(n) for n in (21, 150) for kind, of in KINDS.items()}
    if asked.model and asked.photo:
        maps["a trained net's, 11 classes"] = _trained(asked.model, asked.photo)
    for name, scores in maps.items():
        rows.append(_row(f"labels of {name}", *_labels(scores)))
    for name, (batch, classes, height, width) in LOSSES.items():
        times = _losses(batch, classes, height, width)
        peaks = [_peak_apart(f"{kind}:{name}") for kind in ("plain", "fused")]
        rows.append(_row(f"loss of {name}", *times, *peaks))
    Results("kernels").replace(rows)


def _smooth(classes: int) -> Tensor:
    """Return scores 1,C,64,64 about as smooth as a net's."""
    rough = torch.randn(1, classes, 9, 9)
    smooth = F.interpolate(rough, size=(64, 64), mode="bicubic", align_corners=False)
    return smooth + 0.02 * torch.randn_like(smooth)


def _noise(classes: int) -> Tensor:
    return torch.randn(1, classes, 64, 64)


KINDS: dict[str, Callable[[int], Tensor]] = {"a smooth map": _smooth, "noise": _noise}
LOSSES = {
    "150 classes, 4 x 512x512": (4, 150, 64, 64),
    "12 classes, 8 x 352x480": (8, 12, 44, 60),
    "21 classes, 1 x 504x504": (1, 21, 63, 63),
}


def _trained(model: Path, photo: Path) -> Tensor:
    """Return a net's coarse scores of a photo."""
    import fullconv
    from fullconv.base.images import ImageReader
    from fullconv.base.runtime import inference

    net = fullconv.load(model)
    with inference():
        (scores,) = net.coarse_of_image(ImageReader().image(photo)).values()
    return scores.clone()


def _labels(scores: Tensor) -> tuple[float, float]:
    """Return seconds of interpolate + argmax, and of the kernel."""
    size = (scores.shape[2] * FACTOR, scores.shape[3] * FACTOR)

    def plain() -> Tensor:
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False).argmax(1)

    def fused() -> Tensor:
        return upsample_argmax(scores, FACTOR, size)

    return _in_turns(plain, fused)


def _losses(batch: int, classes: int, height: int, width: int) -> tuple[float, float]:
    return _in_turns(*_loss_steps(batch, classes, height, width), rounds=5)


def _loss_steps(
    batch: int, classes: int, height: int, width: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return loss and gradient by interpolate + cross_entropy, and by the kernel."""
    scores = _smooth(classes).expand(batch, -1, -1, -1)[..., :height, :width].contiguous()
    size = (height * FACTOR, width * FACTOR)
    target = torch.randint(0, classes, (batch, *size))

    def plain() -> None:
        own = scores.clone().requires_grad_()
        full = F.interpolate(own, size=size, mode="bilinear", align_corners=False)
        torch.autograd.backward(F.cross_entropy(full, target))

    def fused() -> None:
        own = scores.clone().requires_grad_()
        torch.autograd.backward(upsample_cross_entropy(own, target, FACTOR))

    return plain, fused


def _in_turns(
    plain: Callable[[], object], fused: Callable[[], object], rounds: int = ROUNDS
) -> tuple[float, float]:
    """Return the median seconds of both, run in turns after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for work, spent in zip((plain, fused), times, strict=True):
            begun = time.perf_counter()
            work()
            if turn:
                spent.append(time.perf_counter() - begun)
    return median(times[0]), median(times[1])


def _peak_apart(what: str) -> float:
    """Return by how many MiB a step raises the peak of a process of its own."""
    return float(in_own_process("benchmarks.speed.kernels", "--peak", what))


def _peak(what: str) -> float:
    kind, _, name = what.partition(":")
    plain, fused = _loss_steps(*LOSSES[name])
    small = _loss_steps(1, 3, 2, 2)  # loads what there is to load
    for work in small:
        work()
    before = highest_memory()
    (plain if kind == "plain" else fused)()
    return highest_memory() - before


def _row(what: str, plain: float, fused: float, *peaks: float) -> dict[str, str]:
    memory = [f"{peak:.0f}" for peak in peaks] or ["", ""]
    return {
        "what": what,
        "torch_ms": f"{plain * 1e3:.2f}",
        "fullconv_ms": f"{fused * 1e3:.2f}",
        "times_as_fast": f"{plain / fused:.1f}",
        "torch_mib": memory[0],
        "fullconv_mib": memory[1],
    }


if __name__ == "__main__":
    main()
