"""What a GPU makes of fullconv and its peers: exactness first, then speed, in under ten minutes.

    python -m benchmarks.speed.gpu [--minutes 9] [--smallest]

In this order: the Triton kernels' labels and losses against plain torch; the machine's fastest
matrix product in each precision; forward passes (image to labels) and training steps of voc-fcn8s
and MobileNetV2 FCN-8s at 500x500, torchvision's fcn_resnet50 and, where it is installed,
segmentation_models_pytorch's Unet beside them, in fp32, tf32, bf16 and fp16; `fullconv predict`
from JPEGs to label images; then forward passes and steps once more, compiled. What fails, or is not
reached in time, is a row that says so; no other is lost.

Expected: no row of "exactness" with an error.
Results: benchmarks/results/gpu.csv and gpu-machine.json. `--smallest` runs everything in its
smallest form, on a CPU too, and writes nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.frame import Results, Row, arguments, show
from fullconv import FCN, paper
from fullconv.base.runtime import full_float32, has_bf16, pick_device
from fullconv.demo.streets import draw_scene
from fullconv.kernels import upsample_argmax, upsample_cross_entropy
from fullconv.kernels.argmax import plain
from fullconv.kernels.bilinear import axes, extended

Work = Callable[[], object]
IGNORED = 255


class Size(NamedTuple):
    """How large everything is.

    Attributes:
        side, batch, classes: of the images that nets see.
        cells: of a side of the coarse scores that kernels see.
        matrix: rows and columns of the matrices that are multiplied.
        photos: that `predict` labels.
        rounds: that are timed.
        warm: that go ahead.
    """

    side: int = 500
    batch: int = 8
    classes: int = 21
    cells: int = 64
    matrix: int = 8192
    photos: int = 64
    rounds: int = 7
    warm: int = 2


SMALLEST = Size(side=64, batch=1, classes=3, cells=8, matrix=64, photos=2, rounds=1, warm=0)


@dataclass
class Bench:
    """What a run knows.

    Attributes:
        device: that is measured.
        size: of everything.
        clock: tells seconds.
        deadline: by that clock; what would begin later is not begun.
        peak: operations a second of the fastest matrix product, by precision.
    """

    device: torch.device
    size: Size
    clock: Callable[[], float]
    deadline: float
    peak: dict[str, float] = field(default_factory=dict)

    @property
    def precisions(self) -> list[str]:
        """Those that this device computes in."""
        if self.device.type != "cuda":
            return ["fp32"]
        return ["fp32", "tf32", *["bf16"] * has_bf16(self.device), "fp16"]

    def seconds(self, work: Work) -> float:
        """Return the median time of some work, after rounds that are not counted."""
        times = []
        for _ in range(self.size.warm + self.size.rounds):
            begun = self.clock()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(self.clock() - begun)
        return median(times[self.size.warm :])

    def measured(self, section: str, what: str, way: str, make: Callable[[], Row]) -> Row:
        """Return a row of what `make` measures, or of why it could not."""
        values: Row = dict.fromkeys(("ms", "per_second", "share_of_peak", "mib", "error"), "")
        if self.clock() > self.deadline:
            values["error"] = "not reached in time"
        else:
            try:
                values |= make()
            except Exception as error:  # whatever it is, the other rows count
                first = next(iter(str(error).splitlines()), "")
                values["error"] = f"{type(error).__name__}: {first}"[:200]
        return {"section": section, "what": what, "way": way, **values}


def main() -> None:
    """Measure all; print and write it."""
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--smallest", action="store_true", help="a trial of every section")
    asked = parser.parse_args()
    size = SMALLEST if asked.smallest else Size()
    device = pick_device("auto" if asked.smallest else "cuda")
    rows = []
    for row in measure(device, size, 60 * asked.minutes, time.perf_counter):
        rows.append(row)
        if asked.smallest:
            show(row)
        else:
            Results("gpu").replace(rows)


def measure(
    device: torch.device, size: Size, seconds: float, clock: Callable[[], float]
) -> Iterator[Row]:
    """Yield a row for each thing that is measured on a device, within so many seconds."""
    bench = Bench(device, size, clock, clock() + seconds)
    torch.manual_seed(0)
    yield from exactness(bench)
    yield from peaks(bench)
    yield from nets(bench, compiled=False)
    yield bench.measured("predict", "MobileNetV2 FCN-8s", "from files", partial(predicted, bench))
    if device.type == "cuda":
        yield from nets(bench, compiled=True)


# Kernels ------------------------------------------------------------------------------------------


def exactness(bench: Bench) -> Iterator[Row]:
    """Yield what the kernels' results are next to plain torch's, and the times of both."""
    size = bench.size
    scores = torch.randn(2, size.classes, size.cells, size.cells, device=bench.device)
    pixels = (8 * size.cells, 8 * size.cells)
    target = torch.randint(0, size.classes, (2, *pixels), device=bench.device)
    works: dict[str, tuple[Work, Work]] = {
        "upsample_argmax": (
            lambda: upsample_argmax(scores, 8, pixels),
            lambda: labels_by_torch(scores, pixels),
        ),
        "upsample_cross_entropy": (
            lambda: upsample_cross_entropy(scores, target, 8),
            lambda: F.cross_entropy(F.interpolate(scores, pixels, mode="bilinear"), target),
        ),
    }
    checks = partial(same_labels, scores, pixels), partial(same_loss, scores, target)
    for (name, (own, theirs)), check in zip(works.items(), checks, strict=True):
        yield bench.measured("exactness", name, "against torch", check)
        for way, work in (("fullconv", own), ("torch", theirs)):
            yield bench.measured("kernel", name, way, partial(_time, bench, work))


def same_labels(scores: Tensor, pixels: tuple[int, int]) -> Row:
    """Raise AssertionError unless labels are those of float64 interpolation."""
    down, across = axes(scores, 8, pixels, None)
    expected = plain(extended(scores, down, across, "replicate"), down, across)
    differing = int((upsample_argmax(scores, 8, pixels) != expected).sum())
    assert not differing, f"{differing} of {expected.numel()} labels differ"
    return {}


def same_loss(scores: Tensor, target: Tensor) -> Row:
    """Raise AssertionError unless loss and gradient are those of float64 at full resolution."""
    own, exact = scores.clone().requires_grad_(), scores.double().requires_grad_()
    loss = upsample_cross_entropy(own, target, 8)
    wide = F.interpolate(exact, target.shape[-2:], mode="bilinear")
    expected = F.cross_entropy(wide, target)
    torch.autograd.backward([loss, expected])
    assert own.grad is not None and exact.grad is not None
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    scale = exact.grad.abs().max()
    gradients = own.grad.double() / scale, exact.grad / scale
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    return {}


def labels_by_torch(scores: Tensor, pixels: tuple[int, int]) -> Tensor:
    """Return labels by way of full-resolution scores."""
    return F.interpolate(scores, pixels, mode="bilinear").argmax(1)


def _time(bench: Bench, work: Work) -> Row:
    return {"ms": f"{bench.seconds(work) * 1e3:.3f}"}


def peaks(bench: Bench) -> Iterator[Row]:
    """Yield how fast the device multiplies matrices."""
    for precision in bench.precisions:
        yield bench.measured("peak", "matmul", precision, partial(_peak, bench, precision))


def _peak(bench: Bench, precision: str) -> Row:
    side = bench.size.matrix
    matrix = torch.randn(side, side, device=bench.device)
    with computing(precision, bench.device):
        seconds = bench.seconds(lambda: matrix @ matrix)
    bench.peak[precision] = 2 * side**3 / seconds
    return {"ms": f"{seconds * 1e3:.3f}", "per_second": f"{bench.peak[precision] / 1e12:.3f}e12"}


def computing(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return what is computed in, in that precision."""
    if precision == "fp32":
        return full_float32()
    if precision == "tf32":
        return _tf32()
    low = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, low)


