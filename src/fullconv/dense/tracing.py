"""From any classifier to a graph of its layers, with the shape of every value.

The graph is torch.fx's, with one addition: a module's ``training`` flag stays alive. Where a
forward function hands ``self.training`` on (``F.dropout(x, training=self.training)``), the graph
reads the flag at run time instead of baking in the value at the time of tracing; where a function
branches on it (stochastic depth, aux heads), its module becomes a leaf if it holds no layers with
a sliding window, and else takes its evaluation branch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fullconv.base.errors import FullconvError
from fullconv.base.modes import evaluating


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
    leaves: set[str] = set()
    try:
        while True:
            tracer = _LiveTracer(leaves)
            graph = tracer.trace(network)
            if not tracer.branching - leaves:
                break
            leaves |= tracer.branching
        module = fx.GraphModule(network, graph, type(network).__name__)
        module.graph.eliminate_dead_code()
        module.recompile()
        note_shapes(module, input_size)
    except Exception as error:  # a forward function may raise anything
        reason = str(error).strip().split("\n")[0]
        raise UntraceableError(f"{type(network).__name__} can't be traced: {reason}") from error
    return module


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


class _LiveTracer(fx.Tracer):
    """Traces with living training flags; collects the modules that branch on theirs."""

    def __init__(self, leaves: set[str]) -> None:
        super().__init__()
        self.leaves = leaves
        self.branching: set[str] = set()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with self._flagged(root, ""):
            return super().trace(root, concrete_args)

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
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        with self._flagged(m, path):
            return super().call_module(m, forward, args, kwargs)

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


def module_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it does."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def cut_points(graph: fx.Graph) -> list[fx.Node]:
    """Return, in order, the tensors that every path from the input to the output passes.

    The input itself and the output are left out.
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
        furthest = max([furthest, *(order[user] for user in node.users if user in from_input)])
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
