"""What looks at a net on val: at each validation its accuracy and loss, at the end its sureness."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from fullconv.base.files import write_json
from fullconv.base.processes import ALONE, Processes
from fullconv.base.progress import Reporter
from fullconv.base.runtime import inference
from fullconv.data.folder import evenly_chosen
from fullconv.data.loading import CachedSplit
from fullconv.measure.calibration import Fit, fit_temperature
from fullconv.measure.evaluation import Evaluation, evaluate
from fullconv.net.described import Labels
from fullconv.net.fcn import load
from fullconv.net.folder import METRICS
from fullconv.net.rewrites.quicker_layers import plain_layers
from fullconv.train import checkpoint
from fullconv.train.losses import image_losses, valid_weights
from fullconv.train.stage import Period, Stage
from fullconv.train.state import Row, TrainingState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fullconv.net.fcn import FCN
    from fullconv.net.head import Head

LOSS_IMAGES = 16  # enough for a curve
IMAGES, PIXELS = 32, 2048  # images at most, and of each so many pixels: ample for one number
WINDOW = 512  # pixels a side that are enlarged of an image, lest large ones take long


class Validation:
    """Measures the net on val and keeps it as the recipe says.

    It is kept if it is the best so far, or (`keep` being "last") in any case. Of several heads
    accuracy and mean IU are averaged.
    """

    period: ClassVar[Period] = Period.VALIDATION

    def __call__(self, stage: Stage, state: TrainingState) -> Row:
        """Return accuracy and mean IU."""
        val, processes = stage.data.val, stage.processes
        own = processes.block(len(val))
        part = evaluate(state.evaluated, val, device=stage.device, only=own)
        result = Evaluation.joined(processes.gathered(part))
        accuracies = [of_head.pixel_accuracy for of_head in result.heads.values()]
        mean_iu = _finite(result.mean_iu)
        is_best = state.best is None or (mean_iu or 0.0) > state.best
        if is_best or stage.recipe.keep == "last":
            _keep(stage, state, result)
        if is_best:
            state.best = mean_iu or 0.0
        return {
            "val_pixel_accuracy": _finite(sum(accuracies) / len(accuracies)),
            "val_mean_iu": mean_iu,
        }


class ValidationLoss:
    """Measures the loss on some images of val, for a curve beside that of training."""

    period: ClassVar[Period] = Period.VALIDATION

    def __call__(self, stage: Stage, state: TrainingState) -> Row:
        """Return the loss."""
        loss = validation_loss(state.evaluated, stage.data.val, stage.processes)
        return {"val_loss": _finite(loss)}


class Calibration:
    """Fits the temperatures of the net that was kept."""

    period: ClassVar[Period] = Period.END

    def __call__(self, stage: Stage, state: TrainingState) -> Row:
        """Write the model folder anew with them."""
        calibrate = partial(
            calibrate_kept,
            stage.name,
            stage.folder,
            stage.data.val,
            stage.device,
            state.metrics,
            reporter=stage.reporter,
        )
        stage.processes.first(calibrate)
        return {}


def _keep(stage: Stage, state: TrainingState, result: Evaluation) -> None:
    """Write the net and what it achieved into the stage's folder."""
    net, metrics = state.evaluated, result.to_dict(state.evaluated)

    def write() -> None:
        with checkpoint.saving_in(stage.folder), plain_layers(net):
            net.save_pretrained(stage.folder, metrics)
            write_json(stage.folder / METRICS, metrics)

    stage.processes.first(write)
    state.metrics, state.per_image = metrics, list(result.per_image)


def validation_loss(net: FCN, val: CachedSplit, processes: Processes = ALONE) -> float:
    """Return the mean loss over the valid pixels of at most 16 images, evenly chosen.

    Of several heads it is the sum of their means. `processes` share the images out.
    """
    device = next(net.parameters()).device
    total = torch.zeros(len(net.heads), device=device)
    pixels = torch.zeros_like(total)
    net = net.for_inference()
    with inference(net.device.type):
        for index in evenly_chosen(len(val), LOSS_IMAGES)[processes.rank :: processes.count]:
            sample = val[index]
            labels = torch.from_numpy(sample.labels)[None].to(device)
            total += image_losses(net, net.coarse_of_image(sample.image), labels)[0]
            pixels += valid_weights(labels, net.ignore_index, None)[0]
    total, pixels = processes.total(torch.stack([total, pixels]))
    return float((total / pixels.clamp(min=1)).sum())


