"""The training loop: one straight line in plain torch, from a batch to the model kept."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fullconv.base.errors import WorkFailedError
from fullconv.base.files import write_json, write_text
from fullconv.base.progress import Progress, progress
from fullconv.data.folder import evenly_chosen
from fullconv.data.loading import Batch, Batches, CachedSplit, TrainingDataset, training_batches
from fullconv.data.transforms import training_transform
from fullconv.measure.evaluation import evaluate
from fullconv.predict.labels import coarse_scores, inference
from fullconv.train import checkpoint
from fullconv.train.losses import ClassWeights, image_losses
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe
from fullconv.train.state import Row, TrainingState
from fullconv.train.step import set_to_train, take_step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fullconv.net.fcn import FCN

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "val_loss",
    "val_pixel_accuracy",
    "val_mean_iu",
    "seconds",
)
LOSS_IMAGES = 16  # enough for a curve
SECONDS_BETWEEN_SAVES = 20.0  # at most every so often at the ends of short epochs


@dataclass(frozen=True)
class Task:
    """What one net is trained for, on and into.

    Attributes:
        name: of the net, such as fcn8s.
        train, val: the data.
        recipe: the settings.
        folder: becomes the model folder and holds last.pt and log.csv.
        device: where it is trained.
        class_weights: float32 (classes,) of each head, or None for all alike.
        rate: factor on the recipe's learning rate, such as a stage's own.
        quiet: no progress is shown.
    """

    name: str
    train: CachedSplit
    val: CachedSplit
    recipe: Recipe
    folder: Path
    device: torch.device
    class_weights: ClassWeights | None = None
    rate: float = 1.0
    quiet: bool = False

    @property
    def last(self) -> Path:
        """The file of the training state."""
        return self.folder / "last.pt"


def train(task: Task, state: TrainingState) -> None:
    """Train ``state.net`` from ``state.step`` to the end of its plan; `validate` keeps models.

    Raises:
        WorkFailedError: the loss became infinite or NaN, or the disk is full.
        FullconvError: an image can't be read.
    """
    if state.step >= state.plan.steps:  # resumed, after it was killed at its very end
        return
    saved = time.monotonic()
    net = learner(set_to_train(state.net, task.recipe), state.plan)
    with _bar(task, state) as bar, _board(task, state) as board:
        for batch in batches(task, state.net, state.plan, state.step):
            rate = task.rate * state.plan.learning_rate(task.recipe, state.step)
            state.set_learning_rate(rate)
            try:
                loss = take_step(
                    net,
                    state.optimizer,
                    batch,
                    task.recipe,
                    precision=state.plan.precision,
                    class_weights=task.class_weights,
                )
            except FloatingPointError as error:
                raise WorkFailedError(_why_stopped(task, state, batch, error)) from error
            state.advance(loss)
            bar.advance(len(batch.names), _note(loss, state.best))
            ended = state.plan.ends_epoch(state.step)
            if ended:
                _close_epoch(task, state, bar, board)
            state.keep_in_time()
            bar.total = state.plan.steps * len(batch.names)
            finished = state.step >= state.plan.steps
            if finished or time.monotonic() - saved >= _patience(task.recipe, ended):
                save(task, state)
                saved = time.monotonic()
            if finished:
                break


def validate(task: Task, state: TrainingState, row: Row) -> None:
    """Measure the net on val, note the result in `row`, and keep the net as the recipe says.

    It is kept if it is the best so far, or (`keep` being "last") in any case.

    Of several heads accuracy and mean IU are averaged.
    """
    net = state.evaluated
    result = evaluate(net, task.val, device=task.device)
    row["val_loss"] = _finite(validation_loss(net, task.val))
    accuracies = [of_head.pixel_accuracy for of_head in result.heads.values()]
    row["val_pixel_accuracy"] = _finite(sum(accuracies) / len(accuracies))
    row["val_mean_iu"] = _finite(result.mean_iu)
    score = row["val_mean_iu"] or 0.0
    is_best = state.best is None or score > state.best
    if is_best or task.recipe.keep == "last":
        metrics = result.to_dict(net)
        with checkpoint.saving_in(task.folder):
            net.save_pretrained(task.folder, metrics)
            write_json(task.folder / "metrics.json", metrics)
        state.per_image = list(result.per_image)
    if is_best:
        state.best = score


def validation_loss(net: FCN, val: CachedSplit) -> float:
    """Return the mean loss over the valid pixels of at most 16 images, evenly chosen.

    Of several heads it is the sum of their means.
    """
    device = next(net.parameters()).device
    total = torch.zeros(len(net.heads), device=device)
    pixels = torch.zeros_like(total)
    with inference(net):
        for index in evenly_chosen(len(val), LOSS_IMAGES):
            sample = val[index]
            labels = torch.from_numpy(sample.labels)[None].to(device)
            total += image_losses(net, coarse_scores(net, sample.image), labels)[0]
            pixels += (labels != net.ignore_index).sum((0, 2, 3))
    return float((total / pixels.clamp(min=1)).sum())


def save(task: Task, state: TrainingState) -> None:
    """Write last.pt and log.csv, each whole or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(state.rows)
    with checkpoint.saving_in(task.folder):
        write_text(task.folder / "log.csv", table.getvalue())
        checkpoint.save(task.last, state.to_dict(task.device))


