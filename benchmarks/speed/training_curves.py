"""Equal quality, sooner: CamVid's val curve of plain training loops and of fullconv's step.

    python -m benchmarks.speed.training_curves --data CAMVID --weights mobilenet_v2.safetensors \
      [--variants "fullconv bf16" ...]

trains the same FCN-8s on MobileNetV2 from the same start with the same batches, schedule and
clipping, each in a process of its own: plain PyTorch in float32 and in bfloat16 (channels_last;
both interpolate + cross_entropy, AdamW; validated by interpolate + argmax) and fullconv's
`take_step`; this, too, with AdamW's moments of all weights in bfloat16, in which it keeps those of
very large ones, such as VGG16's, of which MobileNetV2 has none. Minutes are those of training:
images prepared in the background included, validation left out. `waiting` is the share of them in
which the net waited for images.

Expected: curves that lie on one another by epoch and far apart by minute.
Results: benchmarks/results/training-curves.csv and docs/training-curves.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from benchmarks.frame import Results, Row, arguments, in_own_process, plain, save_figure
from benchmarks.speed.training import plain_loss
from fullconv import FCN
from fullconv.base.runtime import inference
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import Batch, CachedSplit, cached_splits, default_workers
from fullconv.measure.evaluation import evaluate
from fullconv.measure.metrics import ConfusionMatrix
from fullconv.train.nets import target_net
from fullconv.train.optimizer import make_optimizer
from fullconv.train.plan import make_plan
from fullconv.train.recipe import Recipe, read_recipe
from fullconv.train.settings import TrainSettings
from fullconv.train.stage import Stage, TrainingData
from fullconv.train.step import made_ready, take_step

LOW_MOMENTS = "fullconv bf16, moments too"
VARIANTS = {
    "plain fp32": "plain PyTorch, float32",
    "plain bf16": "plain PyTorch, bfloat16",
    "fullconv bf16": "fullconv, bfloat16",
    LOW_MOMENTS: "the same, AdamW's moments, too",
}
VALIDATIONS = 5
CPU = torch.device("cpu")


def main() -> None:
    """Train every variant, print and write the curves, and draw them."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--train", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        all_large = mock.patch("fullconv.train.optimizer.LARGE", 0)
        with all_large if given.train == LOW_MOMENTS else nullcontext():
            print(json.dumps(train(given.train, given.data, given.weights, given.epochs)))
        return
    results, found = Results("training-curves"), list[Row]()
    for variant in given.variants:
        words = (*sys.argv[1:], "--train", variant)
        found += json.loads(in_own_process("benchmarks.speed.training_curves", *words))
    others = [row for row in results.rows if row["variant"] not in given.variants]
    results.replace(sorted([*others, *found], key=_place))
    draw(results.rows)


def _place(row: Row) -> int:
    """Return where a variant stands among all, whichever are trained anew."""
    return list(VARIANTS).index(row["variant"])


def train(variant: str, data: Path, weights: str, epochs: int) -> list[Row]:
    """Train one variant; return a row for each validation."""
    # Cross entropy alone, as in `plain_step`.
    recipe = read_recipe("default", [f"epochs={epochs}", "lovasz=0"])
    folder = DatasetFolder(data)
    net = target_net(TrainSettings(data=data, weights=weights, recipe=recipe), folder)
    workers = default_workers(CPU)
    inputs = tuple(net.inputs)
    split, val = cached_splits(folder.split("train", inputs), folder.split("val", inputs), workers)
    found = Fingerprint.of(split.split)
    plan = make_plan(recipe, found, len(val), workers=workers)
    own, low = variant.startswith("fullconv"), "bf16" in variant
    if own:
        made_ready(net, CPU)
    elif low:
        net.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(net, recipe, "bf16" if own and low else "fp32")
    for group in optimizer.param_groups if not own else ():
        group["fused"] = None  # torch's default
    rows, losses, spent, waited = [], [], 0.0, 0.0
    with TemporaryDirectory() as out:
        feed_of = TrainingData(folder.info, split, val, found)
        stage = Stage("", feed_of, recipe, Path(out), CPU, start=lambda: net)
        feed = stage.batches(net.train(), plan)
        objective = stage.objective(net, replace(plan, precision="bf16"))
        for step in range(plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate(recipe, step)
            begun = time.perf_counter()
            batch = next(feed)
            waited += time.perf_counter() - begun
            if own:
                loss = take_step(objective, optimizer, batch)
            else:
                loss = plain_step(net, optimizer, batch, recipe, low=low)
            spent += time.perf_counter() - begun
            losses.append(loss)
            if (step + 1) * VALIDATIONS % plan.steps < VALIDATIONS:
                mean_iu = evaluate(net, val).mean_iu if own else plain_mean_iu(net, val)
                rows.append(
                    {
                        "variant": variant,
                        "epoch": f"{(step + 1) / plan.steps_per_epoch:.2f}",
                        "minutes": f"{spent / 60:.2f}",
                        "train_loss": f"{math.fsum(losses) / len(losses):.4f}",
                        "val_mean_iu": f"{mean_iu:.4f}",
                        "waiting": f"{waited / spent:.4f}",
                    }
                )
                losses.clear()
    return rows


def plain_step(
    net: FCN, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe, *, low: bool
) -> float:
    """Take a step as one would write it down."""
    ((images, labels),) = batch.parts
    values = net.preprocessing(images)
    if low:
        values = values.contiguous(memory_format=torch.channels_last)
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        coarse = net.coarse(values)
    assert isinstance(coarse, torch.Tensor)
    loss = plain_loss(coarse, labels[:, 0], net.ignore_index)
    torch.autograd.backward(loss)
    clip_grad_norm_(net.parameters(), recipe.clip or math.inf)
    optimizer.step()
    return float(loss)


def plain_mean_iu(net: FCN, val: CachedSplit) -> float:
    """Measure a net whose scores are enlarged as they were in `plain_step`."""
    counter = ConfusionMatrix(net.num_classes)
    net = net.for_inference()
    with inference():
        for index in range(len(val)):
            _, image, (truth,) = val[index]
            coarse = net.coarse_of_image(image)["labels"]
            scores = F.interpolate(coarse, truth.shape, mode="bilinear", align_corners=False)
            counter.update(truth, scores.argmax(1)[0].numpy().astype(np.uint8))
    return counter.metrics().mean_iu


def draw(rows: list[Row]) -> None:
    """Draw val mean IU by epoch and by minute, a line for each variant."""
    from matplotlib.figure import Figure

    figure = Figure((8, 3.8), layout="constrained")
    by_epoch, by_minute = plain(figure.subplots(1, 2, sharey=True))
    for axes, column, label in (
        (by_epoch, "epoch", "epochs"),
        (by_minute, "minutes", "minutes of training"),
    ):
        for variant, name in VARIANTS.items():
            if variant == LOW_MOMENTS and axes is by_minute:
                continue  # nobody trains MobileNetV2 so: it tells whether quality suffers
            own = [row for row in rows if row["variant"] == variant]
            values = [[float(row[key]) for row in own] for key in (column, "val_mean_iu")]
            axes.plot(*values, marker="o", markersize=4, label=name)
        axes.set(xlabel=label, xlim=(0, None))
    by_epoch.set_ylabel("mean IU on val")
    lines = by_epoch.get_legend_handles_labels()
    figure.legend(*lines, frameon=False, loc="outside lower center", ncols=2)
    save_figure(figure, "training-curves")


if __name__ == "__main__":
    main()
