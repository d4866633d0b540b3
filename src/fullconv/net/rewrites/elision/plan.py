"""Which cells of which values of a network need to be worked out; no tensors."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx, nn

from fullconv.dense.grids import LayerGrid, layer_grids, windows_of
from fullconv.dense.layers import may_overwrite
from fullconv.dense.tracing import module_of
from fullconv.geometry import Grid, Window, merge
from fullconv.net.fcn import FCN

Margins = tuple[int, int, int, int]  # left, right, top, bottom, as `F.pad` takes them

POOLS = (nn.MaxPool2d, nn.AvgPool2d)
EVERYWHERE = range(-sys.maxsize, sys.maxsize)


def saved_multiply_adds(net: FCN, size: tuple[int, int]) -> int:
    """Return how many multiply-adds `elided` saves on an image of `size` (height, width) pixels."""
    seen = net.seen_size(size)
    return sum(
        ElisionPlan.of(trunk.layers, seen).saved_multiply_adds for trunk in net.trunks.values()
    )


class FramedAxis:
    """The cells of a network's values along one axis.

    Spans count the cells of the frame from its first; below that and beyond its last, the frame
    goes on as if its padding had no end.

    Attributes:
        size: of the images in pixels.
        grids: of the values.
        windows: of the layers that slide.
        steady: of values that `admits` was asked about, the cells that don't see the frame's
            border: on the zero image they are all equal.
        held: of the image and of elided values, the cells that are worked out: those that see the
            image, and some more where later layers ask for them.
    """

    def __init__(self, image: fx.Node, size: int) -> None:
        self.size = size
        self.grids: dict[fx.Node, Grid] = {}
        self.windows: dict[fx.Node, Window] = {}
        self.steady = {image: EVERYWHERE}
        self.held = {image: range(size)}

    @property
    def least_size(self) -> int:
        """The least image size that differs from this one by whole cells of all elided values."""
        stride = math.lcm(*(self.grids[node].stride for node in self.held))
        return (self.size - 1) % stride + 1

    def cells(self, node: fx.Node) -> int:
        """Return the number of cells in the frame."""
        return self.grids[node].cells(self.size)

    def seeing(self, node: fx.Node) -> range:
        """Return the cells that see the image."""
        grid = self.grids[node]
        return range(-(grid.last // grid.stride), (self.size - 1 - grid.first) // grid.stride + 1)

    def admits(self, node: fx.Node) -> bool:
        """Whether no cell sees both image and border; of each value after those it is made of."""
        steady = _common([self.steady[source] for source in self._sources(node)])
        if node in self.windows:
            window = self.windows[node]
            first = -(-(steady.start + window.before) // window.stride)
            last = (steady.stop + window.before - window.extent) // window.stride
            steady = _common([range(first, last + 1), range(self.cells(node))])
        self.steady[node], seeing = steady, self.seeing(node)
        return steady.start <= seeing.start < seeing.stop <= steady.stop

    def hold(self, node: fx.Node) -> None:
        """Settle which cells of an elided value to work out, once its users' are settled."""
        asked = [self._asked(node, user) for user in node.users if user in self.held]
        self.held[node] = _hull([self.seeing(node), *asked])

    def read(self, node: fx.Node) -> range:
        """Return the cells of its input that an elided value's held cells are made of."""
        held = self.held[node]
        if node not in self.windows:
            return held
        window = self.windows[node]
        start = window.stride * held.start - window.before
        return range(start, start + window.stride * (len(held) - 1) + window.extent)

    def margins(self, node: fx.Node, source: fx.Node) -> tuple[int, int]:
        """Return how many cells `node` reads below and beyond those that `source` holds."""
        read, held = self.read(node), self.held[source]
        return held.start - read.start, read.stop - held.stop

    def frame_margins(self, node: fx.Node) -> tuple[int, int]:
        """Return how many cells of the frame lie below and beyond those held."""
        held = self.held[node]
        return held.start, self.cells(node) - held.stop

    def _asked(self, node: fx.Node, user: fx.Node) -> range:
        """Return the cells of `node` that an elided `user` wants held.

        A layer of stride 1 can pad, at no cost if evenly, so it asks for what makes margins even;
        but not just after a stride, where to pad a small map costs less than such cells do.
        """
        read, seeing = self.read(user), self.seeing(node)
        if user not in self.windows or self.windows[user].stride > 1:
            return read
        if self._follows_stride(node):
            return seeing
        even = max(0, min(seeing.start - read.start, read.stop - seeing.stop))
        return range(read.start + even, read.stop - even)

    def _follows_stride(self, node: fx.Node) -> bool:
        """Whether nothing slides between a value and a layer that strides, or the image."""
        if node in self.windows:
            return self.windows[node].stride > 1
        return all(self._follows_stride(source) for source in self._sources(node))

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self.grids]


