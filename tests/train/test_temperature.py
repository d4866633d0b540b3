"""Temperatures fitted at the end of a run: on labels drawn at a known one; and whatever happens."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured_scenes import write_scenes
from nets import lively, random_scores, settled
from PIL import Image
from torch import nn
from torch.nn import functional as F
from training import trained

import fullconv
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import CachedSplit
from fullconv.net.head import Head
from fullconv.train import evaluators as temperature
from fullconv.train.evaluators import calibrate_kept, fit_temperatures, told
from fullconv.train.recipe import read_recipe

CPU = torch.device("cpu")
KNOWN = 2.5
SIZE = (32, 48)
METRICS = {"split": "val", "mean_iu": 0.5}


class Tiny(nn.Sequential):
    """A classifier of three layers; its cells have a stride of 4."""

    def __init__(self) -> None:
        layers = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the model folder of a net with random scores, far from all alike."""
    torch.manual_seed(0)
    small = fullconv.Preprocessing(input_size=32)
    classes = ("red", "green", "blue")
    net = fullconv.FCN(settled(Tiny(), 32), 4, 3, preprocessing=small, classes=classes)
    lively(random_scores(net))
    with torch.no_grad():
        net.scores["4"].weight.mul_(4)
    folder = tmp_path_factory.mktemp("model")
    net.save_pretrained(folder, METRICS)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


@pytest.fixture(scope="module")
def data(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a dataset; each label of val is drawn by the net's probabilities at temperature 2.5."""
    root = write_scenes(tmp_path_factory.mktemp("scenes"), val=3, size=SIZE)
    net, generator = fullconv.load(model), torch.Generator().manual_seed(0)
    for path in sorted((root / "images/val").iterdir()):
        shares = (scores_of(net, path) / KNOWN).softmax(1)
        drawn = torch.multinomial(shares, 1, generator=generator).reshape(SIZE)
        Image.fromarray(drawn.numpy().astype(np.uint8)).save(root / "masks/val" / path.name)
    return root


def scores_of(net: fullconv.FCN, path: Path) -> torch.Tensor:
    """Return the scores of an image's pixels, N x classes, by the net and PIL alone."""
    with torch.no_grad(), Image.open(path) as image:
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        return net(net.preprocessing(x))[0].flatten(1).T


def val_of(data: Path) -> CachedSplit:
    return CachedSplit(DatasetFolder(data).split("val"), 1 << 24)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def copied(folder: Path, to: Path) -> Path:
    for name, data in contents(folder).items():
        (to / name).write_bytes(data)
    return to


def test_the_temperature_is_that_of_the_labels(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly the known one; and a minimum over all pixels, as torch's own loss sees it."""
    net = fullconv.load(model)
    few = fit_temperatures(net, val_of(data))["labels"]
    monkeypatch.setattr(temperature, "PIXELS", 256)
    assert fit_temperatures(net, val_of(data))["labels"].pixels == 3 * 256
    assert few.pixels == 3 * SIZE[0] * SIZE[1]
    assert few.temperature == pytest.approx(KNOWN, rel=0.06)
    assert few.error_after < 0.03 < few.error_before
    paths = sorted((data / "images/val").iterdir())
    scores = torch.cat([scores_of(net, path) for path in paths]).double()
    masks = [np.array(Image.open(data / "masks/val" / path.name)) for path in paths]
    truth = torch.from_numpy(np.stack(masks)).flatten().long()
    at, *beside = (
        float(F.cross_entropy(scores / each, truth))
        for each in few.temperature * np.array([1, 0.999, 1.001])
    )
    assert at < min(beside)


def test_a_model_gets_its_temperature_and_nothing_else(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, before = copied(model, tmp_path), contents(model)
    calibrate_kept("fcn4s", folder, val_of(data), CPU, METRICS, reporter=Reporter())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fcn4s: probabilities calibrated on 4608 pixels of val: temperature 2.")
    after = contents(folder)
    assert {name for name in after if after[name] != before[name]} == {"config.json"}
    configs = [json.loads(files["config.json"]) for files in (before, after)]
    assert configs[1].pop("temperature") == pytest.approx(KNOWN, rel=0.06)
    assert configs[0].pop("temperature") == 1.0
    assert configs[0] == configs[1]
    calibrate_kept("fcn4s", folder, val_of(data), CPU, METRICS, reporter=SILENT)
    assert contents(folder) == after
    assert capsys.readouterr().err == ""


def test_large_images_are_sampled_within_a_window(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split, sizes = fullconv.load(model), val_of(data), []
    real = Head.scores_within

    def within(*arguments: Any) -> torch.Tensor:
        sizes.append((len(arguments[2]), len(arguments[3])))
        return real(*arguments)

    monkeypatch.setattr(Head, "scores_within", within)
    monkeypatch.setattr(temperature, "WINDOW", 20)
    fit = fit_temperatures(net, split)["labels"]
    assert fit.pixels == 3 * 400
    assert fit.temperature == pytest.approx(KNOWN, rel=0.15)
    assert sizes == [(20, 20)] * 3
    assert fit_temperatures(net, split)["labels"] == fit


def test_ignored_pixels_are_left_out(model: Path, tmp_path: Path) -> None:
    net, folder = fullconv.load(model), write_scenes(tmp_path, val=2, size=SIZE)
    one, two = sorted((folder / "masks/val").iterdir())
    with Image.open(one) as image:
        mask = np.array(image)
    nothing = Image.fromarray(np.full_like(mask, 255))
    mask[:, :40] = 255
    Image.fromarray(mask).save(one)
    nothing.save(two)
    assert fit_temperatures(net, val_of(folder))["labels"].pixels == 32 * 8
    nothing.save(one)
    fit = fit_temperatures(net, val_of(folder))["labels"]
    assert (fit.temperature, fit.pixels) == (1.0, 0)
    assert math.isnan(fit.error_before)
    assert told(fit) == "probabilities: temperature 1 (no labelled pixels)"


def test_at_most_so_many_images_evenly_chosen(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split, read = fullconv.load(model), val_of(data), []
    monkeypatch.setattr(temperature, "IMAGES", 2)
    real = CachedSplit.__getitem__
    monkeypatch.setattr(
        CachedSplit, "__getitem__", lambda own, index: read.append(index) or real(own, index)
    )
    fit_temperatures(net, split)
    assert read == [0, 2]


@pytest.mark.slow
def test_what_a_run_keeps_is_calibrated_also_when_it_was_killed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the last step was saved: resumed, nothing is left but the temperatures."""
    asked = {
        "data": write_scenes(tmp_path / "scenes"),
        "weights": "none",
        "model": "fcn16s",
        "backbone": "squeezenet1_1",
        "recipe": read_recipe("default", ["epochs=1", "batch_size=2", "workers=0"]),
    }
    last = trained(tmp_path / "run", asked)
    whole = contents(last)
    assert json.loads(whole["config.json"])["temperature"] != 1.0
    assert json.loads(whole["config.json"])["metrics"] == json.loads(whole["metrics.json"])

    record = tmp_path / "run" / "recipe.yaml"
    lines = [line for line in record.read_text().splitlines() if "    seconds: " not in line]
    record.write_text("\n".join(lines))
    net = fullconv.load(last)
    net.head.temperature = 1.0
    net.save_pretrained(last, json.loads(whole["metrics.json"]))
    assert contents(last) != whole
    monkeypatch.setattr("fullconv.train.loop.take_step", None)  # would fail if it were called
    trained(tmp_path / "run", {}, resume=True)
    assert contents(last) == whole
    assert "    seconds: " in record.read_text()
