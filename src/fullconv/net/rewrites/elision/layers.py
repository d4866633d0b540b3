"""The layers of an elided net: convolutions around which a map goes on as a constant."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fullconv.base.errors import FullconvError
from fullconv.dense.grids import pair
from fullconv.dense.layers import convolution_of
from fullconv.dense.tracing import module_of
from fullconv.net.fcn import FCN, Scores
from fullconv.net.rewrites.elision.plan import POOLS, ElisionPlan
from fullconv.net.surgery import with_parts

# So little that it changes no sum. Zeros would be merged into the convolution's own padding by
# OpenVINO and ONNX Runtime; and where a window may lie in padding alone, oneDNN has no kernel for a
# processor's matrix tiles (AMX): the convolution would take two to five times as long.
ALMOST_ZERO = 1e-30


def elided(net: FCN, size: tuple[int, int]) -> Elided:
    """Return a module that does for images of one size what `net.coarse` does, with less work.

    It is for inference, in evaluation mode. It shares the net's weights, and holds constants that
    depend on them: make it anew when they change. A net with nothing to elide runs as written.

    Args:
        net: any; what gains is one that pads its images by much.
        size: height and width of the images in pixels.
    """
    seen = net.seen_size(size)
    exactly = torch.autocast(next(net.parameters()).device.type, enabled=False)
    net = net.for_inference()
    with torch.no_grad(), exactly:
        trunks = {
            name: with_parts(trunk, layers=_elided_layers(trunk.layers, seen))
            for name, trunk in net.trunks.items()
        }
    trunk = trunks[""] if "" in trunks else with_parts(net.trunk, **trunks)
    return Elided(with_parts(net, trunk=trunk), size)


class Elided(nn.Module):
    """The coarse scores of a net for images of one size (see `elided`).

    Attributes:
        net: the net with its trunks elided; all else is shared with the one it was made of.
        size: height and width of the images in pixels.
    """

    def __init__(self, net: FCN, size: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images: Tensor) -> Scores:
        """Return what `FCN.coarse` does of N x C x H x W images.

        Raises:
            FullconvError: the images are of another size.
        """
        size = tuple(images.shape[-2:])
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and size != self.size:  # a trace is for one size in any case
            raise FullconvError(
                f"this net was elided for images of {self.size}, not {size}, pixels"
            )
        return self.net.coarse(images)


class Plus(nn.Module):
    """Adds what no image changes.

    Attributes:
        term: C x 1 x 1, or 1 x C x H x W.
        in_place: whether the sum may overwrite what it is given.
    """

    def __init__(self, term: Tensor, *, in_place: bool = False) -> None:
        super().__init__()
        self.term: Tensor
        self.register_buffer("term", term, persistent=False)
        self.in_place = in_place

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum, in the features' own precision."""
        term = self.term.to(features.dtype)
        return features.add_(term) if self.in_place else features + term


def _elided_layers(network: fx.GraphModule, size: tuple[int, int]) -> fx.GraphModule:
    """Return what yields a trunk's features of images of one size; as written, if that is best."""
    plan = ElisionPlan.of(network, size)
    if plan.saved_multiply_adds <= 0:
        return network
    blank = Blank(plan)
    graph, twins = fx.Graph(), dict[fx.Node, fx.Node]()
    end = graph.output(graph.graph_copy(network.graph, twins))
    layers = fx.GraphModule(network, graph)

    for node in plan.values:
        if plan.slides(node):
            twins[node].target = f"elided_{node.name}"
            layers.add_submodule(f"elided_{node.name}", _surrounded(plan, node, blank))
        else:
            _fit_sources(plan, node, twins)
        outsiders = plan.outsiders(node)
        if outsiders:
            layers.add_submodule(f"framed_{node.name}", _framed(plan, node, blank))
            with graph.inserting_after(twins[node]):
                framed = graph.call_module(f"framed_{node.name}", (twins[node],))
            for user in outsiders:
                twins.get(user, end).replace_input_with(twins[node], framed)
    graph.lint()
    layers.delete_all_unused_submodules()
    layers.recompile()
    return layers


class Blank:
    """What a network makes of an image of zeros, of the size that a plan is for.

    It is worked out on the smallest image whose frame ends as this one's does, and drawn out.
    """

    def __init__(self, plan: ElisionPlan) -> None:
        self._plan = plan
        sources = {s for node in plan.values if plan.slides(node) for s in plan.sources(node)}
        wanted = {node for node in plan.values if node in sources or plan.outsiders(node)}
        parameter = next(plan.network.parameters())
        channels = plan.image.meta["shape"][1]
        image = parameter.new_zeros(1, channels, *(axis.least_size for axis in plan.axes))
        self._maps = {plan.image: image, **_values(plan.network, image, wanted)}

    def constant(self, node: fx.Node) -> Tensor:
        """Return what cells hold that see neither image nor border, C x 1 x 1."""
        row, column = (axis.seeing(node).start for axis in self._plan.axes)
        return self._maps[node][0, :, row, column, None, None]

    def frame(self, node: fx.Node) -> Tensor:
        """Return a value's whole map, 1 x C x H x W."""
        drawn = self._maps[node]
        for dim, axis in zip((2, 3), self._plan.axes, strict=True):
            cells = torch.arange(axis.cells(node), device=drawn.device)
            steady, more = axis.seeing(node).start, len(cells) - drawn.shape[dim]
            drawn = drawn.index_select(dim, torch.maximum(cells.clamp(max=steady), cells - more))
        return drawn


