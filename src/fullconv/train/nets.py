"""What is trained, and what it starts from: a classifier, a model, a model for each input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fullconv.base.errors import FullconvError, nearest
from fullconv.base.portions import is_finite
from fullconv.data.folder import DatasetFolder, Input
from fullconv.data.info import COLOR, DatasetInfo
from fullconv.geometry import GeometryError
from fullconv.net.fcn import FCN, load
from fullconv.net.head import Head
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.surgery import (
    COLORS,
    expand_score,
    show_colours,
    transplant,
    with_channels,
)
from fullconv.net.trunk import LateFusion
from fullconv.net.weights.torch_file import TORCH_FILES
from fullconv.papers.blueprint import NYUD_LOG_DEPTH, Blueprint
from fullconv.train.recipe import Recipe
from fullconv.train.resolution import Judge, Resolution, judged, resolutions
from fullconv.train.settings import TrainSettings

CLASSIFIER_FILES = (".safetensors", ".caffemodel", *TORCH_FILES)
SPREAD_OF_LOG_DISTANCE = 0.5  # standard deviation of millimetres' logarithm, indoors and outdoors
SPREAD_OF_BYTES = 58.0  # of photographs' colours: torchvision's std times 255


def target_net(settings: TrainSettings, folder: DatasetFolder, judge: Judge = judged) -> FCN:
    """Build the net that was asked for, as it is before any training.

    Args:
        settings: of the run.
        folder: the dataset.
        judge: tells its fingerprint (see `resolutions`).

    Raises:
        FullconvError: the backbone, the inputs or the weights don't fit, can't be had or hold NaN,
            or the net is not trained in stages.
    """
    net = _target_net(settings, folder, judge)
    require_finite(net, settings.weights)
    return net


def require_finite(net: FCN, source: str) -> None:
    """Refuse a net with weights that are infinite or NaN, from which no training can start.

    Raises:
        FullconvError: it has some; the message names the first, and the net's `source`.
    """
    if name := not_finite(net):
        raise FullconvError(
            f"{source}: holds infinite numbers or NaN ({name}), from which nothing can be learnt; "
            "name other weights"
        )


def not_finite(net: FCN) -> str:
    """Return the name of a net's first tensor that holds infinite numbers or NaN, or ""."""
    tensors = net.state_dict().items()
    return next((name for name, value in tensors if not is_finite(value)), "")


