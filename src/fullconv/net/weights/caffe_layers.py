"""Caffe's layers into a network's tensors: every shape is checked, nothing is left over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.base.errors import FullconvError
from fullconv.net.caffe_classifiers import GoogLeNet
from fullconv.net.weights.caffemodel import Blob, WeightedLayer, read_layers

CLASSIFIERS_LAST = {"fc8", "loss3/classifier"}  # the layers that only a classifier has
MOST_NAMED = 3  # layers in a message
LONGEST_NAME = 80  # characters


def weighted_layers(network: nn.Module) -> list[str]:
    """Return the paths of the modules that have weights of their own."""
    return [path for path, module in network.named_modules() if module._parameters]


def fill(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    layers: Iterable[WeightedLayer],
    source: Path,
    *,
    what: str,
    advice: str = "",
    factors: Mapping[str, tuple[float, int]] | None = None,
    spare: tuple[str, ...] = (),
) -> None:
    """Copy the blobs of Caffe's layers into a state dict, in place.

    A dense layer's weights fit the convolution that it becomes. A deconvolution's must treat each
    class by itself: a full kernel C x C x k x k is taken if only its diagonal differs from zero.

    Args:
        state: float32 tensors on the CPU.
        names: of each layer to fill, Caffe's name -> the path in `state`. Layers without blobs
            (data, losses, crops) may stand in the file as well.
        layers: with their blobs.
        source: the file that they are from, for messages.
        what: the network, for messages.
        advice: what to do with a classifier's weights where others are due.
        factors: of each Scale layer, the constant and the channels that the network has built in.
        spare: beginnings of the names of layers that the network has no use for.

    Raises:
        FullconvError: layers are missing, surplus, or of other shapes than the network's.
    """
    factors = factors or {}
    found: set[str] = set()
    surplus, unfit = [], []
    for layer in layers:
        if not layer.blobs or layer.name.startswith(spare):
            continue
        try:
            if layer.name in found:
                raise _UnfitError(f"{_shown(layer.name)} stands there twice")
            found.add(layer.name)
            if layer.name in names:
                _fill_layer(state, names[layer.name], layer)
            elif layer.name in factors:
                _check_factor(layer, *factors[layer.name])
            else:
                surplus.append(_shown(layer.name))
        except _UnfitError as error:
            unfit.append(str(error))
    missing = [name for name in (*names, *factors) if name not in found]
    faults = (("lacks", missing), ("also has", surplus), ("does not fit:", unfit))
    told = [f"{verb} {_enumerated(those)}" for verb, those in faults if those]
    if told:
        hint = f"; {advice}" if advice and CLASSIFIERS_LAST.intersection(surplus) else ""
        raise FullconvError(f"{source}: not {what}: it {'; it '.join(told)}{hint}")


def read_classifier(path: Path, classifier: nn.Module) -> dict[str, Tensor]:
    """Read a caffemodel's weights for one of Caffe's classifiers (see `caffe.classifiers`).

    The heads that GoogLeNet is trained with are passed over.

    Returns:
        The whole state of `classifier`, which itself is left as it is (and may be on "meta").

    Raises:
        FullconvError: no whole caffemodel, or one of another network.
    """
    own = classifier.state_dict()
    state = {name: torch.empty(value.shape, device="cpu") for name, value in own.items()}
    names = {layer.replace(".", "/"): layer for layer in weighted_layers(classifier)}
    spare = ("loss1/", "loss2/") if isinstance(classifier, GoogLeNet) else ()
    what = f"Caffe's {type(classifier).__name__}"
    fill(state, names, read_layers(path), path, what=what, spare=spare)
    return state


class _UnfitError(ValueError):
    """A layer is not as the network has it; the message names both."""


def _fill_layer(state: Mapping[str, Tensor], path: str, layer: WeightedLayer) -> None:
    targets = [state[key].detach() for key in (f"{path}.weight", f"{path}.bias") if key in state]
    if len(layer.blobs) != len(targets):
        raise _UnfitError(f"{layer.name} has {len(layer.blobs)} blobs, not {len(targets)}")
    for blob, target in zip(layer.blobs, targets, strict=True):
        shape, own = blob.values.shape, tuple(target.shape)
        classes, *kernel = own
        if "upscores" in path.split(".") and shape == (classes, classes, *kernel[1:]):
            _fill_diagonal(layer.name, blob, target)
        elif _bare(shape) in (_bare(own), _bare((classes, math.prod(kernel)))):
            assert target.is_contiguous()
            blob.copy_to(target.numpy())
        else:
            raise _UnfitError(f"{layer.name} is {_sizes(shape)}, the net's {_sizes(own)}")


def _fill_diagonal(name: str, blob: Blob, target: Tensor) -> None:
    each = np.arange(len(target))
    diagonal = blob.values[each, each]
    mixing = np.count_nonzero(blob.values) - np.count_nonzero(diagonal)
    if mixing:
        raise _UnfitError(
            f"{name} mixes classes ({mixing} weights off its diagonal are not zero), where "
            "fullconv's upscores treat each by itself"
        )
    target.numpy()[:, 0] = diagonal


def _check_factor(layer: WeightedLayer, factor: float, channels: int) -> None:
    values = layer.blobs[0].values
    if len(layer.blobs) != 1 or _bare(values.shape) != _bare((channels,)):
        raise _UnfitError(f"{layer.name} is not {channels} factors, one a channel")
    if not np.allclose(values, factor, rtol=1e-6, atol=0):
        low, high = values.min(), values.max()
        raise _UnfitError(f"{layer.name} is {low:g} to {high:g}, the net's {factor:g} throughout")


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without leading ones, which old files add up to four axes."""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _shown(name: str) -> str:
    """Return a layer's name as it is safe to print: a file may hold any."""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ascii(name[:LONGEST_NAME])


def _enumerated(items: Sequence[str]) -> str:
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