def calibrate_kept(
    name: str,
    folder: Path,
    val: CachedSplit,
    device: torch.device,
    metrics: Mapping[str, Any],
    *,
    reporter: Reporter,
) -> None:
    """Fit the temperatures of the model in `folder`, and write it anew with them.

    The same model gets the same ones however often it is done.

    Args:
        name: of the net, to be told with the result.
        folder: a model folder.
        val: what to fit them on.
        device: where the net works.
        metrics: what the model achieved.
        reporter: is told the result.

    Raises:
        WorkFailedError: the disk is full.
        FullconvError: an image can't be read.
    """
    net = load(folder, trust=True).to(device)  # this training has just written it
    before = {head: own.temperature for head, own in net.heads.items()}
    fits = fit_temperatures(net, val)
    for head, own in net.heads.items():
        own.temperature = fits[head].temperature
        reporter.say(f"{name if len(fits) == 1 else f'{name}, {head}'}: {told(fits[head])}")
    if any(fit.temperature != before[head] for head, fit in fits.items()):
        with checkpoint.saving_in(folder):
            net.save_pretrained(folder, dict(metrics))


def fit_temperatures(net: FCN, val: CachedSplit) -> dict[str, Fit]:
    """Fit each head's temperature on pixels of at most 32 images, evenly chosen."""
    sampled: dict[str, list[tuple[Tensor, Tensor]]] = {head: [] for head in net.heads}
    net = net.for_inference()
    with inference(net.device.type):
        for index in evenly_chosen(len(val), IMAGES):
            sample = val[index]
            coarse = net.coarse_of_image(sample.image)
            for (name, head), truth in zip(net.heads.items(), sample.labels, strict=True):
                random = np.random.default_rng(index)
                sampled[name].append(_sampled(net, head, coarse[name], truth, random))
    return {
        name: fit_temperature(
            torch.cat([scores for scores, _ in pairs]), torch.cat([truth for _, truth in pairs])
        )
        for name, pairs in sampled.items()
    }


def told(fit: Fit) -> str:
    """Say in a line what became of a temperature."""
    if fit.note:
        return f"probabilities: temperature {fit.temperature:g} ({fit.note})"
    return (
        f"probabilities calibrated on {fit.pixels} pixels of val: temperature "
        f"{fit.temperature:.2f}, expected calibration error {fit.error_before:.3f} -> "
        f"{fit.error_after:.3f}"
    )


def _sampled(
    net: FCN, head: Head, coarse: Tensor, truth: Labels, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return the scores N x classes and labels N of some labelled pixels, on the CPU.

    They lie in a window around one of them, which is all of a small image.
    """
    labelled = np.flatnonzero(truth != net.ignore_index)
    if not len(labelled):
        return torch.empty(0, head.num_classes), torch.empty(0, dtype=torch.long)
    centre = np.unravel_index(random.choice(labelled), truth.shape)
    rows, columns = (
        _window(int(middle), length) for middle, length in zip(centre, truth.shape, strict=True)
    )
    own = truth[rows.start : rows.stop, columns.start : columns.stop].ravel()
    labelled = np.flatnonzero(own != net.ignore_index)
    if len(labelled) > PIXELS:
        labelled = random.choice(labelled, PIXELS, replace=False)
    chosen = torch.from_numpy(labelled)
    scores = head.scores_within(coarse, rows, columns)[0].flatten(1).cpu()
    return scores[:, chosen].T.float(), torch.from_numpy(own)[chosen].long()


def _window(middle: int, length: int) -> range:
    """Return `WINDOW` successive pixels around `middle`, or all that there are."""
    first = min(max(middle - WINDOW // 2, 0), max(length - WINDOW, 0))
    return range(first, min(first + WINDOW, length))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
