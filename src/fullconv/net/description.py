"""What a net is made of: its layers, where their cells lie, what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fullconv.dense.grids import layer_grids, layer_name, windows_of
from fullconv.geometry import Alignment, Grid
from fullconv.net.fcn import FCN
from fullconv.net.upscore import Upscore


@dataclass(frozen=True)
class SlidingLayer:
    """A layer of the trunk that slides over the image.

    Attributes:
        name: its path in the classifier.
        kind: of layer, such as Conv2d.
        window: kernel, stride and padding, in words.
        channels: of its output.
        size: height and width of its output in cells.
        grid: of its cells, along the height.
        parameters: number of its weights.
        multiply_adds: of one image.
    """

    name: str
    kind: str
    window: str
    channels: int
    size: tuple[int, int]
    grid: Grid
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class ScoredLayer:
    """A layer whose features are scored, and the upscore that its sum passes next.

    Attributes:
        layer: name of the layer.
        grid: of its cells, along the height.
        channels: of its features.
        size: height and width of its scores in cells.
        fused: size of the fused scores, from which the upscore starts (its skip may be cropped).
        enlarged: size of the map that the upscore makes, before it is cropped.
        upscore: "from-to" strides.
        alignment: of the upscore along the height.
        learned: whether training changes the upscore.
    """

    layer: str
    grid: Grid
    channels: int
    size: tuple[int, int]
    fused: tuple[int, int]
    enlarged: tuple[int, int]
    upscore: str
    alignment: Alignment
    learned: bool


@dataclass(frozen=True)
class Description:
    """A net at one image size.

    Attributes:
        size: height and width of the image in pixels.
        seen: its size as some nets magnify it: all grids stand on that.
        reduce: of how many of these pixels a side the trunk sees the mean.
        pixels: the grid of the image's pixels, along the height.
        padded: the seen size after padding on the right and at the bottom.
        layers: in order.
        scored: coarsest first.
        parameters: number of weights, frozen ones included.
        multiply_adds: of one image, upscores included.
    """

    size: tuple[int, int]
    seen: tuple[int, int]
    reduce: int
    pixels: Grid
    padded: tuple[int, int]
    layers: tuple[SlidingLayer, ...]
    scored: tuple[ScoredLayer, ...]
    parameters: int
    multiply_adds: int


def describe(net: FCN, size: tuple[int, int]) -> Description:
    """Describe `net` for images of `size` (height, width) pixels; no arithmetic is done."""
    height, width = size
    padded = net.vertical.covering_size(height), net.horizontal.covering_size(width)
    counts = _multiply_adds(net, size)
    magnify = net.arguments.magnify
    return Description(
        size=size,
        seen=(height * magnify, width * magnify),
        reduce=net.arguments.reduce,
        pixels=net.vertical.pixels,
        padded=padded,
        layers=tuple(layer for name in net.trunks for layer in _layers(net, name, padded, counts)),
        scored=_scored(net, padded),
        parameters=sum(value.numel() for value in net.parameters()),
        multiply_adds=counts[""],
    )


def _layers(
    net: FCN, trunk: str, padded: tuple[int, int], counts: dict[str, int]
) -> Iterator[SlidingLayer]:
    """Yield the sliding layers of one of the net's trunks."""
    network, prefix = net.trunks[trunk].layers, f"{trunk}." if trunk else ""
    height, width = padded
    reduce = net.arguments.reduce
    for node, place in layer_grids(network).items():
        if place.vertical is not None and place.horizontal is not None:
            vertical, horizontal = (
                grid.reduced(reduce) for grid in (place.vertical, place.horizontal)
            )
            cells = vertical.cells(height), horizontal.cells(width)
            row = _layer(network, node, counts, prefix)
            if row is not None:
                yield SlidingLayer(prefix + row[0], *row[1:4], cells, vertical, *row[4:])


def _scored(net: FCN, padded: tuple[int, int]) -> tuple[ScoredLayer, ...]:
    height, width = padded
    head = next(iter(net.heads.values()))  # upscores of all heads are alike
    grids = zip(net.vertical.grids, net.horizontal.grids, strict=True)
    fused_grids = zip(net.vertical.fused, net.horizontal.fused, strict=True)
    rows = []
    for tap, (name, upscore), (down, across), (fused_down, fused_across) in zip(
        net.taps, head.upscores.items(), grids, fused_grids, strict=True
    ):
        assert isinstance(upscore, Upscore)
        v, h = upscore.vertical, upscore.horizontal
        fused = fused_down.cells(height), fused_across.cells(width)
        rows.append(
            ScoredLayer(
                tap.layer,
                down,
                tap.channels,
                size=(down.cells(height), across.cells(width)),
                fused=fused,
                enlarged=(
                    v.enlargement.cells(fused[0] + v.before + v.after),
                    h.enlargement.cells(fused[1] + h.before + h.after),
                ),
                upscore=name,
                alignment=v,
                learned=upscore.weight.requires_grad,
            )
        )
    return tuple(rows)


def _layer(
    network: fx.GraphModule, node: fx.Node, counts: dict[str, int], prefix: str
) -> tuple[str, str, str, int, int, int] | None:
    """Return the parts of a `SlidingLayer` that don't depend on the image's size."""
    if node.op != "call_module":
        return None
    module = network.get_submodule(str(node.target))
    windows = windows_of(module)
    if windows is None:
        return None
    v, h = windows
    kernel = f"{v.kernel}x{h.kernel}" + (f" dilated {v.dilation}" if v.dilation > 1 else "")
    text = f"{kernel} /{v.stride}" + (f" pad {v.before}" if v.before else "")
    groups = getattr(module, "groups", 1)
    text += f" groups {groups}" if groups > 1 else ""
    weights = sum(value.numel() for value in module.parameters())
    channels = int(node.meta["shape"][1])
    name = layer_name(node)
    return name, type(module).__name__, text, channels, weights, counts.get(prefix + name, 0)


def _multiply_adds(net: FCN, size: tuple[int, int]) -> dict[str, int]:
    """Count multiply-adds of each layer of the trunk by name, and of the whole net under ""."""
    counter = FlopCounterMode(display=False)
    net = net.for_inference()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counter:
        like = next(net.parameters())
        net(like.new_empty(1, len(net.preprocessing.mean), *size))
    prefix = f"{type(net).__name__}.trunk."
    by_name = {
        name.removeprefix(prefix).replace("layers.", "", 1): sum(ops.values()) // 2
        for name, ops in counter.get_flop_counts().items()  # a multiply-add is two operations
        if name.startswith(prefix)
    }
    return {**by_name, "": counter.get_total_flops() // 2}
