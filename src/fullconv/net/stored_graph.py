"""A graph of layers as plain data, from which torch alone rebuilds it: no classifier, no tracing.

Nothing in it is code: layers, functions and methods are named from closed lists, and names are
plain words. Nothing is computed, and no memory is taken, before the weights are there and fit. A
graph with anything else in it, such as a layer of the user's own, can't be stored.
"""

from __future__ import annotations

import inspect
import keyword
import math
import operator
import re
import reprlib
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fullconv.base.errors import FullconvError
from fullconv.dense.graph import LayerGraph
from fullconv.dense.grids import whole_pieces

CLASSES = frozenset(
    """
    Conv2d Linear MaxPool2d AvgPool2d LPPool2d AdaptiveAvgPool2d AdaptiveMaxPool2d Flatten Identity
    ZeroPad2d ConstantPad2d ReflectionPad2d ReplicationPad2d
    BatchNorm2d GroupNorm LayerNorm InstanceNorm2d LocalResponseNorm CrossMapLRN2d
    Dropout Dropout2d AlphaDropout FeatureAlphaDropout
    ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU SiLU GELU Mish Softplus Softsign Threshold
    Sigmoid LogSigmoid Hardsigmoid Hardswish Tanh Hardtanh Tanhshrink Hardshrink Softshrink
    Softmax Softmin LogSoftmax
    """.split()
)
METHODS = frozenset(
    """
    add add_ sub sub_ mul mul_ div div_ neg abs sqrt rsqrt exp clamp clamp_ maximum minimum
    relu relu_ sigmoid sigmoid_ tanh float type_as expand_as contiguous clone detach
    chunk split permute transpose view view_as reshape reshape_as flatten unsqueeze squeeze
    mean norm sum amax size expand square softmax
    """.split()
)
ATTRIBUTES = ("shape", "ndim")  # of tensors
PATH = "[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*"

# What a stored graph may hold at most; no classifier comes near.
MOST_NODES = 10_000
MOST_NUMBER = 2**17  # of the plain numbers that functions are given
MOST_STEP = 1024  # of a layer's kernel, stride, padding, dilation or neighbours
MOST_NAME = 300  # characters
MOST_ITEMS, MOST_DEPTH = 16, 3  # of a tuple of constants, and tuples in tuples
STEPS = ("kernel_size", "stride", "padding", "dilation", "size", "output_size")

Name = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=MOST_NAME)]
Path = Annotated[str, Field(pattern=f"^{PATH}$", max_length=MOST_NAME)]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=2**31)], ...], Field(max_length=8)]
Few = Field(max_length=MOST_NODES)


class StoredGraphError(FullconvError):
    """A stored graph that can't be rebuilt, or isn't one; the message says why."""


class _Layer(BaseModel):
    """A class of torch.nn, and those of its arguments that are not the default ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Annotated[str, Field(max_length=MOST_NAME)]
    arguments: Annotated[dict[str, Any], Field(max_length=MOST_ITEMS)] = {}


class _Node(BaseModel):
    """A node of the graph, with the shape that tracing noted, if its value is a tensor.

    Its arguments are JSON. "%NAME" is another node's value, ``{"tuple": [...]}`` a tuple and
    ``{"slice": [start, stop, step]}`` a slice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    op: Literal["placeholder", "get_attr", "call_module", "call_function", "call_method", "output"]
    target: Annotated[str, Field(max_length=MOST_NAME)]
    args: Annotated[list[Any], Field(max_length=MOST_ITEMS)] = []
    kwargs: Annotated[dict[Name, Any], Field(max_length=MOST_ITEMS)] = {}
    shape: Shape | None = None


