"""Graphs as plain data: trunks come back as they were; nothing forged runs or takes memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import TIMM, TORCHVISION, Staged, classifier, marked
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torchvision.ops import StochasticDepth

from fullconv import FullconvError
from fullconv.dense.grids import layer_grids
from fullconv.net.stored_graph import (
    CLASSES,
    FUNCTIONS,
    METHODS,
    StoredGraph,
    StoredGraphError,
    stochastic_depth,
)
from fullconv.net.trunk import Trunk

# There and back -----------------------------------------------------------------------------------


def there_and_back(module):
    """Return the module as it comes back of JSON, with the weights of the original."""
    stored = StoredGraph.of(module)
    assert stored is not None
    rebuilt = StoredGraph.model_validate(json.loads(json.dumps(stored.to_json()))).rebuild()
    assert all(value.is_meta for value in rebuilt.state_dict().values())
    rebuilt.load_state_dict(module.state_dict(), assign=True)
    return rebuilt


def assert_same(module, rebuilt, *inputs):
    """Hold outputs, batch statistics and random draws against each other, in both modes."""
    assert list(module.state_dict()) == list(rebuilt.state_dict())
    for training in (False, True):
        results = []
        for each in (module, rebuilt):
            torch.manual_seed(0)
            results.append(each.train(training)(*(value.clone() for value in inputs)))
        for one, other in zip(*map(flat, results), strict=True):
            assert one.equal(other)
    for name, value in module.state_dict().items():
        assert value.equal(rebuilt.state_dict()[name]), name


def flat(result):
    return result if isinstance(result, tuple) else (result,)


STORED = (*TORCHVISION, TIMM[2])  # timm's other nets have layers of timm's own


@pytest.mark.slow
@pytest.mark.parametrize("name", marked(STORED))
def test_a_classifiers_trunk_comes_back(name):
    made = Trunk(classifier(name), 16, 224, {})
    rebuilt = there_and_back(made.layers)
    assert_same(made.layers, rebuilt, torch.randn(2, 3, 97, 65))
    for one, other in zip(made.layers.graph.nodes, rebuilt.graph.nodes, strict=True):
        assert one.name == other.name and one.meta.get("shape") == other.meta.get("shape")
    assert Trunk.of_layers(rebuilt, 3).taps == made.taps
    found = [list(layer_grids(each).values()) for each in (made.layers, rebuilt)]
    assert found[0] == found[1]


class Everything(nn.Module):
    """What trunks do besides calling layers."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
        self.depth = StochasticDepth(0.5, "row")
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.register_buffer("shift", torch.randn(8, 1, 1))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def forward(self, images):
        images = images[:, [0, 1, 2]] * 2.0 - 0.5
        maps = F.dropout2d(self.convolution(images), 0.3, training=self.training)
        batch, channels = maps.shape[0], maps.size(1)
        height, width = maps.shape[2], maps.shape[3]
        pieces = maps.view(batch, 2, channels // 2, height, width).transpose(1, 2).chunk(2, 1)
        maps = maps + torch.cat((pieces[1], pieces[0]), 1).reshape(maps.shape) * self.scale
        maps = self.depth(maps) + self.shift
        maps = maps * self.gate(maps)[:, :, None, None].sigmoid()
        maps = F.batch_norm(maps, self.mean, self.variance, training=self.training)
        return F.max_pool2d(F.pad(maps, (1, 0, 0, 1)), 2, stride=2), maps.mean((2, 3), keepdim=True)


def test_functions_methods_tensors_and_training_flags_come_back():
    from fullconv.dense.tracing import _LiveTracer

    net = Everything()
    traced = torch.fx.GraphModule(net, _LiveTracer(set()).trace(net))
    rebuilt = there_and_back(traced)
    images = torch.randn(4, 3, 9, 8)
    assert_same(traced, rebuilt, images)
    assert not traced.train()(images)[0].equal(traced.train()(images)[0]), "nothing was drawn"


LAYERS = (
    nn.Conv2d(4, 6, (3, 1), (1, 2), (2, 0), (2, 1), 2, False, "reflect"),
    nn.Conv2d(4, 2, 3, padding="same"),
    nn.Linear(8, 3, bias=False),
    nn.MaxPool2d((3, 2), 2, (1, 0), ceil_mode=True),
    nn.AvgPool2d(3, 1, 1, True, False, 7),
    nn.LPPool2d(2, 3, 2, True),
    nn.AdaptiveAvgPool2d((None, 2)),
    nn.AdaptiveMaxPool2d(1),
    nn.Flatten(2),
    nn.Identity(),
    nn.ZeroPad2d((1, 2, 0, 1)),
    nn.ConstantPad2d(1, 0.5),
    nn.ReflectionPad2d(2),
    nn.ReplicationPad2d((0, 1, 0, 1)),
    nn.BatchNorm2d(4, 1e-3, None, False),
    nn.BatchNorm2d(4, track_running_stats=False),
    nn.GroupNorm(2, 4, 1e-3),
    nn.LayerNorm((8, 8), 1e-3, bias=False),
    nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    nn.LocalResponseNorm(3, 1e-2, 0.5, 2.0),
    nn.CrossMapLRN2d(3, 1e-2, 0.5, 2.0),
    nn.Dropout(0.3, inplace=True),
    nn.Dropout2d(0.3),
    nn.AlphaDropout(0.3),
    nn.FeatureAlphaDropout(0.3),
    nn.ReLU(inplace=True),
    nn.ReLU6(inplace=True),
    nn.LeakyReLU(0.3),
    nn.PReLU(4, 0.1),
    nn.RReLU(0.2, 0.4),
    nn.ELU(0.5),
    nn.CELU(0.5),
    nn.SELU(),
    nn.SiLU(),
    nn.GELU("tanh"),
    nn.Mish(),
    nn.Softplus(2.0, 10.0),
    nn.Softsign(),
    nn.Threshold(0.1, 0.2),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Tanh(),
    nn.Hardtanh(-0.5, 0.5),
    nn.Tanhshrink(),
    nn.Hardshrink(0.2),
    nn.Softshrink(0.2),
    nn.Softmax(1),
    nn.Softmin(1),
    nn.LogSoftmax(1),
)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_comes_back(layer):
    net = torch.fx.symbolic_trace(nn.Sequential(layer))
    rebuilt = there_and_back(net)
    assert repr(rebuilt.get_submodule("0")) == repr(layer)
    assert_same(net, rebuilt, torch.randn(2, 4, 8, 8))


def test_every_known_layer_is_among_these():
    assert {type(layer).__name__ for layer in LAYERS} == CLASSES


def calling(op, target, *args):
    graph = torch.fx.Graph()
    call = graph.create_node(op, target, (graph.placeholder("x"), *args))
    graph.output(call)
    return torch.fx.GraphModule(nn.Module(), graph)


def test_every_known_call_comes_back():
    calls = [("call_method", name) for name in METHODS]
    assert all(callable(getattr(torch.Tensor, name)) for name in METHODS)
    calls += [("call_function", known) for name, known in FUNCTIONS.items() if name != "getattr"]
    for op, target in calls:
        _, call, _ = there_and_back(calling(op, target, 1)).graph.nodes
        assert call.op == op and call.target == target


def test_stochastic_depth_is_torchvisions():
    values = torch.randn(64, 3)
    for training in (True, False):
        drawn = []
        for function in (stochastic_depth, StochasticDepth(0.4, "row").train(training)):
            torch.manual_seed(0)
            own = function is stochastic_depth
            drawn.append(function(values, 0.4, "row", training) if own else function(values))
        assert drawn[0].equal(drawn[1]) and drawn[0].equal(values) != training


# What can't be stored -----------------------------------------------------------------------------


class Doubled(nn.Conv2d):
    """A subclass that does something else."""

    def forward(self, input):
        return 2 * super().forward(input)


class Noisy(nn.Module):
    """A layer that branches on its mode, which tracing can't look into."""

    def forward(self, maps):
        return maps + torch.randn_like(maps) if self.training else maps


def hooked():
    layer = nn.Conv2d(8, 8, 1)
    layer.register_forward_hook(lambda *_: None)
    return layer


def patched():
    layer = nn.ReLU()
    layer.forward = torch.tanh
    return layer


def buffered(**options):
    def middle(net, maps):
        return maps + net.table

    net = Staged(middle)
    net.register_buffer("table", torch.zeros(1, 8, 1, 1, **options.pop("of", {})), **options)
    return net


def twice():
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    second.weight = first.weight
    return Staged(lambda net, maps: net.layers[1](net.layers[0](maps)), first, second)


def one(layer):
    return Staged(lambda net, maps: net.layers[0](maps), layer)


@pytest.mark.parametrize(
    "net",
    [
        one(Noisy()),
        one(hooked()),
        one(patched()),
        one(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))),
        one(prune.identity(nn.Conv2d(8, 8, 1), "weight")),
        twice(),
        buffered(persistent=False),
        buffered(of={"dtype": torch.int64}),
        Staged(lambda _, maps: maps**2),
        Staged(lambda _, maps: maps.to(torch.float32)),
    ],
    ids="leaf hook forward parametrized pruned shared lost integers power type".split(),
)
def test_what_would_not_come_back_is_not_stored(net):
    assert StoredGraph.of(Trunk(net.eval(), 4, 32, {}).layers) is None


