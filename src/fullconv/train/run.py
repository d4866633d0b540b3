"""A run: every net that one command trains, in one folder; begun, or continued after any end."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fullconv.base.devices import pick_device
from fullconv.base.progress import Reporter, duration
from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import CachedSplit, cached_splits, default_workers, mixed_seed
from fullconv.net.fcn import FCN, Sight
from fullconv.net.folder import load
from fullconv.report.page import write_report
from fullconv.train import checkpoint
from fullconv.train.advice import hints
from fullconv.train.evaluators import calibrate_kept
from fullconv.train.loop import Task, save, train
from fullconv.train.losses import class_weights
from fullconv.train.nets import grown_net, saved_net, target_net
from fullconv.train.plan import Plan, make_plan
from fullconv.train.record import Record
from fullconv.train.settings import Settings
from fullconv.train.state import TrainingState
from fullconv.train.step import made_ready
from fullconv.train.summary import summarise
from fullconv.train.timing import fitted_to_machine


@dataclass(frozen=True)
class _Data:
    """The dataset as training uses it: with the inputs of the nets."""

    folder: DatasetFolder
    train: CachedSplit
    val: CachedSplit
    train_sizes: Counter[tuple[int, int]]
    class_weights: list[torch.Tensor] | None
    workers: int


def run(out: Path, asked: Mapping[str, Any], *, resume: bool, quiet: bool = False) -> Path:
    """Train all nets of a run into the folder `out`, or what is left of them, and report.

    Args:
        out: the run folder.
        asked: the fields of `Settings` that the user gave; those not given are the defaults or,
            when a run is continued, its own.
        resume: whether to continue the run that is in `out`, if there is one.
        quiet: show no progress.

    Returns:
        The model folder of the last net.

    Raises:
        FullconvError: the data or a setting is wrong, or `out` holds something already.
        WorkFailedError: see `train`.
    """
    begun = time.monotonic()
    record = Record.open(out, asked, resume=resume)
    settings = record.settings
    device = pick_device(settings.device)
    folder = DatasetFolder(settings.data, settings.reader)
    target = None
    if not record.nets:
        target = target_net(settings, folder)
        folder.require_inputs(target.inputs)
        record.settle(target)
    sizes = _sizes_if_sound(settings, record.inputs, quiet)
    if target is not None and not quiet:
        for hint in hints(settings, target, folder):
            print(f"note: {hint}", file=sys.stderr)
    data = _read_data(settings, folder, record.inputs, sizes, device)
    if target is not None:  # what is wrong was found before anything is written
        strides = [tap.stride for tap in target.taps] if settings.staged else [settings.stride]
        record.begin([f"fcn{stride}s" for stride in strides])
    for name in record.unfinished():
        task = _task(record, name, data, device, quiet)
        state = _state(record, task, data, target, begun)
        target = None  # of a training to come only its own net stays in memory
        gc.collect()  # torch.fx's graphs refer to themselves: nets are not freed without
        record.note(name, state)
        train(task, state)
        record.note(name, state)
        del state
        gc.collect()
        begun = time.monotonic()
    for name in record.names:
        calibrate_kept(name, record.folder(name), data.val, device, quiet=quiet)
        gc.collect()
    write_report(out / "report.html", summarise(record, folder.info, data.val))
    return record.folder(record.names[-1])


def _sizes_if_sound(
    settings: Settings, inputs: Sequence[str], quiet: bool
) -> Counter[tuple[int, int]]:
    """Judge the dataset folder by its headers; return the sizes of its training images."""
    report = check_folder(
        settings.data, settings.reader, quick=True, reporter=Reporter(quiet), inputs=inputs
    )
    report.require_sound()
    if not quiet:
        for warning in report.warnings:
            print(f"note: {warning}", file=sys.stderr)
    sizes = {split.name: split.sizes for split in report.splits}
    return sizes.get("train", Counter())  # without train, reading it will be refused


def _read_data(
    settings: Settings,
    folder: DatasetFolder,
    inputs: Sequence[str],
    sizes: Counter[tuple[int, int]],
    device: torch.device,
) -> _Data:
    """Prepare to read what a net of these inputs needs, and weigh the classes."""
    workers, kind = settings.recipe.workers, settings.recipe.class_weights
    workers = default_workers(device) if workers is None else workers
    train, val = (folder.split(name, inputs) for name in ("train", "val"))
    weights = None
    if kind != "none":
        weights = [of_head.to(device) for of_head in class_weights(train, kind)]
    return _Data(folder, *cached_splits(train, val, workers), sizes, weights, workers)


def _task(record: Record, name: str, data: _Data, device: torch.device, quiet: bool) -> Task:
    """Say what the net `name` is trained for, on and into."""
    return Task(
        name,
        data.train,
        data.val,
        record.settings.recipe,
        record.folder(name),
        device,
        data.class_weights,
        record.rate(name),
        quiet,
    )


def _state(
    record: Record, task: Task, data: _Data, target: FCN | None, begun: float
) -> TrainingState:
    """Return the saved state of a net's training or, saved at once, that of its beginning."""
    if task.last.exists():
        saved = checkpoint.load(task.last)
        net = made_ready(saved_net(saved, data.folder.info, task.recipe), task.device)
        state = TrainingState.start(net, task.recipe, Plan.from_dict(saved["plan"]))
        state.restore(saved, task.device)
        if not task.quiet:
            print(
                f"{task.name}: {state.step} of {state.plan.steps} steps are done", file=sys.stderr
            )
    else:
        net = made_ready(_untrained_net(record, task.name, data.folder, target), task.device)
        state = _planned(record, task, net, data, begun)
        save(task, state)
    return state


