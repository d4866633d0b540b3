"""Evaluation on a net whose answer is known, through images written to disk."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fullconv
from colour_net import ColourNet
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import CachedSplit
from fullconv.errors import FullconvError
from fullconv.evaluation import check_same_classes, evaluate
from fullconv.metrics import ConfusionMatrix
from fullconv.progress import Progress


@pytest.fixture
def folder(tmp_path):
    """Write random images of several sizes, one of them all ignored; return the folder."""
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part / "test").mkdir(parents=True)
    for index, size in enumerate([(5, 7), (1, 1), (8, 3), (4, 4)]):
        image = random.integers(0, 256, (*size, 3), np.uint8)
        mask = random.choice([0, 1, 2, 255], size).astype(np.uint8)
        mask[:] = 255 if index == 3 else mask
        Image.fromarray(image).save(tmp_path / f"images/test/{index}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/test/{index}.png")
    name_classes(tmp_path, ColourNet.classes)
    return tmp_path


def name_classes(folder, classes):
    info = {"name": "colours", "classes": list(classes)}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))


def expected(split):
    """Count over all pixels at once, from arrays, in one go."""
    matrix = ConfusionMatrix(3)
    images = [split[i] for i in range(len(split))]
    truth = np.concatenate([sample.labels.ravel() for sample in images])
    colours = np.concatenate([sample.image.reshape(-1, 3) for sample in images])
    matrix.update(truth, colours.argmax(1))
    return matrix.metrics()


@pytest.mark.parametrize("training", [True, False])
def test_measures_every_pixel_once_and_restores_modes(folder, training):
    split = DatasetFolder(folder).split("test")
    net = ColourNet().train(training)
    net.dropout.eval()
    modes = [module.training for module in net.modules()]
    result = evaluate(net, split)
    assert result.metrics.confusion.tolist() == expected(split).confusion.tolist()
    assert result.metrics.mean_iu == expected(split).mean_iu
    assert result.images == 4
    assert [module.training for module in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert torch.is_grad_enabled()


def test_dropout_is_off(folder):
    split = DatasetFolder(folder).split("test")
    result = evaluate(ColourNet().train(), split)
    assert result.metrics.confusion.tolist() == expected(split).confusion.tolist()


def test_per_image_holds_each_image_s_own_mean_iu(folder):
    split = DatasetFolder(folder).split("test")
    result = evaluate(ColourNet(), split)
    assert [name for name, _ in result.per_image] == ["0", "1", "2", "3"]
    assert math.isnan(result.per_image[3][1])
    image = split[0]
    said = image.image.argmax(-1)
    (labels,) = image.labels
    kept = labels != 255
    ious = []
    for c in range(3):
        union = kept & ((labels == c) | (said == c))
        if union.any():
            ious.append((kept & (labels == c) & (said == c)).sum() / union.sum())
    assert result.per_image[0][1] == pytest.approx(np.mean(ious))


def test_a_cached_split_gives_the_same(folder):
    split = DatasetFolder(folder).split("test")
    cached = evaluate(ColourNet(), CachedSplit(split, 1 << 20))
    assert cached.metrics.confusion.tolist() == expected(split).confusion.tolist()


def test_bfloat16_is_only_used_when_asked(folder):
    seen = []
    net = ColourNet()
    net.score.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    split = DatasetFolder(folder).split("test")
    evaluate(net, split)
    evaluate(net, split, bf16=True)
    assert seen == [torch.float32] * 4 + [torch.bfloat16] * 4


def test_the_bar_counts_images(folder):
    bar = Progress(4, "evaluate", "images")
    evaluate(ColourNet(), DatasetFolder(folder).split("test"), bar=bar)
    assert bar.done == 4
    assert "mean IU" in bar.note


def test_an_unreadable_image_is_named_and_modes_are_restored(folder):
    path = folder / "images/test/2.png"
    path.write_bytes(path.read_bytes()[:40])
    net = ColourNet().train()
    with pytest.raises(FullconvError, match=r"2\.png"):
        evaluate(net, DatasetFolder(folder).split("test"))
    assert net.training


def test_other_classes_are_refused_by_name():
    check_same_classes(["sky", "road"], ["sky", "road"])
    with pytest.raises(FullconvError, match=r"model has 2 classes .* dataset 3 \(a, b, c\)"):
        check_same_classes(["sky", "road"], ["a", "b", "c"])
    with pytest.raises(FullconvError, match=r"class 1 is 'road' in the model but 'car'"):
        check_same_classes(["sky", "road", "x"], ["sky", "car", "y"])


# The command line, on a real net


def test_evaluate_writes_the_metrics_that_python_gives(
    folder, tmp_path, capsys, command_line, random_model
):
    name_classes(folder, ["red", "green", "[blue]"])
    out = tmp_path / "deep/metrics.json"
    assert command_line("evaluate", random_model, "--data", folder, "--out", out) == 0
    net = fullconv.load(random_model)
    split = DatasetFolder(folder).split("test")
    matrix = ConfusionMatrix(3)
    for index in range(len(split)):
        matrix.update(split[index].labels[0], net.predict(split[index].image))
    assert json.loads(out.read_text()) == matrix.metrics().to_dict("test", 4, net.classes)
    table = capsys.readouterr().out
    for name, iu in zip(net.classes, matrix.metrics().iu, strict=True):
        (line,) = [line for line in table.splitlines() if name in line]
        assert f"{iu:.3f}" in line
    assert "test: 4 images" in table
    assert "frequency weighted IU" in table


def test_evaluate_names_another_split(folder, capsys, command_line, random_model):
    assert command_line("evaluate", random_model, "--data", folder, "--split", "val") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no split 'val'" in line
    assert "test" in line


def test_evaluate_refuses_other_classes(folder, capsys, command_line, random_model):
    name_classes(folder, ["red", "grue", "[blue]"])
    assert command_line("evaluate", random_model, "--data", folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "class 1 is 'green' in the model but 'grue' in the dataset" in line
    name_classes(folder, ["red", "green"])
    assert command_line("evaluate", random_model, "--data", folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the model has 3 classes (red, green, [blue]) but the dataset 2 (red, green)" in line


def test_evaluate_refuses_what_is_no_dataset_or_no_model(tmp_path, capsys, command_line, folder):
    assert command_line("evaluate", tmp_path / "none", "--data", folder) == 2
    assert "none: no such model folder" in capsys.readouterr().err
    assert command_line("evaluate", folder, "--data", tmp_path / "nothing") == 2
    assert "nothing: is no folder" in capsys.readouterr().err
    assert command_line("evaluate", folder, "--data", folder) == 2
    assert "config.json: missing" in capsys.readouterr().err


def test_evaluate_says_when_the_metrics_can_t_be_written(
    folder, capsys, command_line, random_model
):
    name_classes(folder, ["red", "green", "[blue]"])
    words = ["evaluate", random_model, "--data", folder, "--quiet"]
    assert command_line(*words, "--out", folder / "dataset.yaml/m.json") == 1
    said = capsys.readouterr()
    assert "mean IU" in said.out
    assert len(said.err.splitlines()) == 1
