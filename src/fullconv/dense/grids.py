"""The grid of every value of a traced network, found by walking its graph.

Each layer is one of four things: a window that slides (convolution, pooling, padding), a pointwise
operation, a change of layout (permute, view), or a reduction over the whole image. Anything else
(attention, rolling, resampling) has no grid, and a network that needs it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules import activation, batchnorm, dropout, instancenorm

from fullconv.base.errors import FullconvError
from fullconv.dense.tracing import source_of
from fullconv.geometry import Grid, Window, merge

Shape = tuple[int, ...]

SOFTMAXES = (nn.Softmax, nn.Softmin, nn.LogSoftmax)


class NotConvolutionalError(FullconvError):
    """A layer does not slide over the image, so the network cannot become dense."""


@dataclass(frozen=True)
class LayerGrid:
    """Where the cells of a value lie.

    Attributes:
        layout: one letter a dimension: N, C (may repeat), H, W; P for H and W in one.
        vertical, horizontal: the grids along H and W; None for a value that depends on the whole
            image and has no place on it.
    """

    layout: str
    vertical: Grid | None
    horizontal: Grid | None

    @property
    def is_global(self) -> bool:
        """Whether the value describes the whole image."""
        return self.vertical is None

    def through(self, vertical: Window, horizontal: Window) -> LayerGrid:
        """Slide a window along each axis; a global value stays global."""
        if self.vertical is None or self.horizontal is None:
            return self
        return replace(
            self,
            vertical=self.vertical.through(vertical),
            horizontal=self.horizontal.through(horizontal),
        )

    def unbounded(self) -> LayerGrid:
        """Let the cells depend on the whole image besides."""
        if self.vertical is None or self.horizontal is None:
            return self
        return replace(
            self, vertical=self.vertical.unbounded(), horizontal=self.horizontal.unbounded()
        )


def layer_grids(module: fx.GraphModule) -> dict[fx.Node, LayerGrid]:
    """Return the grid of every value that depends on the image.

    `module` is traced, with shapes noted (see `tracing.trace`).

    Raises:
        NotConvolutionalError: names the first layer that has no grid, and why.
        GeometryError: layers of different strides are joined.
    """
    found: dict[fx.Node, LayerGrid] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            found[node] = LayerGrid("NCHW", Grid(), Grid())
        elif node.op != "output" and any(source in found for source in node.all_input_nodes):
            grid = _grid_or_refusal(module, node, found)
            if grid is not None:
                found[node] = grid
    return found


def _grid_or_refusal(
    module: fx.GraphModule, node: fx.Node, found: dict[fx.Node, LayerGrid]
) -> LayerGrid | None:
    """Return the grid of a layer; what can't follow a flattening is the flattening's fault."""
    try:
        return _grid_of(module, node, found)
    except NotConvolutionalError:
        flattened = _flattening(node, found)
        if flattened is None:
            raise
        before, after = (each.meta["shape"] for each in (flattened.all_input_nodes[0], flattened))
        reason = f"a view from {before} to {after} mixes up the image axes"
        raise _refusal(flattened, f"{reason} for {layer_name(node)}") from None


def _flattening(node: fx.Node, found: dict[fx.Node, LayerGrid]) -> fx.Node | None:
    """Return the layer that made rows of positions of a map which a node reads, if one did."""
    for source in node.all_input_nodes:
        if source in found and "P" in found[source].layout and not found[source].is_global:
            return _flattening(source, found) or source
    return None


def _grid_of(
    module: fx.GraphModule, node: fx.Node, found: dict[fx.Node, LayerGrid]
) -> LayerGrid | None:
    inputs = [found[source] for source in node.all_input_nodes if source in found]
    if all(grid.is_global for grid in inputs):
        return inputs[0]
    if node.op == "call_module":
        return _grid_of_module(module.get_submodule(str(node.target)), node, inputs[0])
    name = call_name(node)
    if is_pointwise_call(node):
        _refuse_fixed_maps(node, found, inputs)
        return _joined(node, inputs)
    if name in _RULES:
        return _RULES[name](node, inputs)
    if name == "matmul":
        return _multiply(node, found)
    if name in ("scaled_dot_product_attention", "bmm", "einsum"):
        raise _refusal(node, f"{name}() weighs positions against each other (attention)")
    raise _refusal(node, f"{name}() does not slide over the image")


def _refusal(node: fx.Node, reason: str) -> NotConvolutionalError:
    return NotConvolutionalError(
        f"layer {layer_name(node)}: {reason}; only networks of convolutions, pooling and "
        f"pointwise layers can be made fully convolutional{_where(node)}"
    )


def _where(node: fx.Node) -> str:
    source = source_of(node)
    return f" ({source})" if source else ""


def layer_name(node: fx.Node) -> str:
    """Return the name a user knows a layer by: its module's path, or the node's own name."""
    return str(node.target) if node.op == "call_module" else node.name


# Modules ------------------------------------------------------------------------------------


def _grid_of_module(layer: nn.Module, node: fx.Node, grid: LayerGrid) -> LayerGrid:
    windows = windows_of(layer)
    if windows is not None:
        slid = _require(node, grid, "NCHW").through(*windows)
        return slid.unbounded() if getattr(layer, "padding_mode", "") == "circular" else slid
    if is_global_pooling(layer):
        return LayerGrid("NCHW", None, None)
    return _grid_of_other_module(layer, node, grid)


def _grid_of_other_module(layer: nn.Module, node: fx.Node, grid: LayerGrid) -> LayerGrid:
    """Return the grid of a layer without a window, which keeps its input's."""
    if isinstance(layer, (nn.Linear, nn.LayerNorm)):
        if not grid.layout.endswith("C"):
            raise _refusal(node, f"a {type(layer).__name__} runs along an image axis")
        return grid
    of_batch = isinstance(layer, batchnorm._BatchNorm) and layer.running_mean is None
    if of_batch or isinstance(layer, (nn.GroupNorm, instancenorm._InstanceNorm)):
        return grid.unbounded()
    if isinstance(layer, SOFTMAXES):
        axis = 1 if layer.dim is None else layer.dim
        return _normalised_along(node, grid, axis, type(layer).__name__)
    if node.meta.get("shape") == node.all_input_nodes[0].meta.get("shape"):
        if _is_pointwise(layer):
            return grid
        if _is_opaque(layer):
            return grid.unbounded()
    raise _refusal(node, f"{type(layer).__name__} does not slide over the image")


