"""From the authors' weight files, and those of pytorch-fcn, to models of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fullconv.base.errors import FullconvError
from fullconv.base.files import replacing
from fullconv.net.fcn import FCN
from fullconv.net.trunk import LateFusion, Tap
from fullconv.net.weights.caffe_layers import fill, read_classifier, weighted_layers
from fullconv.net.weights.caffemodel import WeightedLayer, read_layers
from fullconv.net.weights.torch_file import read_checkpoint
from fullconv.papers.blueprint import Blueprint

CAFFE = "caffe:"
CHECKPOINTS = {".pth", ".pt", ".tar"}
BGRD = "_bgrd"  # what the reference appends to the first layer's name when depth joins the colours


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        layers: with weights, in the net.
        parameters: numbers in them.
        heads: names of the classes by head; empty for a classifier's weights.
        inputs: names of the inputs.
    """

    layers: int
    parameters: int
    heads: Mapping[str, tuple[str, ...]]
    inputs: tuple[str, ...]


def convert_file(source: Path, name: str, out: Path) -> Converted:
    """Convert a ``.caffemodel``, or a ``.pth`` of pytorch-fcn.

    Args:
        source: the file.
        name: of the paper's net that it holds ("voc-fcn8s"), or of a classifier ("caffe:vgg16").
        out: the model folder to write; for a classifier the safetensors file (for ``--weights``).

    Raises:
        FullconvError: unknown name; no whole file; weights of another net; `out` is taken.
    """
    if name.startswith(CAFFE):
        return _convert_classifier(source, name, out)
    published = Blueprint.of_paper(name)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FullconvError(f"{out}: exists already; name a new folder")
    if published.released and not source.exists():
        raise FullconvError(f"{source}: no such file; fetch {published.released}")
    torch_wrote_it = source.suffix in CHECKPOINTS
    # All of the file is walked before the net is built, which takes half a minute at worst. The
    # values stay where they are, mapped into memory.
    layers = list(read_checkpoint(source) if torch_wrote_it else read_layers(source))
    net = published.build()
    load_layers(net, caffe_names(net), layers, source, name, scale_layers=not torch_wrote_it)
    net.save_pretrained(out)
    heads = {head: labelling.classes for head, labelling in net.heads.items()}
    return _converted(net, heads, tuple(net.inputs))


def load_layers(
    net: FCN,
    names: Mapping[str, str],
    layers: Iterable[WeightedLayer],
    source: Path,
    model: str | None = None,
    *,
    scale_layers: bool = True,
) -> None:
    """Fill a net from Caffe's layers, in place (see `caffe_layers.fill`).

    Args:
        net: with the paper's layers, on the CPU.
        names: the net's modules by Caffe's names, as `caffe_names` gives them.
        layers: all of a file.
        source: the file, for messages.
        model: the net's name in the paper, for messages.
        scale_layers: whether the file has layers for skips' scales. Caffe's files do; pytorch-fcn
            has them in its code.

    Raises:
        FullconvError: layers are missing, surplus or misshapen, or scale skips otherwise.
    """
    scales = net.arguments.skip_scales
    factors = {
        f"scale_{tap.layer}": (scales[tap.stride], tap.channels)
        for tap in net.taps
        if scale_layers and tap.stride in scales
    }
    fill(
        net.state_dict(),
        names,
        layers,
        source,
        what=model or "the net",
        advice="it is a classifier, from which a training may start: fullconv train "
        f"{f'--model {model} ' if model else ''}--weights {source}",
        factors=factors,
    )


def caffe_names(net: FCN) -> dict[str, str]:
    """Return the paths of a net's modules that have weights, by the names of Caffe's layers.

    Where there are several heads, the authors append a head's name to that of its layers
    (``score_fr_sem``). Where each input has a trunk, they append the input's (``conv1_1color``,
    ``score_frhha``).
    """
    names: dict[str, str] = {}
    late = isinstance(net.trunk, LateFusion)
    for each in net.inputs if late else ("",):
        trunk = f"trunk.{each}.layers" if each else "trunk.layers"
        layers = weighted_layers(net.get_submodule(trunk))
        names |= {layer.replace(".", "/") + each: f"{trunk}.{layer}" for layer in layers}
    if not late and len(net.inputs) > 1:
        first = next(iter(names))
        names[first + BGRD] = names.pop(first)
    for head in net.heads:
        names |= _head_names(net, head, f"_{head}" if len(net.heads) > 1 else "")
    return names


def _head_names(net: FCN, head: str, suffix: str) -> Iterator[tuple[str, str]]:
    inputs = net.inputs if isinstance(net.trunk, LateFusion) else ()
    for tap, finer in zip(net.taps, (*net.taps[1:], None), strict=True):
        score = "score_fr" if tap is net.taps[0] else f"score_{tap.layer}"
        path = f"heads.{head}.scores.{tap.stride}"
        if inputs:
            yield from ((score + each + suffix, f"{path}.{each}") for each in inputs)
        else:
            yield score + suffix, path
        upscore = f"heads.{head}.upscores.{tap.stride}-{finer.stride if finer else 1}"
        yield _upscore_name(net, tap, finer) + suffix, upscore


def _upscore_name(net: FCN, tap: Tap, finer: Tap | None) -> str:
    if finer is None:  # the last one is named for its factor where there are others
        return "upscore" if len(net.taps) == 1 else f"upscore{tap.stride}"
    return "upscore2" if tap is net.taps[0] else f"upscore_{tap.layer}"


def _convert_classifier(source: Path, name: str, out: Path) -> Converted:
    import json

    from safetensors.torch import save_file

    from fullconv.net.classifiers import architecture_of, build_classifier

    with torch.device("meta"):  # only names and shapes are needed
        classifier, preprocessing = build_classifier(name)
    if out.suffix != ".safetensors" or out.exists():
        raise FullconvError(f"{out}: name a new file that ends in .safetensors")
    if source.suffix in CHECKPOINTS:
        raise FullconvError(
            f"{source}: of a classifier only Caffe's own file is converted, a .caffemodel"
        )
    state = read_classifier(source, classifier)
    expected = {key: json.dumps(value) for key, value in preprocessing.to_dict().items()}
    with replacing(out) as temporary:
        save_file(state, temporary, {"architecture": architecture_of(name), **expected})
    return _converted(classifier, {}, ("color",))


def _converted(
    network: nn.Module, heads: Mapping[str, tuple[str, ...]], inputs: tuple[str, ...]
) -> Converted:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Converted(len(weighted_layers(network)), parameters, heads, inputs)
