"""Conversion: every blob in its place and no other, every misfit told, whatever a file holds."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import pickle
import re
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import caffe_nets
import numpy as np
import pytest
import torch
from caffe_nets import CaffeNet, Widths
from file_server import serving
from safetensors import safe_open
from torch import nn

import fullconv
from fullconv import FCN, FullconvError, Preprocessing
from fullconv.base.download import Checksum, WebFile
from fullconv.net.classifiers import build_classifier
from fullconv.net.weights import caffe_zoo as zoo
from fullconv.net.weights.caffe_layers import read_classifier
from fullconv.net.weights.caffemodel import read_layers
from fullconv.net.weights.torch_file import read_checkpoint
from fullconv.papers.blueprint import PAPER_NETS
from fullconv.papers.convert import caffe_names, convert_file, load_layers

NARROW = Widths((4, 4, 6, 6, 8), 10)
NARROW_ALEXNET = Widths((4, 6, 6, 6, 6), 10)


def drawn(name: str) -> CaffeNet:
    return caffe_nets.paper_net(name, NARROW_ALEXNET if name == "voc-fcn-alexnet" else NARROW)


def narrow_vgg() -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for block, (width, depth) in enumerate(zip(NARROW.convolutions, (2, 2, 3, 3, 3), strict=True)):
        for index in range(depth):
            layers[f"conv{block + 1}_{index + 1}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{block + 1}_{index + 1}"] = nn.ReLU()
            channels = width
        layers[f"pool{block + 1}"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(
        layers
        | OrderedDict(
            flatten=nn.Flatten(),
            fc6=nn.Linear(49 * channels, 10),
            relu6=nn.ReLU(),
            fc7=nn.Linear(10, 10),
            relu7=nn.ReLU(),
            fc8=nn.Linear(10, 5),
        )
    )


def narrow_alexnet() -> nn.Sequential:
    def convolution(i: int, given: int, width: int, kernel: int, **extra: int) -> OrderedDict:
        return OrderedDict(
            {f"conv{i}": nn.Conv2d(given, width, kernel, **extra), f"relu{i}": nn.ReLU()}
        )

    def pool(i: int) -> OrderedDict:
        return OrderedDict({f"pool{i}": nn.MaxPool2d(3, 2, ceil_mode=True)})

    return nn.Sequential(
        convolution(1, 3, 4, 11, stride=4)
        | pool(1)
        | convolution(2, 4, 6, 5, padding=2, groups=2)
        | pool(2)
        | convolution(3, 6, 6, 3, padding=1)
        | convolution(4, 6, 6, 3, padding=1, groups=2)
        | convolution(5, 6, 6, 3, padding=1, groups=2)
        | pool(5)
        | OrderedDict(
            flatten=nn.Flatten(),
            fc6=nn.Linear(6 * 36, 10),
            fc7=nn.Linear(10, 10),
            fc8=nn.Linear(10, 5),
        )
    )


@functools.cache
def _built(name: str) -> FCN:
    paper = PAPER_NETS[name]
    channels = sum(paper.inputs.values())
    size = 227 if "alexnet" in name else 224
    plain = Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels, input_size=size)
    return paper.build(
        trunk=narrow_alexnet() if "alexnet" in name else narrow_vgg(),
        skips={16: "pool4", 8: "pool3"} if "fcn8s" in name or "fcn16s" in name else None,
        preprocessing=plain,
    )


def narrow(name: str) -> FCN:
    """Build one of the paper's nets on few channels, every weight of which is NaN as yet."""
    net = _built(name)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.fill_(float("nan"))
    return net


def load(net: FCN, path: Path, **arguments: object) -> FCN:
    load_layers(net, caffe_names(net), read_layers(path), path, **arguments)
    return net


def written(folder: Path, net: CaffeNet, weights: dict, **how: bool) -> Path:
    path = folder / "net.caffemodel"
    caffe_nets.write_caffemodel(path, net, weights, **how)
    return path


def refusal(work, *arguments: object) -> str:
    with pytest.raises(FullconvError) as told:
        work(*arguments)
    assert "\n" not in str(told.value)
    return str(told.value)


# Where every layer goes, by hand ------------------------------------------------------------------