def _target_net(settings: TrainSettings, folder: DatasetFolder, judge: Judge) -> FCN:
    torch.manual_seed(settings.recipe.seed)
    weights, fixed = settings.weights, settings.blueprint.fixed
    if fixed:
        _require_own(settings)
    _require_strides(settings)
    by_input = models_by_input(weights)
    if by_input:
        return _joined_net(settings, folder, judge, by_input)
    if not is_model(weights):
        return _net_on_classifier(settings, folder, judge, weights)
    source = load(weights, trust=settings.trust)
    if fixed:
        net = _net_on_classifier(settings, folder, judge, None)
        with _of(weights):
            take_over(source, net)
        return net
    _same_backbone(settings.backbone, source.arguments.trunk, weights)
    inputs = None
    if settings.inputs:
        chosen = chosen_inputs(settings.inputs, folder)
        inputs = {name: source.inputs.get(name, channels) for name, channels in chosen.items()}
    with _of(weights):
        return grown_net(
            source,
            min(source.stride, settings.stride) if settings.may_be_finer else settings.stride,
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


def _net_on_classifier(
    settings: TrainSettings, folder: DatasetFolder, judge: Judge, weights: str | None
) -> FCN:
    first = next(iter(folder.info.inputs))
    named = settings.inputs or ((first,) if folder.info.has_bands else None)
    inputs = chosen_inputs(named, folder) if named and not settings.blueprint.fixed else None
    build = partial(
        new_net,
        settings.blueprint,
        settings.backbone,
        folder.info,
        settings.recipe,
        weights,
        inputs=inputs,
        fusion=settings.fusion or "early",
    )
    net = _first_that_fits(build, resolutions(settings, folder, judge))
    if inputs and next(iter(inputs)) == first and net.arguments.fusion == "early":
        _show_colours(net, folder.input(first))
    return net


def _first_that_fits(build: Callable[..., FCN], ways: Sequence[Resolution]) -> FCN:
    """Build a net in the first way for which the trunk has layers that fit, or else in the last."""
    *finer, surest = ways
    for each in finer:
        with suppress(GeometryError):
            return build(resolution=each)
    return build(resolution=surest)


def _show_colours(net: FCN, first: Input) -> None:
    """Let the filters of colours see the bands that are shown as these, if the input has bands."""
    if len(first.show) == COLORS:
        layer = next(each for each in net.trunk.modules() if isinstance(each, nn.Conv2d))
        show_colours(layer, first.show, net.preprocessing.channels)
    if first.bands:
        net.preprocessing = replace(net.preprocessing, channels="RGB")  # as the bands lie


def _joined_net(
    settings: TrainSettings, folder: DatasetFolder, judge: Judge, by_input: Mapping[str, str]
) -> FCN:
    """Build a net of several trunks, each from a model of its own (late fusion)."""
    net = _net_on_classifier(settings, folder, judge, None)
    if not isinstance(net.trunk, LateFusion) or set(by_input) != set(net.inputs):
        cure = f"; --inputs {','.join(by_input)} --fusion late gives it some"
        raise FullconvError(
            f"weights {settings.weights!r}: {settings.model} has no trunks of its own for "
            f"{', '.join(by_input)}; its inputs are {', '.join(net.inputs)}"
            f"{'' if settings.blueprint.fixed else cure}"
        )
    expected = {}
    for name in net.inputs:
        source = load(by_input[name], trust=settings.trust)
        with _of(by_input[name]):
            _require_scale(source, net)
            take_over(source, net, name)
        expected[name] = source.preprocessing
    if not settings.blueprint.fixed:
        net.preprocessing = joined_preprocessing(expected)
    return net


@contextmanager
def _of(model: str) -> Iterator[None]:
    """Name the model that does not fit in the message of an error that the body raises."""
    try:
        yield
    except FullconvError as error:
        raise FullconvError(f"{model}: {error}") from error


def _require_own(settings: TrainSettings) -> None:
    """Refuse for a net whose parts are fixed, as the paper's are, what would change them."""
    net, recipe = settings.blueprint, settings.recipe
    for key, asked in (("magnify", recipe.magnify), ("reduce", recipe.reduce)):
        if asked not in (None, 1):
            raise FullconvError(f"{net.name} sees images as they are: leave {key} out")
    _same_backbone(settings.backbone, net.backbone, net.name)
    if settings.inputs not in (None, tuple(net.inputs)):
        raise FullconvError(
            f"{net.name}: its inputs are {', '.join(net.inputs)}; leave --inputs out"
        )
    if settings.fusion not in (None, net.fusion):
        raise FullconvError(f"{net.name}: its fusion is {net.fusion}; leave --fusion out")
    if settings.staged and net.skip_scales:
        raise FullconvError(
            f"{net.name} is trained at once: leave --staged out, or train {net.in_stages.name} in "
            "stages"
        )


def _require_strides(settings: TrainSettings) -> None:
    """Refuse a coarsest or finest stride that the model cannot have."""
    recipe, net = settings.recipe, settings.blueprint
    for key, asked in (("coarsest", recipe.coarsest), ("finest", recipe.finest)):
        if asked is not None and net.fixed:
            raise FullconvError(f"{net.name} has skips of its own: leave {key} out")
        if asked is not None and settings.staged:
            cure = f"name fcn{asked}s there and " if key == "finest" else ""
            raise FullconvError(f"--staged trains the nets up to --model: {cure}leave {key} out")
    if recipe.finest is not None and recipe.finest > net.stride:
        raise FullconvError(
            f"finest={recipe.finest} is coarser than {net.name}: --model fcn{recipe.finest}s"
        )
    if recipe.coarsest is not None and recipe.coarsest < settings.stride:
        raise FullconvError(
            f"coarsest={recipe.coarsest} is finer than the finest stride, {settings.stride}"
        )


def _require_scale(source: FCN, net: FCN) -> None:
    """Refuse a trunk that saw images larger or smaller than the net is to."""
    for key in ("magnify", "reduce"):
        own, asked = (getattr(each.arguments, key) for each in (source, net))
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


# Made from a classifier, or grown from another net ------------------------------------------------


def new_net(
    blueprint: Blueprint,
    backbone: str | None,
    info: DatasetInfo,
    recipe: Recipe,
    weights: str | None,
    *,
    resolution: Resolution,
    inputs: Mapping[str, int] | None = None,
    fusion: Literal["early", "late"] = "early",
) -> FCN:
    """Build a net for a dataset on a classifier, whose weights are imagenet, none or a file.

    Args:
        blueprint: of the net; one whose parts are fixed goes by it alone.
        backbone: the classifier's name; None: the blueprint's.
        info: tells the classes.
        recipe: tells what is learnt.
        weights: of the classifier.
        resolution: how finely it sees and scores images.
        inputs: channels of each input by name; None: the blueprint's.
        fusion: of several inputs.
    """
    decided = {**_for_data(info), **_learning(recipe)}
    decided["weights"] = None if weights == "none" else weights
    if blueprint.fixed:
        return blueprint.build(**decided)
    net = blueprint.build(
        trunk=backbone or blueprint.backbone,
        stride=resolution.stride,
        coarsest=recipe.coarsest or resolution.coarsest,
        scale=resolution.scale,
        inputs=inputs or blueprint.inputs,
        fusion=fusion,
        **decided,
    )
    first, channels = next(iter(net.inputs.items()))
    colours = {first: 3} if channels == 3 else {}
    net.preprocessing = preprocessing_for(net.inputs, net.preprocessing, colours)
    return net


def grown_net(
    source: FCN,
    stride: int,
    info: DatasetInfo,
    recipe: Recipe,
    *,
    inputs: Mapping[str, int] | None = None,
    fusion: Literal["early", "late"] | None = None,
) -> FCN:
    """Build a net of another stride, or for other classes, that takes over what `source` learnt.

    Args:
        source: stays as it is.
        stride: of the net.
        info: tells the classes.
        recipe: tells what is learnt.
        inputs: channels of each input by name; None: those of `source`.
        fusion: of several inputs; None: that of `source`.

    Raises:
        FullconvError: the trunks differ, or the inputs by more than that the last ones are new,
            or gone.
    """
    fusion = fusion or source.arguments.fusion
    inputs = inputs or source.inputs
    common = list(zip(inputs, source.inputs, strict=False))
    if fusion == "early" and any(new != old for new, old in common):
        raise FullconvError(
            f"its inputs are {', '.join(source.inputs)}: {', '.join(inputs)} don't begin alike"
        )
    arguments = source.arguments.to_dict() | {"inputs": inputs, "fusion": fusion}
    asked = ("coarsest", "magnify", "reduce")
    arguments |= {key: getattr(recipe, key) or arguments.get(key) for key in asked}
    preprocessing = preprocessing_for(inputs, source.preprocessing, source.inputs)
    net = _like(arguments, preprocessing, stride, info, recipe)
    take_over(source, net)
    return net


def take_over(source: FCN, net: FCN, input_: str | None = None) -> None:
    """Transplant what `source` learnt into `net`, in place.

    That is the trunk, whose first layer may have further channels, and the scores and upscores
    that both nets have, for the classes that both know by name; the others stay as they are
    (scores at zero). Heads are matched by name, or as the only ones.

    Args:
        source: stays as it is.
        net: is filled.
        input_: of several trunks (late fusion), the input whose trunk `source` is to fill.

    Raises:
        FullconvError: the trunks differ.
    """
    _take_trunk(source.trunk, net.trunk if input_ is None else net.trunk.get_submodule(input_))
    for name, head in net.heads.items():
        theirs = _same_head(source, name, len(net.heads))
        if theirs is not None:
            known = {label: number for number, label in enumerate(theirs.classes)}
            state = theirs.state_dict()
            if input_ is not None:
                state = {_of_input(name, input_): value for name, value in state.items()}
            expand_score(state, head, [known.get(label) for label in head.classes])


def described(net: FCN) -> dict[str, Any]:
    """Return what another process rebuilds a net from: plain values, and its weights."""
    return {
        "net": net.state_dict(),
        "arguments": net.arguments.to_dict(),
        "preprocessing": net.preprocessing.to_dict(),
    }


def saved_net(saved: dict[str, Any], info: DatasetInfo, recipe: Recipe) -> FCN:
    """Build the net that was `described` (its weights are restored later)."""
    arguments = saved["arguments"]
    preprocessing = Preprocessing.from_dict(saved["preprocessing"])
    return _like(arguments, preprocessing, arguments["stride"], info, recipe)


def _take_trunk(source: nn.Module, target: nn.Module) -> None:
    """Transplant a trunk, wholly."""
    if isinstance(target, LateFusion) and not isinstance(source, LateFusion):
        named = ",".join(f"{name}=MODEL" for name in target.channels)
        raise FullconvError(
            f"the net has a trunk for each of {', '.join(target.channels)}: --weights {named} says "
            "what each starts from"
        )
    done = transplant(source, target)
    unlike = [*done.missing, *(name for name in done.misfit if not _widened(source, target, name))]
    if unlike:
        raise FullconvError(f"the trunk's {unlike[0]} can't be taken over from the source")


def _widened(source: nn.Module, target: nn.Module, name: str) -> bool:
    """Fill a convolution's weights where only its input channels differ; tell whether they do."""
    path, _, kind = name.rpartition(".")
    theirs, own = source.get_submodule(path), target.get_submodule(path)
    if kind != "weight" or not isinstance(theirs, nn.Conv2d) or not isinstance(own, nn.Conv2d):
        return False
    if theirs.groups != 1 or theirs.weight[:, :1].shape != own.weight[:, :1].shape:
        return False
    own.load_state_dict(with_channels(theirs, own.in_channels).state_dict())
    return True


def _same_head(source: FCN, name: str, count: int) -> Head | None:
    heads = dict(source.heads.items())
    if count == len(heads) == 1:
        return source.head
    return heads.get(name)


def _of_input(name: str, input_: str) -> str:
    """Return the name of a score's tensor among those of several trunks: scores.32.hha.bias."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.{input_}.{kind}" if layer.startswith("scores.") else name


def _like(
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing,
    stride: int,
    info: DatasetInfo,
    recipe: Recipe,
) -> FCN:
    return FCN(
        **{**arguments, "stride": stride, **_learning(recipe)},
        preprocessing=preprocessing,
        **_for_data(info),
    )


def _for_data(info: DatasetInfo) -> dict[str, Any]:
    """Return the arguments of `FCN` that a dataset decides."""
    return {
        "heads": {name: head.classes for name, head in info.heads.items()},
        "palette": {name: head.palette for name, head in info.heads.items() if head.palette},
        "ignore_index": info.ignore_index,
    }


def _learning(recipe: Recipe) -> dict[str, Any]:
    return {
        "learn_upscores": recipe.learn_upscores != "none",
        "learn_last_upscore": recipe.learn_upscores == "all",
    }


# What it sees of each scene -----------------------------------------------------------------------


def chosen_inputs(names: Sequence[str], folder: DatasetFolder) -> dict[str, int]:
    """Return the channels of the inputs that were asked for, by name.

    Raises:
        FullconvError: the dataset has no such input, or one is named twice.
    """
    own = [folder.info.input_name(name) for name in names]
    if len(set(own)) < len(own):
        raise FullconvError(f"inputs {','.join(names)}: name each of the dataset's once")
    return {name: folder.input(name).channels for name in names}


def unseen_inputs(inputs: Mapping[str, int], folder: DatasetFolder) -> tuple[str, ...]:
    """Return the dataset's inputs that a net of `inputs` leaves out."""
    seen = {folder.info.input_name(name) for name in inputs}
    return tuple(name for name in folder.info.inputs if name not in seen)


def preprocessing_for(
    inputs: Mapping[str, int], own: Preprocessing, known: Mapping[str, int]
) -> Preprocessing:
    """Return what a net of `inputs` expects that starts from a net or classifier of others.

    Inputs that are new to it, if they hold bytes, are treated as its colours are on average. If
    they hold distances in millimetres (one channel), it gets their logarithm, centred as
    NYUDv2's and as widely spread as the colours.

    Args:
        inputs: channels by name.
        own: what the net or classifier expects.
        known: its inputs; a classifier's is one of three channels, whatever its name.
    """
    places = dict(zip(known, (0, *accumulate(known.values())), strict=False))
    average = sum(own.mean[:3]) / len(own.mean[:3]), sum(own.std[:3]) / len(own.std[:3])
    distance = (
        NYUD_LOG_DEPTH * own.scale,
        average[1] * SPREAD_OF_LOG_DISTANCE / SPREAD_OF_BYTES,
    )
    values: list[tuple[float, float]] = []
    logarithmic: list[int] = []
    for name, channels in inputs.items():
        start = len(values)
        if name in known:
            kept = range(places[name], places[name] + channels)
            values += [(own.mean[at], own.std[at]) for at in kept]
            logarithmic += [start + at - kept.start for at in kept if at in own.logarithmic]
        else:
            values += [distance if channels == 1 else average] * channels
            logarithmic += [start] if channels == 1 else []
    mean, std = zip(*values, strict=True)
    return replace(own, mean=mean, std=std, logarithmic=tuple(logarithmic))


def in_ranges(
    own: Preprocessing, inputs: Mapping[str, Input], ranges: Mapping[str, tuple[float, float]]
) -> Preprocessing:
    """Return what a net expects some of whose inputs use a range of values that was measured.

    The input "color" is read in its range, as bytes. Of further inputs the values are kept, so that
    means and deviations take the range in. Distances (16-bit, one band) are what they are, and so
    is what `own` knows a range of already.

    Args:
        own: what the net expects were they bytes.
        inputs: of the dataset, by the net's names.
        ranges: by those names, the values that are to be seen as 0 and 255.
    """
    mean, std, logarithmic = list(own.mean), list(own.std), set(own.logarithmic)
    colour = sum(own.mean[:3]) / len(own.mean[:3]), sum(own.std[:3]) / len(own.std[:3])
    for name, places in _places(inputs).items():
        each = inputs[name]
        distances = each.channels == 1 and each.kind != "f4"
        if name in own.bands:
            continue
        if distances or each.name == COLOR or name in own.ranges or name not in ranges:
            continue
        low, high = ranges[name]
        factor = 255 / (high - low)
        for at in places:
            middle, spread = colour if at in logarithmic else (mean[at], std[at])
            mean[at], std[at] = low * own.scale + middle / factor, spread / factor
            logarithmic.discard(at)
    return replace(
        own,
        mean=tuple(mean),
        std=tuple(std),
        logarithmic=tuple(sorted(logarithmic)),
        ranges=dict(ranges),
    )


def in_bands(
    own: Preprocessing,
    inputs: Mapping[str, Input],
    spreads: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Preprocessing:
    """Return what a net expects some of whose inputs hold bands: each by its mean and deviation.

    What `own` knows already stays: the net has learnt from that.

    Args:
        own: what the net expects were they bytes.
        inputs: of the dataset, by the net's names.
        spreads: by those names, the means and the deviations that were measured.
    """
    mean, std, logarithmic = list(own.mean), list(own.std), set(own.logarithmic)
    bands, show = dict(own.bands), own.show
    for name, places in _places(inputs).items():
        if name in own.bands or name not in spreads:
            continue
        means, deviations = spreads[name]
        own_channels = slice(places.start, places.stop)
        mean[own_channels] = [value * own.scale for value in means]
        std[own_channels] = [value * own.scale for value in deviations]
        logarithmic -= set(places)
        bands[name], show = inputs[name].bands, inputs[name].show
    return replace(
        own,
        mean=tuple(mean),
        std=tuple(std),
        logarithmic=tuple(sorted(logarithmic)),
        bands=bands,
        show=show,
    )


def _places(inputs: Mapping[str, Input]) -> dict[str, range]:
    """Return which of a net's channels each input has, by its name; all follow each other."""
    ends = accumulate(each.channels for each in inputs.values())
    return {
        name: range(end - each.channels, end)
        for (name, each), end in zip(inputs.items(), ends, strict=True)
    }


def joined_preprocessing(parts: Mapping[str, Preprocessing]) -> Preprocessing:
    """Return what a net expects each of whose trunks is another net's, by its input.

    Raises:
        FullconvError: one that is not the first expects blue before red, which a net does of its
            first input alone.
    """
    first = next(iter(parts.values()))
    mean: list[float] = []
    std: list[float] = []
    logarithmic: list[int] = []
    for name, part in parts.items():
        if part is not first and part.channels != "RGB" and len(part.mean) >= 3:
            raise FullconvError(
                f"input {name}: its model expects BGR, which a net can only of its first input"
            )
        factor = first.scale / part.scale
        logarithmic += [len(mean) + at for at in part.logarithmic]
        mean += [value * factor for value in part.mean]
        std += [value * factor for value in part.std]
    return replace(first, mean=tuple(mean), std=tuple(std), logarithmic=tuple(logarithmic))