def windows_of(layer: nn.Module) -> tuple[Window, Window] | None:
    """Return the vertical and horizontal windows of a sliding layer, None for any other."""
    if isinstance(layer, nn.Conv2d):
        windows = _conv_windows(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return _needing(windows, layer.padding_mode)
    if isinstance(layer, nn.MaxPool2d):
        return _pool_windows(
            layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
        )
    if isinstance(layer, nn.AvgPool2d):
        return _pool_windows(layer.kernel_size, layer.stride, layer.padding, 1, layer.ceil_mode)
    if isinstance(layer, nn.LPPool2d):
        return _pool_windows(layer.kernel_size, layer.stride, 0, 1, layer.ceil_mode)
    if isinstance(
        layer, nn.modules.padding._ConstantPadNd | nn.ReflectionPad2d | nn.ReplicationPad2d
    ):
        mode = "reflect" if isinstance(layer, nn.ReflectionPad2d) else ""
        return _padding_windows(layer.padding, mode)
    return None


def is_global_pooling(layer: nn.Module) -> bool:
    """Whether a module pools any map to one cell."""
    kinds = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
    return isinstance(layer, kinds) and pair(layer.output_size) == (1, 1)


def _conv_windows(kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Window, Window]:
    windows = []
    for axis, size in enumerate(pair(kernel)):
        spread = pair(dilation)[axis]
        total = spread * (size - 1)
        if padding == "same":
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if padding == "valid" else pair(padding)[axis]
        windows.append(Window(size, pair(stride)[axis], before, after, spread))
    return windows[0], windows[1]


def _padding_windows(amounts: Sequence[int], mode: str | None) -> tuple[Window, Window]:
    left, right, top, bottom = amounts
    windows = Window(1, before=top, after=bottom), Window(1, before=left, after=right)
    return _needing(windows, mode)


def _needing(windows: tuple[Window, Window], mode: str | None) -> tuple[Window, Window]:
    """Let windows that pad by a map's own cells need as many: a reflection one more."""
    if mode not in ("reflect", "circular"):
        return windows
    edge = 1 if mode == "reflect" else 0
    vertical, horizontal = (
        replace(window, needs=max(1, window.before + edge, window.after + edge))
        for window in windows
    )
    return vertical, horizontal


def _pool_windows(
    kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> tuple[Window, Window]:
    flat = zip(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), strict=True)
    vertical, horizontal = (Window(k, s, p, p, d, ceil) for k, s, p, d in flat)
    return vertical, horizontal


def pair(value: Any) -> tuple[int, int]:
    """Return a layer's argument for H and W, given as one number or as two."""
    if isinstance(value, Sequence):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))


