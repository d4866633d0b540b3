"""Prediction as a whole: by its foreman, and on the command line, on a real net."""

from __future__ import annotations

import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from prediction import depth_image, picture, pixels_of, spoil

import fullconv
from fullconv.export import int8
from fullconv.export.verification import Notes
from fullconv.export.verified import REFERENCE, Verification
from fullconv.net import rehearsal
from fullconv.predict.engines import configs, is_installed
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings


def test_predict_agrees_with_python(tmp_path, capsys, command_line, random_model):
    picture(tmp_path / "in/b/a.png", (3, 4))
    with Image.open(tmp_path / "in/b/a.png") as tiny:
        tiny.resize((130, 97), Image.Resampling.NEAREST).save(tmp_path / "in/b/a.png")
    out = tmp_path / "out"
    assert command_line("predict", random_model, tmp_path / "in", "--out", out, "--scores") == 0
    said = capsys.readouterr().out
    assert f"1 label image in {out}" in said
    assert any(name in said for name in ("red", "green", "[blue]"))
    with Image.open(out / "b/a.png") as image:
        labels = np.asarray(image)
    net = fullconv.load(random_model)
    assert len(np.unique(labels)) > 1
    assert (labels == net.predict(tmp_path / "in/b/a.png")).all()
    with torch.no_grad(), Image.open(tmp_path / "in/b/a.png") as image:
        x = net.preprocessing(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
        expected = net(x).softmax(1)[0].numpy()
    assert np.abs(np.load(out / "scores/b/a.npy") - expected).max() < 1e-3
    assert (labels == expected.argmax(0)).all()


def test_predict_with_mirrors_and_a_temperature(tmp_path, command_line, random_model):
    """The probabilities are averages of both; the labels are their classes."""
    net = fullconv.load(random_model)
    with torch.no_grad():
        for score in net.scores.values():
            score.weight.div_(10)  # else every label is sure
    net.head.temperature = 3.0
    net.save_pretrained(tmp_path / "model")
    pixels = picture(tmp_path / "a.png", (61, 83))
    words = ["predict", tmp_path / "model", tmp_path / "a.png", "--scores", "--quiet"]
    assert command_line(*words, "--out", tmp_path / "out") == 0
    assert command_line(*words, "--out", tmp_path / "both", "--tta") == 0
    shares = []
    for image in (pixels, pixels[:, ::-1].copy()):
        with torch.no_grad():
            x = net.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None])
            shares.append((net(x) / 3).softmax(1)[0])
    expected = (shares[0] + shares[1].flip(-1)) / 2
    assert (expected - shares[0]).abs().max() > 0.02
    for out, truth in (("out", shares[0]), ("both", expected)):
        found = np.load(tmp_path / out / "scores/a.npy")
        assert np.abs(found - truth.numpy()).max() < 1e-3
        labels = pixels_of(tmp_path / out / "a.png")
        assert (labels == truth.argmax(0).numpy()).mean() > 0.999
    assert (pixels_of(tmp_path / "out/a.png") != pixels_of(tmp_path / "both/a.png")).any()


