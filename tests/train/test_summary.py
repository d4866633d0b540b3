"""The contents of a run's report, and what a training says at its end, for several heads."""

from __future__ import annotations

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
import yaml
from PIL import Image

import fullconv
from fullconv.cli.train import _conclude
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import evaluate, split_for
from fullconv.report.contact import side_by_side
from fullconv.report.page import render
from fullconv.train import summary
from fullconv.train.outcome import Outcome, Trained, read_log
from fullconv.train.plan import Plan
from fullconv.train.settings import TrainSettings
from fullconv.train.summary import _title, summarise

HEADS = {"sem": ("red", "green", "blue"), "geo": ("near", "far")}


@pytest.fixture
def data(tmp_path):
    """Write four random scenes of colours and depth, with two labellings."""
    random = np.random.default_rng(0)
    folders = {"images": 3, "depth": 1, "masks": 0, "masks_geo": 0}
    for index in range(4):
        for folder, channels in folders.items():
            size = (24 + index, 30)
            if channels == 3:
                pixels = random.integers(0, 256, (*size, 3)).astype(np.uint8)
            else:
                high = 9000 if channels else 2
                pixels = random.integers(0, high, size).astype(np.uint16 if channels else np.uint8)
            path = tmp_path / "data" / folder / "val" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    heads = {
        "sem": {"masks": "masks", "classes": HEADS["sem"], "unscored": ["blue"]},
        "geo": {"masks": "masks_geo", "classes": HEADS["geo"]},
    }
    inputs = {"color": "images", "depth": "depth"}
    info = json.loads(json.dumps({"name": "rooms", "inputs": inputs, "heads": heads}))
    (tmp_path / "data/dataset.yaml").write_text(yaml.safe_dump(info, sort_keys=False))
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path, two_headed_model):
    """The model folder of a run's only net."""
    shutil.copytree(two_headed_model, tmp_path / "run/fcn16s")
    (tmp_path / "run/fcn16s/log.csv").write_text("epoch,train_loss,val_mean_iu\n1,2.5,0.3\n")
    return tmp_path / "run/fcn16s"


def an_outcome(folder, data, metrics=None, names=("fcn16s",)):
    plan, rows = Plan(6, 2, 1, "whole"), read_log(folder / "log.csv")
    return Outcome(
        folder.parent,
        TrainSettings(data=data, weights="none", inputs=("color", "depth")),
        DatasetFolder(data).splits,
        tuple(
            Trained(name, folder.parent / name, plan, 9.0, rows, metrics or {}, ())
            for name in names
        ),
    )


def test_a_report_of_several_heads_and_inputs(folder, data):
    net, dataset = fullconv.load(folder), DatasetFolder(data)
    split = split_for(net, dataset, "val")
    measured = evaluate(net, split)
    report = summarise(an_outcome(folder, data), dataset.info, split, {"fcn16s": measured})
    assert [(head.name, head.classes) for head in report.heads] == list(HEADS.items())
    assert [head.unscored for head in report.heads] == [("blue",), ()]
    (stage,) = report.nets
    for head in report.heads:
        expected = measured.heads[head.name].mean_iu
        assert stage.of(head)["mean_iu"] == pytest.approx(expected)
    assert len(report.examples) == 3
    best = report.examples[0]
    assert best.caption == f"best: mean IU {max(iu for _, iu in measured.per_image):.2f}"
    sample = split[int(best.name)]
    assert (best.image == sample.image[..., :3]).all()
    predicted = net.predict(sample.image)
    for layer, head in enumerate(HEADS):
        assert (best.truth[head] == sample.labels[layer]).all()
        assert (best.predictions[0][head] == predicted[head]).all()
    facts = dict(report.facts)
    assert facts["inputs"] == "color, depth (early fusion)"
    assert "whole images" in facts["batch"]
    assert "Confusion matrix of FCN-16s, geo" in render(report)
    assert side_by_side(report).ndim == 3


def test_images_that_are_gone_are_no_examples(folder, data):
    net = fullconv.load(folder)
    split = split_for(net, DatasetFolder(data), "val")
    measured = {"fcn16s": evaluate(net, split)}
    ranked = [name for _, name in sorted((iu, name) for name, iu in measured["fcn16s"].per_image)]
    for place in ("images", "depth", "masks", "masks_geo"):
        (data / place / "val" / f"{ranked[-1]}.png").unlink()
    dataset = DatasetFolder(data)
    split = split_for(net, dataset, "val")
    report = summarise(an_outcome(folder, data), dataset.info, split, measured)
    assert [example.name for example in report.examples] == [ranked[at] for at in (2, 1, 0)]
    assert "measured on val, 4 images" in report.intro


def test_titles_of_nets():
    names = {"fcn16s": "FCN-16s", "siftflow-fcn8s": "siftflow-FCN-8s"}
    assert {name: _title(name) for name in names} == names


def test_a_training_ends_with_a_line_for_each_head(folder, data, capsys):
    numbers = ("mean_iu", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iu")
    heads = {
        "sem": dict(zip(numbers, (0.125, 0.25, 0.5, 0.75), strict=True)),
        "geo": dict(zip(numbers, (0.5, None, 0.5, 0.5), strict=True)),
    }
    _conclude(an_outcome(folder, data, {"split": "val", "images": 4, "heads": heads}))
    sem, geo, *others = capsys.readouterr().out.splitlines()
    assert sem == (
        f"{folder}: sem on val mean IU 0.125, pixel accuracy 0.250, mean accuracy 0.500, "
        "f.w. IU 0.750"
    )
    assert geo == f"{folder}: geo on val mean IU 0.500, mean accuracy 0.500, f.w. IU 0.500"
    assert f"fullconv predict {folder} PHOTO... --input depth=DIR --out labelled" in others[-1]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_training_names_a_split_to_measure_that_there_is(folder, data, capsys, split):
    if split == "test":
        for kind in ("images", "depth", "masks", "masks_geo"):
            shutil.copytree(data / kind / "val", data / kind / "test")
    _conclude(an_outcome(folder, data, {"heads": {}}))
    assert f"evaluate {folder} --data {data} --split {split}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_nets_are_loaded_in_turn(folder, data, monkeypatch):
    """Of two trained nets only one is in memory at a time."""
    shutil.copytree(folder, folder.parent / "fcn8s")
    outcome = an_outcome(folder, data, names=("fcn16s", "fcn8s"))
    loaded = []

    def load(path, **options):
        assert all(weight() is None for weight in loaded)
        net = fullconv.load(path, **options)
        loaded.append(weakref.ref(next(net.parameters())))
        return net

    dataset = DatasetFolder(data)
    split = split_for(fullconv.load(folder), dataset, "val")
    measured = evaluate(fullconv.load(folder), split)
    monkeypatch.setattr(summary, "load", load)
    gc.disable()
    try:
        summarise(outcome, dataset.info, split, {"fcn16s": measured, "fcn8s": measured})
    finally:
        gc.enable()
    assert len(loaded) == 2
