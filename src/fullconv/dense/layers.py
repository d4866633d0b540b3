"""Convolutionalise: a classifier's dense layers become convolutions (CVPR 2015, section 3.1).

A dense layer over a C x H x W map *is* a convolution whose kernel covers the whole map. Written as
one, the classifier takes any size and yields a map of class scores, each cell the classifier's own
answer for one window of the image, at a fraction of the cost of running it there by itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fullconv.dense.grids import (
    NORMALISING,
    SOFTMAXES,
    NotConvolutionalError,
    argument,
    asks_whole_map,
    axes_of,
    call_name,
    is_pointwise_call,
    layer_grids,
    layer_name,
    pair,
    pieces,
    whole_pieces,
)
from fullconv.dense.tracing import UntraceableError, cut_points, module_of, note_shapes, trace

Shape = tuple[int, ...]


def convolutionalize(classifier: nn.Module, input_size: int = 224) -> fx.GraphModule:
    """Turn an image classifier into a network that slides over images of any size.

    Linear layers become convolutions (one that reads a flattened C x H x W map gets an H x W
    kernel), and the final global pooling becomes a window of its native size that moves by single
    cells. Squeeze-and-excitation pools stay global. The classifier itself is left as it is; the
    result holds a copy of its weights under the same names.

    Args:
        classifier: takes N x 3 x input_size x input_size, returns N x classes.
        input_size: the size in pixels of the square images that it was made for.

    Returns:
        A module from N x 3 x H x W to N x classes x h x w. At the native size h = w = 1 and the
        scores equal the classifier's. `train` and `eval` work as on the classifier.

    Raises:
        UntraceableError: the network has no static graph of layers.
        NotConvolutionalError: a layer does not slide over the image (a vision transformer's
            attention, say); the message names it.
    """
    dense = trace(own_copy(classifier), input_size)
    densify(dense, input_size, pooling="window", hidden="valid")
    output = next(iter(reversed(dense.graph.nodes))).args[0]
    if not isinstance(output, fx.Node):
        raise NotConvolutionalError(
            f"{type(classifier).__name__} must return one tensor of class scores, and nothing else"
        )
    place = layer_grids(dense).get(output)
    if place is None or place.is_global or place.layout != "NCHW":
        raise NotConvolutionalError(
            f"{type(classifier).__name__} does not end in a map of scores: its layer "
            f"{layer_name(output)} yields one answer for the whole image"
        )
    return dense


def own_copy(classifier: nn.Module) -> nn.Module:
    """Copy a classifier with its weights.

    Raises:
        UntraceableError: a layer computes its weights in a hook, as torch's old ones do.
    """
    try:
        return copy.deepcopy(classifier)
    except (RuntimeError, TypeError) as error:
        layer = next(filter(None, map(_hooked, *zip(*classifier.named_modules(), strict=True))), "")
        what = (
            f"layer {layer} computes its weight in a hook: make it plain first, by "
            "torch.nn.utils.remove_weight_norm(layer) or torch.nn.utils.prune.remove(layer, name)"
            if layer
            else str(error).split("\n")[0][:200]
        )
        raise UntraceableError(f"{type(classifier).__name__} can't be copied: {what}") from error


def _hooked(path: str, layer: nn.Module) -> str:
    """Return the path of a layer that holds a computed weight, "" of any other."""
    held = (each for each in vars(layer).values() if isinstance(each, Tensor))
    return path if any(not each.is_leaf for each in held) else ""


def densify(
    network: fx.GraphModule,
    input_size: int,
    *,
    pooling: Literal["window", "drop"],
    hidden: Literal["valid", "same"],
) -> None:
    """Make the head of a traced classifier dense, in place.

    Args:
        network: from `tracing.trace`; its shapes are noted anew.
        input_size: the classifier's native input size in pixels.
        pooling: what becomes of the final global pooling: a sliding "window" of its native size,
            or nothing ("drop"), which leaves every cell of the features to itself.
        hidden: padding of dense layers with a kernel larger than one cell.
    """
    _restore_convolutions(network)
    _put_channels_first(network)
    _join_steps(network)
    pooled = [_localize_pooling(network, node) for node in cut_points(network.graph)]
    if hidden == "same":
        _pad_covering(network)
    _unflatten(network, hidden)
    if pooling == "drop":
        for node in filter(None, pooled):
            keep(network, node)  # the layer before may need its output for its gradient
            node.replace_all_uses_with(node.all_input_nodes[0])
    network.graph.eliminate_dead_code()
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    try:
        note_shapes(network, input_size)
    except Exception as error:  # a layer may raise anything
        reason = str(error).strip().split("\n")[0]
        raise NotConvolutionalError(f"its layers can't work on maps: {reason}") from error
    _crop_to_pieces(network)


def _restore_convolutions(network: fx.GraphModule) -> None:
    """Make plain layers of convolutions that call F.conv2d with their own parameters alone.

    Those that pad by their input's size are traced to a padding and such a call. What is done to
    plain layers, so that they train or label faster, is done to them then, too.
    """
    for node in list(network.graph.nodes):
        if node.op != "call_function" or call_name(node) != "conv2d":
            continue
        path = _owner(network, argument(node, 1, "weight"), argument(node, 2, "bias"))
        if path is None or isinstance(argument(node, 4, "padding"), str):
            continue
        network.set_submodule(path, _convolution(network.get_submodule(path), node))
        with network.graph.inserting_before(node):
            called = network.graph.call_module(path, (argument(node, 0, "input"),))
        called.meta = node.meta
        node.replace_all_uses_with(called)
        network.graph.erase_node(node)


def _convolution(holder: nn.Module, node: fx.Node) -> nn.Conv2d:
    """Return the convolution that a call of F.conv2d is, with the parameters of their holder."""
    weight, bias = holder.get_parameter("weight"), dict(holder.named_parameters()).get("bias")
    made = convolution_of(
        weight,
        bias,
        stride=pair(argument(node, 3, "stride", 1)),
        padding=pair(argument(node, 4, "padding", 0)),
        dilation=pair(argument(node, 5, "dilation", 1)),
        groups=argument(node, 6, "groups", 1),
    )
    return made.train(holder.training)


def convolution_of(
    weight: Tensor, bias: Tensor | None, *, kind: type[nn.Conv2d] = nn.Conv2d, **geometry: Any
) -> nn.Conv2d:
    """Return a convolution of a kind with these very parameters.

    Args:
        weight: O x C / groups x H x W.
        bias: O, or None.
        kind: of the layer.
        geometry: stride, padding, dilation and groups, where they are not a layer's defaults.
    """
    channels = weight.shape[1] * geometry.get("groups", 1), weight.shape[0]
    sides, biased = pair(weight.shape[2:]), bias is not None
    made = kind(*channels, sides, bias=biased, device="meta", **geometry)
    made.weight, made.bias = weight, bias
    return made


def _owner(network: fx.GraphModule, weight: Any, bias: Any) -> str | None:
    """Return the path of what holds a weight and a bias, or None, and nothing else."""
    read = [node for node in (weight, bias) if node is not None]
    if not all(isinstance(node, fx.Node) and node.op == "get_attr" for node in read):
        return None
    path = str(weight.target).rpartition(".")[0]
    holder = network.get_submodule(path)
    held = {f"{path}.{name}" for name in holder.state_dict()}
    parameters = {f"{path}.{name}" for name, _ in holder.named_parameters()}
    called = any(node.op == "call_module" and node.target == path for node in network.graph.nodes)
    alone = held == parameters == {str(node.target) for node in read} and not called
    return path if alone and f"{path}.weight" in held else None


def _crop_to_pieces(network: fx.GraphModule) -> None:
    """Crop a map to whole pieces before a view cuts it into such (space to depth)."""
    views = [
        node
        for node in network.graph.nodes
        if node.target in ("view", "reshape", torch.reshape)
        and len(node.meta.get("shape", ()))
        > len(node.all_input_nodes[0].meta.get("shape", ()))
        == 4
    ]
    found = layer_grids(network) if views else {}
    for node in views:
        source = node.all_input_nodes[0]
        if source in found and (sides := pieces(node, found[source].layout)) != (1, 1):
            with network.graph.inserting_before(node):
                cropped = network.graph.call_function(whole_pieces, (source, *sides))
            cropped.meta["shape"] = source.meta["shape"]
            node.replace_input_with(source, cropped)
    if views:
        network.recompile()


def _put_channels_first(network: fx.GraphModule) -> None:
    """Let a reduction over the image axes of N x H x W x C find them where pooling does."""
    for node in cut_points(network.graph):
        if node.target not in _REDUCTIONS or sorted(axes_of(node)) != [1, 2]:
            continue
        source, shape = node.all_input_nodes[0], node.meta["shape"]
        if len(source.meta["shape"]) != 4 or len(shape) != 2:
            continue
        with network.graph.inserting_before(node):
            first = network.graph.call_method("permute", (source, 0, 3, 1, 2))
            reduced = network.graph.call_method(call_name(node), (first, (2, 3)))
        first.meta["shape"] = tuple(source.meta["shape"][axis] for axis in (0, 3, 1, 2))
        reduced.meta["shape"] = shape
        node.replace_all_uses_with(reduced)
        network.graph.erase_node(node)


def _join_steps(network: fx.GraphModule) -> None:
    """Let a reduction of a map in two steps find both image axes where pooling does."""
    cuts = set(cut_points(network.graph))  # elsewhere, a row of all cells may be reduced as it is
    for node in list(network.graph.nodes):
        if node.target not in _REDUCTIONS or (first := _step_before(network, node, cuts)) is None:
            continue
        shape = node.meta["shape"]
        arguments = (first.all_input_nodes[0], (2, 3), len(shape) > 2)
        with network.graph.inserting_before(node):
            joined = both = network.graph.call_method(call_name(node), arguments)
            if len(shape) == 3:
                joined = network.graph.call_method("squeeze", (both, 3))
        both.meta["shape"] = shape if joined is both else (*shape, 1)
        joined.meta["shape"] = shape
        node.replace_all_uses_with(joined)
        for step in (node, first):
            if not step.users:
                network.graph.erase_node(step)


def _step_before(network: fx.GraphModule, node: fx.Node, cuts: set[fx.Node]) -> fx.Node | None:
    """Return what puts a map's cells in a row, or reduces one axis, if `node` reduces the rest."""
    first = node.all_input_nodes[0]
    before = first.all_input_nodes[0].meta.get("shape", ()) if first.all_input_nodes else ()
    if len(before) != len("NCHW") or len(axes := axes_of(node)) != 1:
        return None
    if node in cuts and _is_view(network, first):
        in_a_row = first.meta["shape"] == (*before[:2], math.prod(before[2:])) and axes == [2]
        return first if in_a_row else None
    if first.target not in _REDUCTIONS or call_name(first) != call_name(node):
        return None
    reduced = axes_of(first)
    left = range(4) if len(first.meta["shape"]) == 4 else [a for a in range(4) if a not in reduced]
    return first if sorted([*reduced, left[axes[0]]]) == [2, 3] else None