@pytest.mark.slow
def test_predict_names_the_most_unsure_images(tmp_path, capsys, command_line, random_model):
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out", "--quiet"]
    net = fullconv.load(random_model)
    picture(tmp_path / "in/0.png", (70, 90))
    net.head.temperature = 1000.0  # no label is sure
    net.save_pretrained(tmp_path / "model")
    words[1] = tmp_path / "model"
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "unsure (probability below 0.75): 100.0% of this image's labels\n" in said
    assert "  100.0%" not in said
    for index in range(1, 7):
        picture(tmp_path / f"in/{index}.png", (70, 90), seed=index)
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "100.0% of labels, on average of the images; most in:\n  100.0%  0\n" in said
    assert "  100.0%  4\n" in said and "  100.0%  5\n" not in said
    assert f"unsure shares in {tmp_path}/out/unsure.csv" in said
    assert len((tmp_path / "out/unsure.csv").read_text().splitlines()) == 8
    net.head.temperature = 0.001
    net.save_pretrained(tmp_path / "model")
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "0.0% of labels, on average of the images\n" in said


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_predict_by_another_engine(tmp_path, capsys, command_line, random_model, engine):
    if not is_installed(engine):
        pytest.skip(f"needs {engine}")
    for index in range(3):
        picture(tmp_path / f"in/{index}.png", (70 + index, 90), seed=index)
    words = ["predict", random_model, tmp_path / "in", "--engine", engine, "--quiet"]
    assert command_line(*words, "--out", tmp_path / "out", "--precision", "fp32", "--scores") == 0
    assert command_line(*words, "--out", tmp_path / "auto") == 0  # too few to measure anything
    assert capsys.readouterr().err == ""
    net = fullconv.load(random_model)
    for index in range(3):
        expected = net.predict(tmp_path / f"in/{index}.png")
        for out in ("out", "auto"):
            with Image.open(tmp_path / out / f"{index}.png") as labels:
                assert (np.asarray(labels) == expected).mean() >= 0.9999
        scores = np.load(tmp_path / f"out/scores/{index}.npy")
        assert (scores.argmax(0) == expected).mean() > 0.99
    assert len(np.unique(expected)) > 1
    assert command_line(*words, "--out", tmp_path / "both", "--precision", "fp32", "--tta") == 0
    both = net.label(pixels_of(tmp_path / "in/2.png"), tta=True)["labels"]
    assert (pixels_of(tmp_path / "both/2.png") == both).mean() >= 0.9999
    assert (both != expected).any()


def test_predict_tells_in_a_line_what_an_engine_can_t_do(
    tmp_path, capsys, command_line, random_model, monkeypatch
):
    if not is_installed("openvino"):
        pytest.skip("needs openvino")

    def trace(*_, **__):
        raise RuntimeError("no such layer:\n  strange::layer\nat line 5")

    monkeypatch.setattr(torch.jit, "trace", trace)
    picture(tmp_path / "in/a.png", (70, 90))
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out"]
    assert command_line(*words, "--engine", "openvino", "--precision", "fp32") == 2
    (line,) = capsys.readouterr().err.splitlines()
    reason = "engine openvino fp32 can't work out this net: no such layer: strange::layer at line 5"
    assert line == f"fullconv: {reason}"
    assert command_line(*words) == 0


def test_predict_tells_which_engine_it_chose(
    tmp_path, capsys, command_line, random_model, monkeypatch
):
    """Torch in bf16, because it is remembered as the quickest by far."""
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    picture(tmp_path / "in/a.png", (70, 90))
    (config,) = configs("torch", "bf16", torch.device("cpu"))[:1]
    measured = Verification(config=config, seconds=1e-6, agreement=0.9971)
    Notes(fullconv.load(random_model), (70, 90, 3), "uint8").keep([measured])
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out"]
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    if config in configs("auto", "auto", torch.device("cpu")):  # CPUs without bf16 are left alone
        assert "engine torch bf16: on the images that it was measured on, 99.71%" in said
    assert command_line(*words, "--precision", "fp32") == 0
    assert "bf16" not in capsys.readouterr().out


def test_predict_does_the_good_ones_and_exits_1(tmp_path, capsys, command_line, random_model):
    spoil(tmp_path / "in")
    code = command_line(
        "predict", random_model, tmp_path / "in", "--out", tmp_path / "out", "--quiet"
    )
    lines = capsys.readouterr().err.splitlines()
    assert code == 1
    assert lines[-1] == "fullconv: 4 of 6 inputs failed"
    assert len(lines) == 5
    assert (tmp_path / "out/zgood.png").is_file()


def test_predict_of_bad_images_only(tmp_path, capsys, command_line, random_model):
    (tmp_path / "a.png").touch()
    code = command_line("predict", random_model, tmp_path / "a.png", "--out", tmp_path / "out")
    said = capsys.readouterr()
    assert code == 1
    assert "1 of 1 inputs failed" in said.err
    assert said.out == ""


