"""A run: every net that one command trains, in one folder; begun, or continued after any end."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder
from fullconv.data.info import DatasetInfo
from fullconv.data.loading import CachedSplit, cache_budget, default_workers, mixed_seed
from fullconv.devices import pick_device
from fullconv.errors import FullconvError
from fullconv.fcn import FCN
from fullconv.model_folder import load
from fullconv.progress import duration
from fullconv.report.page import write_report
from fullconv.train import checkpoint
from fullconv.train.balance import median_frequency_weights
from fullconv.train.calibrate import calibrate
from fullconv.train.loop import Task, save, train
from fullconv.train.plan import Plan, make_plan
from fullconv.train.record import Record, Settings
from fullconv.train.stages import DEFAULT_BACKBONE, grown_net, is_model, new_net, saved_net
from fullconv.train.state import TrainingState
from fullconv.train.summary import summarise


@dataclass(frozen=True)
class _Data:
    """The dataset as training uses it."""

    info: DatasetInfo
    train: CachedSplit
    val: CachedSplit
    train_sizes: Counter[tuple[int, int]]
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
    data = _read_data(settings, device, quiet)
    target = None
    if not record.nets:
        target = _target_net(settings, data.info)  # found wrong, if so, before anything is written
        strides = [tap.stride for tap in target.taps] if settings.staged else [settings.stride]
        record.begin([f"fcn{stride}s" for stride in strides])
    for name in record.unfinished():
        task = _task(record, name, data, device, quiet)
        state = _state(record, task, data, target, begun)
        record.note(name, state)
        train(task, state)
        record.note(name, state)
        target, begun = None, time.monotonic()
    write_report(out / "report.html", summarise(record, data.info, data.val))
    return record.folder(record.names[-1])


def _read_data(settings: Settings, device: torch.device, quiet: bool) -> _Data:
    """Judge the dataset folder by its headers, and prepare to read it."""
    report = check_folder(settings.data, settings.max_pixels, quick=True, quiet=quiet)
    report.require_sound()
    if not quiet:
        for warning in report.warnings:
            print(f"note: {warning}", file=sys.stderr)
    folder = DatasetFolder(settings.data, settings.max_pixels)
    workers = settings.recipe.workers
    workers = default_workers(device) if workers is None else workers
    shared = workers > 0
    training = CachedSplit(folder.split("train"), cache_budget(shared=shared), shared=shared)
    left = cache_budget(shared=False) - training.kept_bytes
    sizes = {split.name: split.sizes for split in report.splits}
    return _Data(
        folder.info, training, CachedSplit(folder.split("val"), left), sizes["train"], workers
    )


def _target_net(settings: Settings, info: DatasetInfo) -> FCN:
    """Build the net that was asked for, as it is before any training."""
    torch.manual_seed(settings.recipe.seed)
    if is_model(settings.weights):
        source = load(settings.weights)
        _same_backbone(settings, source)
        return grown_net(source, settings.stride, info, settings.recipe)
    backbone = settings.backbone or DEFAULT_BACKBONE
    return new_net(backbone, settings.stride, info, settings.recipe, settings.weights)


def _same_backbone(settings: Settings, source: FCN) -> None:
    trunk = source.arguments["trunk"]
    if settings.backbone not in (None, trunk):
        raise FullconvError(
            f"{settings.weights}: its backbone is {trunk}, not {settings.backbone}; leave "
            "--backbone out"
        )


def _task(record: Record, name: str, data: _Data, device: torch.device, quiet: bool) -> Task:
    """Say what the net `name` is trained for, on and into."""
    recipe, weights = record.settings.recipe, None
    if recipe.class_weights == "balanced":
        (weights,) = median_frequency_weights(data.train).values()
        weights = weights.to(device)
    return Task(
        name,
        data.train,
        data.val,
        recipe,
        record.folder(name),
        device,
        weights,
        record.rate(name),
        quiet,
    )


def _state(
    record: Record, task: Task, data: _Data, target: FCN | None, begun: float
) -> TrainingState:
    """Return the saved state of a net's training or, saved at once, that of its beginning."""
    if task.last.exists():
        saved = checkpoint.load(task.last)
        net = _placed(saved_net(saved, data.info, task.recipe), task.device)
        state = TrainingState.start(net, task.recipe, Plan.from_dict(saved["plan"]))
        state.restore(saved, task.device)
        if not task.quiet:
            print(
                f"{task.name}: {state.step} of {state.plan.steps} steps are done", file=sys.stderr
            )
    else:
        net = _placed(_untrained_net(record, task.name, data.info, target), task.device)
        state = _planned(record, task, net, data, begun)
        save(task, state)
    return state


def _placed(net: FCN, device: torch.device) -> FCN:
    return net.to(device).to(memory_format=torch.channels_last)


def _untrained_net(record: Record, name: str, info: DatasetInfo, target: FCN | None) -> FCN:
    """Build a net of the run as it is before its own training; the same whenever it is called.

    `target` is what `_target_net` gives, where it was called already.
    """
    settings, stage = record.settings, record.names.index(name)
    if stage:
        source = load(record.folder(record.names[stage - 1]))
    else:
        source = target or _target_net(settings, info)
    torch.manual_seed(mixed_seed(settings.recipe.seed, stage))
    if source.stride == record.stride(name):
        return source
    return grown_net(source, record.stride(name), info, settings.recipe)


def _planned(record: Record, task: Task, net: FCN, data: _Data, begun: float) -> TrainingState:
    """Fit the recipe to the data, the machine and the time left, and say how long it will take."""
    seconds, share = record.share(task.name)
    plan = make_plan(
        task.recipe,
        data.train_sizes,
        len(data.val),
        workers=data.workers,
        share=share,
        seconds=seconds,
    )
    if not task.quiet:
        print(f"{task.name}: timing a few steps on {task.device}", file=sys.stderr)
    plan, pace = calibrate(task, net, plan, spent=time.monotonic() - begun)
    if not task.quiet:
        _announce(record, task, plan, pace.seconds(plan))
    state = TrainingState.start(net, task.recipe, plan)
    state.pace, state.ticked = pace, begun
    state.tick()
    return state


def _announce(record: Record, task: Task, plan: Plan, seconds: float) -> None:
    """Say what is about to be done and how long it will take."""
    count = task.recipe.batch_size * task.recipe.accumulate
    if plan.crop == "whole":
        images = "1 whole image" if count == 1 else f"{count} whole images"
    else:
        images = "{} crops of {}x{}".format(count, *plan.crop)
    if math.isinf(seconds):  # the timed steps failed, and the training will say how
        lasts = "for a time unknown"
    else:
        lasts = f"about {duration(seconds)}"
        if task.name == record.names[0] and len(record.names) > 1:
            whole = duration(seconds / record.share(task.name)[1])
            lasts += f" (all {len(record.names)} nets: about {whole})"
    print(
        f"{task.name}: {plan.epochs:.3g} epochs of {plan.steps_per_epoch} steps, {images} each, "
        f"{plan.precision} on {task.device}: {lasts}",
        file=sys.stderr,
    )
