"""Model folders: back to the bit, every damage told in one line, and a full disk harms nothing."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nets import Staged, random_scores, settled
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

import fullconv
from fullconv import FCN, FullconvError, Preprocessing
from fullconv.data.info import DatasetInfo
from fullconv.demo.streets import write_synthetic
from fullconv.net import rehearsal
from fullconv.net.fcn import load
from fullconv.train.nets import grown_net
from fullconv.train.recipe import read_recipe

FILES = {"model.safetensors", "config.json"}


def tiny(seed=0):
    """A user's own classifier, of some thousand weights."""
    torch.manual_seed(seed)
    return settled(Staged(lambda s, x: s.layers[0](x), nn.BatchNorm2d(8)), 32)


def tiny_net(seed=0, classes=3):
    small = Preprocessing(input_size=32)
    return random_scores(FCN(tiny(seed), 4, classes, preprocessing=small)).eval()


def named_net(name="squeezenet1_0", stride=4, num_classes=3, **arguments):
    torch.manual_seed(0)
    return random_scores(FCN(name, stride, num_classes, **arguments)).eval()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    net, folder = named_net(), tmp_path_factory.mktemp("saved")
    net.save_pretrained(folder)
    return net, folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """Give a net, which tests leave as it is, and a model folder of it, which they may damage."""
    net, folder = saved_once
    return net, shutil.copytree(folder, tmp_path / "model")


@pytest.fixture
def saved_without_graph(saved):
    altered(saved[1], lambda values: values.update(graph={}))
    return saved


# Round trips --------------------------------------------------------------------------------------


def assert_same_net(loaded, net):
    own, other = net.state_dict(), loaded.state_dict()
    assert list(own) == list(other)
    for name, value in own.items():
        assert value.dtype == other[name].dtype and value.equal(other[name]), name
    for attribute in ("num_classes", "stride", "classes", "palette", "ignore_index"):
        assert getattr(loaded, attribute) == getattr(net, attribute)
    assert loaded.preprocessing == net.preprocessing and loaded.arguments == net.arguments
    learning = [p.requires_grad for p in net.parameters()]
    assert [p.requires_grad for p in loaded.parameters()] == learning
    images = torch.randn(1, 3, 61, 44)
    with torch.no_grad():
        assert loaded(images).equal(net(images))


def test_comes_back_to_the_bit(saved):
    net, folder = saved
    loaded = fullconv.load(folder)
    assert not loaded.training
    assert_same_net(loaded, net)
    assert_same_net(FCN.from_pretrained(str(folder)), net)
    assert set(contents(folder)) == FILES


def test_a_folder_without_a_graph_is_built_from_its_classifier(saved_without_graph):
    net, folder = saved_without_graph
    assert_same_net(load(folder), net)


def test_several_trunks_come_back(tmp_path):
    inputs = {"color": 3, "depth": 1}
    net = FCN("squeezenet1_1", 16, 3, inputs=inputs, fusion="late", padding=100).eval()
    for value in net.heads.parameters():
        nn.init.normal_(value, std=0.1)
    net.save_pretrained(tmp_path)
    graphs = json.loads((tmp_path / "config.json").read_text())["graph"]
    assert list(graphs) == ["trunk.color", "trunk.depth"]
    loaded = load(tmp_path)
    assert list(loaded.state_dict()) == list(net.state_dict())
    assert loaded.taps == net.taps and loaded.arguments == net.arguments
    images = torch.randn(1, 4, 61, 44)
    with torch.no_grad():
        assert loaded(images).equal(net(images))


def test_a_loaded_net_that_was_pickled_is_saved_as_any(saved, tmp_path):
    _, folder = saved
    pickle.loads(pickle.dumps(load(folder))).save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_a_graph_without_shapes_is_not_stored(saved, tmp_path):
    """As those were that earlier versions pickled; the net's classifier is built in its place."""
    net, _ = saved
    bare = copy.deepcopy(net)
    for node in bare.trunk.layers.graph.nodes:
        node.meta.clear()
    bare.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["graph"] == {}
    assert_same_net(load(tmp_path), net)