VGG_LAYERS = """
conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3
conv5_1 conv5_2 conv5_3 fc6 fc7
""".split()
TRUNK = {name: f"trunk.layers.{name}" for name in VGG_LAYERS}
LABELS = "heads.labels"
VGG_32 = {"score_fr": f"{LABELS}.scores.32", "upscore": f"{LABELS}.upscores.32-1"}
VGG_16 = {
    "score_fr": f"{LABELS}.scores.32",
    "upscore2": f"{LABELS}.upscores.32-16",
    "score_pool4": f"{LABELS}.scores.16",
    "upscore16": f"{LABELS}.upscores.16-1",
}
VGG_8 = {
    "score_fr": f"{LABELS}.scores.32",
    "upscore2": f"{LABELS}.upscores.32-16",
    "score_pool4": f"{LABELS}.scores.16",
    "upscore_pool4": f"{LABELS}.upscores.16-8",
    "score_pool3": f"{LABELS}.scores.8",
    "upscore8": f"{LABELS}.upscores.8-1",
}


def two_heads(places: dict[str, str]) -> dict[str, str]:
    return {
        f"{name}_{head}": path.replace("labels", head)
        for head in ("sem", "geo")
        for name, path in places.items()
    }


def early(places: dict[str, str]) -> dict[str, str]:
    renamed = {"conv1_1_bgrd": places["conv1_1"], **places}
    del renamed["conv1_1"]
    return renamed


LATE = {
    f"{name}{each}": f"trunk.{each}.layers.{name}"
    for each in ("color", "hha")
    for name in VGG_LAYERS
} | {
    "score_frcolor": f"{LABELS}.scores.32.color",
    "score_frhha": f"{LABELS}.scores.32.hha",
    "upscore": f"{LABELS}.upscores.32-1",
}
ALEXNET = {
    f"{name}": f"trunk.layers.{name}"
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
} | VGG_32
PLACES = {
    "voc-fcn32s": TRUNK | VGG_32,
    "voc-fcn16s": TRUNK | VGG_16,
    "voc-fcn8s": TRUNK | VGG_8,
    "voc-fcn8s-atonce": TRUNK | VGG_8,
    "voc-fcn-alexnet": ALEXNET,
    "siftflow-fcn32s": TRUNK | two_heads(VGG_32),
    "siftflow-fcn16s": TRUNK | two_heads(VGG_16),
    "siftflow-fcn8s": TRUNK | two_heads(VGG_8),
    "pascalcontext-fcn32s": TRUNK | VGG_32,
    "pascalcontext-fcn16s": TRUNK | VGG_16,
    "pascalcontext-fcn8s": TRUNK | VGG_8,
    "nyud-fcn32s-color": TRUNK | VGG_32,
    "nyud-fcn32s-hha": TRUNK | VGG_32,
    "nyud-fcn32s-color-d": early(TRUNK) | VGG_32,
    "nyud-fcn32s-color-hha": LATE,
}


def diagonal(blob: np.ndarray) -> np.ndarray:
    return np.stack([blob[label, label] for label in range(len(blob))])[:, None]


@pytest.mark.parametrize("name", PLACES)
def test_every_blob_is_in_its_place(tmp_path, name):
    drawing = drawn(name)
    weights = {
        **caffe_nets.random_weights(drawing.layers, 3),
        **caffe_nets.random_diagonals(drawing, 4),
    }
    net = load(narrow(name), written(tmp_path, drawing, weights))
    state, expected = net.state_dict(), {}
    for layer, path in PLACES[name].items():
        blobs = weights[layer]
        if "upscores" in path:
            blobs = (diagonal(blobs[0]),)
        for parameter, blob in zip(("weight", "bias"), blobs, strict=False):
            expected[f"{path}.{parameter}"] = blob
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key].numpy(), value, err_msg=key)


def test_the_table_above_knows_every_net_that_caffe_defined():
    assert PLACES.keys() == set(caffe_nets.NAMES)


def random_net(tmp_path, name="voc-fcn8s", **how):
    drawing = drawn(name)
    weights = dict(caffe_nets.random_weights(drawing.layers, 5))
    return drawing, weights, lambda: load(narrow(name), written(tmp_path, drawing, weights, **how))


