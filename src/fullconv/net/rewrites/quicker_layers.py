"""The layers of a net exchanged for twins that train in less time or memory, to the same result.

They are swapped in for a training, in the plain layers' places and with their parameters, and out
again wherever the net is written down: what is stored is always the plain layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from fullconv.dense.tracing import module_of
from fullconv.net.rewrites.quicker_convolutions import (
    QuickConvolution,
    has_poor_gradient,
    has_twin,
    is_for_planes,
    quick_convolution,
)
from fullconv.net.rewrites.quicker_norms import (
    UNBOUNDED,
    Clamped,
    FusedNorm,
    bounds_of,
    clamped,
    is_fusible,
    own_bounds,
)
from fullconv.net.rewrites.quicker_pools import DeferredReLU, frugal_pool
from fullconv.net.rewrites.sliced_convolutions import sliced_convolution
from fullconv.net.rewrites.twin import Twin, is_workable, lie_channels_last


class FrugalReLU6(Twin, nn.ReLU6):
    """A ReLU6 in place that keeps its result for the gradient, which the next layer keeps too."""

    def plain(self) -> nn.ReLU6:
        """Return torch's own layer."""
        return nn.ReLU6(inplace=True).train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        """Clamp N x C x H x W features to 0..6, where they lie."""
        return clamped(input, (self.min_val, self.max_val))


class QuickDropout(Twin, nn.Dropout):
    """A dropout that draws at random for four values at a time, and so in a quarter of the time.

    A value is dropped with probability `p`, rounded to a multiple of 1/65536.
    """

    def plain(self) -> nn.Dropout:
        """Return torch's own layer."""
        return nn.Dropout(self.p).train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        """Drop values of features of any shape, and enlarge the others."""
        dense = input.is_contiguous() or lie_channels_last(input)
        if not (self.training and 0 < self.p < 1 and dense and is_workable(input)):
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        drawn = words.view(torch.int16).as_strided(input.shape, input.stride())
        kept = drawn >= round(self.p * 2**16) - 2**15
        return input * kept.to(input.dtype).div_(1 - self.p)


def quicken(net: nn.Module) -> nn.Module:
    """Swap faster twins into a net, in place.

    Parameters, their names and the layers' modes stay as they are. Layers with hooks stay, too.
    """
    twins: dict[nn.Module, nn.Module] = {}
    for part in net.modules():
        if isinstance(part, fx.GraphModule):
            places = _Places(part)
            fused = _fused(places)
            twins |= fused | _pooled(places, fused)
    return _swap(net, lambda layer: twins.get(layer) or _quick(layer))


def lay_out(net: nn.Module) -> None:
    """Lay out a net's weights, in place, as its layers use them: most with channels innermost."""
    net.to(memory_format=torch.channels_last)
    for layer in net.modules():
        if isinstance(layer, QuickConvolution) and is_for_planes(layer.weight, layer.groups):
            layer.weight.data = layer.weight.data.contiguous()


@contextmanager
def plain_layers(net: nn.Module) -> Iterator[None]:
    """Swap a net's plain layers back in for the body, in which it may be stored."""
    _swap(net, _plain)
    try:
        yield
    finally:
        quicken(net)


def _swap(net: nn.Module, other: Callable[[nn.Module], nn.Module]) -> nn.Module:
    swapped: dict[nn.Module, nn.Module] = {}  # a layer may stand in several places

    def within(parent: nn.Module) -> None:
        for name, layer in parent.named_children():
            if layer not in swapped:
                swapped[layer] = other(layer)
                if swapped[layer] is layer:
                    within(layer)
            setattr(parent, name, swapped[layer])

    within(net)
    return net