def test_memory_of_its_own(saved):
    """What was loaded must not change when the file does."""
    net, folder = saved
    loaded = load(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes(100_000))
    assert_same_net(loaded, net)


def test_weights_of_another_precision_become_float32(tmp_path):
    net = named_net()
    net.half().save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert_same_net(loaded, net.float())


@pytest.mark.slow
def test_everything_that_is_said_of_a_net_comes_back(tmp_path):
    net = named_net(
        "mobilenet_v2",
        8,
        2,
        classes=["Straße", "ciel"],
        palette=[(0, 1, 255), (9, 8, 7)],
        ignore_index=254,
        preprocessing=Preprocessing("BGR", 1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 227),
        skips={16: "features.11.conv.0.2"},
        learn_upscores=False,
        learn_last_upscore=True,
    )
    metrics = {"split": "val", "mean_iu": 0.5, "iu": {"Straße": 1.0, "ciel": None}}
    net.save_pretrained(tmp_path, metrics)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["format"] == 2 and config["metrics"] == metrics
    assert config["classes"] == ["Straße", "ciel"] and config["palette"] == [[0, 1, 255], [9, 8, 7]]
    assert config["preprocessing"] == {
        "channels": "BGR",
        "scale": 1.0,
        "mean": [104.0, 117.0, 123.0],
        "std": [1.0, 1.0, 1.0],
        "input_size": 227,
    }
    loaded = load(tmp_path)
    assert_same_net(loaded, net)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert (loaded.predict(pixels) == net.predict(pixels)).all()


def test_temperatures_come_back_and_are_one_where_none_is_told(saved, tmp_path):
    net, folder = copy.deepcopy(saved[0]), saved[1]
    assert net.head.temperature == load(folder).head.temperature == 1.0
    net.head.temperature = 1.37
    net.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["temperature"] == 1.37
    assert load(folder).head.temperature == 1.37
    altered(folder, lambda values: values.pop("temperature"))
    assert load(folder).head.temperature == 1.0
    several = FCN(tiny(), 4, heads={"sem": 3, "geo": 2}, preprocessing=Preprocessing(input_size=32))
    dict(several.heads.items())["geo"].temperature = 0.5
    several.save_pretrained(tmp_path / "two")
    assert [head.temperature for _, head in load(tmp_path / "two").heads.items()] == [1.0, 0.5]


def test_weights_in_other_memory_layouts_come_back(tmp_path):
    net = tiny_net().to(memory_format=torch.channels_last)
    net.train().save_pretrained(tmp_path)
    assert net.training, "saving is no reason to change the mode"
    assert_same_net(load(tmp_path, classifier=tiny(1)), tiny_net())


def test_tied_weights_can_be_saved(tmp_path):
    def twice():
        net = Staged(
            lambda s, x: s.layers[1](s.layers[0](x)), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        )
        net.layers[1].weight = net.layers[0].weight
        return net.eval()

    net = random_scores(FCN(twice(), 4, 3, preprocessing=Preprocessing(input_size=32))).eval()
    net.save_pretrained(tmp_path)
    assert_same_net(load(tmp_path, classifier=twice()), net)


def test_a_users_module_of_torchs_layers_comes_back(tmp_path):
    net = tiny_net()
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["net"]["trunk"] is None
    assert_same_net(load(tmp_path), net)


class Noisy(nn.Module):
    """A layer of the user's own."""

    def forward(self, maps):
        return maps + torch.randn_like(maps) if self.training else maps


def test_a_users_module_with_layers_of_its_own_must_be_given_again(tmp_path):
    def module(seed):
        torch.manual_seed(seed)
        return settled(Staged(lambda s, x: s.layers[0](x), Noisy()), 32)

    net = random_scores(FCN(module(0), 4, 3, preprocessing=Preprocessing(input_size=32))).eval()
    net.save_pretrained(tmp_path)
    assert not json.loads((tmp_path / "config.json").read_text())["graph"]
    with pytest.raises(FullconvError, match=r"module of the user's own.*classifier=module"):
        load(tmp_path)
    assert_same_net(load(tmp_path, classifier=module(1)), net)


