"""Conversion of pytorch-fcn's checkpoints: the same nets, nothing run, damage told."""

from __future__ import annotations

import copy
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow_caffe import assert_equal_states, narrow, random_net, refusal, snapshot

from fullconv import FCN, FullconvError
from fullconv.net.weights.torch_file import read_checkpoint
from fullconv.papers.convert import caffe_names, load_layers

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