class _Places:
    """The layers of a graph, as far as nobody watches them."""

    def __init__(self, network: fx.GraphModule) -> None:
        self._network, self.nodes = network, list(network.graph.nodes)
        self._order = {node: place for place, node in enumerate(self.nodes)}
        self._calls: dict[nn.Module | None, list[int]] = {}
        for place, node in enumerate(self.nodes):
            self._calls.setdefault(module_of(network, node), []).append(place)

    def alone(self, node: fx.Node | None) -> nn.Module | None:
        """Return the layer of a node that stands there alone."""
        layer = self._unwatched(node)
        return None if layer is None or len(self._calls[layer]) > 1 else layer

    def next(self, node: fx.Node, reader: fx.Node | None) -> nn.Module | None:
        """Return the layer of a node's reader, if it is not called elsewhere between the two."""
        layer = self._unwatched(reader)
        if layer is None or reader is None:
            return None
        between = range(self._order[node], self._order[reader])
        return None if any(place in between for place in self._calls[layer]) else layer

    def reader(self, node: fx.Node | None) -> fx.Node | None:
        """Return what alone reads a node, past layers that change nothing."""
        while node is not None:
            node = next(iter(node.users)) if len(node.users) == 1 else None
            if type(self.alone(node)) is not nn.Identity:
                break
        return node

    def _unwatched(self, node: fx.Node | None) -> nn.Module | None:
        layer = None if node is None else module_of(self._network, node)
        return None if layer is None or _is_hooked(layer) else layer


def _fused(places: _Places) -> dict[nn.Module, nn.Module]:
    """Return the twins of a graph's normalisations and of the layers around them."""
    twins = dict[nn.Module, nn.Module]()
    befores, afters = dict[fx.Node, FusedNorm](), dict[fx.Node, FusedNorm]()  # of convolutions
    for node in places.nodes:
        norm = places.alone(node)
        if not isinstance(norm, nn.BatchNorm2d) or not is_fusible(norm):
            continue
        bounds, reader = own_bounds(norm) or UNBOUNDED, places.reader(node)
        relu = places.next(node, reader) if bounds == UNBOUNDED else None
        twins[norm] = twin = FusedNorm(norm, bounds_of(relu) or bounds)
        if relu is not None and bounds_of(relu):
            stands = twins.setdefault(relu, Clamped(relu))
            assert isinstance(stands, Clamped)
            twin.relu, reader = (stands,), places.reader(reader)
        if reader is not None and has_twin(places.alone(reader)):
            twin.deferred, befores[reader] = True, twin
        if has_twin(places.alone(source := node.all_input_nodes[0])) and len(source.users) == 1:
            afters[source] = twin
    for node in befores | afters:
        layer = places.alone(node)
        assert isinstance(layer, nn.Conv2d)
        twins[layer] = quick_convolution(layer, befores.get(node), afters.get(node))
    return twins


def _pooled(places: _Places, fused: dict[nn.Module, nn.Module]) -> dict[nn.Module, nn.Module]:
    """Return the twins of a graph's poolings after ReLUs that are not yet fused, and of these."""
    twins = dict[nn.Module, nn.Module]()
    for node in places.nodes:
        relu, pool = places.alone(node), places.alone(places.reader(node))
        if type(relu) is not nn.ReLU or relu in fused or pool is None:
            continue
        if twin := frugal_pool(pool):
            twin.clamps = True
            twins[relu], twins[pool] = DeferredReLU(relu), twin
    return twins


def _quick(layer: nn.Module) -> nn.Module:
    """Return the faster twin of a layer by itself, or that layer where there is none."""
    if _is_hooked(layer):
        return layer
    twin: nn.Module | None = frugal_pool(layer) or sliced_convolution(layer)
    if isinstance(layer, nn.BatchNorm2d) and is_fusible(layer):
        twin = FusedNorm(layer, own_bounds(layer) or UNBOUNDED)
    elif isinstance(layer, nn.Conv2d) and twin is None and has_poor_gradient(layer):
        twin = quick_convolution(layer, None, None)
    elif type(layer) is nn.ReLU6 and layer.inplace:
        twin = FrugalReLU6(inplace=True).train(layer.training)
    elif type(layer) is nn.Dropout and not layer.inplace:
        twin = QuickDropout(layer.p).train(layer.training)
    return layer if twin is None else twin


def _plain(layer: nn.Module) -> nn.Module:
    """Return the plain layer in place of a twin, or a plain layer itself."""
    return layer.plain() if isinstance(layer, Twin) else layer


def _is_hooked(layer: nn.Module) -> bool:
    """Tell whether somebody watches a layer, and so wants it to stay."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks
    return any((*hooks, layer._backward_hooks, layer._backward_pre_hooks))