def _untrained_net(record: Record, name: str, folder: DatasetFolder, target: FCN | None) -> FCN:
    """Build a net of the run as it is before its own training; the same whenever it is called.

    `target` is what `target_net` gives, where it was called already.
    """
    settings, stage = record.settings, record.names.index(name)
    if stage:
        source = load(record.folder(record.names[stage - 1]))
    else:
        source = target or target_net(settings, folder)
    torch.manual_seed(mixed_seed(settings.recipe.seed, stage))
    if source.stride == record.stride(name):
        return source
    return grown_net(source, record.stride(name), folder.info, settings.recipe)


def _planned(record: Record, task: Task, net: FCN, data: _Data, begun: float) -> TrainingState:
    """Fit the recipe to the data, the machine and the time left, and say how long it will take."""
    seconds, share = record.share(task.name)
    plan = make_plan(
        task.recipe,
        data.train_sizes,
        len(data.val),
        workers=data.workers,
        **net.sight._asdict(),
        share=share,
        seconds=seconds,
    )
    if not task.quiet:
        print(f"{task.name}: timing a few steps on {task.device}", file=sys.stderr)
    plan, pace = fitted_to_machine(task, net, plan, spent=time.monotonic() - begun)
    if not task.quiet:
        _announce(record, task, net, plan, pace.seconds(plan))
    state = TrainingState.start(net, task.recipe, plan)
    state.pace, state.ticked = pace, begun
    state.tick()
    return state


def _announce(record: Record, task: Task, net: FCN, plan: Plan, seconds: float) -> None:
    """Say what is about to be done and how long it will take."""
    count = task.recipe.batch_size * task.recipe.accumulate
    if plan.crop == "whole":
        images = "1 whole image" if count == 1 else f"{count} whole images"
    else:
        images = "{} crops of {}x{}".format(count, *plan.crop)
    images += " each," if net.sight == Sight() else f", {net.sight},"
    if math.isinf(seconds):  # the timed steps failed, and the training will say how
        lasts = "for a time unknown"
    else:
        lasts = f"about {duration(seconds)}"
        if task.name == record.names[0] and len(record.names) > 1:
            whole = duration(seconds / record.share(task.name)[1])
            lasts += f" (all {len(record.names)} nets: about {whole})"
    print(
        f"{task.name}: {plan.epochs:.3g} epochs of {plan.steps_per_epoch} steps, {images} "
        f"{plan.precision} on {task.device}: {lasts}",
        file=sys.stderr,
    )