@contextmanager
def _tf32() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    kinds = cudnn.conv, torch.backends.cuda.matmul
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


# Nets ---------------------------------------------------------------------------------------------


def nets(bench: Bench, *, compiled: bool) -> Iterator[Row]:
    """Yield forward passes and training steps of each net, in each precision."""
    size = bench.size
    makes: dict[str, tuple[int, Callable[[], nn.Module]]] = {
        "voc-fcn8s": (1, lambda: paper("voc-fcn8s")),
        "MobileNetV2 FCN-8s": (size.batch, lambda: FCN("mobilenet_v2", 8, size.classes)),
        "torchvision fcn_resnet50": (size.batch, lambda: torchvision_fcn(size.classes)),
        "smp Unet, resnet34": (size.batch, lambda: smp_unet(size.classes)),
    }
    if size is SMALLEST:
        del makes["voc-fcn8s"]  # 134 million weights
    if not find_spec("segmentation_models_pytorch"):
        del makes["smp Unet, resnet34"]
    for name, (batch, make) in makes.items():
        for precision in bench.precisions:
            for section, work in (("forward", forward), ("training", training)):
                way = f"{precision}, compiled" if compiled else precision
                once = partial(work, bench, make, batch, precision, compiled)
                yield bench.measured(section, name, way, once)


def torchvision_fcn(classes: int) -> nn.Module:
    """Return torchvision's FCN with random weights."""
    import torchvision.models.segmentation as models

    net: nn.Module = models.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=classes, aux_loss=False
    )
    return net


