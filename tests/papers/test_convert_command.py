"""fullconv convert: classifiers, the command, and how much memory it takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import caffe_nets
import numpy as np
import pytest
import torch
from narrow_caffe import ONES, VGG_LAYERS, assert_equal_states, googlenet, refusal, written
from safetensors import safe_open

import fullconv
from fullconv.net.classifiers import build_classifier
from fullconv.net.weights.caffe_layers import read_classifier
from fullconv.net.weights.caffemodel import read_layers
from fullconv.papers.blueprint import PAPER_NETS, Blueprint
from fullconv.papers.convert import convert_file

# Classifiers --------------------------------------------------------------------------------------


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_bad_file_is_refused_before_a_net_is_built(tmp_path, monkeypatch):
    """Half a minute is long to wait for the news that a file is none."""
    monkeypatch.setattr(Blueprint, "build", None)
    for name in ("net.caffemodel", "net.pth"):
        path = tmp_path / name
        path.write_bytes(b"<html>404</html>" * 50)
        assert str(path) in refusal(convert_file, path, "voc-fcn8s", tmp_path / "out")
        path.write_bytes(b"")
        assert str(path) in refusal(convert_file, path, "voc-fcn8s", tmp_path / "out")
    assert not (tmp_path / "out").exists()
