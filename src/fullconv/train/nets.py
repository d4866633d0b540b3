"""The nets of a run: made from a classifier, or grown from another net, as each stage is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from fullconv.base.errors import FullconvError
from fullconv.data.info import DatasetInfo
from fullconv.net.fcn import FCN, Sight
from fullconv.net.head import Head
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.surgery import expand_score, transplant, with_channels
from fullconv.net.trunk import LateFusion
from fullconv.papers.blueprint import DEFAULT_BACKBONE, NETS, PAPER_NETS, Blueprint
from fullconv.train.inputs import preprocessing_for
from fullconv.train.recipe import Recipe

STRIDES = {name: blueprint.stride for name, blueprint in NETS.items()}


def stride_of(model: str) -> int:
    """Return the stride of a net by its name: 8 for fcn8s and for voc-fcn8s.

    Raises:
        FullconvError: no net is called so.
    """
    return Blueprint.named(model).stride


def new_net(
    model: str,
    backbone: str | None,
    info: DatasetInfo,
    recipe: Recipe,
    weights: str | None,
    *,
    inputs: Mapping[str, int] | None = None,
    fusion: Literal["early", "late"] = "early",
    magnify: int = 1,
    reduce: int = 1,
) -> FCN:
    """Build a net for a dataset on a classifier, whose weights are imagenet, none or a file.

    Args:
        model: fcn32s, fcn16s, fcn8s, fcn4s, fcn2s or one of the paper's nets.
        backbone: the classifier's name; the paper's nets have their own.
        info: tells the classes.
        recipe: tells what is learnt.
        weights: of the classifier.
        inputs: channels of each input by name; the paper's nets have their own.
        fusion: of several inputs, likewise.
        magnify: how many times larger it sees images; the paper's nets never do.
        reduce: or how many times smaller, likewise.
    """
    given = None if weights in (None, "none") else weights
    decided = {**_for_data(info), **_learning(recipe)}
    if model in PAPER_NETS:
        return PAPER_NETS[model].build(weights=given, **decided)
    decided |= {"inputs": inputs, "fusion": fusion, "magnify": magnify, "reduce": reduce}
    net = FCN(backbone or DEFAULT_BACKBONE, stride_of(model), weights=given, **decided)
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
    fusion = fusion or source.arguments["fusion"]
    inputs = inputs or source.inputs
    common = list(zip(inputs, source.inputs, strict=False))
    if fusion == "early" and any(new != old for new, old in common):
        raise FullconvError(
            f"its inputs are {', '.join(source.inputs)}: {', '.join(inputs)} don't begin alike"
        )
    seen = {key: getattr(recipe, key) or source.arguments[key] for key in Sight._fields}
    arguments = {**source.arguments, "inputs": inputs, "fusion": fusion, **seen}
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
    for name, head in net.labelled():
        theirs = _same_head(source, name, len(net.heads))
        if theirs is not None:
            known = {label: number for number, label in enumerate(theirs.classes)}
            state = theirs.state_dict()
            if input_ is not None:
                state = {_of_input(name, input_): value for name, value in state.items()}
            expand_score(state, head, [known.get(label) for label in head.classes])


def saved_net(saved: dict[str, Any], info: DatasetInfo, recipe: Recipe) -> FCN:
    """Build the net whose training state was `saved` (its weights are restored later)."""
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
    heads = dict(source.labelled())
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
