"""The training loop: one straight line in plain torch, from a batch to the model kept."""

from __future__ import annotations

import csv
import gc
import io
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.files import write_text
from fullconv.base.progress import Progress, duration
from fullconv.data.loading import Batch, mixed_seed
from fullconv.train import checkpoint
from fullconv.train.batch_norm import normalises
from fullconv.train.nets import described, not_finite, saved_net
from fullconv.train.outcome import read_metrics
from fullconv.train.plan import Plan, make_plan
from fullconv.train.recipe import Recipe
from fullconv.train.resolution import told
from fullconv.train.sharing import about_sharing, require_shareable, traffic_told
from fullconv.train.stage import Period, Stage
from fullconv.train.state import Row, TrainingState
from fullconv.train.step import made_ready, take_step
from fullconv.train.timing import fitted_to_machine

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
SECONDS_BETWEEN_SAVES = 20.0  # at most every so often at the ends of short epochs


def train(stage: Stage) -> TrainingState:
    """Train the net of a stage, or what is left of that, to the end of its plan.

    Raises:
        WorkFailedError: the loss became infinite or NaN, or the disk is full.
        FullconvError: an image can't be read, or last.pt is damaged.
    """
    begins = stage.processes.first(lambda: not stage.last.exists())
    state = begun(stage) if begins else resumed(stage)
    gc.collect()  # torch.fx's graphs refer to themselves: what it started from is not freed without
    if not stage.processes.leads:  # which draws on for dropout as it would alone
        torch.manual_seed(mixed_seed(stage.recipe.seed, state.step, stage.processes.rank))
    stage.note(state, False)
    if state.step < state.plan.steps:  # else it was killed at its very end
        learn(stage, state)
    look(stage, state, Period.END)
    stage.note(state, True)
    return state


def begun(stage: Stage) -> TrainingState:
    """Return the state of a training's beginning, saved at once."""
    net = stage.processes.led(stage.start, described, partial(_same_net, stage))
    net = made_ready(net, stage.device)
    plan = make_plan(
        stage.recipe,
        stage.data.found,
        len(stage.data.val),
        workers=stage.data.workers,
        scale=net.scale,
        finer=stage.finer(net),
        normalised=normalises(net, stage.recipe),
        share=stage.budget.share,
        seconds=stage.budget.seconds,
    )
    stage.reporter.say(f"{stage.name}: timing a few steps on {stage.device}")
    spent = stage.clock() - stage.budget.begun
    plan, pace = fitted_to_machine(stage, net, plan, spent=spent)
    _announce(stage, net, plan, pace.seconds(plan))
    state = TrainingState.start(net, stage.recipe, plan, stage.clock)
    state.pace, state.ticked = pace, stage.budget.begun
    state.tick()
    save(stage, state)
    return state


def _same_net(stage: Stage, told: dict[str, Any]) -> FCN:
    """Build the net that another process described."""
    net = saved_net(told, stage.data.info, stage.recipe)
    net.load_state_dict(told["net"])
    return net


def resumed(stage: Stage) -> TrainingState:
    """Return the state that was saved last."""
    saved = stage.processes.first(partial(checkpoint.load, stage.last))
    net = made_ready(saved_net(saved, stage.data.info, stage.recipe), stage.device)
    plan = Plan.from_dict(saved["plan"])
    state = TrainingState.start(net, stage.recipe, plan, stage.clock)
    try:
        state.restore(saved, stage.device)
    except (RuntimeError, ValueError, KeyError) as error:  # torch tells every tensor, line by line
        raise FullconvError(
            f"{stage.last}: does not fit the net of this run ({str(error).splitlines()[0]}); put "
            "the dataset and recipe.yaml back as they were, or remove it to train this net from "
            "its start"
        ) from error
    if state.best is not None and not state.metrics:  # a state of an earlier version
        state.metrics = read_metrics(stage.folder)
    if stage.anew:
        state.best = None
    stage.reporter.say(f"{stage.name}: {state.step} of {state.plan.steps} steps are done")
    return state


def learn(stage: Stage, state: TrainingState) -> None:
    """Train ``state.net`` from ``state.step`` to the end of its plan; evaluators keep models."""
    require_shareable(state.net, stage.recipe, stage.processes)
    for line in about_sharing(state.net, stage.recipe, stage.processes):
        stage.reporter.say(f"{stage.name}: {line}")
    saved, size = stage.clock(), stage.recipe.step_images
    objective = stage.objective(state.net, state.plan)
    forward = stage.processes.spread(objective)
    with traffic_told(stage, state), _bar(stage, state) as bar, _board(stage, state) as board:
        for batch in stage.batches(state.net, state.plan, state.step):
            rate = stage.budget.rate * state.plan.learning_rate(stage.recipe, state.step)
            state.set_learning_rate(rate)
            try:
                loss = take_step(objective, state.optimizer, batch, forward)
            except FloatingPointError as error:
                raise WorkFailedError(_why_stopped(stage, state, batch, error)) from error
            state.advance(loss)
            bar.advance(size, _note(loss, state.best))
            ended = state.plan.ends_epoch(state.step)
            if ended:
                state.optimizer.zero_grad()  # what is written and measured now has their room
                _close_epoch(stage, state, bar, board)
            state.keep_in_time()
            bar.total = state.plan.steps * size
            finished = state.step >= state.plan.steps
            if finished or stage.clock() - saved >= _patience(stage.recipe, ended):
                save(stage, state)
                saved = stage.clock()
            if finished:
                break