def test_predict_obeys_max_pixels(tmp_path, capsys, command_line, random_model):
    picture(tmp_path / "a.png", (6, 8))
    words = ["predict", random_model, tmp_path / "a.png", "--out", tmp_path / "out", "--max-pixels"]
    assert command_line(*words, 47) == 1
    assert "more than the 47 allowed" in capsys.readouterr().err
    assert command_line(*words, 48) == 0


REFUSALS = {
    "engine": (["--engine", "opnvino"], "did you mean openvino"),
    "both": (["--engine", "onnxruntime", "--precision", "bf16"], "onnxruntime"),
    "precision": (["--precision", "int8", "--engine", "torch"], "engine torch knows no int8"),
    "device": (["--device", "tpu"], "device 'tpu' is none of auto, cpu, cuda, mps"),
    "input": (["nothing.jpg"], "nothing.jpg: no such file or folder"),
    "out": (["--out", "/proc/x"], "/proc/x: can't write there"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_predict_refuses_before_starting(tmp_path, capsys, command_line, random_model, case):
    words, reason = REFUSALS[case]
    picture(tmp_path / "a.png")
    out = tmp_path / "out"
    code = command_line("predict", random_model, tmp_path / "a.png", "--out", out, *words)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert reason in line
    assert not out.exists()


def test_predict_refuses_a_spoilt_model(tmp_path, capsys, command_line, random_model):
    picture(tmp_path / "a.png")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_bytes((random_model / name).read_bytes())
    weights = bytearray((random_model / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    words = ["predict", tmp_path / "m", tmp_path / "a.png", "--out", tmp_path / "out"]
    for spoilt in (bytes(weights), bytes(weights[:-9]), None):
        path = tmp_path / "m/model.safetensors"
        path.write_bytes(spoilt) if spoilt is not None else path.unlink()
        assert command_line(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line
    assert not (tmp_path / "out").exists()


def test_predict_warns_when_one_class_takes_all(tmp_path, capsys, command_line, random_model):
    net = fullconv.load(random_model)
    with torch.no_grad():
        net.scores["16"].bias[1] = 1e6
    net.save_pretrained(tmp_path / "m")
    picture(tmp_path / "a.png")
    words = ["predict", tmp_path / "m", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "Warning: green is more than 99.9%" in said
    assert "not found: red, [blue]" in said


def test_predict_with_a_further_input(tmp_path, capsys, command_line, two_headed_model):
    for index, name in enumerate(("a", "b")):
        picture(tmp_path / f"in/{name}.png", (40, 56), seed=index)
    depth_image(tmp_path / "depth/a.png", (40, 56))
    out = tmp_path / "out"
    words = ["predict", two_headed_model, tmp_path / "in", "--out", out]
    assert command_line(*words) == 2
    assert "add --input depth=DIR" in capsys.readouterr().err
    assert not out.exists()
    assert command_line(*words, "--input", f"depth={tmp_path}/nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert command_line(*words, "--input", f"depth={tmp_path}/depth", "--quiet") == 1
    said = capsys.readouterr()
    assert "in/b.png: its depth is missing" in said.err
    assert f"1 label image in {out}/{{sem,geo}}" in said.out
    net = fullconv.load(two_headed_model)
    with Image.open(tmp_path / "in/a.png") as image, Image.open(tmp_path / "depth/a.png") as depth:
        both = np.concatenate([np.asarray(image), np.asarray(depth)[..., None]], 2)
    expected = net.predict(both.astype(np.float32))
    for head in ("sem", "geo"):
        assert head in said.out
        with Image.open(out / head / "a.png") as labels:
            assert (np.asarray(labels) == expected[head]).all()
            assert len(np.unique(expected[head])) > 1


def test_predict_of_an_only_input_that_is_no_colour(tmp_path, capsys, command_line):
    torch.manual_seed(0)
    net = fullconv.FCN("squeezenet1_1", 16, 3, inputs={"hha": 3})
    for score in net.scores.values():
        torch.nn.init.normal_(score.weight)
    net.save_pretrained(tmp_path / "model")
    pixels = picture(tmp_path / "in/a.png", (33, 40))
    depth_image(tmp_path / "in/b.png", (33, 40))
    words = ["predict", tmp_path / "model", tmp_path / "in", "--out", tmp_path / "out", "--quiet"]
    assert command_line(*words) == 1
    err = capsys.readouterr().err
    assert "b.png: is read as 16-bit grey, one channel, but the model's input 'hha' has 3" in err
    with Image.open(tmp_path / "out/a.png") as labels:
        assert (np.asarray(labels) == net.predict(pixels)).all()


def test_a_run_folder_is_no_model_but_names_one(tmp_path, capsys, command_line, random_model):
    folder = tmp_path / "run"
    shutil.copytree(random_model, folder / "fcn16s")
    picture(tmp_path / "a.png")
    words = ["predict", folder, tmp_path / "a.png", "--out", tmp_path / "out"]
    assert command_line(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"; did you mean {folder}/fcn16s?")


def test_the_foreman_returns_what_came_of_the_run(tmp_path, random_model):
    spoil(tmp_path / "in")
    settings = PredictSettings(random_model, (str(tmp_path / "in"),), tmp_path / "out", scores=True)
    prediction = run(settings)
    assert (prediction.done, prediction.summary.images) == (2, 6)
    assert {each.source.name for each in prediction.failures} == {
        *("truncated.jpg", "empty.png", "text.jpg", "huge.png")
    }
    assert all(str(each.source) in each.reason for each in prediction.failures)
    assert (prediction.config, prediction.verification) == (REFERENCE, None)
    assert sorted(path.name for path in prediction.places.scores.iterdir()) == [
        *("good.npy", "zgood.npy")
    ]
    net = fullconv.load(random_model)
    again = run(PredictSettings(net, settings.inputs, tmp_path / "again"))
    assert again.summary.pixels["labels"].tolist() == prediction.summary.pixels["labels"].tolist()
    assert again.places.scores is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="of POSIX")
def test_a_full_disk_is_named(tmp_path, monkeypatch, capsys, command_line, random_model):
    """It was told as "can't write its results (None)"."""
    picture(tmp_path / "in/a.png", (70, 90))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out", "--quiet"]
    monkeypatch.setattr("fullconv.predict.stream.save_label_image", lambda *_: None)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # of a file; the overlay is more
        assert command_line(*words) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{tmp_path}/in/a.png: can't write its results (File too large)"


def test_a_model_that_costs_too_much_is_labelled_with_if_it_is_trusted(
    tmp_path, capsys, command_line, random_model, monkeypatch
):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))  # where no model is known
    monkeypatch.setattr(rehearsal, "MOST_OPERATIONS", 10**6)
    picture(tmp_path / "in/a.png", (70, 90))
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out"]
    assert command_line(*words) == 2
    assert "--trust takes it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command_line(*words, "--trust") == 0
    assert (tmp_path / "out" / "a.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (is_installed("openvino") and int8.is_installed()), reason="needs openvino and nncf"
)
def test_predict_in_int8_is_calibrated_on_the_first_images(tmp_path, command_line, random_model):
    for index in range(3):
        picture(tmp_path / f"in/{index}.png", (70 + index, 90), seed=index)
    words = ["predict", random_model, tmp_path / "in", "--precision", "int8", "--quiet"]
    assert command_line(*words, "--out", tmp_path / "out") == 0
    net = fullconv.load(random_model)
    same = [
        (pixels_of(tmp_path / f"out/{n}.png") == net.predict(tmp_path / f"in/{n}.png")).mean()
        for n in range(3)
    ]
    assert 0.6 < np.mean(same) < 1  # of random weights, on noise