def test_a_module_that_is_given_wins(tmp_path):
    net = tiny_net()
    net.save_pretrained(tmp_path)
    other = Staged(lambda s, x: s.layers[1](s.layers[0](x)), nn.BatchNorm2d(8), Noisy())
    loaded = load(tmp_path, classifier=other)
    assert_same_net(loaded, net)
    assert any(isinstance(part, Noisy) for part in loaded.modules())
    with pytest.raises(FullconvError, match=r"model\.safetensors: does not fit config\.json"):
        load(tmp_path, classifier=Staged(lambda _, x: x))


# Training what was loaded -------------------------------------------------------------------------


class Training(nn.Module):
    """What differs between training and evaluation, as layers, flags and torchvision's function."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Dropout2d(0.3))
        self.depth = StochasticDepth(0.5, "row")

    def forward(self, maps):
        maps = F.dropout(self.layers(maps), 0.2, self.training)
        return self.depth(maps)


def test_a_loaded_net_trains_as_the_one_that_was_saved(tmp_path):
    torch.manual_seed(0)
    module = Staged(lambda s, x: s.layers[0](x), Training())
    net = random_scores(FCN(module, 4, 3, preprocessing=Preprocessing(input_size=32))).eval()
    net.save_pretrained(tmp_path)
    steps = []
    for each in (net, load(tmp_path)):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(each.train().parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            each(torch.randn(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()
        steps.append(each.eval())
    assert_same_net(steps[1], steps[0])
    with torch.no_grad():
        images = torch.randn(4, 3, 32, 32)
        net.train()
        assert not net(images).equal(net(images)), "nothing was drawn"


@pytest.mark.slow
def test_nets_grow_from_loaded_ones_as_from_saved_ones(tmp_path):
    """A later stage and a fine-tuning are built on the classifier, with all that training needs."""
    info = DatasetInfo(name="streets", classes=("class 1", "class 0"))
    recipe = read_recipe("default")
    net = named_net("mobilenet_v2", 32)
    net.save_pretrained(tmp_path / "fcn32s")
    grown = [grown_net(each, 16, info, recipe).eval() for each in (net, load(tmp_path / "fcn32s"))]
    assert_same_net(grown[1], grown[0])
    for name, value in net.trunk.state_dict().items():
        assert value.equal(grown[1].trunk.state_dict()[name]), name
    assert repr(grown[1].trunk) == repr(grown[0].trunk)
    assert "Dropout" in repr(grown[1].trunk)


def test_no_net_grows_from_a_users_module(tmp_path, command_line, capsys):
    tiny_net().save_pretrained(tmp_path / "mine")
    write_synthetic(tmp_path / "data", train=2, val=1, test=0, size=(32, 48))
    words = ["--model", "fcn4s", "--weights", tmp_path / "mine", "--out", tmp_path / "run"]
    assert command_line("train", "--data", tmp_path / "data", *words, "--quiet") == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'mine'}: its backbone is a module of the user's own" in told


def test_saving_again_replaces_both_files(tmp_path):
    tiny_net(0).save_pretrained(tmp_path)
    before = contents(tmp_path)
    tiny_net(1).save_pretrained(tmp_path, {"mean_iu": 0.7})
    after = contents(tmp_path)
    assert set(after) == FILES and all(after[name] != before[name] for name in FILES)


def test_nothing_is_pickled(saved, monkeypatch):
    """The weights are JSON and raw numbers; loading works with every unpickler disabled."""
    net, folder = saved
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    assert set(header) == set(net.state_dict())
    entry = header["heads.labels.scores.16.bias"]
    raw = data[8 + length :][slice(*entry["data_offsets"])]
    assert np.frombuffer(raw, "<f4").tolist() == net.scores["16"].bias.tolist()

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for module, name in (
        (pickle, "loads"),
        (pickle, "load"),
        (pickle, "Unpickler"),
        (torch, "load"),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert_same_net(load(folder), net)


# Damage: one line with the file's name -----------------------------------------------------------


def refusal(folder, *parts, **options):
    with pytest.raises(FullconvError) as caught:
        load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    for part in parts:
        assert part in message, message
    return message


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file(saved, name):
    _, folder = saved
    (folder / name).unlink()
    refusal(folder, str(folder / name))


def test_no_folder_or_no_model_folder(tmp_path):
    refusal(tmp_path / "nothing", "nothing: no such model folder")
    refusal(
        tmp_path, "config.json: missing; a model folder holds config.json and model.safetensors"
    )
    (tmp_path / "file").write_text("")
    refusal(tmp_path / "file", "a model is a folder with config.json and model.safetensors")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999999])
def test_truncated_weights(saved, share):
    _, folder = saved
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refusal(folder, str(path), "not a whole safetensors file")


def test_weights_that_are_something_else(saved):
    _, folder = saved
    path = folder / "model.safetensors"
    torch.save({"a": torch.ones(3)}, path)
    refusal(folder, str(path), "not a whole safetensors file")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_net().save_pretrained(folder)
    return folder


def test_a_flipped_bit_in_any_weight_is_caught(tiny_folder, tmp_path):
    data = bytearray((tiny_folder / "model.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    shutil.copy(tiny_folder / "config.json", tmp_path)
    for position in (8 + length, 8 + length + 1001, len(data) // 2, len(data) - 1):
        data[position] ^= 1
        (tmp_path / "model.safetensors").write_bytes(data)
        data[position] ^= 1
        refusal(tmp_path, "model.safetensors: its contents were altered", classifier=tiny(1))


def header_position(folder, text):
    return (folder / "model.safetensors").read_bytes().index(text)


@pytest.mark.slow
@given(position=st.integers(0, 1500), bit=st.integers(0, 7))
@example(position=None, bit=None).via("F32 -> I32: the same bytes as integers")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_changed_header_is_caught_or_harmless(tiny_folder, tmp_path_factory, position, bit):
    folder = tmp_path_factory.mktemp("altered")
    shutil.copy(tiny_folder / "config.json", folder)
    data = bytearray((tiny_folder / "model.safetensors").read_bytes())
    if position is None:
        start = data.index(b'"F32"')
        data[start + 1 : start + 2] = b"I"
    else:
        data[position] ^= 1 << bit
    (folder / "model.safetensors").write_bytes(data)
    try:
        loaded = load(folder, classifier=tiny(1))
    except FullconvError as error:
        assert ("model.safetensors" in str(error) and position is not None) or "altered" in str(
            error
        )
    else:
        assert_same_net(loaded, tiny_net())


def altered(folder, change):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def setting(*keys, to):
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = to

    return change


def several(*changes):
    def change(values):
        for one in changes:
            one(values)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (setting("format", to=3), "format 3 is newer than this fullconv; upgrade it"),
        (setting("format", to=1), "format 1 is no longer read; train or convert anew"),
        (setting("format", to="one"), "format: "),
        (setting("classes", to=["a", "b"]), "3 colours for 2 classes"),
        (setting("classes", to="abc"), "classes: "),
        (setting("palette", to=[[0, 0, 0]]), "1 colours for 3 classes"),
        (setting("palette", 0, to=[0, 0, 300]), "palette.0.2: Input should be less than or equal"),
        (setting("palette", 0, to=[0, 0]), "palette.0"),
        (setting("ignore_index", to="none"), "ignore_index: "),
        (setting("temperature", to=0), "temperature: Input should be greater than or equal"),
        (setting("temperature", to=float("nan")), "temperature: Input should be"),
        (setting("temperature", to=float("inf")), "temperature: Input should be less than or"),
        (setting("preprocessing", "mean", to=[0.5, 0.5]), "2 means for 3 stds"),
        (setting("preprocessing", "ranges", to={"color": [9, 9]}), "must be finite and rise"),
        (setting("classes", 0, to="a\x1b[31m"), "no character that can be shown"),
        (setting("classes", 0, to="\ud800"), "no character that can be shown"),
        (setting("preprocessing", "channels", to="XYZ"), "Input should be 'RGB' or 'BGR'"),
        (setting("preprocessing", "scale", to="big"), "valid number"),
        (setting("preprocessing", "input_size", to=4097), "an input_size of 4097: at most 4096"),
        (setting("preprocessing", to=[]), "preprocessing: "),
        (setting("net", "stride", to=8), "the trunk's finest stride is 4, not 8"),
        (setting("net", "inputs", to={"color": 4}), "takes images of 3 channels, not 4"),
        (setting("net", "fusion", to="late"), "net: late fusion is of several inputs"),
        (setting("net", "padding", to=-1), "net.padding: "),
        (setting("net", "colour", to=1), "net.colour: Extra inputs are not permitted"),
        (lambda values: values.pop("classes"), "neither classes nor heads"),
        (lambda values: values.pop("format"), "format: Field required"),
        (lambda values: values["net"].pop("stride"), "net.stride: Field required"),
    ],
)
def test_an_altered_config(saved, change, reason):
    _, folder = saved
    altered(folder, change)
    refusal(folder, f"{folder / 'config.json'}: ", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (setting("net", "stride", to=5), "SqueezeNet has no layer at stride 5; it has 16, 8, 4"),
        (setting("net", "trunk", to="squeezenet9"), "unknown backbone 'squeezenet9'; did you mean"),
        (setting("net", "skips", to={"8": "nowhere"}), "no cut point 'nowhere'"),
    ],
)
def test_an_altered_config_without_a_graph(saved_without_graph, change, reason):
    _, folder = saved_without_graph
    altered(folder, change)
    refusal(folder, f"{folder / 'config.json'}: ", reason)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"no JSON", b"\xff\xfe{}", b'{"format": 1, "net"', b"9" * 9999, b"[" * 99999],
)
def test_a_config_that_is_no_json(saved, text):
    _, folder = saved
    (folder / "config.json").write_bytes(text)
    refusal(folder, f"{folder / 'config.json'}: not JSON")


@pytest.mark.parametrize("text", ["[]", "1", "null", '"net"'])
def test_a_config_that_is_another_json(saved, text):
    _, folder = saved
    (folder / "config.json").write_text(text)
    refusal(folder, f"{folder / 'config.json'}: ")


FOUR = several(
    setting("classes", to=list("abcd")),
    setting("palette", to=[[i, i, i] for i in range(4)]),
)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (FOUR, "(it holds 3 classes)"),
        (setting("net", "stride", to=8), ""),
        (setting("net", "trunk", to="squeezenet1_1"), ""),
        (several(setting("net", "trunk", to="resnet18"), setting("net", "stride", to=32)), ""),
    ],
    ids=["classes", "stride", "sibling", "other net"],
)
def test_a_config_of_another_net(saved_without_graph, change, hint):
    _, folder = saved_without_graph
    altered(folder, change)
    refusal(folder, f"{folder / 'model.safetensors'}: does not fit config.json beside it", hint)


def graph(change):
    return lambda values: change(values["graph"]["trunk"])


def node(name, **changes):
    def change(values):
        next(each for each in values["nodes"] if each["name"] == name).update(changes)

    return graph(change)


def layer(path, **changes):
    return graph(lambda values: values["layers"][path]["arguments"].update(changes))


HEAD = {"classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]]}


def added(op, target, args):
    """Put a node that nothing reads before the output."""
    more = {"name": "added", "op": op, "target": target, "args": args}
    return graph(lambda values: values["nodes"].insert(-1, more))


@graph
def repeated_size(values):
    """A size, repeated: it would be a list of any length."""
    names = ("sized", "times", "back")
    calls = (
        ("call_method", "size", ["%features_0"]),
        ("call_function", "operator.mul", ["%sized", 2**17]),
        ("call_method", "view", ["%features_0", "%times"]),
    )
    made = [
        {"name": name, "op": op, "target": target, "args": args}
        for name, (op, target, args) in zip(names, calls, strict=True)
    ]
    place = next(i for i, each in enumerate(values["nodes"]) if each["name"] == "features_1")
    values["nodes"][place]["args"] = ["%back"]
    made[-1]["shape"] = values["nodes"][place]["shape"]
    values["nodes"][place:place] = made


HUGE = 10**9  # as a number of channels: terabytes


@pytest.mark.parametrize(
    ("change", "file", "reason"),
    [
        (graph(lambda values: values.pop("nodes")), "config.json", "graph.trunk.nodes: Field req"),
        (graph(lambda values: values.update(code="x")), "config.json", "graph.trunk.code: Extra"),
        (graph(lambda values: values["nodes"].clear()), "config.json", "not one input and one"),
        (graph(lambda values: values["nodes"].pop(3)), "config.json", "not a plain value: '%"),
        (graph(lambda values: values["nodes"].pop()), "config.json", "not one input and one out"),
        (node("features_0", target="features.1"), "config.json", "layer features.1: "),
        (
            node("features_0", op="call_method", target="numpy"),
            "config.json",
            "unknown call_method",
        ),
        (node("x", shape=[2, 4, 224, 224]), "config.json", "takes images of 4 channels, not 3"),
        (layer("features.0", stride=[10**6, 10**6]), "config.json", "too large a stride or window"),
        (layer("features.0", padding=[10**6, 10**6]), "config.json", "too large a stride or win"),
        (layer("features.0", groups=0), "config.json", "its graph is no trunk's (ValueError)"),
        (layer("features.0", in_channels="three"), "config.json", "no trunk's (TypeError)"),
        (layer("features.0", stride=[0, 0]), "config.json", "no trunk's ("),
        (node("output", args=[{"tuple": []}]), "config.json", "no trunk's (IndexError)"),
        (node("output", args=["%x"]), "config.json", "no trunk's (TypeError)"),
        (layer("features.0", device="cpu"), "config.json", "unknown kind 'Conv2d'"),
        (layer("features.0", out_channels=HUGE), "model.safetensors", "does not fit config.json"),
        (node("cat_2", shape=[2, HUGE, 54, 54]), "model.safetensors", "does not fit config.json"),
        (graph(lambda values: values.update(parameters={"own": [HUGE] * 9})), "config.json", ""),
    ],
)
def test_an_altered_graph(saved, change, file, reason):
    """Refused before any memory is taken for it."""
    _, folder = saved
    altered(folder, change)
    refusal(folder, f"{folder / file}: ", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (layer("features.0", stride=[2**31, 2**31]), "too large a stride or window"),
        (layer("features.0", dilation=[5000, 1]), "too large a stride or window (dilation)"),
        (layer("features.0", kernel_size=[1] * 100), "a layer's argument of 100 numbers"),
        (added("call_method", "size", ["%x"]), "node added: nothing needs it"),
        (added("call_function", "operator.mul", [3, 5]), "node added: nothing needs it"),
        (node("features_1", op="call_method", target="relu", args=[]), "config.json: "),
        (repeated_size, "arithmetic on what is no number"),
        (node("features_2", args=["%features_1", {"tuple": [1] * 50}]), "too many constants"),
        (node("features_2", args=["%features_1", [[[[[1]]]]]]), "too many constants"),
        (node("x", shape=[2, 3, 10**6, 10**6]), "its graph is of no images"),
        (
            graph(lambda values: values["layers"]["features.0"].update(kind="x" * 10**6)),
            "config.json: graph.trunk.layers.features.0.kind",
        ),
        (lambda values: values["net"].update(stride=2**31), "config.json: net.stride"),
        (
            lambda values: values.update(heads={f"h{i}": HEAD for i in range(10_000)}, classes=[]),
            "config.json: heads",
        ),
    ],
)
def test_a_strangers_graph_is_bounded(saved, change, reason, capfd):
    _, folder = saved
    altered(folder, change)
    with pytest.raises(FullconvError) as caught:
        load(folder)
    message = str(caught.value)
    assert reason in message and "\n" not in message and len(message) < 500
    assert capfd.readouterr() == ("", "")


VALUES = (None, True, 0, -1, 1, 3, 2**10, 2**17, 2**40, 0.5, 1e300, "", "relu", [], [2, 2], {})
MUTATIONS = 40  # of each net; a load takes some hundredths of a second


def mutated(values, random):
    """Change one leaf or branch of a graph: another value, one from elsewhere, gone, or twice."""
    places, todo = [], [values]
    while todo:
        each = todo.pop()
        for key, value in each.items() if isinstance(each, dict) else enumerate(each):
            places.append((each, key))
            if isinstance(value, dict | list):
                todo.append(value)
    owner, key = random.choice(places)
    elsewhere, other = random.choice(places)
    match random.randrange(4):
        case 0:
            owner[key] = random.choice(VALUES)
        case 1:
            owner[key] = copy.deepcopy(elsewhere[other])
        case 2:
            del owner[key]
        case _ if isinstance(owner, list):
            owner.insert(key, copy.deepcopy(owner[key]))
        case _:
            owner[key] = [copy.deepcopy(owner[key])] * 2


@pytest.mark.parametrize("made", [tiny_net, named_net], ids=["tiny", "squeezenet"])
def test_mutated_graphs_load_or_are_refused_in_a_line(made, tmp_path, capfd):
    """Whatever is changed in a real graph: nothing is printed, and little memory is taken."""
    resource = pytest.importorskip("resource")
    made().save_pretrained(tmp_path)
    whole = (tmp_path / "config.json").read_text()
    random = Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = 0
    for _ in range(MUTATIONS):
        values = json.loads(whole)
        for _ in range(random.choice((1, 1, 2, 5))):
            mutated(values["graph"]["trunk"], random)
        (tmp_path / "config.json").write_text(json.dumps(values))
        try:
            load(tmp_path)
            loaded += 1
        except FullconvError as error:
            message = str(error)
            assert message.startswith(str(tmp_path)), values
            assert "\n" not in message and len(message) < 500 + len(str(tmp_path)), values
    assert 0 < loaded < MUTATIONS  # some changes are of no consequence
    assert capfd.readouterr() == ("", "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10  # kilobytes


def test_layers_are_rehearsed_unless_this_user_made_or_rehearsed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the notes in the cache folder; without a place for them each load rehearses."""
    rehearsed: list[object] = []
    monkeypatch.setattr("fullconv.net.fcn.rehearse", lambda layers, **_: rehearsed.append(layers))
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "own"))
    tiny_net(0).save_pretrained(tmp_path / "model")
    load(tmp_path / "model")
    assert not rehearsed
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "another user's"))
    for _ in range(2):
        load(tmp_path / "model")
    assert len(rehearsed) == 1
    (tmp_path / "file").touch()
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        load(tmp_path / "model")
    assert len(rehearsed) == 3


