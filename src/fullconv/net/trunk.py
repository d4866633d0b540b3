"""The trunk: a convolutionalised classifier without its last layer, tapped at several strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fullconv.base.errors import FullconvError, nearest
from fullconv.dense.grids import LayerGrid, NotConvolutionalError, layer_grids, layer_name
from fullconv.dense.layers import densify, keep
from fullconv.dense.tracing import cut_points, module_of, note_shapes, trace
from fullconv.geometry import GeometryError, Grid
from fullconv.net import caffe_classifiers as caffe
from fullconv.net.surgery import with_channels

STRIDES = (32, 16, 8, 4, 2)
MOST_STRIDE, MOST_REACH = 128, 10_000  # pixels; no classifier comes near


class StrideError(GeometryError):
    """A classifier has no layer at a stride that was asked for."""


@dataclass(frozen=True)
class Tap:
    """A layer whose features are scored.

    Attributes:
        stride: pixels between its cells.
        layer: its name in the classifier.
        channels: of its features.
        vertical, horizontal: its grids along H and W.
    """

    stride: int
    layer: str
    channels: int
    vertical: Grid
    horizontal: Grid


class Trunk(nn.Module):
    """Yields a classifier's features at its coarsest stride, if it isn't cut off, and finer ones.

    Attributes:
        taps: coarsest first.
        layers: the graph of layers; parameters keep the classifier's names.
    """

    def __init__(
        self,
        classifier: nn.Module,
        finest: int,
        input_size: int,
        skips: Mapping[int, str],
        *,
        coarsest: int | None = None,
        channels: int = 3,
        padding: int | None = None,
    ) -> None:
        """Take over `classifier` (its modules become the trunk's).

        Args:
            classifier: from N x 3 x H x W to N x classes; any that `convolutionalize` takes.
            finest: the finest stride to tap: 32, 16, 8, 4 or 2.
            input_size: native size of the classifier's input in pixels.
            skips: names of layers to tap instead of the default ones, by stride.
            coarsest: the coarsest stride to tap, if there are coarser ones, after which no layer
                is left; at least `finest`. None: the classifier's.
            channels: of the images; see `surgery.with_channels`.
            padding: of the first convolution, in pixels, in place of its own; hidden dense layers
                are not padded then, as in the paper's nets. None: every layer keeps its own.

        Raises:
            StrideError: the classifier has no layer at `finest`.
            FullconvError: it has none by a name in `skips`.
            NotConvolutionalError, UntraceableError: see `convolutionalize`.
        """
        super().__init__()
        network = trace(classifier, input_size)
        densify(network, input_size, pooling="drop", hidden="same" if padding is None else "valid")
        if channels != 3 or padding is not None:
            _adapt_first(network, channels, padding)
            note_shapes(network, input_size, channels)
        found = layer_grids(network)
        last = _last_layer(network)
        nodes = _tapped(network, found, last, type(classifier), skips)
        if finest not in nodes:
            raise StrideError(
                f"{type(classifier).__name__} has no layer at stride {finest}; it has "
                f"{', '.join(map(str, nodes))}{_passed_over(network, found, last)}"
            )
        coarsest = coarsest or max(nodes)
        nodes = {stride: node for stride, node in nodes.items() if finest <= stride <= coarsest}
        self.layers = _with_outputs(network, tuple(nodes.values()))
        self.taps = _taps(self.layers)

    @classmethod
    def of_layers(cls, layers: fx.GraphModule, channels: int) -> Trunk:
        """Make a trunk of what were the `layers` of one, with shapes noted.

        Args:
            layers: yield the features of each tap, coarsest first.
            channels: of the images.

        Raises:
            NotConvolutionalError, GeometryError: they are no trunk's.
        """
        image = next(iter(layers.graph.nodes))
        if image.meta["shape"][1] != channels:
            raise NotConvolutionalError(
                f"the trunk takes images of {image.meta['shape'][1]} channels, not {channels}"
            )
        trunk = cls.__new__(cls)
        nn.Module.__init__(trunk)
        trunk.layers, trunk.taps = layers, _taps(layers)
        for tap in trunk.taps:
            ends = (
                tap.vertical.first,
                tap.vertical.last,
                tap.horizontal.first,
                tap.horizontal.last,
                tap.vertical.needs,
                tap.horizontal.needs,
            )
            if tap.stride > MOST_STRIDE or max(map(abs, ends)) > MOST_REACH:
                raise NotConvolutionalError(f"layer {tap.layer}: too large a stride or window")
        return trunk

    @property
    def coarsest(self) -> Tap:
        """The last tap, whose scores every net starts from."""
        return self.taps[0]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features N x channels x h x w of each tap, coarsest first."""
        features: tuple[Tensor, ...] = self.layers(images)
        return features


class LateFusion(nn.Module):
    """Several equal trunks, one an input, side by side; their scores are averaged.

    Attributes:
        taps: of each trunk.
        channels: of each input, by name; each trunk is a child module of its input's name.
    """

    OWN_NAMES = ("channels", "taps")  # which no input may bear

    def __init__(self, trunks: Mapping[str, Trunk], channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.taps = next(iter(trunks.values())).taps
        for name, trunk in trunks.items():
            self.add_module(name, trunk)

    def forward(self, images: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Return, of each tap, the features of each trunk on its own channels of `images`."""
        parts = torch.split(images, list(self.channels.values()), 1)
        features = [
            cast("Sequence[Tensor]", trunk(part))
            for trunk, part in zip(self.children(), parts, strict=True)
        ]
        return tuple(zip(*features, strict=True))


def _adapt_first(network: fx.GraphModule, channels: int, padding: int | None) -> None:
    """Give the layer that reads the image other channels and another padding."""
    image = next(node for node in network.graph.nodes if node.op == "placeholder")
    readers = list(image.users)
    first = module_of(network, readers[0])
    if len(readers) != 1 or not isinstance(first, nn.Conv2d):
        raise NotConvolutionalError(
            f"layer {layer_name(readers[0])} reads the image; only where one convolution does can "
            "the trunk take other channels or another padding"
        )
    if first.in_channels != channels:
        network.set_submodule(str(readers[0].target), first := with_channels(first, channels))
    if padding is not None:
        first.padding = (padding, padding)


def _last_layer(network: fx.GraphModule) -> fx.Node:
    """Return the layer that scores the classes: the last one with a kernel."""
    for node in reversed(cut_points(network.graph)):
        layer = module_of(network, node)
        if isinstance(layer, nn.Conv2d) or getattr(node.target, "__name__", "") == "conv2d":
            return node
    raise NotConvolutionalError("the classifier has no last layer that scores its classes")


def _passed_over(network: fx.GraphModule, found: dict[fx.Node, LayerGrid], last: fx.Node) -> str:
    """Tell of a dense layer behind the `last` that could not become one, as it has no cells."""
    for node in cut_points(network.graph):
        dense = isinstance(module_of(network, node), nn.Linear) or node.target is F.linear
        if last < node and dense and found[node].is_global:
            return (
                f" before layer {layer_name(last)}, which was taken for the last one, since layer "
                f"{layer_name(node)} reads what describes the whole image"
            )
    return ""


def _tapped(
    network: fx.GraphModule,
    found: dict[fx.Node, LayerGrid],
    last: fx.Node,
    kind: type[nn.Module],
    skips: Mapping[int, str],
) -> dict[int, fx.Node]:
    """Return the node to tap at each stride, coarsest first."""
    before_last = [
        node
        for node in cut_points(network.graph)
        if node < last and found[node].layout == "NCHW" and not found[node].is_global
    ]
    coarsest = last.all_input_nodes[0]
    at: dict[int, list[fx.Node]] = {}
    for node in before_last:
        at.setdefault(_stride(found[node]), []).append(node)
    total = _stride(found[coarsest])
    tapped = {total: coarsest}
    for stride in (s for s in STRIDES if s < total and s in at):
        tapped[stride] = _skip(network, at[stride], kind)
    for stride, name in skips.items():
        tapped[stride] = _named(before_last, name, stride, found)
    return dict(sorted(tapped.items(), reverse=True))


def _skip(network: fx.GraphModule, nodes: list[fx.Node], kind: type[nn.Module]) -> fx.Node:
    """Choose the layer of a stride: the last, which has seen most; in VGG and AlexNet the pooling.

    The paper's skips are pool4 and pool3, the *first* layers of their strides.
    """
    import torchvision.models as tv  # which a stored trunk has no need of

    pooled = (tv.VGG, tv.AlexNet, caffe.VGG16, caffe.CaffeNet)
    if issubclass(kind, pooled) and nodes[0].op == "call_module":
        first = network.get_submodule(str(nodes[0].target))
        if isinstance(first, nn.MaxPool2d):
            return nodes[0]
    return nodes[-1]


def _named(
    nodes: list[fx.Node], name: str, stride: int, found: dict[fx.Node, LayerGrid]
) -> fx.Node:
    names = {layer_name(node): node for node in nodes}
    if name not in names:
        raise FullconvError(f"no cut point {name!r} to take a skip from{nearest(name, names)}")
    actual = _stride(found[names[name]])
    if actual != stride:
        raise FullconvError(f"skip {name!r} was asked for at stride {stride} but lies at {actual}")
    return names[name]


def _stride(place: LayerGrid) -> int:
    if place.vertical is None or place.horizontal is None:
        raise NotConvolutionalError("the classifier's last features describe the whole image")
    if place.vertical.stride != place.horizontal.stride:
        raise NotConvolutionalError("the classifier's strides differ between height and width")
    return place.vertical.stride


def _taps(network: fx.GraphModule) -> tuple[Tap, ...]:
    """Describe the outputs of a trunk's layers."""
    (outputs,) = next(iter(reversed(network.graph.nodes))).args
    found = layer_grids(network)
    return tuple(_tap(node, found[node]) for node in cast("tuple[fx.Node, ...]", outputs))


def _tap(node: fx.Node, place: LayerGrid) -> Tap:
    stride, channels = _stride(place), int(node.meta["shape"][1])
    assert place.vertical is not None and place.horizontal is not None and place.layout == "NCHW"
    return Tap(stride, layer_name(node), channels, place.vertical, place.horizontal)


def _with_outputs(network: fx.GraphModule, nodes: tuple[fx.Node, ...]) -> fx.GraphModule:
    """Return the part of the network that yields `nodes`, whose shapes stay."""
    output = next(iter(reversed(network.graph.nodes)))
    output.args = (nodes,)
    output.meta.pop("shape", None)
    for node in nodes:
        keep(network, node)
    network.graph.eliminate_dead_code()
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    return network