def assert_equal_states(net: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for key, value in net.state_dict().items():
        assert value.equal(expected[key]), key


def snapshot(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def test_v1_files_are_the_same_nets(tmp_path):
    new = snapshot(random_net(tmp_path)[2]())
    assert not any(value.isnan().any() for value in new.values())
    assert_equal_states(random_net(tmp_path, v1=True)[2](), new)


@pytest.mark.parametrize("v1", [False, True])
def test_dense_layers_become_convolutions_and_grouped_upscores_fit(tmp_path, v1):
    _, weights, loaded = random_net(tmp_path, v1=v1)
    whole = snapshot(loaded())
    for layer in ("fc6", "fc7"):
        weight, bias = weights[layer]
        weights[layer] = (weight.reshape(len(weight), -1), bias)
    weights["upscore8"] = (diagonal(weights["upscore8"][0]),)
    assert_equal_states(loaded(), whole)


def test_layers_without_blobs_are_of_no_account(tmp_path):
    drawing, _, loaded = random_net(tmp_path)
    whole = snapshot(loaded())
    extra = [caffe_nets.Layer(name, "Python", (), name) for name in ("data", "loss", "fc8")]
    drawing.layers[:0] = extra
    assert_equal_states(loaded(), whole)


# Misfits ------------------------------------------------------------------------------------------


def test_mixing_upscores_are_refused(tmp_path):
    _, weights, loaded = random_net(tmp_path)
    (kernel,) = weights["upscore_pool4"]
    kernel[3, 5, 1, 2], kernel[20, 0, 0, 0] = 1e-30, -1
    assert "upscore_pool4 mixes classes (2 weights off its diagonal" in refusal(loaded)


def test_missing_surplus_and_misshapen_layers_are_named_and_counted(tmp_path):
    drawing, weights, loaded = random_net(tmp_path)
    for name in VGG_LAYERS[:5]:
        del weights[name]
    weights["score_fr"] = (weights["score_fr"][0][:7], weights["score_fr"][1][:7])
    weights["fc7"] = (weights["fc7"][0],)
    drawing.layers.append(caffe_nets.Layer("fc9", "Convolution", (), "fc9"))
    weights["fc9"] = (np.ones((1, 2), np.float32),)
    assert refusal(loaded) == (
        f"{tmp_path / 'net.caffemodel'}: not the net: it lacks conv1_1, conv1_2, conv2_1 and 2 "
        "more; it also has fc9; it does not fit: fc7 has 1 blobs, not 2, score_fr is 7 x 10 x 1 x "
        "1, the net's 21 x 10 x 1 x 1"
    )


def test_equal_numbers_of_values_do_not_make_a_fit(tmp_path):
    _, weights, loaded = random_net(tmp_path)
    weight, bias = weights["conv2_1"]
    weights["conv2_1"] = (np.ascontiguousarray(weight.reshape(4, 4, 9, 1)), bias)
    assert "conv2_1 is 4 x 4 x 9 x 1, the net's 4 x 4 x 3 x 3" in refusal(loaded)
    weights["conv2_1"] = (weight.reshape(2, -1), bias)
    assert "conv2_1 is 2 x 72, the net's" in refusal(loaded)


def test_a_layer_that_stands_there_twice(tmp_path):
    drawing, _, loaded = random_net(tmp_path)
    drawing.layers.append(drawing.layers[0])
    assert "conv1_1 stands there twice" in refusal(loaded)


def test_hostile_names_are_shown_tamely(tmp_path):
    drawing, weights, loaded = random_net(tmp_path)
    for name in ("\x1b[2J\nlayer", "long" * 1000):
        drawing.layers.append(caffe_nets.Layer(name, "Convolution", (), name))
        weights[name] = (ONES,)
    told = refusal(loaded)
    assert r"'\x1b[2J\nlayer'" in told and told.isprintable() and len(told) < 400


def test_nets_are_not_taken_for_each_other(tmp_path):
    for given, asked in (
        ("voc-fcn8s", "voc-fcn16s"),
        ("voc-fcn8s", "voc-fcn8s-atonce"),
        ("voc-fcn8s-atonce", "voc-fcn8s"),
        ("voc-fcn32s", "pascalcontext-fcn32s"),
        ("voc-fcn32s", "siftflow-fcn32s"),
        ("nyud-fcn32s-color", "nyud-fcn32s-color-d"),
        ("nyud-fcn32s-color", "nyud-fcn32s-color-hha"),
    ):
        drawing = drawn(given)
        path = written(tmp_path, drawing, caffe_nets.random_weights(drawing.layers, 0))
        assert f"not {asked}" in refusal(lambda n, p: load(narrow(n), p, model=n), asked, path)


@pytest.mark.parametrize(
    ("factors", "reason"),
    [
        (np.full(6, 0.0101), "scale_pool4 is 0.0101 to 0.0101, the net's 0.01 throughout"),
        (np.array([0.01] * 5 + [0.02]), "0.01 to 0.02"),
        (np.array([0.01] * 5 + [np.nan]), "scale_pool4 is nan"),
        (np.full(5, 0.01), "scale_pool4 is not 6 factors"),
    ],
)
def test_scales_must_be_the_nets(tmp_path, factors, reason):
    _, weights, loaded = random_net(tmp_path, "voc-fcn8s-atonce")
    loaded()
    weights["scale_pool4"] = (np.full(6, 0.01 * (1 + 1e-7), np.float32),)  # another rounding
    loaded()
    weights["scale_pool4"] = (factors.astype(np.float32),)
    assert reason in refusal(loaded)


def test_scales_must_be_there(tmp_path):
    _, weights, loaded = random_net(tmp_path, "voc-fcn8s-atonce")
    del weights["scale_pool3"]
    assert "it lacks scale_pool3" in refusal(loaded)


# pytorch-fcn's checkpoints ------------------------------------------------------------------------


def checkpoint(weights: dict) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.{kind}": torch.from_numpy(blob)
        for layer, blobs in weights.items()
        for kind, blob in zip(("weight", "bias"), blobs, strict=False)
    }


def loaded_checkpoint(path: Path, name: str = "voc-fcn8s") -> FCN:
    net = narrow(name)
    load_layers(net, caffe_names(net), read_checkpoint(path), path)
    return net


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_checkpoints_are_the_same_nets(tmp_path, zipped, wrapped):
    _, weights, loaded = random_net(tmp_path)
    state = OrderedDict(reversed(checkpoint(weights).items()))  # biases may go before weights
    whole: object = state
    if wrapped:
        whole = {
            "epoch": 3,
            "arch": "FCN8s",
            "optim_state_dict": {"state": {}, "param_groups": [{"lr": 1e-14}]},
            "model_state_dict": state,
            "best_mean_iu": np.float64(0.65),
        }
    path = tmp_path / "net.pth"
    torch.save(whole, path, _use_new_zipfile_serialization=zipped)
    assert_equal_states(loaded_checkpoint(path), snapshot(loaded()))


def test_a_checkpoint_has_its_scales_in_its_code(tmp_path):
    _, weights, loaded = random_net(tmp_path, "voc-fcn8s-atonce")
    del weights["scale_pool4"], weights["scale_pool3"]
    path = tmp_path / "net.pth"
    torch.save(checkpoint(weights), path)
    net = narrow("voc-fcn8s-atonce")
    load_layers(net, caffe_names(net), read_checkpoint(path), path, scale_layers=False)
    assert not any(value.isnan().any() for value in net.state_dict().values())
    assert "it lacks scale_pool4, scale_pool3" in refusal(loaded)


def test_checkpoints_of_other_precisions(tmp_path):
    _, weights, loaded = random_net(tmp_path)
    path = tmp_path / "net.pth"
    torch.save({name: value.double() for name, value in checkpoint(weights).items()}, path)
    assert_equal_states(loaded_checkpoint(path), snapshot(loaded()))
    half = {name: value.half() for name, value in checkpoint(weights).items()}
    torch.save(half, path)
    bias = loaded_checkpoint(path).state_dict()["trunk.layers.fc6.bias"]
    assert bias.equal(half["fc6.bias"].float())


class Payload:
    """What a hostile pickle holds: it would write a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "run"))


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_run_nothing(tmp_path, zipped):
    path, target = tmp_path / "net.pth", tmp_path / "target"
    torch.save({"x": Payload(target)}, path, _use_new_zipfile_serialization=zipped)
    assert "not a whole file of plain tensors" in refusal(loaded_checkpoint, path)
    path.write_bytes(pickle.dumps(Payload(target)))
    assert "not a whole file of plain tensors" in refusal(loaded_checkpoint, path)
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_refused_in_our_own_words(tmp_path, zipped):
    path = tmp_path / "net.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    said = refusal(loaded_checkpoint, path)
    assert "what else it holds is not run: save the net's state_dict with torch.save" in said
    assert said.isprintable() and "weights_only" not in said  # torch advises to switch that off


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_torchscript_is_refused_in_our_own_words(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    assert "save the net's state_dict" in refusal(loaded_checkpoint, path)


@pytest.mark.parametrize("packed", [True, False])
def test_checkpoints_that_swell_when_read_are_refused_unread(tmp_path, monkeypatch, packed):
    whole, bomb = tmp_path / "whole.pth", tmp_path / "bomb.pth"
    torch.save({"conv1_1.weight": torch.zeros(1 << 18)}, whole)
    packing = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(bomb, "w", packing) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
        if not packed:  # many records of the same bytes
            twins = [copy.copy(record) for record in new.filelist]
            for twin in twins:
                twin.filename += "again"
            new.filelist += twins
    monkeypatch.setattr(torch, "load", None)
    assert "its records are packed or overlap" in refusal(loaded_checkpoint, bomb)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2, 3], "holds a list"),
        ({}, "not a net's state dict"),
        ({"conv1_1.weight": 3.5}, "'conv1_1.weight' is a float, not a tensor"),
        ({"conv1_1.weight": torch.zeros(2).bfloat16()}, "not a plain tensor of floats"),
        ({"conv1_1.weight": torch.zeros(2, 2).to_sparse()}, "not a plain tensor of floats"),
        ({"conv1_1.weight": torch.zeros(2, dtype=torch.int64)}, "not a plain tensor of floats"),
        ({"features.0.weight": torch.zeros(2)}, "it lacks conv1_1, conv1_2"),
        ({1: torch.zeros(2)}, "it lacks conv1_1"),
        (
            {
                "conv1_1.weight": torch.zeros(1).expand(1 << 20, 1 << 20),
                "conv1_1.bias": torch.zeros(4),
            },
            "conv1_1 is 1048576 x 1048576, the net's 4 x 3 x 3 x 3",
        ),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, value, reason):
    path = tmp_path / "net.pth"
    torch.save(value, path)
    assert reason in refusal(loaded_checkpoint, path)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_cut_or_altered(tmp_path, zipped):
    _, weights, _ = random_net(tmp_path)
    path = tmp_path / "net.pth"
    torch.save(checkpoint(weights), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for share in (0, 0.001, 0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert refusal(loaded_checkpoint, path).startswith(f"{path}: ")
    for _ in range(20):
        altered = bytearray(whole)
        for at in random.integers(0, 4000, 3):
            altered[at] = random.integers(256)
        path.write_bytes(altered)
        try:
            loaded_checkpoint(path)
        except FullconvError as error:
            assert "\n" not in str(error)
    assert refusal(loaded_checkpoint, tmp_path / "absent.pth").endswith("no such file")


# Classifiers --------------------------------------------------------------------------------------


def googlenet(
    folder: Path, *without: str, **more: tuple[np.ndarray, ...]
) -> tuple[Path, nn.Module]:
    """Write a random GoogLeNet; return the file and the classifier."""
    torch.manual_seed(0)
    classifier, _ = build_classifier("caffe:googlenet")
    weights = {
        path.replace(".", "/"): tuple(value.detach().numpy() for value in module.parameters())
        for path, module in classifier.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    weights = {name: blobs for name, blobs in weights.items() if name not in without} | more
    layers = [caffe_nets.Layer(name, "Convolution", (), name) for name in weights]
    net = CaffeNet("GoogleNet", {"data": 3}, layers)
    return written(folder, net, weights, v1=True), classifier


ONES = np.ones((2, 2), np.float32)
TRAINING_HEADS = {f"loss{at}/{kind}": (ONES,) for at in (1, 2) for kind in ("conv", "classifier")}


def test_googlenet_classifier(tmp_path):
    path, classifier = googlenet(tmp_path, **TRAINING_HEADS)
    other, _ = build_classifier("caffe:googlenet")
    state = read_classifier(path, other)
    assert state.keys() == classifier.state_dict().keys()
    assert not other.state_dict()["conv1.7x7_s2.weight"].equal(state["conv1.7x7_s2.weight"])
    other.load_state_dict(state)
    assert_equal_states(other, classifier.state_dict())


def test_other_classifiers_are_refused(tmp_path):
    path, classifier = googlenet(tmp_path, "inception_3a/1x1", fc8=(ONES,))
    assert refusal(read_classifier, path, classifier) == (
        f"{path}: not Caffe's GoogLeNet: it lacks inception_3a/1x1; it also has fc8"
    )


def test_a_classifiers_weights_file(tmp_path, command_line, capsys):
    path, classifier = googlenet(tmp_path)
    out = tmp_path / "googlenet.safetensors"
    assert command_line("convert", path, "--net", "caffe:googlenet", "--out", out) == 0
    shown = capsys.readouterr().out
    assert "58 layers, 7.00 M parameters" in shown  # 6.8 M in the paper, which counts no biases
    assert f"fullconv train --model voc-fcn-googlenet --weights {out} " in shown
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == "caffe googlenet"
    assert json.loads(metadata["mean"]) == [104.00699, 116.66877, 122.67892]
    rebuilt, preprocessing = build_classifier("caffe:googlenet", out)
    assert preprocessing.channels == "BGR" and preprocessing.scale == 1.0
    assert_equal_states(rebuilt, classifier.state_dict())
    assert command_line("convert", path, "--net", "caffe:googlenet", "--out", out) == 2
    assert "name a new file that ends in .safetensors" in capsys.readouterr().err


# The command --------------------------------------------------------------------------------------


def fcn_googlenet(folder: Path) -> Path:
    """Write a caffemodel of the smallest of the paper's nets."""
    classes = 21
    return googlenet(
        folder,
        "loss3/classifier",
        score_fr=(
            np.random.default_rng(0).normal(size=(classes, 1024, 1, 1)).astype(np.float32),
            np.zeros(classes, np.float32),
        ),
        upscore=(caffe_nets.on_diagonal(caffe_nets.bilinear(63), classes),),
    )[0]


def test_convert_writes_a_model_folder(tmp_path, command_line, capsys):
    path, out = fcn_googlenet(tmp_path), tmp_path / "model"
    assert command_line("convert", path, "--net", "voc-fcn-googlenet", "--out", out) == 0
    shown = capsys.readouterr().out
    assert f"{out}: voc-fcn-googlenet from {path}: 59 layers, " in shown
    assert "labels: 21 classes: background, aeroplane, bicycle ... tvmonitor\n" in shown
    assert f"\n  fullconv predict {out} PHOTO... --out labelled\n" in shown
    net = fullconv.load(out)
    assert net.classes == PAPER_NETS["voc-fcn-googlenet"].heads["labels"]
    assert net.preprocessing == PAPER_NETS["voc-fcn-googlenet"].preprocessing
    (score,) = [each for each in read_layers(path) if each.name == "score_fr"]
    np.testing.assert_array_equal(net.scores["32"].weight.detach(), score.blobs[0].values)
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    assert net.predict(image).shape == (40, 56)
    assert command_line("convert", path, "--net", "voc-fcn-googlenet", "--out", out) == 2
    assert "exists already" in capsys.readouterr().err


def test_refusals_are_one_line_and_leave_nothing(tmp_path, command_line, capsys):
    classifier, _ = googlenet(tmp_path)
    prototxt = tmp_path / "deploy.prototxt"
    prototxt.write_text('name: "FCN"\nlayer {\n  name: "data"\n}\n')
    cut = tmp_path / "cut.caffemodel"
    cut.write_bytes(classifier.read_bytes()[:-1000])
    net = "voc-fcn-googlenet"
    for words, reason in (
        (
            (classifier, "--net", net),
            f"it is a classifier, from which a training may start: fullconv train --model {net} "
            f"--weights {classifier}",
        ),
        ((prototxt, "--net", net), "a prototxt only describes a net"),
        ((cut, "--net", net), "truncated"),
        ((tmp_path / "absent", "--net", net), "no such file"),
        (
            (tmp_path / "absent", "--net", "voc-fcn8s"),
            f"{tmp_path / 'absent'}: no such file; fetch http://dl.caffe.berkeleyvision.org/"
            "fcn8s-heavy-pascal.caffemodel",
        ),
        ((classifier, "--net", "voc-fcn9s"), "did you mean voc-fcn"),
        ((classifier, "--net", "caffe:vgg17"), "unknown Caffe backbone"),
        ((classifier, "--net", "caffe:googlenet"), "ends in .safetensors"),
    ):
        out = tmp_path / "out"
        assert command_line("convert", *words, "--out", out) == 2
        told = capsys.readouterr().err
        assert reason in told and told.count("\n") == 1 and "Traceback" not in told
        assert not out.exists()


def test_a_checkpoint_of_a_classifier_is_refused_without_advice_to_name_it_one(tmp_path):
    path, out = tmp_path / "vgg16.pth", tmp_path / "vgg16.safetensors"
    torch.save({"conv1_1.weight": torch.zeros(2)}, path)
    said = refusal(convert_file, path, "caffe:vgg16", out)
    assert said == f"{path}: of a classifier only Caffe's own file is converted, a .caffemodel"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("net", ["voc-fcn8s", "caffe:vgg16"])
def test_half_a_gigabyte_takes_less_than_one_and_a_half(tmp_path, net):
    drawing, out = caffe_nets.paper_net("voc-fcn8s"), tmp_path / "out.safetensors"
    if net == "caffe:vgg16":
        drawing.layers = [each for each in drawing.layers if each.name in VGG_LAYERS]
        shapes = ((1000, 4096), (1000,))
        drawing.layers.append(caffe_nets.Layer("fc8", "InnerProduct", (), "fc8", blobs=shapes))
    weights = dict(caffe_nets.random_weights(drawing.layers, 0, tmp_path / "weights.npy"))
    if net == "caffe:vgg16":
        for name in ("fc6", "fc7"):
            weights[name] = (weights[name][0].reshape(4096, -1), weights[name][1])
    path = written(tmp_path, drawing, weights)
    assert path.stat().st_size > 530e6
    code = textwrap.dedent("""
        from fullconv.cli import main
        try:
            main()
        finally:  # unlike getrusage's, this peak begins with the program
            print(open("/proc/self/status").read())
    """)
    words = [sys.executable, "-c", code, "convert", path, "--net", net, "--out", out]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert int(peak) * 1024 < 1.5e9


# The zoo ------------------------------------------------------------------------------------------


@pytest.fixture
def zoo_of_one(tmp_path, monkeypatch):
    """Publish a caffemodel as caffe:googlenet on localhost; give the server and torch's cache."""
    contents = bytes(range(256)) * 9000
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(zoo, "PAUSES", ())
    with serving(files={"/g.caffemodel": contents}) as server:
        checksum = Checksum("sha1", hashlib.sha1(contents).hexdigest(), "its page")
        known = WebFile("g.caffemodel", (f"{server.address}/g.caffemodel",), 2, checksum)
        monkeypatch.setattr(zoo, "ZOO", {"caffe:googlenet": known})
        yield server, tmp_path / "checkpoints" / "g.caffemodel"


def test_pretrained_is_fetched_once_and_verified(zoo_of_one):
    server, path = zoo_of_one
    assert zoo.pretrained("caffe:googlenet") == path
    assert path.read_bytes() == server.files["/g.caffemodel"]
    assert zoo.pretrained("caffe:googlenet") == path
    assert len(server.requests) == 1 and list(path.parent.iterdir()) == [path]
    path.write_bytes(b"another")
    assert "remove the file" in refusal(zoo.pretrained, "caffe:googlenet")
    assert "caffe:googlenet" in refusal(zoo.pretrained, "caffe:resnet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": {"/g.caffemodel": b"another"}}, "gave a file of sha1"),
        ({"files": {}}, "404"),
        ({"breaks": [0]}, "broke off"),
        ({"content_type": "text/html"}, "web page"),
    ],
)
def test_what_cannot_be_fetched_is_told_with_what_to_do(zoo_of_one, change, reason):
    server, path = zoo_of_one
    for attribute, value in change.items():
        setattr(server, attribute, value)
    told = refusal(zoo.pretrained, "caffe:googlenet")
    known = zoo.ZOO["caffe:googlenet"]
    assert told.startswith("no pretrained weights of caffe:googlenet: ") and reason in told
    assert known.addresses[0] in told and f"save it as {path} ({known.checksum})" in told
    assert told.endswith("or pass --weights FILE.caffemodel")
    assert not path.exists()


def test_no_network(zoo_of_one, monkeypatch):
    _, path = zoo_of_one
    known = replace(zoo.ZOO["caffe:googlenet"], addresses=("http://127.0.0.1:9/g.caffemodel",))
    monkeypatch.setattr(zoo, "ZOO", {"caffe:googlenet": known})
    told = refusal(zoo.pretrained, "caffe:googlenet")
    assert "Connection refused" in told and f"save it as {path}" in told


def test_the_zoo_has_every_classifier_of_the_papers_nets():
    assert set(zoo.ZOO) == {net.backbone for net in PAPER_NETS.values()}
    assert all(re.fullmatch("[0-9a-f]{40}", each.checksum.digest) for each in zoo.ZOO.values())
