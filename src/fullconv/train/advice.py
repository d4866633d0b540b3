"""What to tell who begins a training, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fullconv.base.runtime import has_bf16
from fullconv.data.fingerprint import SIDES, Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.net.arguments import most_magnification
from fullconv.net.fcn import FCN
from fullconv.papers.blueprint import Blueprint
from fullconv.train.nets import is_model, models_by_input, unseen_inputs
from fullconv.train.recipe import Recipe
from fullconv.train.resolution import DRAWN_WELL
from fullconv.train.settings import TrainSettings


def hints(
    settings: TrainSettings,
    net: FCN,
    folder: DatasetFolder,
    found: Fingerprint,
    device: torch.device,
) -> Iterator[str]:
    """Yield what is worth knowing of a net that is about to be trained on a sound dataset.

    Args:
        settings: of the run.
        net: as it is before its training.
        folder: the dataset.
        found: the fingerprint of its training images, with what is in their masks.
        device: where it will be trained.
    """
    for hint in (
        about_stages(settings),
        about_unseen(settings, net, folder),
        about_resolution(settings, net),
        about_precision(settings.recipe, device),
    ):
        if hint:
            yield hint
    yield from about_details(settings, net, folder, found)


def about_stages(settings: TrainSettings) -> str | None:
    """Return what to tell who trains a later stage by itself, from a classifier; None mostly."""
    rates = settings.recipe.stage_lr
    if not settings.blueprint.fixed or settings.staged or rates[0] == rates[-1]:
        return None
    if models_by_input(settings.weights) or is_model(settings.weights):
        return None
    return (
        f"{settings.model} learns at the rate of a last stage ({settings.recipe.lr:g}): start it "
        "from the coarser net (--weights MODEL), or train all stages (--staged)"
    )


def about_unseen(settings: TrainSettings, net: FCN, folder: DatasetFolder) -> str | None:
    """Return what to tell who trains on a dataset with inputs that the net doesn't see."""
    unseen = unseen_inputs(net.inputs, folder)
    if not unseen:
        return None
    told = f"the net sees {', '.join(net.inputs)} of each scene, not {', '.join(unseen)}"
    if settings.blueprint.fixed or settings.inputs:
        return told
    return f"{told}; --inputs {','.join((*net.inputs, *unseen))} lets it"


def about_resolution(settings: TrainSettings, net: FCN) -> str | None:
    """Return what to tell whose net has finer cells than its name tells, without being asked to."""
    magnify, finer = net.scale.numerator, net.stride < settings.stride
    if not (finer or (magnify > 1 and not settings.recipe.magnify)) or is_model(settings.weights):
        return None
    ways = []
    if finer:
        ways.append(f"scores finer strides, down to {net.stride}, as an FCN-{net.stride}s does")
    if magnify > 1:
        ways.append(
            f"sees images {magnify} times as large, which makes labels take about {magnify**2} "
            "times as long"
        )
    if net.arguments.coarsest not in (None, settings.recipe.coarsest):
        ways.append(f"does without layers coarser than stride {net.arguments.coarsest}")
    return (
        f"for what is small or thin in images, the net {', and '.join(ways)} (--set magnify=1: "
        f"{settings.model} as it is, coarser)"
    )


def about_precision(recipe: Recipe, device: torch.device) -> str | None:
    """Return what to tell who asks for bfloat16 where it is emulated; None elsewhere."""
    if recipe.precision != "bf16" or has_bf16(device):
        return None
    return (
        f"this {device.type} has no instructions for bfloat16: steps may take many times as "
        "long as in float32 (--set precision=auto takes what is quicker)"
    )


def about_details(
    settings: TrainSettings, net: FCN, folder: DatasetFolder, found: Fingerprint
) -> Iterator[str]:
    """Yield, by head, what a net cannot draw of the masks because its cells are too coarse.

    Judged by the bounds that a perfect net of such cells has on a few masks (PAMI, appendix A).
    """
    if settings.blueprint.fixed:
        return
    finer = Blueprint.named(f"fcn{net.stride}s").finer
    if finer is None:
        return
    magnify, reduce = net.scale.as_integer_ratio()
    cell = net.stride * reduce // magnify
    finer_cell = finer.stride * reduce // min(magnify, most_magnification(finer.stride))
    if finer_cell == cell:
        return
    if not {cell, finer_cell} <= set(SIDES):
        split = folder.split("train", tuple(net.inputs), tuple(net.heads))
        found = found.with_pixels(split, (cell, finer_cell))
    for name, head in net.heads.items():
        own, better = found.thinness[name][cell], found.thinness[name][finer_cell]
        if own.mean_iu < DRAWN_WELL:
            worst = int(np.nanargmin(own.iu))
            named = f"{head.classes[worst]} {own.iu[worst]:.2f}"
            of_head = f"{name}: " if len(net.heads) > 1 else ""
            yield (
                f"{of_head}in cells of {cell} pixels these masks can be drawn to a mean IU of "
                f"{own.mean_iu:.2f} at best ({named}), in cells of {finer_cell} to "
                f"{better.mean_iu:.2f}: try --model {finer.name}"
            )