def _is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer that keeps its input's shape looks at each cell alone."""
    attention = isinstance(layer, nn.MultiheadAttention)
    families = (
        batchnorm._BatchNorm,
        dropout._DropoutNd,
        nn.Identity,
        nn.LocalResponseNorm,
        nn.CrossMapLRN2d,
    )
    is_activation = type(layer).__module__ == activation.__name__ and not attention
    is_stochastic_depth = _is_opaque(layer) and not layer.state_dict()
    return is_stochastic_depth or is_activation or isinstance(layer, families)


def _is_opaque(layer: nn.Module) -> bool:
    """Whether a trace could not look into a layer: it branches on its training flag."""
    return not type(layer).__module__.startswith("torch.nn")


# Functions and methods ------------------------------------------------------------------------

_POINTWISE = frozenset(  # which also work in place, by names with an underscore behind
    """
    add iadd radd sub isub rsub mul imul truediv itruediv floordiv neg pos pow ipow
    subtract multiply div divide true_divide floor_divide negative addcmul addcdiv lerp
    abs absolute sign sqrt rsqrt square reciprocal exp exp2 expm1 log log2 log10 log1p logaddexp
    sin cos atan sinh cosh asinh erf erfc floor ceil round trunc frac nan_to_num
    clamp clamp_min clamp_max clip maximum minimum where masked_fill eq ne lt le gt ge logical_not
    relu relu6 leaky_relu rrelu prelu elu selu celu silu gelu mish softplus softsign sigmoid
    log_sigmoid logsigmoid hardswish hardsigmoid hardtanh tanh tanhshrink softshrink hardshrink
    threshold _threshold
    batch_norm local_response_norm dropout dropout2d feature_dropout alpha_dropout stochastic_depth
    contiguous clone detach to float half bfloat16 double type_as expand_as
    """.split()
)


def is_pointwise_call(node: fx.Node) -> bool:
    """Whether a call of a function or method looks at each cell alone."""
    return call_name(node).removesuffix("_") in _POINTWISE


def _refuse_fixed_maps(
    node: fx.Node, found: dict[fx.Node, LayerGrid], inputs: Sequence[LayerGrid]
) -> None:
    """Refuse to join a map with a parameter that has cells of its own (a position embedding)."""
    if node.target in (F.batch_norm, F.prelu):  # theirs are told apart by channel
        return
    local = next(grid for grid in inputs if not grid.is_global)
    for source in node.all_input_nodes:
        shape = source.meta.get("shape", ()) if source not in found else ()
        aligned = zip(reversed(local.layout), reversed(shape), strict=False)
        if any(letter in "HW" and length != 1 for letter, length in aligned):
            raise _refusal(node, f"it joins a map with a parameter of fixed shape {shape}")