class StoredGraph(BaseModel):
    """A graph module as plain data.

    Attributes:
        layers: by their paths.
        parameters, buffers: shapes of those that are no layer's, by their paths.
        nodes: in order of execution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Annotated[dict[Path, _Layer], Few]
    parameters: Annotated[dict[Path, Shape], Few] = {}
    buffers: Annotated[dict[Path, Shape], Few] = {}
    nodes: Annotated[list[_Node], Few]

    @classmethod
    def of(cls, module: fx.GraphModule) -> StoredGraph | None:
        """Store a graph; None if it would not come back as it is."""
        try:
            stored = cls(
                layers=_layers(module),
                parameters=_shapes(module, dict(module.named_parameters())),
                buffers=_shapes(module, dict(module.named_buffers())),
                nodes=[_encoded_node(node) for node in module.graph.nodes],
            )
            return stored if _alike(module, stored.rebuild()) else None
        except Exception:  # whatever layer it is that can't be told or made from what was told
            return None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without what is empty."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def rebuild(self) -> fx.GraphModule:
        """Build the graph module again, all its tensors on the device "meta" (without data).

        Shapes are noted as `tracing` does.

        Raises:
            StoredGraphError: it holds something that is on none of the lists.
            Exception: of any other kind, where its layers' arguments were forged.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch or Python finds odd fails when it is run
            root, graph = self._modules(), self._graph()
            graph.lint()
            return LayerGraph(root, graph)

    def _modules(self) -> nn.Module:
        """Build the layers and tensors, at their paths."""
        root = nn.Module()
        with torch.device("meta"):
            for path, layer in self.layers.items():
                if layer.kind not in CLASSES or {"device", "dtype"} & set(layer.arguments):
                    raise StoredGraphError(f"layer {path}: unknown kind {layer.kind!r}")
                arguments = {name: _tuple(value) for name, value in layer.arguments.items()}
                _require_bounded(path, arguments)
                _put(root, path, getattr(nn, layer.kind)(**arguments))
            for path, shape in self.parameters.items():
                _put(root, path, nn.Parameter(torch.empty(shape)))
            for path, shape in self.buffers.items():
                _put(root, path, torch.empty(shape))
        for path in (node.target for node in self.nodes if _is_flag(node)):
            _owner(root, path)  # whose mode it is
        return root

    def _graph(self) -> fx.Graph:
        ends = [
            place for place, node in enumerate(self.nodes) if node.op in ("placeholder", "output")
        ]
        if ends != [0, len(self.nodes) - 1]:
            raise StoredGraphError("not one input and one output")
        graph, made = fx.Graph(), dict[str, fx.Node]()
        for node in self.nodes:
            args = tuple(_decoded(each, made) for each in node.args)
            kwargs = {name: _decoded(each, made) for name, each in node.kwargs.items()}
            created = graph.create_node(node.op, self._target(node), args, kwargs, node.name)
            if created.name != node.name or any(map(keyword.iskeyword, (node.target, *kwargs))):
                raise StoredGraphError(f"node {node.name}: a name that can't be used")
            if node.shape is not None:
                created.meta["shape"] = node.shape
            made[node.name] = created
        return graph

    def _target(self, node: _Node) -> Any:
        """Return what a node of the graph calls or reads, which must be on one of the lists."""
        target = node.target
        match node.op:
            case "call_function" if target in FUNCTIONS:
                if target == "getattr" and node.args[1:] not in [[each] for each in ATTRIBUTES]:
                    raise StoredGraphError(f"node {node.name}: unknown attribute")
                return FUNCTIONS[target]
            case "call_method" if target in METHODS:
                return target
            case "call_module" if target in self.layers:
                return target
            case "get_attr" if target in {**self.parameters, **self.buffers} or _is_flag(node):
                return target
            case "placeholder" | "output" if target.isidentifier() and target.isascii():
                return target
        raise StoredGraphError(f"node {node.name}: unknown {node.op} {target!r}")


def stochastic_depth(input: Tensor, p: float, mode: str, training: bool = True) -> Tensor:
    """Do as torchvision's function of this name, which is imported for training only."""
    if not training:
        return input
    import torchvision.ops

    dropped: Tensor = torchvision.ops.stochastic_depth(input, p, mode, training)
    return dropped


FUNCTIONS: Mapping[str, Any] = {
    "getattr": getattr,
    "stochastic_depth": stochastic_depth,
    "whole_pieces": whole_pieces,
    **{
        f"{home.__name__}.{name}": getattr(home, name)
        for home, names in (
            (
                operator,
                "add iadd sub isub mul imul truediv itruediv floordiv mod neg getitem matmul",
            ),
            (
                torch,
                """
                cat concat chunk split permute transpose reshape flatten unsqueeze squeeze
                add sub mul div neg abs sqrt rsqrt exp clamp maximum minimum addcmul lerp where
                relu sigmoid tanh mean norm sum amax stack matmul square
                """,
            ),
            (
                F,
                """
                conv2d linear pad max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d
                batch_norm layer_norm group_norm instance_norm local_response_norm
                dropout dropout2d alpha_dropout relu relu6 leaky_relu prelu elu selu celu silu gelu
                mish softplus sigmoid tanh hardswish hardsigmoid hardtanh softmax
                """,
            ),
        )
        for name in names.split()
    },
}


# To data ------------------------------------------------------------------------------------------


def _layers(module: fx.GraphModule) -> dict[str, _Layer]:
    paths = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    return {path: _encoded_layer(module.get_submodule(path)) for path in paths}


def _encoded_layer(layer: nn.Module) -> _Layer:
    own = type(layer)
    kind = own.__name__
    if kind not in CLASSES or own is not getattr(nn, kind):
        raise StoredGraphError(f"unknown kind {kind}")
    arguments = {}
    for parameter in inspect.signature(own).parameters.values():
        value = getattr(layer, parameter.name, parameter.default)
        if parameter.name == "bias":
            value = value is not None
        if value != parameter.default and value is not parameter.empty:
            arguments[parameter.name] = _listed(value)
    return _Layer(kind=kind, arguments=arguments)


def _listed(value: Any) -> Any:
    """Return an argument of a layer as JSON."""
    return [_scalar(each) for each in value] if isinstance(value, tuple) else _scalar(value)