def _localize_pooling(network: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Replace pooling to a fixed size by the window that it is at the native size.

    Returns the window's node if it covered the whole map.
    """
    reduce = _pooled_by(network, node)
    if reduce is None:
        return None
    source = pooled = node.all_input_nodes[0]
    shape = node.meta["shape"]
    before, after = source.meta["shape"][-2:], shape[2:] or (1, 1)
    if any(size % cells for size, cells in zip(before, after, strict=True)):
        raise NotConvolutionalError(
            f"layer {layer_name(node)}: adaptive pooling from {before} to {after} cells has no "
            "fixed window"
        )
    kernel = (before[0] // after[0], before[1] // after[1])
    if kernel != (1, 1):
        stride = 1 if after == (1, 1) else kernel
        with network.graph.inserting_after(source):
            pooled = network.graph.call_function(reduce, (source, kernel, stride))
        pooled.meta["shape"] = (*shape[:2], *after)
    result = pooled
    if len(shape) == 2:  # a mean that drops the axes flattens too
        with network.graph.inserting_after(pooled):
            result = network.graph.call_function(torch.flatten, (pooled, 1))
        result.meta["shape"] = shape
    node.replace_all_uses_with(result)
    network.graph.erase_node(node)
    return pooled if after == (1, 1) and pooled is not source else None


def _pooled_by(network: fx.GraphModule, node: fx.Node) -> Callable[..., Any] | None:
    """Return the function that pools, if `node` pools its whole input to a fixed size."""
    layer = module_of(network, node)
    if isinstance(layer, nn.AdaptiveAvgPool2d) or node.target is F.adaptive_avg_pool2d:
        return F.avg_pool2d
    if isinstance(layer, nn.AdaptiveMaxPool2d) or node.target is F.adaptive_max_pool2d:
        return F.max_pool2d
    if isinstance(layer, nn.AvgPool2d) or node.target is F.avg_pool2d:
        return F.avg_pool2d if _averages_whole_map(layer, node) else None
    if node.target is F.max_pool2d:
        return F.max_pool2d if asks_whole_map(node) else None
    reduce = _REDUCTIONS.get(node.target)
    return reduce if reduce and sorted(axes_of(node)) == [2, 3] else None


_REDUCTIONS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(("mean", torch.mean), F.avg_pool2d),
    **dict.fromkeys(("amax", torch.amax), F.max_pool2d),
}


def _averages_whole_map(layer: nn.Module | None, node: fx.Node) -> bool:
    """Whether average pooling with a window covers the whole map at the native size.

    A max pooling that does is the last of a row of them (VGG's on small images), not a head.
    """
    if layer is None and asks_whole_map(node):
        return True
    kernel = layer.kernel_size if layer else argument(node, 1, "kernel_size")
    shape = node.all_input_nodes[0].meta["shape"]
    return bool(pair(kernel) == shape[-2:])


def _unflatten(network: fx.GraphModule, hidden: Literal["valid", "same"]) -> None:
    """Let what follows the flattening of the last map work on the map itself."""
    cuts = set(cut_points(network.graph))  # elsewhere, squeeze-and-excitation may flatten
    flattened: dict[fx.Node, Shape] = {}  # values without image axes -> the map they stand for
    for node in list(network.graph.nodes):
        if node.op == "output":
            return
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or "shape" not in node.meta or "shape" not in source.meta:
            continue
        before, after = source.meta["shape"], node.meta["shape"]
        if node in cuts and _flattens(network, node, before, after):
            replacement: fx.Node | None = source
            flattened[source] = flattened.get(source, before[1:])
        elif source in flattened:
            dense = _is_linear(network, node)
            replacement = _on_map(network, node, flattened[source], hidden)
            flattened[replacement or node] = (after[-1], 1, 1) if dense else flattened[source]
        else:
            continue
        if replacement is not None:
            replacement.meta.setdefault("shape", after)
            node.replace_all_uses_with(replacement)
            network.graph.erase_node(node)


def _flattens(network: fx.GraphModule, node: fx.Node, before: Shape, after: Shape) -> bool:
    """Whether a layer makes vectors of maps, or drops a last axis of length 1 on the way there."""
    shorter = len(after) == 2 or after == before[:-1]
    if math.prod(before) != math.prod(after) or not shorter or len(before) != len("NCHW"):
        return False
    return _is_view(network, node) or node.target in ("squeeze", torch.squeeze)


def _is_view(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer or call may make one axis of several."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Flatten)
    return node.target in (torch.flatten, "flatten", "view", "reshape", torch.reshape)


def _pad_covering(network: fx.GraphModule) -> None:
    """Pad convolutions that cover the whole map at the native size: dense layers, in effect."""
    for node in cut_points(network.graph):
        layer = module_of(network, node)
        if isinstance(layer, nn.Conv2d) and node.meta["shape"][2:] == (1, 1):
            before = node.all_input_nodes[0].meta["shape"][2:]
            if before == layer.kernel_size != (1, 1) and layer.padding in ((0, 0), 0):
                _pad_before(network, node, layer.kernel_size)


def _on_map(
    network: fx.GraphModule, node: fx.Node, shape: Shape, hidden: Literal["valid", "same"]
) -> fx.Node | None:
    """Make a layer that worked on vectors work on C x H x W maps; return its new node, if any."""
    kernel = shape[1:]
    same = hidden == "same" and _is_linear(network, node)
    odd = all(size % 2 for size in kernel) and node.op == "call_module"
    if same and not odd and kernel != (1, 1):
        _pad_before(network, node, kernel)
    if node.op != "call_module":
        return _call_on_map(network, node, shape)
    path = str(node.target)
    layer = network.get_submodule(path)
    if isinstance(layer, nn.Linear):
        padding = (kernel[0] // 2, kernel[1] // 2) if same and odd else (0, 0)
        network.set_submodule(path, dense_to_convolution(layer, kernel, padding))
        return None
    if isinstance(layer, (nn.LayerNorm, nn.BatchNorm1d, *SOFTMAXES)):
        _require_pooled(node, kernel)
    if isinstance(layer, nn.LayerNorm):
        return _normalize_channels(network, node)
    if isinstance(layer, nn.BatchNorm1d):
        if type(layer) is not nn.BatchNorm1d:
            kind = type(layer).__name__
            raise NotConvolutionalError(
                f"layer {path}: {kind} may do more than nn.BatchNorm1d does"
            )
        network.set_submodule(path, _batch_norm_2d(layer))
    elif isinstance(layer, SOFTMAXES):
        _require_along_channels(node, layer.dim)
        layer.dim = 1  # the classes, which were the last axis and the second
    return None


def _call_on_map(network: fx.GraphModule, node: fx.Node, shape: Shape) -> fx.Node | None:
    """Make a call that worked on vectors work on C x H x W maps; return its new node, if any."""
    name, kernel = call_name(node), shape[1:]
    if node.target is F.linear:
        return _convolve(network, node, shape)
    if is_pointwise_call(node):
        return None
    if node.target is F.layer_norm and kernel == (1, 1):
        return _normalize_channels(network, node)
    if name in NORMALISING:
        _require_pooled(node, kernel)
        place = NORMALISING[name]
        _require_along_channels(node, argument(node, place, "dim"))
        if len(node.args) > place:
            node.update_arg(place, 1)
        else:
            node.update_kwarg("dim", 1)
        return None
    raise NotConvolutionalError(
        f"layer {layer_name(node)}: {name}() can't work on a map instead of a vector"
    )


def _require_pooled(node: fx.Node, kernel: tuple[int, ...]) -> None:
    """Refuse to normalise vectors that stand for several cells."""
    if kernel != (1, 1):
        raise NotConvolutionalError(
            f"layer {layer_name(node)}: it normalises a flattened map as one vector"
        )


def _require_along_channels(node: fx.Node, axis: int | None) -> None:
    """Refuse to normalise vectors along another axis than their own; None stands for that."""
    if axis is not None and axis % len(node.meta["shape"]) != 1:
        raise NotConvolutionalError(
            f"layer {layer_name(node)}: it normalises along axis {axis}, not along the channels"
        )


def _is_linear(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Linear)
    return node.target is F.linear


def _convolve(network: fx.GraphModule, node: fx.Node, shape: Shape) -> fx.Node:
    """Make a call of F.linear, on a weight that may be computed, a call of F.conv2d."""
    source, weight = node.all_input_nodes[0], argument(node, 1, "weight")
    with network.graph.inserting_before(node):
        kernel = network.graph.call_method("reshape", (weight, -1, *shape))
        return network.graph.call_function(F.conv2d, (source, kernel, argument(node, 2, "bias")))


def dense_to_convolution(
    layer: nn.Linear, kernel: tuple[int, ...] = (1, 1), padding: tuple[int, int] = (0, 0)
) -> nn.Conv2d:
    """Return the convolution that equals a linear layer on a flattened C x kernel map.

    Its weight is the linear layer's, reshaped O x (C·H·W) -> O x C x H x W (Caffe's ``surgery``).
    """
    weight = layer.weight.detach().reshape(layer.out_features, -1, *kernel)
    kernels = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    return convolution_of(kernels, layer.bias, padding=padding).train(layer.training)


def _pad_before(network: fx.GraphModule, node: fx.Node, kernel: tuple[int, ...]) -> None:
    """Pad so that the map keeps its size; the odd cell of an even kernel goes left and top."""
    (top, bottom), (left, right) = ((size // 2, (size - 1) // 2) for size in kernel)
    source = node.all_input_nodes[0]
    with network.graph.inserting_before(node):
        padded = network.graph.call_function(F.pad, (source, (left, right, top, bottom)))
    node.replace_input_with(source, padded)


def _normalize_channels(network: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Run a LayerNorm over the channels of each cell."""
    graph, source = network.graph, node.all_input_nodes[0]
    with graph.inserting_before(node):
        last = graph.call_method("permute", (source, 0, 2, 3, 1))
        normalized = graph.node_copy(node, lambda each: last if each is source else each)
        return graph.call_method("permute", (normalized, 0, 3, 1, 2))


def _batch_norm_2d(layer: nn.BatchNorm1d) -> nn.BatchNorm2d:
    with torch.device("meta"):
        twin = nn.BatchNorm2d(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
        )
    for name, value in (*layer.named_parameters(), *layer.named_buffers()):
        setattr(twin, name, value)
    return twin.train(layer.training)


def keep(network: fx.GraphModule, node: fx.Node) -> None:
    """Stop the layers that read `node` from overwriting it (activations "in place")."""
    for user in list(node.users):
        if user.op == "call_module":
            layer = network.get_submodule(str(user.target))
            if getattr(layer, "inplace", False):
                layer.__dict__["inplace"] = False
        elif user.op != "output" and may_overwrite(user):
            with network.graph.inserting_before(user):
                clone = network.graph.call_method("clone", (node,))
            clone.meta.update(node.meta)  # its shape
            user.replace_input_with(node, clone)


def may_overwrite(call: fx.Node) -> bool:
    """Whether a call of a function or method may work in place: F.relu(x, True), x.clamp_(0)."""
    flagged = any(value is True for value in (*call.args, call.kwargs.get("inplace")))
    return flagged or call_name(call).endswith("_")
