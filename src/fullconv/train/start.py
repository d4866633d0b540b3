"""What a run starts from: a classifier, a model, or a model for each input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from fullconv.base.errors import FullconvError, nearest
from fullconv.data.folder import DatasetFolder
from fullconv.net.fcn import FCN, Sight
from fullconv.net.folder import load
from fullconv.net.trunk import LateFusion
from fullconv.papers.blueprint import PAPER_NETS
from fullconv.train.inputs import chosen_inputs, joined_preprocessing
from fullconv.train.nets import grown_net, new_net, take_over
from fullconv.train.record import Settings
from fullconv.train.scale import sight

CLASSIFIER_FILES = (".safetensors", ".caffemodel")


def target_net(settings: Settings, folder: DatasetFolder) -> FCN:
    """Build the net that was asked for, as it is before any training.

    Raises:
        FullconvError: the backbone, the inputs or the weights don't fit, or can't be had, or the
            net is not trained in stages.
    """
    torch.manual_seed(settings.recipe.seed)
    model, weights = settings.model, settings.weights
    if model in PAPER_NETS:
        for key in Sight._fields:
            if getattr(settings.recipe, key) not in (None, 1):
                raise FullconvError(f"{model} sees images as they are: leave {key} out")
        _same_backbone(settings.backbone, PAPER_NETS[model].backbone, model)
        _same_inputs(settings)
        _require_stages(settings)
    by_input = models_by_input(weights)
    if by_input:
        return _joined_net(settings, folder, by_input)
    if not is_model(weights):
        return _net_on_classifier(settings, folder, weights)
    source = load(weights)
    if model in PAPER_NETS:
        net = _net_on_classifier(settings, folder, None)
        with _of(weights):
            take_over(source, net)
        return net
    _same_backbone(settings.backbone, source.arguments["trunk"], weights)
    inputs = None
    if settings.inputs:
        chosen = chosen_inputs(settings.inputs, folder)
        inputs = {name: source.inputs.get(name, channels) for name, channels in chosen.items()}
    with _of(weights):
        return grown_net(
            source,
            settings.stride,
            folder.info,
            settings.recipe,
            inputs=inputs,
            fusion=settings.fusion,
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


def _net_on_classifier(settings: Settings, folder: DatasetFolder, weights: str | None) -> FCN:
    inputs = chosen_inputs(settings.inputs, folder) if settings.inputs else None
    return new_net(
        settings.model,
        settings.backbone,
        folder.info,
        settings.recipe,
        weights,
        inputs=inputs,
        fusion=settings.fusion or "early",
        **sight(settings, folder)._asdict(),
    )


def _joined_net(settings: Settings, folder: DatasetFolder, by_input: Mapping[str, str]) -> FCN:
    """Build a net of several trunks, each from a model of its own (late fusion)."""
    net = _net_on_classifier(settings, folder, None)
    if not isinstance(net.trunk, LateFusion) or set(by_input) != set(net.inputs):
        cure = f"; --inputs {','.join(by_input)} --fusion late gives it some"
        raise FullconvError(
            f"weights {settings.weights!r}: {settings.model} has no trunks of its own for "
            f"{', '.join(by_input)}; its inputs are {', '.join(net.inputs)}"
            f"{'' if settings.model in PAPER_NETS else cure}"
        )
    expected = {}
    for name in net.inputs:
        source = load(by_input[name])
        with _of(by_input[name]):
            _same_sight(source, net)
            take_over(source, net, name)
        expected[name] = source.preprocessing
    if settings.model not in PAPER_NETS:
        net.preprocessing = joined_preprocessing(expected)
    return net


@contextmanager
def _of(model: str) -> Iterator[None]:
    """Name the model that does not fit in the message of an error that the body raises."""
    try:
        yield
    except FullconvError as error:
        raise FullconvError(f"{model}: {error}") from error


def _require_stages(settings: Settings) -> None:
    """Refuse to train in stages a net whose skips are scaled so that it trains at once."""
    net = PAPER_NETS[settings.model]
    if settings.staged and net.skip_scales:
        raise FullconvError(
            f"{net.name} is trained at once: leave --staged out, or train {net.in_stages.name} in "
            "stages"
        )


def _same_inputs(settings: Settings) -> None:
    """Refuse other inputs than those of a net of the paper, and another fusion."""
    net = PAPER_NETS[settings.model]
    if settings.inputs not in (None, tuple(net.inputs)):
        raise FullconvError(
            f"{net.name}: its inputs are {', '.join(net.inputs)}; leave --inputs out"
        )
    if settings.fusion not in (None, net.fusion):
        raise FullconvError(f"{net.name}: its fusion is {net.fusion}; leave --fusion out")


def _same_sight(source: FCN, net: FCN) -> None:
    for key, own, asked in zip(Sight._fields, source.sight, net.sight, strict=True):
        if own != asked:
            raise FullconvError(f"it sees images with {key}={own}, not {asked}: --set {key}={own}")


def _same_backbone(asked: str | None, own: str | None, source: str) -> None:
    if own is None:
        raise FullconvError(
            f"{source}: its backbone is a module of the user's own, from which only Python can "
            "build another net"
        )
    if asked not in (None, own):
        raise FullconvError(f"{source}: its backbone is {own}, not {asked}; leave --backbone out")