def _shapes(module: fx.GraphModule, tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return the shapes of those tensors that nodes read by themselves."""
    read = [str(node.target) for node in module.graph.nodes if node.op == "get_attr"]
    if not all(tensors[path].is_floating_point() for path in read if path in tensors):
        raise StoredGraphError("a tensor of integers")
    return {path: tuple(tensors[path].shape) for path in read if path in tensors}


def _encoded_node(node: fx.Node) -> _Node:
    target = node.target
    if node.op == "call_function":
        target = _function_name(target)
    return _Node(
        name=node.name,
        op=node.op,  # type: ignore[arg-type]
        target=str(target),
        args=[_encoded(each) for each in node.args],
        kwargs={name: _encoded(each) for name, each in node.kwargs.items()},
        shape=node.meta.get("shape"),
    )


def _function_name(function: Any) -> str:
    if getattr(function, "__module__", "") == "torchvision.ops.stochastic_depth":
        return "stochastic_depth"
    for name, known in FUNCTIONS.items():
        if known is function:
            return name
    raise StoredGraphError(f"unknown function {function}")


def _encoded(value: Any) -> Any:
    """Return a node's argument as JSON."""
    match value:
        case fx.Node():
            return f"%{value.name}"
        case tuple():
            return {"tuple": [_encoded(each) for each in value]}
        case list():
            return [_encoded(each) for each in value]
        case slice():
            return {"slice": [_encoded(each) for each in (value.start, value.stop, value.step)]}
    return _scalar(value)


def _alike(module: fx.GraphModule, rebuilt: fx.GraphModule) -> bool:
    """Tell whether a rebuilt module is the same but for what its state holds."""
    altered = any(
        "forward" in part.__dict__ or part._forward_hooks or part._forward_pre_hooks
        for part in module.modules()
    )
    tensors = [*module.named_parameters(), *module.named_buffers()]
    states = [
        [(name, value.shape) for name, value in each.state_dict().items()]
        for each in (module, rebuilt)
    ]
    printed = [
        {path: repr(each.get_submodule(path)) for path in _layers(module)}
        for each in (module, rebuilt)
    ]
    return (
        not altered
        and states[0] == states[1]
        and len(tensors) == len(states[0])  # none is shared or missing in the state
        and printed[0] == printed[1]
    )


# From data ----------------------------------------------------------------------------------------


def _put(root: nn.Module, path: str, part: nn.Module | Tensor) -> None:
    """Place a layer or tensor at its path."""
    owner, name = _owner(root, path), path.rpartition(".")[2]
    match part:
        case nn.Parameter():
            owner.register_parameter(name, part)
        case Tensor():
            owner.register_buffer(name, part)
        case _:
            owner.add_module(name, part)


def _owner(root: nn.Module, path: str) -> nn.Module:
    """Return the module that `path` lies in, made if need be."""
    for name in path.split(".")[:-1]:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root


def _tuple(value: Any) -> Any:
    """Return a layer's argument from JSON."""
    if not isinstance(value, list):
        return _scalar(value, most=math.inf)
    if len(value) > MOST_ITEMS:
        raise StoredGraphError(f"a layer's argument of {len(value)} numbers")
    return tuple(_scalar(each, most=math.inf) for each in value)


def _require_bounded(path: str, arguments: Mapping[str, Any]) -> None:
    """Refuse kernels and steps that no classifier has."""
    for name in STEPS:
        value = arguments.get(name, 0)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and abs(number) > MOST_STEP:
                raise StoredGraphError(f"layer {path}: too large a stride or window ({name})")


def _is_flag(node: _Node) -> bool:
    """Tell whether a node reads a module's training flag."""
    return node.op == "get_attr" and re.fullmatch(f"({PATH}[.])?training", node.target) is not None


def _decoded(value: Any, made: Mapping[str, fx.Node], depth: int = 0) -> Any:
    match value:
        case str() if value.startswith("%") and value[1:] in made:
            return made[value[1:]]
        case list():
            return _items(value, made, depth)
        case {"tuple": list(items)} if len(value) == 1:
            return tuple(_items(items, made, depth))
        case {"slice": [start, stop, step]} if len(value) == 1:
            return slice(*_items([start, stop, step], made, depth))
    return _scalar(value)


def _items(values: list[Any], made: Mapping[str, fx.Node], depth: int) -> list[Any]:
    """Decode what a list holds: few constants, not deep; layers' values may be many."""
    items = [_decoded(each, made, depth + 1) if depth < MOST_DEPTH else None for each in values]
    constants = sum(not isinstance(each, fx.Node) for each in items)
    if depth >= MOST_DEPTH or constants > MOST_ITEMS or len(items) > MOST_NODES:
        raise StoredGraphError("too many constants in a list, or too deep")
    return items


def _scalar(value: Any, most: float = MOST_NUMBER) -> Any:
    """Return a plain value as it is; refuse any other, and numbers that no function needs."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= most:
        return value
    if isinstance(value, str) and len(value) <= MOST_NAME and _is_word(value):
        return value
    raise StoredGraphError(f"not a plain value: {reprlib.repr(value)}")


def _is_word(text: str) -> bool:
    return text.isidentifier() and text.isascii()