@dataclass(frozen=True)
class ElisionPlan:
    """What of a network to elide for images of one size.

    Attributes:
        network: the trunk's layers.
        image: their input.
        values: what is elided, in order.
        axes: the cells along H and W.
    """

    network: fx.GraphModule
    image: fx.Node
    values: tuple[fx.Node, ...]
    axes: tuple[FramedAxis, FramedAxis]

    @classmethod
    def of(cls, network: fx.GraphModule, size: tuple[int, int]) -> ElisionPlan:
        """Plan for images of `size` (height, width) pixels."""
        found = layer_grids(network)
        image, *nodes = found
        axes = _axes(network, image, found, size)
        values: dict[fx.Node, None] = {}  # a set in order
        for node in nodes:
            sources = [source for source in node.all_input_nodes if source in found]
            if (
                all(source is image or source in values for source in sources)
                and _is_plain_map(node, found[node])
                and not _is_overwritten(network, node)
                and (node in axes[0].windows or _looks_at_each_cell(node, found))
                and all(axis.admits(node) for axis in axes)
            ):
                values[node] = None
        for node in reversed(values):
            for axis in axes:
                axis.hold(node)
        return cls(network, image, tuple(values), axes)

    @property
    def saved_multiply_adds(self) -> int:
        """Multiply-adds of convolutions that are spared, of one image."""
        saved = 0
        for node in self.values:
            layer = module_of(self.network, node)
            if isinstance(layer, nn.Conv2d):
                frame = math.prod(axis.cells(node) for axis in self.axes)
                held = math.prod(len(axis.held[node]) for axis in self.axes)
                saved += layer.weight.numel() * (frame - held)
        return saved

    def slides(self, node: fx.Node) -> bool:
        """Whether a value is that of a layer with a sliding window."""
        return node in self.axes[0].windows

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """Return the maps that an elided value is made of."""
        return [source for source in node.all_input_nodes if source in self.axes[0].held]

    def outsiders(self, node: fx.Node) -> list[fx.Node]:
        """Return the users of an elided value that are not elided, the output among them."""
        return [user for user in node.users if user not in self.axes[0].held]

    def margins(self, node: fx.Node, source: fx.Node) -> Margins:
        """Return how many cells `node` reads around those that `source` holds."""
        vertical, horizontal = self.axes
        return (*horizontal.margins(node, source), *vertical.margins(node, source))

    def frame_margins(self, node: fx.Node) -> Margins:
        """Return how many cells of the frame lie around those that an elided value holds."""
        vertical, horizontal = self.axes
        return (*horizontal.frame_margins(node), *vertical.frame_margins(node))


def _axes(
    network: fx.GraphModule,
    image: fx.Node,
    found: Mapping[fx.Node, LayerGrid],
    size: tuple[int, int],
) -> tuple[FramedAxis, FramedAxis]:
    vertical, horizontal = FramedAxis(image, size[0]), FramedAxis(image, size[1])
    for node, place in found.items():
        if place.vertical is not None and place.horizontal is not None:
            vertical.grids[node], horizontal.grids[node] = place.vertical, place.horizontal
        windows = _windows(module_of(network, node))
        if windows is not None:
            vertical.windows[node], horizontal.windows[node] = windows
    return vertical, horizontal


def _windows(layer: nn.Module | None) -> tuple[Window, Window] | None:
    """Return the windows of a layer of the plain kinds; a subclass may do anything."""
    plain = type(layer) in POOLS or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
    return windows_of(layer) if layer is not None and plain else None


def _is_plain_map(node: fx.Node, place: LayerGrid) -> bool:
    """Whether a value is one map N x C x H x W."""
    return not place.is_global and place.layout == "NCHW" and "shape" in node.meta


def _is_overwritten(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether one of a value's several readers may change it for the others."""
    writes = (
        getattr(module_of(network, user), "inplace", False)
        if user.op == "call_module"
        else user.op != "output" and may_overwrite(user)
        for user in node.users
    )
    return len(node.users) > 1 and any(writes)


def _looks_at_each_cell(node: fx.Node, found: Mapping[fx.Node, LayerGrid]) -> bool:
    """Whether cells depend on the same cells of other maps and on parameters alone."""
    sources = [found[source] for source in node.all_input_nodes if source in found]
    others = [source for source in node.all_input_nodes if source not in found]
    return (
        all(source.op == "get_attr" for source in others)  # none is a map's size
        and _sees_what(found[node].vertical, [source.vertical for source in sources])
        and _sees_what(found[node].horizontal, [source.horizontal for source in sources])
    )


def _sees_what(grid: Grid | None, sources: Sequence[Grid | None]) -> bool:
    """Whether cells see the pixels that those of the sources see together, and no others."""
    seen = merge([source for source in sources if source is not None])
    return grid is not None and replace(grid, windows=()) == replace(seen, windows=())


def _common(spans: Sequence[range]) -> range:
    return range(max(span.start for span in spans), min(span.stop for span in spans))


def _hull(spans: Sequence[range]) -> range:
    return range(min(span.start for span in spans), max(span.stop for span in spans))
