"""What a net is made of: its layers, where their cells lie, what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fullconv.fcn import FCN
from fullconv.geometry import Alignment, Grid
from fullconv.grids import layer_name, places, windows_of
from fullconv.modes import evaluating


@dataclass(frozen=True)
class Layer:
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
        upscore: "from-to" strides.
        alignment: of the upscore along the height.
        learned: whether training changes the upscore.
    """

    layer: str
    grid: Grid
    channels: int
    upscore: str
    alignment: Alignment
    learned: bool


@dataclass(frozen=True)
class Description:
    """A net at one image size.

    Attributes:
        size: height and width of the image in pixels.
        padded: its size after padding on the right and at the bottom.
        layers: in order.
        scored: coarsest first.
        parameters: number of weights, frozen ones included.
        multiply_adds: of one image, upscores included.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    layers: tuple[Layer, ...]
    scored: tuple[ScoredLayer, ...]
    parameters: int
    multiply_adds: int


def describe(net: FCN, size: tuple[int, int]) -> Description:
    """Describe `net` for images of `size` (height, width) pixels; no arithmetic is done."""
    coarsest = net.taps[0]
    grids = (coarsest.vertical, coarsest.horizontal)
    padded = tuple(g.covering_size(length) for g, length in zip(grids, size, strict=True))
    counts = _multiply_adds(net, size)
    found = places(net.trunk.layers)
    layers = []
    for node, place in found.items():
        row = _layer(net.trunk.layers, node, counts)
        if row is not None and place.vertical is not None and place.horizontal is not None:
            cells = place.vertical.cells(padded[0]), place.horizontal.cells(padded[1])
            layers.append(Layer(*row[:4], cells, place.vertical, *row[4:]))
    return Description(
        size=size,
        padded=(padded[0], padded[1]),
        layers=tuple(layers),
        scored=_scored(net),
        parameters=sum(value.numel() for value in net.parameters()),
        multiply_adds=counts[""],
    )


def _scored(net: FCN) -> tuple[ScoredLayer, ...]:
    rows = []
    for tap, (name, upscore) in zip(net.taps, net.upscores.items(), strict=True):
        alignment, learned = upscore.vertical, upscore.weight.requires_grad
        rows.append(
            ScoredLayer(tap.layer, tap.vertical, tap.channels, name, alignment, bool(learned))  # type: ignore[arg-type]
        )
    return tuple(rows)


def _layer(
    network: fx.GraphModule, node: fx.Node, counts: dict[str, int]
) -> tuple[str, str, str, int, int, int] | None:
    """Return the parts of a `Layer` that don't depend on the image's size."""
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
    return name, type(module).__name__, text, channels, weights, counts.get(name, 0)


def _multiply_adds(net: FCN, size: tuple[int, int]) -> dict[str, int]:
    """Count multiply-adds of each layer of the trunk by name, and of the whole net under ""."""
    counter = FlopCounterMode(display=False)
    with evaluating(net), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counter:
        net(torch.empty(1, len(net.preprocessing.mean), *size))
    prefix = f"{type(net).__name__}.trunk.layers."
    by_name = {
        name.removeprefix(prefix): sum(ops.values()) // 2  # a multiply-add is two operations
        for name, ops in counter.get_flop_counts().items()
        if name.startswith(prefix)
    }
    return {**by_name, "": counter.get_total_flops() // 2}
