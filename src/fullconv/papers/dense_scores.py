"""Two ways to dense scores without learning anything (CVPR 2015, section 3.2), and why neither.

A net of stride f answers for every f-th pixel. *Shift-and-stitch* runs it on f x f shifted images
and deals the answers out in turn, so that there is one at every pixel (OverFeat's trick). *À trous*
("with holes") gets the same numbers in one pass: the strides are taken out, and whatever follows a
stride of s spreads the taps of its kernel s cells apart, so that they meet the values they met
before. The first costs f x f passes; the second repeats nothing, but its late layers have f x f
times the cells.

The paper shows that the two are one, tries them, and uses neither. The dense scores are no finer
than the net: every filter sees the same coarse samples of the map below as before, and only the
places where it is asked grow in number. Taking out strides alone would show filters finer detail,
but shrink what they see of the image. An upscore interpolates instead, at hardly any cost, can be
learned with the rest of the net, and a skip then adds what neither trick can: evidence from layers
that are fine by nature. So fullconv's nets have upscores and skips, and these two functions are
here to be compared with.

The two agree for every cell whose receptive field lies inside the image, and inside all its shifts.
Nearer to the border, a padded layer supplies zeros beside its own map, and the maps of shifted
images have their borders elsewhere. Likewise a pooling that rounds up makes cells of incomplete
windows at the far border, and à trous has none there. A net without either is exact throughout.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fullconv.base.errors import FullconvError
from fullconv.dense.grids import (
    LayerGrid,
    argument,
    call_name,
    layer_grids,
    layer_name,
    pair,
    windows_of,
)
from fullconv.dense.tracing import note_shapes

Pair = tuple[int, int]


def shift_and_stitch(net: Callable[[Tensor], Tensor], images: Tensor, stride: int) -> Tensor:
    """Run a net on every shift of the images below its stride, and interlace its answers.

    Args:
        net: from N x C x H x W to N x K x h x w, of the given stride along both axes; in evaluation
            mode, lest every shift drops out something else.
        images: N x C x H x W; without its first ``stride - 1`` rows and columns, it must still be
            large enough for one cell.
        stride: pixels between the net's cells.

    Returns:
        N x K x h' x w'. Cell (i, j) is the net's answer for the image without its first i rows and
        j columns: an unpadded net of receptive field r gives H - r + 1 by W - r + 1 cells.
    """
    rows = []
    for down in range(stride):
        columns = [net(images[..., down:, right:]) for right in range(stride)]
        rows.append(_interlace(columns, dim=-1))
    return _interlace(rows, dim=-2)


def _interlace(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Deal out the cells of maps in turn; the first maps may have one cell more than the last."""
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    whole = parts[0].new_empty(shape)
    for shift, part in enumerate(parts):
        whole.movedim(dim, -1)[..., shift :: len(parts)] = part.movedim(dim, -1)
    return whole


def a_trous(network: fx.GraphModule) -> fx.GraphModule:
    """Take the strides out of a network and dilate what follows each: its answers at every pixel.

    Args:
        network: from `convolutionalize`, or any traced network of convolutions,
            pooling, padding and pointwise layers; it is left as it is.

    Returns:
        A network with copies of the weights under the same names. It yields what
        `shift_and_stitch` makes of `network`; on padding, see the module's docstring.

    Raises:
        NotConvolutionalError: a layer does not slide over the image.
        FullconvError: a layer looks at the whole image (squeeze-and-excitation, group
            normalisation), works at two strides, or has no dilated twin; the message names it.
    """
    dense = copy.deepcopy(network)
    strides = {node: _strides(node, place) for node, place in layer_grids(dense).items()}
    spread_of: dict[str, Pair] = {}
    for node in strides:
        sources = [strides[source] for source in node.all_input_nodes if source in strides]
        if not sources:
            continue
        layer = None
        if node.op == "call_module":  # as it was, lest one that is called twice be dilated twice
            layer = network.get_submodule(str(node.target))
            seen = spread_of.setdefault(layer_name(node), sources[0])
            if isinstance(layer, nn.Conv2d) and seen != sources[0]:
                raise _no_twin(node, "it works at two strides")
        kind = call_name(node) if layer is None else type(layer).__name__
        _RULES.get(kind, _unknown)(_Step(node, layer, sources[0]))
    dense.delete_all_unused_submodules()
    dense.recompile()
    _, channels, size, _ = next(iter(strides)).meta["shape"]
    note_shapes(dense, 2 * size, channels)  # poolings that round up would leave less than a cell
    return dense


def _strides(node: fx.Node, place: LayerGrid) -> Pair:
    """Return the strides of a value along H and W."""
    v, h = place.vertical, place.horizontal
    if v is None or h is None or not (v.bounded and h.bounded):
        raise _no_twin(node, "it looks at the whole image, and every shift is another image")
    return v.stride, h.stride


