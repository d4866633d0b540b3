"""From any classifier to a graph of its layers, with the shape of every value.

The graph is torch.fx's, with two additions. A module's ``training`` flag stays alive: where a
forward function hands ``self.training`` on (``F.dropout(x, training=self.training)``), the graph
reads the flag at run time instead of baking in the value at the time of tracing; where a function
branches on it (stochastic depth, aux heads), its module becomes a leaf if it holds no layers with
a sliding window, and else takes its evaluation branch.

And questions about sizes are answered as at the native size (``if x.shape[-1] < 7``, ``int(h)``,
TensorFlow's "same" padding). The classifier is traced once more with a larger image then: where
that makes other layers, no window slides, and it is refused. Assertions are passed over.
"""

from __future__ import annotations

import ast
import copy
import inspect
import operator
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.proxy import Attribute

from fullconv.base.errors import FullconvError
from fullconv.base.runtime import evaluating
from fullconv.dense.graph import LayerGraph

# Sizes that differ by so much are alike to every classifier with windows: all strides divide it.
PERIOD = 128  # pixels


class UntraceableError(FullconvError):
    """The network cannot be turned into a graph of layers; the message says why."""


def trace(network: nn.Module, input_size: int) -> fx.GraphModule:
    """Trace `network`, whose modules the result shares, and note every value's shape.

    Args:
        network: takes a float tensor N x 3 x input_size x input_size.
        input_size: the native size of its input in pixels.

    Returns:
        A graph module; ``node.meta["shape"]`` is a tuple of ints for nodes that yield a tensor (a
        batch of 2 is assumed) and absent for others.

    Raises:
        UntraceableError: control flow that depends on values, or a forward pass that fails.
    """
    name = type(network).__name__
    try:
        made = _traced(network, Sizes(2, input_size), {})
        if made.asked or any(map(made.padding, made.graph.nodes)):
            _require_same(made, _traced(network, Sizes(3, input_size + PERIOD), made.answers))
        made.settle_paddings()
        module = LayerGraph(network, made.graph, name)
        module.graph.eliminate_dead_code()
        module.recompile()
        note_shapes(module, input_size)
    except Exception as error:  # a forward function may raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        where = getattr(error, "where", "")
        raise UntraceableError(f"{name} can't be traced: {where}{reason}") from error
    return module


@dataclass(frozen=True)
class Sizes:
    """Of the images that a classifier is traced for: how many, and the side in pixels."""

    count: int
    side: int


NATIVE = Sizes(2, 224)


class _DependsOnSizeError(Exception):
    """The classifier is another for larger images."""

    def __init__(self, reason: str, node: fx.Node | None) -> None:
        super().__init__(reason)
        self.where = f"{source_of(node)}: " if node and source_of(node) else ""


def _traced(network: nn.Module, sizes: Sizes, answers: Answers) -> _LiveTracer:
    """Trace until every module that branches on its training flag is a leaf."""
    leaves: set[str] = set()
    while True:
        tracer = _LiveTracer(leaves, sizes, answers)
        tracer.trace(network)
        if not tracer.branching - leaves:
            for node in [*tracer.graph.nodes]:
                if node.target is torch._assert:
                    tracer.graph.erase_node(node)
            return tracer
        leaves |= tracer.branching


def _require_same(native: _LiveTracer, larger: _LiveTracer) -> None:
    """Refuse a classifier whose layers, or whose paddings, are others for a larger image."""
    places = [
        {node: place for place, node in enumerate(each.graph.nodes)} for each in (native, larger)
    ]
    for ours, theirs in zip(*places, strict=False):
        told = [
            fx.node.map_arg((each.args, each.kwargs), lambda source, at=at: f"%{at[source]}")  # type: ignore[misc]
            for each, at in zip((ours, theirs), places, strict=True)
        ]
        if (ours.op, ours.target, told[0]) != (theirs.op, theirs.target, told[1]):
            reason = f"larger images go through other layers{_asked_otherwise(native, larger)}"
            raise _DependsOnSizeError(reason, ours)
        if native.padding(ours) != larger.padding(theirs):
            raise _DependsOnSizeError("its padding depends on the image's size", ours)
    if len(places[0]) != len(places[1]):
        reason = f"larger images go through other layers{_asked_otherwise(native, larger)}"
        raise _DependsOnSizeError(reason, None)