def look(stage: Stage, state: TrainingState, period: Period) -> Row:
    """Ask the evaluators of a period; return all that they found."""
    found: Row = {}
    for evaluator in stage.evaluators:
        if evaluator.period is period:
            found |= evaluator(stage, state)
    return found


def save(stage: Stage, state: TrainingState) -> None:
    """Write last.pt and log.csv, each whole or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(state.rows)

    def write() -> None:
        with checkpoint.saving_in(stage.folder):
            write_text(stage.folder / "log.csv", table.getvalue())
            values = {**state.to_dict(stage.device), "origin": dict(stage.origin)}
            checkpoint.save(stage.last, values)

    stage.processes.first(write)


def _close_epoch(
    stage: Stage, state: TrainingState, bar: Progress, board: SummaryWriter | None
) -> None:
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
        row |= look(stage, state, Period.VALIDATION)
        state.pace = replace(state.pace, validation=state.tick())
    row["seconds"] = round(state.seconds, 2)
    state.rows.append(row)
    state.losses.clear()
    for column in COLUMNS[2:-1]:
        if board is not None and row[column] is not None:
            board.add_scalar(column, row[column], state.step)
    if row["val_mean_iu"] is not None and not stage.reporter.quiet:
        best = ", the best so far" if state.best != before else ""
        bar.say(
            f"{stage.name}: epoch {epoch:g} of {state.plan.epochs:.3g}: loss "
            f"{row['train_loss']:.3f}, val mean IU {row['val_mean_iu']:.3f}{best}"
        )


def _announce(stage: Stage, net: FCN, plan: Plan, seconds: float) -> None:
    """Say what is about to be done and how long it will take."""
    count = stage.recipe.step_images
    if plan.crop == "whole":
        images = "1 whole image" if count == 1 else f"{count} whole images"
    else:
        images = "{} crops of {}x{}".format(count, *plan.crop)
    images += " each," if net.scale == 1 else f", {told(net.scale)},"
    if net.stride < stage.stride:
        images += f" as an FCN-{net.stride}s,"
    if math.isinf(seconds):  # the timed steps failed, and the training will say how
        lasts = "for a time unknown"
    else:
        lasts = f"about {duration(seconds)}"
        if stage.budget.nets > 1:
            whole = duration(seconds / stage.budget.share)
            lasts += f" (all {stage.budget.nets} nets: about {whole})"
    stage.reporter.say(
        f"{stage.name}: {plan.epochs:.3g} epochs of {plan.steps_per_epoch} steps, {images} "
        f"{plan.precision} on {stage.device}: {lasts}"
    )


def _patience(recipe: Recipe, epoch_ended: bool) -> float:
    """Return the seconds after which to save again; short epochs are not each worth it."""
    within_epoch = recipe.save_minutes * 60
    return min(within_epoch, SECONDS_BETWEEN_SAVES) if epoch_ended else within_epoch


def _why_stopped(stage: Stage, state: TrainingState, batch: Batch, error: Exception) -> str:
    kept = f"the {stage.recipe.keep} is kept in {stage.folder}"
    if state.best is None:
        kept = "no model was kept yet"
    if name := not_finite(state.net):
        return (
            f"{stage.name}: before step {state.step + 1} the net itself holds infinite numbers or "
            f"NaN ({name}): no image is to blame; {kept}; lower --set lr={stage.recipe.lr:g}"
        )
    names = chain.from_iterable(stage.processes.gathered(batch.names))
    return (
        f"{stage.name}: the {error} of step {state.step + 1} is not finite; its images: "
        f"{', '.join(dict.fromkeys(names))}; {kept}; look at these images and masks, or "
        f"lower --set lr={stage.recipe.lr:g}"
    )


def _note(loss: float, best: float | None) -> str:
    return f"loss {loss:.3f}" + ("" if best is None else f"  best val mean IU {best:.3f}")


def _bar(stage: Stage, state: TrainingState) -> AbstractContextManager[Progress]:
    size = stage.recipe.step_images
    return stage.reporter.bar(state.plan.steps * size, stage.name, done=state.step * size)


def _board(stage: Stage, state: TrainingState) -> SummaryWriter | AbstractContextManager[None]:
    """Open the TensorBoard events, where it is installed.

    Those past ``state.step``, of a run cut short, are withdrawn.
    """
    if not stage.processes.leads:
        return nullcontext()
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return nullcontext()
    return SummaryWriter(str(stage.folder), purge_step=state.step + 1)
