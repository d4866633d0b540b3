"""A trunk that trains faster: its layers run as chains (see `chains`), and stay what they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from fullconv.dense.tracing import module_of
from fullconv.net.rewrites.chains import Bounds, Chain, Link
from fullconv.net.rewrites.windows import Convolution, Pooling, Window
from fullconv.net.trunk import Trunk

Net = TypeVar("Net", bound=nn.Module)

CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
LEAST = 2**15  # pixels of an image; of smaller ones, layers by themselves take less time
BOUNDS: dict[type[nn.Module], Bounds] = {nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0)}


def quicken(net: Net) -> Net:
    """Have the trunks of a net train in chains on a CPU; its layers stay in their places."""
    for part in net.modules():
        if isinstance(part, Trunk):
            part.trained = ChainedLayers(part.layers)
    return net


class ChainedLayers(fx.Interpreter):
    """Runs a graph of layers, those that read each other alone as chains.

    Layers with hooks, and whatever is no convolution, pooling, normalisation or clamping, run by
    themselves; so do all on other devices than CPUs, and of small images. That asks for an image's
    size alone: all processes that share a batch must decide alike.
    """

    def __init__(self, layers: fx.GraphModule) -> None:
        """Find the chains of `layers`, whose values' shapes are noted."""
        super().__init__(layers)
        self.layers = layers
        self.chains: dict[fx.Node, tuple[Chain, fx.Node]] = {}
        self._inside: set[fx.Node] = set()
        self._results: dict[fx.Node, Tensor] = {}
        for node in layers.graph.nodes:
            if node not in self._inside and (found := _Run.of(layers, node)) is not None:
                self.chains[node] = found.chain(), found.nodes[-1]
                self._inside.update(found.nodes)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the layers do."""
        if images.device.type != "cpu" or images[0, 0].numel() < LEAST:
            return cast("tuple[Tensor, ...]", self.layers(images))
        features: tuple[Tensor, ...] = self.run(images)
        self.env = {}
        return features

    def run_node(self, n: fx.Node) -> Any:
        """Run a chain where it begins; its last layer has the result, the others have none."""
        if n not in self._inside:
            return super().run_node(n)
        if n in self.chains:
            chain, last = self.chains[n]
            self._results[last] = chain(self.env[cast(fx.Node, n.args[0])])
        return self._results.pop(n, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Leave a copied trunk to its layers: return nothing."""


@dataclass
class _Run:
    """Layers that read each other alone, and the links that they make.

    Attributes:
        nodes: in order.
        links: those that are closed by a window.
        norm, bounds: what follows the last window.
    """

    nodes: list[fx.Node] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    norm: nn.BatchNorm2d | None = None
    bounds: Bounds | None = None

    @classmethod
    def of(cls, network: fx.GraphModule, first: fx.Node) -> _Run | None:
        """Return the longest that begins with a window at `first`; None if none does."""
        run, node = cls(), first
        while run.takes(network, node) and len(run.nodes[-1].users) == 1:
            (node,) = run.nodes[-1].users
        return run if run.links else None

    def takes(self, network: fx.GraphModule, node: fx.Node) -> bool:
        """Append a layer if it can be one of the chain; tell whether it was."""
        if window := _window(network, node):
            self.links.append(Link(self.norm, self.bounds, window))
            self.norm = self.bounds = None
            padded = isinstance(window, Convolution) and window.margins
            self.nodes += [node, *node.users] if padded else [node]
            return True
        layer = module_of(network, node)
        if layer is None or not self.links or _is_watched(layer):
            return False
        norm, bounds = _pointwise(layer)
        if norm is None and bounds is None and type(layer) is not nn.Identity:
            return False
        if (norm and (self.norm or self.bounds)) or (bounds and self.bounds):
            return False
        self.norm, self.bounds = norm or self.norm, bounds or self.bounds
        self.nodes.append(node)
        return True

    def chain(self) -> Chain:
        """Return the chain of these layers."""
        rest = [Link(self.norm, self.bounds, None)] if self.norm or self.bounds else []
        source = cast(fx.Node, self.nodes[0].args[0])
        sizes = [math.prod(node.meta["shape"]) for node in (source, *self.nodes)]
        return Chain((*self.links, *rest), max(sizes) / sizes[0])


def _is_watched(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks
    return any(hooks) or bool(layer._backward_pre_hooks)


def _pointwise(layer: nn.Module) -> tuple[nn.BatchNorm2d | None, Bounds | None]:
    """Return what a layer is: a normalisation, a clamping, both (timm has such), or neither."""
    if type(layer).__name__ == "BatchNormAct2d" and isinstance(layer, nn.BatchNorm2d):
        act = cast(nn.Module, layer.act)
        plain = all(type(each) is nn.Identity for each in (layer.drop, act))
        clamps = type(layer.drop) is nn.Identity and type(act) in BOUNDS
        return (layer, BOUNDS.get(type(act))) if plain or clamps else (None, None)
    return (layer if type(layer) is nn.BatchNorm2d else None), BOUNDS.get(type(layer))


def _window(network: fx.GraphModule, node: fx.Node) -> Window | None:
    """Return the window that a node is, with the margins that it makes for one; None: it is none.

    A node that pads and whose only reader is a convolution stands for both.
    """
    if node.target is F.pad and len(node.users) == 1:
        margins = _margins(node)
        (reader,) = node.users
        convolution = _convolution(network, reader, margins) if margins else None
        return convolution if convolution and reader.args[0] is node else None
    layer = module_of(network, node)
    if type(layer) is nn.MaxPool2d and not layer.return_indices and not _is_watched(layer):
        return Pooling(
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _pair(layer.padding),
            _pair(layer.dilation),
            layer.ceil_mode,
        )
    return _convolution(network, node, ())


def _margins(node: fx.Node) -> tuple[int, ...] | None:
    """Return how many zeros a call of ``F.pad`` adds; None if it does something else."""
    given: Any = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False))
    given |= node.kwargs
    margins = given["pad"]
    zeros = given.get("mode", "constant") == "constant" and not given.get("value")
    plain = len(margins) <= 4 and all(isinstance(each, int) and each >= 0 for each in margins)
    return tuple(margins) if zeros and plain else None


def _convolution(
    network: fx.GraphModule, node: fx.Node, margins: tuple[int, ...]
) -> Convolution | None:
    layer = module_of(network, node)
    if type(layer) is nn.Conv2d:
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if not plain or _is_watched(layer):
            return None
        tensors = partial(attrgetter("weight", "bias"), layer)
        slides = _pair(layer.stride), _pair(layer.padding), _pair(layer.dilation)
        return Convolution(tensors, *slides, layer.groups, margins)
    if node.target is not torch.conv2d:
        return None
    given: Any = dict(zip(CONVOLUTION, node.args, strict=False)) | node.kwargs
    weight, bias = given["weight"], given.get("bias")
    stored = [each for each in (weight, bias) if each is not None]
    if any(not isinstance(each, fx.Node) or each.op != "get_attr" for each in stored):
        return None
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        return None
    paths = str(weight.target), None if bias is None else str(bias.target)
    slides = _pair(given.get("stride", 1)), _pair(padding), _pair(given.get("dilation", 1))
    return Convolution(partial(_at, network, paths), *slides, given.get("groups", 1), margins)


def _at(
    network: fx.GraphModule, paths: tuple[str, str | None]
) -> tuple[Tensor | None, Tensor | None]:
    weight, bias = (None if path is None else attrgetter(path)(network) for path in paths)
    return weight, bias
