"""A network's graph of layers as a module that is pickled whole.

fx pickles the code of a graph, and traces that anew to have the graph again. Whatever the code
does not say is lost on the way: the shapes that were noted, the names of nodes, and that training
flags are read when the module runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

NOTES = ("shape", "source")  # what is kept of a node's meta


class LayerGraph(fx.GraphModule):
    """A graph module that comes back from a pickle, or from ``torch.load``, as it was."""

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "_graph": [_Node.of(node) for node in self.graph.nodes]}
        return _empty, (type(self).__name__,), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        graph, made = fx.Graph(tracer_cls=state["_tracer_cls"]), dict[str, fx.Node]()
        for node in state["_graph"]:
            made[node.name] = node.added_to(graph, made)
        own = {key: value for key, value in state.items() if key != "_graph"}
        super().__setstate__(own)  # type: ignore[no-untyped-call]
        self.graph = graph


def _empty(name: str) -> LayerGraph:
    """Return a graph module that is to be filled; each is of a class of its own, with a name."""
    module = LayerGraph.__new__(LayerGraph)
    type(module).__name__ = name
    return module


@dataclass(frozen=True)
class _Value:
    """Stands for another node's value."""

    name: str


@dataclass(frozen=True)
class _Function:
    """Stands for a function that pickle does not find by itself, such as F.max_pool2d."""

    module: str
    name: str


@dataclass(frozen=True)
class _Node:
    """A node as plain values, without its type annotation, which may be of any class."""

    name: str
    op: str
    target: Any
    args: Any
    kwargs: Any
    notes: dict[str, Any]

    @classmethod
    def of(cls, node: fx.Node) -> _Node:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: _Value(each.name))  # type: ignore[arg-type,return-value]
        notes = {key: node.meta[key] for key in NOTES if key in node.meta}
        return cls(node.name, node.op, _told(node.target), args, kwargs, notes)

    def added_to(self, graph: fx.Graph, made: Mapping[str, fx.Node]) -> fx.Node:
        """Add the node that this stands for to a graph, whose nodes so far are `made`, by name."""
        args, kwargs = fx.node.map_aggregate(
            (self.args, self.kwargs),
            lambda each: made[each.name] if isinstance(each, _Value) else each,
        )
        target = self.target
        if isinstance(target, _Function):
            target = getattr(importlib.import_module(target.module), target.name)
        node = graph.create_node(self.op, target, args, kwargs, self.name)
        node.meta.update(self.notes)
        return node


def _told(target: Any) -> Any:
    """Return what a node calls or reads as pickle takes it."""
    if "<locals>" in getattr(target, "__qualname__", ""):
        return _Function(target.__module__, target.__name__)
    return target