def _values(
    network: fx.GraphModule, image: Tensor, wanted: Collection[fx.Node]
) -> dict[fx.Node, Tensor]:
    """Run a network on an image as far as needed, and return the values of some of its nodes."""
    run, found = fx.Interpreter(network), dict[fx.Node, Tensor]()
    run.args_iter = iter([image])
    for node in network.graph.nodes:
        run.env[node] = run.run_node(node)
        if node in wanted:
            found[node] = run.env[node].clone()  # a layer may overwrite it
        if len(found) == len(wanted):
            break
    return found


def _surrounded(plan: ElisionPlan, node: fx.Node, blank: Blank) -> nn.Module:
    """Return a sliding layer for an input that goes on beyond its edges as a constant."""
    layer, source = module_of(plan.network, node), plan.sources(node)[0]
    left, right, top, bottom = margins = plan.margins(node, source)
    constant, down, across, apart = blank.constant(source), 0, 0, 0.0
    slide: list[nn.Module]
    shifts = max(margins) > 0 and bool(constant.any())
    if isinstance(layer, nn.Conv2d):
        most_down, most_across = (axis.windows[node].extent - 1 for axis in plan.axes)
        down, across = max(0, min(top, bottom, most_down)), max(0, min(left, right, most_across))
        if max(top, bottom) > most_down or max(left, right) > most_across:
            apart = ALMOST_ZERO
        slide = [_convolution(layer, (down, across), constant if shifts else None)]
    else:
        slide = [_pooling(layer), *([Plus(constant)] if shifts else [])]
    rest = (left - across, right - across, top - down, bottom - down)
    pad = [nn.ConstantPad2d(rest, apart)] if any(rest) else []
    shift = [Plus(-constant, in_place=_is_sole(plan.network, source))] if shifts else []
    return nn.Sequential(*shift, *pad, *slide)


def _convolution(conv: nn.Conv2d, padding: tuple[int, int], constant: Tensor | None) -> nn.Conv2d:
    """Return `conv` with other padding, for features less a `constant` C x 1 x 1."""
    twin = convolution_of(
        conv.weight,
        conv.bias,
        stride=pair(conv.stride),
        padding=padding,
        dilation=pair(conv.dilation),
        groups=conv.groups,
    )
    if constant is not None:
        window = constant.expand(-1, *twin.kernel_size)[None]
        answer = F.conv2d(window, conv.weight, conv.bias, groups=conv.groups)
        twin.bias = nn.Parameter(answer.flatten(), requires_grad=False)
    return twin


def _pooling(pool: nn.Module | None) -> nn.Module:
    """Return a pooling of windows that are all complete."""
    assert isinstance(pool, POOLS)
    twin = copy.copy(pool)
    twin.padding = 0
    return twin


def _framed(plan: ElisionPlan, node: fx.Node, blank: Blank) -> nn.Module:
    """Return what sets the cells that an elided value holds into its whole map."""
    margins = plan.frame_margins(node)
    frame, constant = blank.frame(node), blank.constant(node)
    height, width = (len(axis.held[node]) for axis in plan.axes)
    rest = frame - F.pad(constant.expand(-1, height, width), margins)
    return nn.Sequential(nn.ZeroPad2d(margins), Plus(rest, in_place=True))


def _is_sole(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer may overwrite a value because no other one reads that memory."""
    layer = module_of(network, node)
    if len(node.users) > 1 or layer is None:
        return False
    if type(layer) is nn.ReLU:
        return not layer.inplace or _is_sole(network, node.all_input_nodes[0])
    return type(layer) in (nn.Conv2d, *POOLS)


def _fit_sources(plan: ElisionPlan, node: fx.Node, twins: dict[fx.Node, fx.Node]) -> None:
    """Crop the maps of which others ask for more cells than a layer that joins them."""
    for source in plan.sources(node):
        margins = plan.margins(node, source)
        if any(margins):
            graph = twins[node].graph
            with graph.inserting_before(twins[node]):
                cropped = graph.call_function(F.pad, (twins[source], margins))
            twins[node].replace_input_with(twins[source], cropped)