def test_a_subclass_is_not_stored_as_its_base():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m, name):
            return isinstance(m, Doubled) or super().is_leaf_module(m, name)

    net = nn.Sequential(Doubled(3, 3, 1))
    assert StoredGraph.of(torch.fx.GraphModule(net, Tracer().trace(net))) is None


def test_neither_is_a_call_of_an_unknown_function():
    for function in (torch.load, eval, Path, torch.fft.fft2):
        assert StoredGraph.of(calling("call_function", function)) is None
    assert StoredGraph.of(calling("call_method", "numpy")) is None
    assert StoredGraph.of(calling("call_function", getattr, "data")) is None
    assert StoredGraph.of(calling("call_function", getattr, "shape")) is not None


# Forged graphs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored():
    return StoredGraph.of(Trunk(one(nn.Dropout()).eval(), 4, 32, {}).layers).to_json()


def rebuilt(values):
    return StoredGraph.model_validate(values).rebuild()


def inserted(values, **node):
    """Return a graph with one more node after the input."""
    return values | {"nodes": [values["nodes"][0], {"name": "new", **node}, *values["nodes"][1:]]}


CODE = '__import__("pathlib").Path("executed").touch()'
STRINGS = (
    CODE,
    f"x({CODE})",
    f'a", {CODE}, "',
    f"x\n{CODE}\n",
    f"a.training\n{CODE}",
    "",
)