def note_shapes(module: fx.GraphModule, input_size: int, channels: int = 3) -> None:
    """Run `module` on 2 images of `input_size` x `input_size` without data; note each shape."""
    parameter = next(module.parameters(), torch.empty(0))
    with evaluating(module), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fake = copy.copy(module)
        size = (2, channels, input_size, input_size)
        batch = torch.empty(size, dtype=parameter.dtype, device=parameter.device)
        _ShapeNotes(fake, mode).run(batch)


class _ShapeNotes(fx.Interpreter):
    """Writes the shape of each tensor that passes into its node's meta."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.mode = mode

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta.pop("shape", None)
        if isinstance(value, Tensor):
            n.meta["shape"] = tuple(int(length) for length in value.shape)
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass batch normalisation by: it changes no shape, and most of the time would be its."""
        if type(self.fetch_attr(target)) is nn.BatchNorm2d and args:
            return args[0]
        return super().call_module(target, args, kwargs)


class _TrainingFlag:
    """Stands for ``self.training`` of the module at `path` while it is traced."""

    def __init__(self, path: str, branched: Callable[[], None]) -> None:
        self.path, self._branched = path, branched

    def __bool__(self) -> bool:
        self._branched()
        return False


def _asked_otherwise(native: _LiveTracer, larger: _LiveTracer) -> str:
    """Tell the first question about sizes whose answer is another for larger images."""
    for (code, instruction), answers in native.answers.items():
        if larger.answers.get((code, instruction)) != answers:
            line = [*code.co_positions()][instruction // 2][0]
            return f", as it asks for the image's size in {code.co_qualname} line {line}"
    return ""


class _Sized(fx.Proxy):
    """A value of which the tracer can tell size and rank, and so whatever follows from those."""

    tracer: _LiveTracer

    def __getattr__(self, k: str) -> Any:
        return _SizedAttribute(self, k)

    def __len__(self) -> int:
        return len(self.tracer.value(self))

    def __int__(self) -> int:
        return int(self.tracer.answer(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.answer(self))

    def __float__(self) -> float:
        return float(self.tracer.answer(self))


class _SizedAttribute(_Sized, Attribute):
    """An attribute or method of such a value."""


Answers = Mapping[tuple[Any, int], list[Any]]  # given at a place of a function's code, in order


class _LiveTracer(fx.Tracer):
    """Traces with living training flags; collects the modules that branch on theirs.

    Attributes:
        asked: whether the forward function asked for any size as a plain number or truth.
        answers: of which those that guard errors are repeated, and so lead to none.
    """

    graph: fx.Graph

    def __init__(
        self, leaves: set[str], sizes: Sizes = NATIVE, repeated: Answers = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.leaves, self.sizes = leaves, sizes
        self.branching: set[str] = set()
        self.asked = False
        self.answers: dict[tuple[Any, int], list[Any]] = {}
        self._repeated = {place: iter(given) for place, given in repeated.items()}
        self._paths = [""]
        self._values: dict[fx.Node, Any] = {}
        self._computing = False  # then nothing is recorded
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with self._flagged(root, ""):
            return super().trace(root, concrete_args)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note where in the classifier's code a node was made."""
        node = super().create_node(*args, **kwargs)
        if frame := _user_frame():
            line = f"{frame.f_globals.get('__name__')} line {frame.f_lineno}"
            node.meta["source"] = (self._paths[-1], line)
        return node

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.answer(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([obj[place] for place in range(len(self.value(obj)))])  # type: ignore[index]

    def answer(self, obj: fx.Proxy) -> Any:
        """Answer a question about sizes as at the size that is traced."""
        value, frame = self.value(obj), _user_frame()
        if isinstance(value, Tensor):
            raise _DependsOnSizeError("control flow depends on what the image holds", obj.node)
        self.asked = True
        if frame is None:
            return value
        place = (frame.f_code, frame.f_lasti)
        if place in self._repeated and _guards_error(frame):
            value = next(self._repeated[place], value)
        self.answers.setdefault(place, []).append(value)
        return value

    def value(self, obj: fx.Proxy) -> Any:
        """Return what a value is for images of the sizes that are traced; tensors are fake."""
        wanted = obj.node
        self._computing = True
        try:
            with self._mode, torch.no_grad():
                for node in self.graph.nodes:
                    if node not in self._values:
                        self._values[node] = self._computed(node)
        finally:
            self._computing = False
        return self._values[wanted]

    def _computed(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        match node.op:
            case "placeholder":
                parameter = next(self.root.parameters(), torch.empty(0))
                size = (self.sizes.count, 3, self.sizes.side, self.sizes.side)
                return torch.empty(size, dtype=parameter.dtype, device=parameter.device)
            case "get_attr":
                value = operator.attrgetter(str(node.target))(self.root)
                return False if isinstance(value, _TrainingFlag) else value
            case "call_module":
                layer = self.root.get_submodule(str(node.target))
                return args[0] if _keeps_shape(layer) else layer(*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            case "output":
                return args[0]
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def padding(self, node: fx.Node) -> Any:
        """Return by how much a node pads, where the image's size has a say in it."""
        if node.op != "call_function" or getattr(node.target, "__name__", "") != "pad":
            return None
        amounts = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
        asked: list[fx.Node] = []
        fx.node.map_arg(amounts, asked.append)
        if not asked:
            return None
        self.value(fx.Proxy(node, self))
        return fx.node.map_arg(amounts, self._values.__getitem__)

    def settle_paddings(self) -> None:
        """Pad at every size as at the traced one: as windows that slide do."""
        for node in self.graph.nodes:
            if amounts := self.padding(node):
                node.args = (node.args[0], tuple(amounts), *node.args[2:])
                node.kwargs = {key: value for key, value in node.kwargs.items() if key != "pad"}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.leaves or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._computing:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        self._paths.append(path)
        try:
            with self._flagged(m, path):
                return super().call_module(m, forward, args, kwargs)
        finally:
            self._paths.pop()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, _TrainingFlag):
            prefix = f"{a.path}." if a.path else ""
            return self.create_node("get_attr", f"{prefix}training", (), {})
        return super().create_arg(a)

    @contextmanager
    def _flagged(self, module: nn.Module, path: str) -> Iterator[None]:
        training = module.training

        def branched() -> None:
            if path and not any(_slides(part) for part in module.modules()):
                self.branching.add(path)

        module.training = _TrainingFlag(path, branched)  # type: ignore[assignment]
        try:
            yield
        finally:
            module.training = training


def _slides(module: nn.Module) -> bool:
    """Whether a layer has a sliding window or a weight matrix, which a leaf would hide."""
    pooling = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, *pooling))


def _keeps_shape(layer: nn.Module) -> bool:
    """Whether a layer may be passed by when only shapes are asked for."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def _user_frame() -> FrameType | None:
    """Return the innermost frame that is neither of torch nor of this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame and str(frame.f_globals.get("__name__")).startswith(("torch.", __name__)):
        frame = frame.f_back
    return frame


def _guards_error(frame: FrameType) -> bool:
    """Whether the statement that a frame is at is an assertion, or raises if its test is true."""
    try:
        lines, first = inspect.getsourcelines(frame.f_code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return False
    line = frame.f_lineno - max(first, 1) + 1
    for node in ast.walk(tree):
        guards = isinstance(node, ast.Assert) or (
            isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
        )
        if guards and node.lineno <= line <= (node.test.end_lineno or line):  # type: ignore[attr-defined]
            return True
    return False


def source_of(node: fx.Node) -> str:
    """Return the module and the line of code that a node was traced at, as far as is known."""
    path, line = node.meta.get("source", ("", ""))
    return f"{path}, {line}" if path and line else str(path or line)


def module_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it does."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def cut_points(graph: fx.Graph, *, to_the_last: bool = False) -> list[fx.Node]:
    """Return, in order, the tensors that every path from the input to the output passes.

    The input itself and the output are left out.

    Args:
        graph: of a network.
        to_the_last: whether, of several tensors that are put out, only paths to the last count.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    from_input = _reachable(graph)
    cuts: list[fx.Node] = []
    furthest = -1  # the last node that reads a value made so far
    for node in graph.nodes:
        if node not in from_input or node.op == "output":
            continue
        if furthest <= order[node] and node.op != "placeholder" and "shape" in node.meta:
            cuts.append(node)
        read_by = [user for user in node.users if user in from_input]
        if to_the_last:
            read_by = [user for user in read_by if user.op != "output"]
        furthest = max([furthest, *map(order.__getitem__, read_by)])
    return cuts


def _reachable(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose value depends on what the input holds, not on its size alone."""
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        reads = any(source in reached for source in node.all_input_nodes)
        if node.op == "placeholder" or (reads and not _is_size(node)):
            reached.add(node)
    return reached


def _is_size(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its size, or for another attribute that is no tensor."""
    return node.target == "size" or (node.target is getattr and "shape" not in node.meta)