def learner(net: FCN, plan: Plan) -> FCN:
    """Return what learns from the batches of `plan`: crops are reduced when they are cut."""
    return net if plan.crop == "whole" else net.for_reduced()


def batches(task: Task, net: FCN, plan: Plan, start: int = 0) -> Generator[Batch]:
    """Yield the batches of `plan` from step `start` on, without end."""
    recipe = task.recipe
    transform = training_transform(
        None if plan.crop == "whole" else plan.crop,
        recipe.scale_jitter,
        recipe.flip,
        recipe.color,
        reduce=net.sight.reduce,
        ignore_index=net.ignore_index,
        inputs=net.inputs,
    )
    size = recipe.batch_size * recipe.accumulate
    return training_batches(
        TrainingDataset(task.train, transform),
        Batches(
            len(task.train),
            size,
            recipe.seed,
            start,
            replacement=recipe.sampling == "replacement",
        ),
        part=recipe.batch_size,
        workers=plan.workers,
        device=task.device,
    )


def _close_epoch(task: Task, state: TrainingState, bar: Progress, board: SummaryWriter) -> None:
    """Write down what the epoch gave: a row of the log, the board, a line above the bar."""
    epoch = round(state.step / state.plan.steps_per_epoch, 3)
    epoch = int(epoch) if epoch.is_integer() else epoch
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "epoch": epoch,
        "step": state.step,
        "lr": state.optimizer.param_groups[0]["lr"],  # its factor is 1
        "train_loss": sum(state.losses) / len(state.losses),
    }
    before = state.best
    if state.plan.validates(state.step):
        validate(task, state, row)
        state.pace = replace(state.pace, validation=state.tick())
    row["seconds"] = round(state.seconds, 2)
    state.rows.append(row)
    state.losses.clear()
    for column in COLUMNS[2:-1]:
        if row[column] is not None:
            board.add_scalar(column, row[column], state.step)
    if row["val_mean_iu"] is not None and not task.quiet:
        best = ", the best so far" if state.best != before else ""
        bar.say(
            f"{task.name}: epoch {epoch:g} of {state.plan.epochs:.3g}: loss "
            f"{row['train_loss']:.3f}, val mean IU {row['val_mean_iu']:.3f}{best}"
        )


def _patience(recipe: Recipe, epoch_ended: bool) -> float:
    """Return the seconds after which to save again; short epochs are not each worth it."""
    within_epoch = recipe.save_minutes * 60
    return min(within_epoch, SECONDS_BETWEEN_SAVES) if epoch_ended else within_epoch


def _why_stopped(task: Task, state: TrainingState, batch: Batch, error: Exception) -> str:
    kept = f"the {task.recipe.keep} is kept in {task.folder}"
    if state.best is None:
        kept = "no model was kept yet"
    return (
        f"{task.name}: the {error} of step {state.step + 1} is not finite; its images: "
        f"{', '.join(dict.fromkeys(batch.names))}; {kept}; look at these images and masks, or "
        f"lower --set lr={task.recipe.lr:g}"
    )


def _note(loss: float, best: float | None) -> str:
    return f"loss {loss:.3f}" + ("" if best is None else f"  best val mean IU {best:.3f}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bar(task: Task, state: TrainingState) -> AbstractContextManager[Progress]:
    size = task.recipe.batch_size * task.recipe.accumulate
    total = state.plan.steps * size
    return progress(total, task.name, quiet=task.quiet, done=state.step * size)


def _board(task: Task, state: TrainingState) -> SummaryWriter:
    """Open the TensorBoard events; those past ``state.step``, of a run cut short, are withdrawn."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(task.folder), purge_step=state.step + 1)
