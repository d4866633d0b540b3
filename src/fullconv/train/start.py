"""What a run starts from: a classifier, a model, or a model for each input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from fullconv.data.info import DatasetInfo
from fullconv.errors import FullconvError, nearest
from fullconv.fcn import FCN
from fullconv.model_folder import load
from fullconv.reference.nets import PAPER_NETS
from fullconv.train.record import Settings
from fullconv.train.stages import grown_net, new_net, take_over
from fullconv.trunk import LateFusion

CLASSIFIER_FILES = (".safetensors", ".caffemodel")


def target_net(settings: Settings, info: DatasetInfo) -> FCN:
    """Build the net that was asked for, as it is before any training.

    Raises:
        FullconvError: the backbone or the weights don't fit, or can't be had, or the net is not
            trained in stages.
    """
    torch.manual_seed(settings.recipe.seed)
    model, weights, recipe = settings.model, settings.weights, settings.recipe
    if model in PAPER_NETS:
        _same_backbone(settings.backbone, PAPER_NETS[model].trunk, model)
        _require_stages(settings)
    by_input = models_by_input(weights)
    if by_input:
        return _joined_net(settings, info, by_input)
    if not is_model(weights):
        return new_net(model, settings.backbone, info, recipe, weights)
    source = load(weights)
    if model not in PAPER_NETS:
        _same_backbone(settings.backbone, source.arguments["trunk"], weights)
        return grown_net(source, settings.stride, info, recipe)
    net = new_net(model, None, info, recipe, None)
    _fill(net, source, weights)
    return net


def advice(settings: Settings) -> str | None:
    """Return what to tell who trains a later stage by itself, from a classifier; None mostly."""
    rates = settings.recipe.stage_lr
    if settings.model not in PAPER_NETS or settings.staged or rates[0] == rates[-1]:
        return None
    if models_by_input(settings.weights) or is_model(settings.weights):
        return None
    return (
        f"{settings.model} learns at the rate of a last stage ({settings.recipe.lr:g}): start it "
        "from the coarser net (--weights MODEL), or train all stages (--staged)"
    )


def is_model(weights: str) -> bool:
    """Tell whether ``--weights`` names a model (a folder or a Hub id), not a classifier's weights.

    Raises:
        FullconvError: it names nothing at all.
    """
    if weights in ("imagenet", "none") or Path(weights).is_file():
        return False
    if Path(weights).is_dir():
        return True
    if weights.endswith(CLASSIFIER_FILES):
        raise FullconvError(f"{weights}: no such weights file")
    if weights.count("/") == 1:  # owner/name
        return True
    raise FullconvError(
        f"weights {weights!r} are neither imagenet nor none, nor a file or model folder"
        f"{nearest(weights, ('imagenet', 'none'))}"
    )


def models_by_input(weights: str) -> dict[str, str]:
    """Read ``color=MODEL,hha=MODEL``; empty where `weights` is not of this form."""
    pairs = [each.partition("=") for each in weights.split(",")]
    if Path(weights).exists() or not all(name and model for name, _, model in pairs):
        return {}
    return {name.strip(): model.strip() for name, _, model in pairs}


def _joined_net(settings: Settings, info: DatasetInfo, by_input: Mapping[str, str]) -> FCN:
    """Build a net of several trunks, each from a model of its own (late fusion)."""
    net = new_net(settings.model, settings.backbone, info, settings.recipe, None)
    if not isinstance(net.trunk, LateFusion) or set(by_input) != set(net.inputs):
        raise FullconvError(
            f"weights {settings.weights!r}: {settings.model} has no trunks of its own for "
            f"{', '.join(by_input)}; its inputs are {', '.join(net.inputs)}"
        )
    for name, model in by_input.items():
        _fill(net, load(model), model, name)
    return net


def _fill(net: FCN, source: FCN, model: str, input_: str | None = None) -> None:
    """Let `net` take over what `source`, read from `model`, learnt."""
    try:
        take_over(source, net, input_)
    except FullconvError as error:
        raise FullconvError(f"{model}: {error}") from error


def _require_stages(settings: Settings) -> None:
    """Refuse to train in stages a net whose skips are scaled so that it trains at once."""
    net = PAPER_NETS[settings.model]
    if settings.staged and net.skip_scales:
        like = net.trunk, net.stride, net.heads
        in_stages = next(
            other.name
            for other in PAPER_NETS.values()
            if (other.trunk, other.stride, other.heads) == like and not other.skip_scales
        )
        raise FullconvError(
            f"{net.name} is trained at once: leave --staged out, or train {in_stages} in stages"
        )


def _same_backbone(asked: str | None, own: str | None, source: str) -> None:
    if own is None:
        raise FullconvError(
            f"{source}: its backbone is a module of the user's own, from which only Python can "
            "build another net"
        )
    if asked not in (None, own):
        raise FullconvError(f"{source}: its backbone is {own}, not {asked}; leave --backbone out")