@pytest.mark.parametrize("text", STRINGS)
def test_no_text_of_a_graph_is_run(stored, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = f"%{stored['nodes'][0]['name']}"
    call = {"op": "call_method", "target": "relu", "args": [source]}
    forged = [
        inserted(stored, **call | {"name": text}),
        inserted(stored, **call | {"target": text}),
        inserted(stored, **call | {"args": [source, text]}),
        inserted(stored, **call | {"args": [text]}),
        inserted(stored, **call | {"args": [f"%{text}"]}),
        inserted(stored, **call | {"args": [{text: [1]}]}),
        inserted(stored, **call | {"args": [{"slice": [text, None, None]}]}),
        inserted(stored, **call | {"kwargs": {text: 1}}),
        inserted(stored, **call | {"op": text}),
        inserted(stored, op="call_function", target=text, args=[source]),
        inserted(stored, op="call_function", target="getattr", args=[source, text]),
        inserted(stored, op="get_attr", target=text),
        inserted(stored, op="get_attr", target=f"{text}.training"),
        inserted(stored, op="call_module", target=text, args=[source]),
        stored | {"layers": stored["layers"] | {text: {"kind": "ReLU"}}},
        stored | {"layers": stored["layers"] | {"new": {"kind": text}}},
        stored | {"layers": stored["layers"] | {"new": {"kind": "GELU", "arguments": {text: 1}}}},
        stored | {"parameters": {text: [1]}},
    ]
    told = (StoredGraphError, ValueError, TypeError, AttributeError, SyntaxError)
    for values in forged:
        with pytest.raises(told):
            rebuilt(values)(torch.randn(1, 3, 32, 32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "node",
    [
        {"op": "call_function", "target": "torch.load", "args": ["weights"]},
        {"op": "call_function", "target": "builtins.eval", "args": ["code"]},
        {"op": "call_function", "target": "getattr", "args": ["%images", "__class__"]},
        {"op": "call_function", "target": "getattr", "args": ["%images"], "kwargs": {"name": "T"}},
        {"op": "call_method", "target": "__reduce__", "args": ["%images"]},
        {"op": "call_method", "target": "resize_", "args": ["%images", 10**12]},
        {"op": "call_module", "target": "unknown", "args": ["%images"]},
        {"op": "get_attr", "target": "first.0.weight"},
        {"op": "get_attr", "target": "__class__"},
        {"op": "placeholder", "target": "second"},
        {"op": "output", "target": "output", "args": ["%images"]},
        {"op": "call_method", "target": "relu", "args": ["%later"]},
        {"op": "call_method", "target": "relu", "args": ["%images"], "name": "output"},
        {"op": "call_method", "target": "clamp", "args": ["%images", float("nan")]},
    ],
)
def test_nothing_unknown_is_called(stored, node):
    with pytest.raises(StoredGraphError):
        rebuilt(inserted(stored, **node))


@pytest.mark.parametrize(
    "layer",
    [
        {"kind": "Module"},
        {"kind": "Sequential"},
        {"kind": "modules.conv.Conv2d"},
        {"kind": "ReLU", "arguments": {"device": "cpu"}},
        {"kind": "Linear", "arguments": {"in_features": 1, "out_features": 1, "dtype": "float64"}},
        {"kind": "Softmax", "arguments": {"dim": {"a": 1}}},
        {"kind": "Linear", "arguments": {"in_features": [[1]], "out_features": 1}},
    ],
)
def test_nothing_unknown_is_built(stored, layer):
    with pytest.raises(StoredGraphError):
        rebuilt(stored | {"layers": stored["layers"] | {"new": layer}})


def test_a_layer_does_not_hide_a_method(stored):
    for name in ("forward", "__class__", "_modules", "training"):
        with pytest.raises((StoredGraphError, KeyError)):
            rebuilt(stored | {"layers": stored["layers"] | {name: {"kind": "ReLU"}}})


LEAVES = (
    None,
    True,
    0,
    -1,
    2,
    10**6,
    10**30,
    0.5,
    1e300,
    "",
    "relu",
    "%images",
    [],
    [1, 1],
    {},
    CODE,
)


def forged(values, chosen):
    """Return `values` with one leaf or branch replaced, chosen by random numbers."""
    if not isinstance(values, dict | list) or not values or chosen.draw(st.integers(0, 7)) == 0:
        return chosen.draw(st.sampled_from(LEAVES))
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    key = chosen.draw(st.sampled_from(keys))
    changed = values.copy()
    changed[key] = forged(values[key], chosen)
    return changed


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_changed_is_refused_or_harmless(stored, chosen):
    values = forged(stored, chosen)
    try:
        Trunk.of_layers(rebuilt(values), 3)
    except FullconvError as error:
        assert "\n" not in str(error)
    except Exception as error:  # which model_folder.load tells in one line
        assert not isinstance(error, MemoryError)