def _no_twin(node: fx.Node, reason: str) -> FullconvError:
    return FullconvError(f"layer {layer_name(node)} can't be dilated: {reason}")


@dataclass(frozen=True)
class _Step:
    """A layer to dilate.

    Attributes:
        node: where the network calls it.
        layer: the module as it was before; None for a call of a function.
        spread: strides of its input along H and W.
    """

    node: fx.Node
    layer: nn.Module | None
    spread: Pair

    def asked(self, name: str, position: int, default: Any = None) -> Any:
        """Return a setting: the module's, or the call's argument."""
        if self.layer is not None:
            return getattr(self.layer, name)
        return argument(self.node, position, name, default)

    def spread_out(self, cells: Any) -> Pair:
        """Return a number of cells for H and W after the taps are spread."""
        if cells == "valid":
            return 0, 0
        if isinstance(cells, str):
            raise _no_twin(self.node, f"its padding is {cells!r}; give it in numbers")
        return pair(cells)[0] * self.spread[0], pair(cells)[1] * self.spread[1]

    def call(self, function: Callable[..., Tensor], *arguments: Any) -> None:
        """Let the node call a function on its input instead."""
        self.node.op, self.node.target, self.node.kwargs = "call_function", function, {}
        self.node.args = (self.node.all_input_nodes[0], *arguments)


def _convolution_layer(step: _Step) -> None:
    layer, network = step.layer, step.node.graph.owning_module
    assert isinstance(layer, nn.Conv2d) and network is not None
    if layer.padding_mode != "zeros":
        raise _no_twin(step.node, f"it pads by padding_mode={layer.padding_mode!r}")
    twin = network.get_submodule(str(step.node.target))
    assert isinstance(twin, nn.Conv2d)
    twin.stride = (1, 1)
    twin.padding = step.spread_out(layer.padding)
    twin.dilation = step.spread_out(layer.dilation)


def _convolution(step: _Step) -> None:
    padding = step.spread_out(step.asked("padding", 4, 0))
    dilation = step.spread_out(step.asked("dilation", 5, 1))
    weight, bias, groups = (
        step.asked("weight", 1),
        step.asked("bias", 2),
        step.asked("groups", 6, 1),
    )
    step.call(F.conv2d, weight, bias, 1, padding, dilation, groups)


def _max_pooling(step: _Step) -> None:
    top, left = step.spread_out(step.asked("padding", 3, 0))
    dilation = step.spread_out(step.asked("dilation", 4, 1))
    step.call(F.max_pool2d, step.asked("kernel_size", 1), 1, 0, dilation)
    if top or left:  # wider than torch lets a pooling pad by itself
        source = step.node.all_input_nodes[0]
        with step.node.graph.inserting_before(step.node):
            edges = (left, left, top, top)
            padded = step.node.graph.call_function(F.pad, (source, edges, "constant", -math.inf))
        step.node.replace_input_with(source, padded)


def _average_pooling(step: _Step) -> None:
    """Make it a convolution of equal weights: torch's average pooling knows no dilation."""
    node, kernel = step.node, pair(step.asked("kernel_size", 1))
    padding = step.spread_out(step.asked("padding", 3, 0))
    if any(padding) and not step.asked("count_include_pad", 5, True):
        raise _no_twin(node, "its averages leave the padding out")
    share = 1 / (step.asked("divisor_override", 6) or kernel[0] * kernel[1])
    network, channels = node.graph.owning_module, node.meta["shape"][1]
    assert network is not None
    weight = next(network.parameters(), torch.empty(0)).new_full((channels, 1, *kernel), share)
    network.register_buffer(f"{node.name}_weight", weight, persistent=False)
    with node.graph.inserting_before(node):
        shares = node.graph.get_attr(f"{node.name}_weight")
    step.call(F.conv2d, shares, None, 1, padding, step.spread, channels)


def _padding(step: _Step) -> None:
    if step.asked("mode", 2, "constant") != "constant":
        raise _no_twin(step.node, "it pads by other than a constant")
    left, right, top, bottom = [*step.asked("pad", 1), 0, 0][:4]
    (top, left), (bottom, right) = step.spread_out((top, left)), step.spread_out((bottom, right))
    step.call(F.pad, (left, right, top, bottom), "constant", step.asked("value", 3, None))


def _unknown(step: _Step) -> None:
    if step.layer is not None and windows_of(step.layer):
        raise _no_twin(step.node, f"it is a {type(step.layer).__name__}")


_RULES: dict[str, Callable[[_Step], None]] = {
    "Conv2d": _convolution_layer,
    "conv2d": _convolution,
    "MaxPool2d": _max_pooling,
    "max_pool2d": _max_pooling,
    "boolean_dispatch": _max_pooling,
    "AvgPool2d": _average_pooling,
    "avg_pool2d": _average_pooling,
    "pad": _padding,
}