def test_what_costs_too_much_must_be_trusted(saved, monkeypatch):
    _, folder = saved
    load(folder)
    monkeypatch.setattr(rehearsal, "MOST_OPERATIONS", 10**6)
    with pytest.raises(FullconvError, match=r"config.json: an image would take .*trust=True"):
        load(folder)
    load(folder, trust=True)


@pytest.mark.slow
def test_weights_of_another_net(saved, tmp_path):
    _, folder = saved
    named_net("mobilenet_v2", 8).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    refusal(folder, f"{folder / 'model.safetensors'}: does not fit config.json beside it")


def test_a_newer_format_is_told_before_its_contents_are_judged(saved):
    _, folder = saved
    (folder / "config.json").write_text('{"format": 9}')
    refusal(folder, "format 9 is newer")


# The Hub ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the Hub, and no way to the Hub itself."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_a_model_of_the_hub_loads_from_its_cache(hub):
    net, commit = named_net(), "0123abc" + 33 * "0"
    model = hub / "models--someone--street"
    net.save_pretrained(model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    assert_same_net(fullconv.load("someone/street"), net)


@pytest.mark.parametrize(
    "name", ["someone/street", "some one/street", "someone/street/fcn8s", "street"]
)
@pytest.mark.usefixtures("hub")
def test_neither_a_folder_nor_to_be_had_from_the_hub(name):
    refusal(name, f"{name}: no such ", "folder")


# Writing that fails -------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(OSError, match="file"):
            tiny_net().save_pretrained(folder)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        tiny_net().save_pretrained(tmp_path)


@pytest.mark.parametrize("metrics", [{"mean_iu": float("nan")}, {"mean_iu": torch.ones(1)}])
def test_metrics_that_are_no_json_leave_the_old_files(tmp_path, metrics):
    tiny_net(0).save_pretrained(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError):
        tiny_net(1).save_pretrained(tmp_path, metrics)
    assert contents(tmp_path) == before


# Saves a second net over the first with ever more room, until it fits; each failure must leave the
# first net's files byte for byte and nothing else.
SAVE_UNTIL_IT_FITS = """
import sys
from pathlib import Path
from test_model_folder import contents, tiny_net, FILES

folder, rooms = Path(sys.argv[1]), map(int, sys.argv[3:])
tiny_net(0).save_pretrained(folder)
before, second, failures = contents(folder), tiny_net(1), 0
for room in rooms:
    restrict(room)
    try:
        second.save_pretrained(folder, {"note": "x" * 9000})
    except OSError as error:
        failures += 1
        assert sys.argv[2] in str(error), error
        assert contents(folder) == before, "damaged"
    else:
        break
release()
after = contents(folder)
assert set(after) == FILES and all(after[name] != before[name] for name in FILES)
print(failures)
"""
LIMIT_A_FILE = """
import resource
def restrict(room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
def release():
    restrict(resource.RLIM_INFINITY)
"""
FILL_THE_DISK = """
import os
def restrict(room):
    release()
    state = os.statvfs(sys.argv[1])
    with open(Path(sys.argv[1]).parent / "filler", "wb") as file:
        file.write(bytes(state.f_bavail * state.f_frsize - room))
def release():
    (Path(sys.argv[1]).parent / "filler").unlink(missing_ok=True)
"""


def save_until_it_fits(folder, restriction, message, rooms, before=()):
    paths = os.pathsep.join((str(Path(__file__).parent), *sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", restriction + SAVE_UNTIL_IT_FITS, str(folder), message]
    done = subprocess.run(
        [*before, *command, *map(str, rooms)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_a_limit_on_file_sizes_leaves_the_old_files(tmp_path):
    size = 1
    failures = save_until_it_fits(
        tmp_path / "model", LIMIT_A_FILE, "File too large", [0, size, 100, 4096, 9000, 10**7]
    )
    assert failures == 5


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_files(tmp_path):
    """On a real file system of 1 MiB, filled to leave 0, 4, 8... KiB: weights fail, then config."""
    mount = "mount -t tmpfs -o size=1m none "
    allowed = subprocess.run(["unshare", "-m", "sh", "-c", mount + str(tmp_path)], check=False)
    if allowed.returncode:
        pytest.skip("needs the right to mount a small file system")
    shell = f'{mount}{tmp_path} && exec "$@"'
    failures = save_until_it_fits(
        tmp_path / "model",
        FILL_THE_DISK,
        "No space left",
        range(0, 200_000, 4096),
        before=["unshare", "-m", "sh", "-c", shell, "sh"],
    )
    assert failures > 4