def _joined(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    """Return the grid of a sum, product or concatenation."""
    local = [grid for grid in inputs if not grid.is_global]
    if len({grid.layout for grid in local}) > 1:
        raise _refusal(node, "values of different layouts are joined")
    joined = replace(
        local[0],
        vertical=merge([grid.vertical for grid in local if grid.vertical]),
        horizontal=merge([grid.horizontal for grid in local if grid.horizontal]),
    )
    return joined.unbounded() if len(local) < len(inputs) else joined


def _require(node: fx.Node, grid: LayerGrid, layout: str) -> LayerGrid:
    if grid.layout != layout:
        raise _refusal(node, f"it needs the layout {layout} and gets {grid.layout}")
    return grid


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, however it was passed."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def axes_of(node: fx.Node, position: int = 1) -> list[int]:
    """Return the dimensions that a call names, as one list or one by one, counted from 0."""
    given = argument(node, position, "dim", argument(node, position, "dims", ()))
    if isinstance(given, int):
        given = [arg for arg in node.args[position:] if type(arg) is int] or [given]
    rank = len(node.all_input_nodes[0].meta["shape"])
    return [int(axis) % rank for axis in given]


def _concatenate(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    grid = _joined(node, inputs)
    axis = argument(node, 1, "dim", 0)
    if grid.layout[axis] != "C":
        raise _refusal(node, "values are joined along an image axis")
    return grid


def _split(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    axis = argument(node, 2, "dim", 0)
    if inputs[0].layout[axis] != "C":
        raise _refusal(node, "the image is cut into pieces")
    return inputs[0]


def _permute(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    letters = inputs[0].layout
    return replace(inputs[0], layout="".join(letters[axis] for axis in axes_of(node)))


def _transpose(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    letters = list(inputs[0].layout)
    first, second = (int(argument(node, i, f"dim{i - 1}")) for i in (1, 2))
    letters[first], letters[second] = letters[second], letters[first]
    return replace(inputs[0], layout="".join(letters))


def _reshape(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    """Allow a view that regroups channels, cuts an image axis into small pieces, or joins both."""
    before, after = node.all_input_nodes[0].meta["shape"], node.meta["shape"]
    grid, letters = inputs[0], ""
    for axes, sizes in _groups(grid.layout, before, after):
        made = _regrouped(axes, sizes)
        if made is None:
            raise _refusal(node, f"a view from {before} to {after} mixes up the image axes")
        letters += made
    asked = zip(letters, _sizes_asked(node), strict=False)
    sides = [size for letter, size in asked if letter in "HWP"]
    fixed = all(isinstance(side, int) and side != -1 for side in sides)
    if call_name(node) != "flatten" and sides and fixed:
        raise _refusal(node, f"a view to the fixed size {after[-2:]}")
    vertical, horizontal = pieces(node, grid.layout)
    return replace(grid, layout=letters).through(
        Window(vertical, vertical), Window(horizontal, horizontal)
    )


def pieces(node: fx.Node, layout: str) -> tuple[int, int]:
    """Return the lengths of the pieces that a view cuts the axes H and W of a map into."""
    groups = _groups(layout, node.all_input_nodes[0].meta["shape"], node.meta["shape"])
    lengths = {axes: math.prod(sizes[1:]) for axes, sizes in groups}
    return lengths.get("H", 1), lengths.get("W", 1)


def _sizes_asked(node: fx.Node) -> list[Any]:
    """Return the sizes that a view asks for, as numbers or as nodes."""
    given = node.args[1:]
    if len(given) == 1 and isinstance(given[0], Sequence):
        given = tuple(given[0])
    return list(given)


def _groups(layout: str, before: Shape, after: Shape) -> list[tuple[str, list[int]]]:
    """Return which axes a view makes of which, as letters and new lengths, in the least groups."""
    groups: list[tuple[str, list[int]]] = []
    old, new = list(zip(layout, before, strict=True)), list(after)
    while old or new:
        axes, product, sizes = "", 1, [new.pop(0)] if new else []
        while not axes or math.prod(sizes) != product:
            if old and (not axes or math.prod(sizes) > product or not new):
                letter, length = old.pop(0)
                axes, product = axes + letter, product * length
            elif new:
                sizes.append(new.pop(0))
            else:
                break
        groups.append((axes, sizes))
    return groups


def _regrouped(axes: str, sizes: list[int]) -> str | None:
    """Return the letters of the axes that a view makes of some; None where none fit."""
    plain = axes.replace("C", "")
    if plain == "":
        return "C" * len(sizes)
    if plain == "N":
        return "N" + "C" * (len(sizes) - 1) if axes[0] == "N" else None
    if axes in ("H", "W", "P"):
        return axes + "C" * (len(sizes) - 1)
    return "P" if axes == "HW" and len(sizes) == 1 else None


def _unsqueeze(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    letters = inputs[0].layout
    axis = int(argument(node, 1, "dim")) % (len(letters) + 1)
    return replace(inputs[0], layout=letters[:axis] + "C" + letters[axis:])


def _index(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid | None:
    """Allow picking channels, every second row or column, and one of several values."""
    if "shape" not in node.meta:
        return None  # an element of a size
    if "shape" not in node.all_input_nodes[0].meta:
        return inputs[0]  # one of the pieces of a split
    keys = list(node.args[1]) if isinstance(node.args[1], tuple) else [node.args[1]]
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        keys[place : place + 1] = [slice(None)] * (len(inputs[0].layout) - len(keys) + 1)
    letters, windows = "", {"H": Window(1), "W": Window(1)}
    for letter, key in zip(inputs[0].layout, keys, strict=False):
        if letter in "HWP" and key != slice(None):
            windows[letter] = _picked(node, letter, key)
        letters += "" if isinstance(key, int) else letter
    layout = letters + inputs[0].layout[len(keys) :]
    return replace(inputs[0], layout=layout).through(windows["H"], windows["W"])


def _picked(node: fx.Node, letter: str, key: Any) -> Window:
    """Return the window of a slice that picks every n-th cell."""
    if isinstance(key, slice) and letter != "P" and key.stop is None:
        start, step = key.start or 0, key.step or 1
        if type(start) is type(step) is int and 0 <= start < step:
            return Window(1, step, before=-start)
    raise _refusal(node, "part of the image is picked out")


def _reduce(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    """Allow a reduction over channels, or over the whole image."""
    position = 2 if call_name(node) == "norm" else 1
    grid, reduced = inputs[0], axes_of(node, position)
    letters = {grid.layout[axis] for axis in reduced}
    if letters >= {"H", "W"} or "P" in letters:
        return LayerGrid(grid.layout, None, None)
    if letters == {"C"}:
        if argument(node, position + 1, "keepdim", False):
            return grid
        kept = (letter for axis, letter in enumerate(grid.layout) if axis not in reduced)
        return replace(grid, layout="".join(kept))
    raise _refusal(node, "a reduction over some of the image's axes")


# Functions that normalise along one axis, and where among their arguments it stands.
NORMALISING = {"softmax": 1, "softmin": 1, "log_softmax": 1, "normalize": 2}


def _normalise(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    axis, name = argument(node, NORMALISING[call_name(node)], "dim"), call_name(node)
    return _normalised_along(node, inputs[0], 1 if axis is None else axis, name)


def _normalised_along(node: fx.Node, grid: LayerGrid, axis: int, name: str) -> LayerGrid:
    letter = grid.layout[axis]
    if letter not in "CP":
        raise _refusal(node, f"a {name} runs along an image axis")
    return grid.unbounded() if letter == "P" else grid


def _stack(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    grid = _joined(node, inputs)
    axis = argument(node, 1, "dim", 0) % (len(grid.layout) + 1)
    return replace(grid, layout=grid.layout[:axis] + "C" + grid.layout[axis:])


def _squeeze(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    dropped = axes_of(node)
    if not dropped or any(inputs[0].layout[axis] != "C" for axis in dropped):
        raise _refusal(node, "an axis of the image is dropped where it has one cell")
    kept = (letter for axis, letter in enumerate(inputs[0].layout) if axis not in dropped)
    return replace(inputs[0], layout="".join(kept))


def _expand(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    before, after = node.all_input_nodes[0].meta["shape"], node.meta["shape"]
    aligned = zip(inputs[0].layout, before, after, strict=False)
    if len(before) != len(after) or any(a != b for letter, a, b in aligned if letter != "C"):
        raise _refusal(node, "a map is repeated")
    return inputs[0]


def _multiply(node: fx.Node, found: dict[fx.Node, LayerGrid]) -> LayerGrid:
    """Allow a sum over all positions, weighted by some: a global context."""
    first, second = (found.get(source) for source in node.all_input_nodes[:2])
    letters = [grid.layout if grid else "" for grid in (first, second)]
    if first and letters[0][-1:] == "P" and letters[1][-2:-1] == "P":
        return LayerGrid(first.layout, None, None)
    raise _refusal(node, "it weighs positions against each other (attention)")


def call_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else str(node.target.__name__)


def _adaptive_pool(node: fx.Node, _: list[LayerGrid]) -> LayerGrid:
    if pair(argument(node, 1, "output_size")) != (1, 1):
        raise _refusal(node, "adaptive pooling to a fixed size")
    return LayerGrid("NCHW", None, None)


def _conv2d(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    kernel = argument(node, 1, "weight").meta["shape"][2:]
    windows = _conv_windows(
        kernel,
        argument(node, 3, "stride", 1),
        argument(node, 4, "padding", 0),
        argument(node, 5, "dilation", 1),
    )
    return _require(node, inputs[0], "NCHW").through(*windows)


def _max_pool2d(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    dilation, ceil_mode = argument(node, 4, "dilation", 1), argument(node, 5, "ceil_mode", False)
    return _pooled(node, inputs, dilation, ceil_mode)


def _avg_pool2d(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    return _pooled(node, inputs, 1, argument(node, 4, "ceil_mode", False))


def _pooled(node: fx.Node, inputs: list[LayerGrid], dilation: Any, ceil_mode: Any) -> LayerGrid:
    if asks_whole_map(node):
        return LayerGrid("NCHW", None, None)
    kernel, stride = argument(node, 1, "kernel_size"), argument(node, 2, "stride")
    windows = _pool_windows(kernel, stride, argument(node, 3, "padding", 0), dilation, ceil_mode)
    return _require(node, inputs[0], "NCHW").through(*windows)


def asks_whole_map(node: fx.Node) -> bool:
    """Whether a pooling's window is as large as its input, whatever that is."""
    kernel = argument(node, 1, "kernel_size")
    sides = kernel if isinstance(kernel, Sequence) else (kernel,)
    return any(isinstance(side, fx.Node) for side in sides) and node.meta["shape"][-2:] == (1, 1)


def _pad(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    amounts = [*argument(node, 1, "pad"), 0, 0, 0, 0][:4]
    if not all(isinstance(amount, int) for amount in amounts):
        raise _refusal(node, "the padding depends on the image's size")
    mode = argument(node, 2, "mode")
    padded = _require(node, inputs[0], "NCHW").through(*_padding_windows(amounts, mode))
    return padded.unbounded() if mode == "circular" else padded


def _layer_norm(node: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    shape = argument(node, 1, "normalized_shape")
    if not inputs[0].layout.endswith("C") or math.prod(shape) != node.meta["shape"][-1]:
        raise _refusal(node, "a layer_norm runs along an image axis")
    return inputs[0]


def whole_pieces(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Crop N x C x H x W to whole pieces of `rows` x `columns` cells, which a view cuts it into."""
    height, width = maps.shape[-2:]
    return maps[..., : height // rows * rows, : width // columns * columns]


def _cropped(_: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    """The view that follows is the window; this drops what no piece holds."""
    return inputs[0]


def _whole_map_norm(_: fx.Node, inputs: list[LayerGrid]) -> LayerGrid:
    return inputs[0].unbounded()


def _size(node: fx.Node, inputs: list[LayerGrid]) -> None:
    """Sizes have no grid."""


_RULES: dict[str, Callable[[fx.Node, list[LayerGrid]], LayerGrid | None]] = {
    "cat": _concatenate,
    "concat": _concatenate,
    "chunk": _split,
    "split": _split,
    "permute": _permute,
    "transpose": _transpose,
    "view": _reshape,
    "reshape": _reshape,
    "flatten": _reshape,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "stack": _stack,
    "expand": _expand,
    **dict.fromkeys(NORMALISING, _normalise),
    "getitem": _index,
    "mean": _reduce,
    "norm": _reduce,
    "sum": _reduce,
    "amax": _reduce,
    "amin": _reduce,
    "var": _reduce,
    "std": _reduce,
    "adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "boolean_dispatch": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "pad": _pad,
    "whole_pieces": _cropped,
    "layer_norm": _layer_norm,
    "group_norm": _whole_map_norm,
    "instance_norm": _whole_map_norm,
    "size": _size,
    "getattr": _size,
}