def smp_unet(classes: int) -> nn.Module:
    """Return segmentation_models_pytorch's Unet with random weights."""
    smp = import_module("segmentation_models_pytorch")
    net: nn.Module = smp.Unet("resnet34", encoder_weights=None, classes=classes)
    return net


class Steps:
    """A net at work on a batch of random images, whose sides its stride divides if it asks so."""

    def __init__(
        self,
        bench: Bench,
        make: Callable[[], nn.Module],
        batch: int,
        precision: str,
        compiled: bool,
    ) -> None:
        self.net = make().to(bench.device).to(memory_format=torch.channels_last)
        own, size = isinstance(self.net, FCN), bench.size
        side = size.side if own else -(-size.side // 32) * 32
        self.images = torch.randn(batch, 3, side, side, device=bench.device).contiguous(
            memory_format=torch.channels_last
        )
        self.truth = torch.randint(0, size.classes, (batch, side, side), device=bench.device)
        self.precision, self.device = precision, bench.device
        scored = self.net.coarse if isinstance(self.net, FCN) else self.net
        self.scored: Callable[[Tensor], Any] = torch.compile(scored) if compiled else scored

    def scores(self) -> Tensor:
        """Return coarse scores of fullconv's nets, those of each pixel of others."""
        with computing(self.precision, self.device):
            given = self.scored(self.images)
        scores: Tensor = given["out"] if isinstance(given, dict) else given
        return scores

    @torch.inference_mode()
    def label(self) -> Tensor:
        """Return the label of each pixel."""
        scores, (height, width) = self.scores(), self.images.shape[-2:]
        if isinstance(self.net, FCN):
            return self.net.head.labels(scores, (height, width))
        return scores.argmax(1)

    def learn(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Make one step."""
        optimizer.zero_grad()
        scores = self.scores()
        if isinstance(self.net, FCN):
            losses = self.net.head.losses(scores, self.truth, IGNORED)
            loss = losses.sum() / self.truth.numel()
        else:
            loss = F.cross_entropy(scores.float(), self.truth, ignore_index=IGNORED)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()


def forward(
    bench: Bench, make: Callable[[], nn.Module], batch: int, precision: str, compiled: bool
) -> Row:
    """Measure images in memory to their labels."""
    steps = Steps(bench, make, batch, precision, compiled)
    steps.net.eval()
    return _row(bench, steps.label, steps)


def training(
    bench: Bench, make: Callable[[], nn.Module], batch: int, precision: str, compiled: bool
) -> Row:
    """Measure steps of AdamW."""
    steps = Steps(bench, make, batch, precision, compiled)
    steps.net.train()
    fused = bench.device.type == "cuda"
    optimizer = torch.optim.AdamW(steps.net.parameters(), 1e-4, fused=fused)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=precision == "fp16")
    return _row(bench, partial(steps.learn, optimizer, scaler), steps)


def _row(bench: Bench, work: Work, steps: Steps) -> Row:
    """Measure some work; its operations are counted of the net as it is, not compiled."""
    compiled = steps.scored
    steps.scored = steps.net.coarse if isinstance(steps.net, FCN) else steps.net
    with FlopCounterMode(display=False) as counter:
        work()
    steps.scored = compiled
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    seconds = bench.seconds(work)
    row = {"ms": f"{seconds * 1e3:.3f}", "per_second": f"{len(steps.images) / seconds:.1f}"}
    if peak := bench.peak.get(steps.precision):
        row["share_of_peak"] = f"{counter.get_total_flops() / seconds / peak:.3f}"
    if bench.device.type == "cuda":
        row["mib"] = f"{torch.cuda.max_memory_allocated(bench.device) / 2**20:.0f}"
    return row


# Files --------------------------------------------------------------------------------------------


def predicted(bench: Bench) -> Row:
    """Measure `fullconv predict`, from a folder of JPEGs to label images and overlays."""
    from fullconv.predict.run import run
    from fullconv.predict.settings import PredictSettings

    net = FCN("mobilenet_v2", 8, bench.size.classes).eval()
    with tempfile.TemporaryDirectory() as folder:
        root, side = Path(folder), bench.size.side
        (root / "photos").mkdir()
        for index in range(bench.size.photos):
            scene, _ = draw_scene(0, "test", index, (side, side))
            Image.fromarray(scene).save(root / f"photos/{index}.jpg", quality=95)
        places = iter(range(bench.size.warm + bench.size.rounds))

        def once() -> None:
            out = root / f"labels{next(places)}"
            device = bench.device.type
            run(PredictSettings(net, (str(root / "photos"),), out, engine="torch", device=device))

        seconds = bench.seconds(once)
    return {
        "ms": f"{seconds * 1e3:.1f}",
        "per_second": f"{bench.size.photos / seconds:.1f}",
    }


if __name__ == "__main__":
    main()
