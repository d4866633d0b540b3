"""One run of a stranger's layers on images without data, before any weights are read.

Each layer is bounded before it is run, and each value after it: nothing takes long or much memory,
whatever a file says. What the layers would cost with data is counted on the way.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.base.errors import FullconvError
from fullconv.base.files import cache_folder, write_text
from fullconv.base.runtime import evaluating
from fullconv.net.preprocessing import MOST_SIDE

MOST_ELEMENTS = 2**31  # of one value, of two images
MOST_AXES = 8
MOST_PARTS = 256  # of a split, or axes of a size
# What one native image may cost untrusted: far more than the largest classifiers of today.
MOST_OPERATIONS = 2 * 10**12  # multiplications
MOST_VALUES = 10**10  # elements of all values together

ARITHMETIC = frozenset(
    getattr(operator, name)
    for name in "add iadd sub isub mul imul truediv itruediv floordiv mod neg matmul".split()
)


class RehearsalError(FullconvError):
    """The layers can't be run, or not within bounds; the message says which."""


def rehearse(layers: fx.GraphModule, *, trust: bool = False) -> None:
    """Run layers on 2 images of their native size, all on the device "meta".

    Args:
        layers: whose image, the first node, has its shape noted.
        trust: let them cost what they may.

    Raises:
        RehearsalError: they fail, are out of bounds, or yield what was not noted.
    """
    image = next(iter(layers.graph.nodes)).meta.get("shape", ())
    if len(image) != 4 or not all(1 <= side <= MOST_SIDE for side in image):
        raise RehearsalError("its graph is of no images")
    _require_needed(layers)
    run = _Rehearsal(layers)
    try:
        with evaluating(layers), torch.no_grad(), torch.device("meta"):
            run.run(torch.empty(image))
    except RehearsalError:
        raise
    except Exception as error:  # a layer may raise anything
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise RehearsalError(f"its graph can't be run: node {run.at}: {reason}") from error
    operations, values = run.operations // image[0], run.elements // image[0]
    if not trust and (operations > MOST_OPERATIONS or values > MOST_VALUES):
        raise RehearsalError(
            f"an image would take {operations:.0e} multiplications and {values:.0e} values, more "
            "than any known classifier: if you know its maker, --trust takes it, in Python "
            "fullconv.load(folder, trust=True)"
        )


class Known:
    """Whether a model's layers were made or rehearsed on this machine before, by this user.

    A rehearsal takes a second, most of it torch's: on "meta" it works by its compiler. Without a
    place for notes nothing is known, and every load rehearses.
    """

    def __init__(self, graphs: Mapping[str, Any]) -> None:
        """Stand for the graphs of a model folder, as its config.json holds them."""
        bounds = MOST_SIDE, MOST_ELEMENTS, MOST_AXES, MOST_PARTS, MOST_OPERATIONS, MOST_VALUES
        text = json.dumps([bounds, graphs], sort_keys=True)
        cache = cache_folder()
        name = hashlib.sha256(text.encode()).hexdigest()
        self._note = cache / "rehearsed" / name if cache else None

    def __bool__(self) -> bool:
        with suppress(OSError):
            return self._note is not None and self._note.exists()
        return False

    def note(self) -> None:
        """Let the layers be known from now on, where that can be noted."""
        with suppress(OSError):
            if self._note is not None:
                write_text(self._note, "")


def _require_needed(layers: fx.GraphModule) -> None:
    """Refuse what is held but not needed, and calls that work on no value."""
    for node in layers.graph.nodes:
        if not node.users and node.op not in ("placeholder", "output"):
            raise RehearsalError(f"node {node.name[:80]}: nothing needs it")
        if node.op.startswith("call") and not node.all_input_nodes:
            raise RehearsalError(f"node {node.name[:80]}: it works on no value")
    read = tuple(f"{node.target}." for node in layers.graph.nodes)
    for name in layers.state_dict():
        if not f"{name}.".startswith(read):
            raise RehearsalError(f"{name[:80]}: nothing needs it")


class _Rehearsal(fx.Interpreter):
    """Runs node by node; counts what that would cost with data."""

    def __init__(self, layers: fx.GraphModule) -> None:
        super().__init__(layers)
        self.extra_traceback = False
        self.at = ""
        self.operations = self.elements = 0

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name[:80]
        self._require_plain_operands(n)
        value = super().run_node(n)
        self._require_bounded(value)
        if isinstance(value, Tensor):
            noted = n.meta.get("shape")
            if noted is not None and tuple(noted) != tuple(value.shape):
                raise RehearsalError(f"node {self.at}: yields another shape than is noted")
            self.elements += value.numel()
            self.operations += value.numel() * self._products(n)
        return value

    def _require_plain_operands(self, n: fx.Node) -> None:
        """Refuse arithmetic on tuples, which repeats and joins them."""
        if n.target not in ARITHMETIC:
            return
        for operand in self.fetch_args_kwargs_from_env(n)[0]:
            if not isinstance(operand, Tensor | int | float):
                raise RehearsalError(f"node {self.at}: arithmetic on what is no number")

    def _require_bounded(self, value: Any) -> None:
        if isinstance(value, tuple | list):
            if len(value) > MOST_PARTS:
                raise RehearsalError(f"node {self.at}: more than {MOST_PARTS} parts")
            for each in value:
                self._require_bounded(each)
        elif isinstance(value, Tensor):
            if value.ndim > MOST_AXES or value.numel() > MOST_ELEMENTS:
                raise RehearsalError(f"node {self.at}: too large a value")
        elif isinstance(value, int | float) and abs(value) > MOST_ELEMENTS:
            raise RehearsalError(f"node {self.at}: too large a number")

    def _products(self, n: fx.Node) -> int:
        """Return how many multiplications each element of a layer's value takes."""
        weight: Any = None
        if n.op == "call_module":
            layer = self.fetch_attr(str(n.target))
            weight = layer.weight if isinstance(layer, nn.Conv2d | nn.Linear) else None
        elif getattr(n.target, "__name__", "") in ("conv2d", "linear"):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
        return math.prod(weight.shape[1:]) if isinstance(weight, Tensor) else 1
