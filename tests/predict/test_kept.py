"""A graph that is kept of a model: the same results, and never that of other files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullconv
from fullconv.export import keeping
from fullconv.export.kept import KeptPlace, remove_oldest
from fullconv.export.whole import LabelsAndCells
from fullconv.predict.kept import kept_place, label_by_kept
from fullconv.predict.room import Tiling
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


@pytest.fixture
def asked(random_model, tmp_path):
    """What is asked of a process that has just begun: two photographs of odd sizes."""
    paths = []
    for index, size in enumerate([(40, 50), (97, 131)]):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
        paths.append(str(path))
    return PredictSettings(random_model, tuple(paths), tmp_path / "out", cold=True)


def results(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "engine"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_the_second_run_gives_what_the_first_gave(
    asked, cache, tmp_path, monkeypatch, suffix, engine
):
    monkeypatch.setattr("fullconv.export.kept.FIRST", {suffix: (engine,)})
    first = run(asked)
    assert first.config.engine == "torch" and first.verification is None
    second = run(replace(asked, out=tmp_path / "again"))
    assert str(second.config) == f"{engine} fp32" and second.verification.agreement == 1
    assert results(tmp_path / "again") == results(tmp_path / "out")
    assert second.summary.unsure == first.summary.unsure
    assert (second.summary.pixels["labels"] == first.summary.pixels["labels"]).all()
    graph = max(cache.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)  # damaged: as good as none, and made anew
    assert run(asked).config.engine == "torch"
    assert run(asked).config.engine == engine


@pytest.mark.slow
def test_a_folder_that_changes_meanwhile_is_not_taken_for_the_one_that_was_read(
    asked, tmp_path, monkeypatch
):
    net = fullconv.load(asked.model)
    net.save_pretrained(tmp_path / "model")
    settings = replace(asked, model=tmp_path / "model")

    def trained_on(*_):
        with torch.no_grad():
            next(net.parameters()).view(-1)[0] += 1
        net.save_pretrained(tmp_path / "model")

    monkeypatch.setattr("fullconv.predict.nets.write_unsure", trained_on)
    monkeypatch.setattr("fullconv.predict.outcome.write_unsure", trained_on)
    before = KeptPlace.of(tmp_path / "model")
    run(settings)
    after = KeptPlace.of(tmp_path / "model")
    assert before != after and before.note() is None and after.note() is None


@pytest.mark.slow
def test_several_heads_and_inputs(two_headed_model, asked, tmp_path):
    (tmp_path / "depth").mkdir()
    for path in asked.inputs:
        size = Image.open(path).size[::-1]
        far = np.full(size, 1000, np.uint16)
        far[: size[0] // 2] = 3000
        Image.fromarray(far).save(tmp_path / "depth" / Path(path).name)
    settings = replace(asked, model=two_headed_model, further=(f"depth={tmp_path / 'depth'}",))
    assert run(settings).config.engine == "torch"
    assert run(replace(settings, out=tmp_path / "again")).config.engine == "onnxruntime"
    theirs, own = results(tmp_path / "out"), results(tmp_path / "again")
    assert own.keys() == theirs.keys() and {"sem/unsure.csv", "geo/0.png"} <= own.keys()
    assert own == theirs


def test_only_what_labels_few_files_plainly_is_served(asked, tmp_path):
    assert kept_place(asked) == KeptPlace.of(asked.model)
    (tmp_path / "film.mp4").touch()
    for others in (
        {"cold": False},
        {"engine": "torch"},
        {"precision": "bf16"},
        {"device": "cpu"},
        {"scores": True},
        {"tta": True},
        {"memory": 1 << 30},
        {"tiling": Tiling((512, 512))},
        {"format": "tif"},
        {"model": "owner/name"},
        {"model": tmp_path / "net.onnx"},
        {"inputs": (str(tmp_path),)},
        {"inputs": (str(tmp_path / "film.mp4"),)},
        {"inputs": asked.inputs[:1] * 7},
    ):
        assert kept_place(replace(asked, **others)) is None, others


@pytest.mark.slow
def test_a_place_is_of_what_the_files_hold(asked, tmp_path):
    net = fullconv.load(asked.model)
    net.save_pretrained(tmp_path / "model")
    copy = KeptPlace.of(tmp_path / "model")
    assert copy == KeptPlace.of(Path(asked.model))
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] += 1e-6
    net.save_pretrained(tmp_path / "model")
    assert KeptPlace.of(tmp_path / "model") != copy
    config = json.loads((tmp_path / "model/config.json").read_text())
    other = KeptPlace.of(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "temperature": 2.0}))
    assert KeptPlace.of(tmp_path / "model") not in (copy, other)


@pytest.mark.slow
def test_a_graph_that_labels_otherwise_is_noted_and_never_used(asked, monkeypatch):
    class Wrong(LabelsAndCells):
        def forward(self, *images):
            labels, cells = super().forward(*images)
            return (labels + 1).remainder(3), cells

    monkeypatch.setattr(keeping, "LabelsAndCells", Wrong)
    assert run(asked).config.engine == "torch"
    place = KeptPlace.of(Path(asked.model))
    assert "of its labels (labels) are torch's" in place.note().verification.failure
    assert place.is_known and place.opened() is None and not place.graph.exists()
    assert run(asked).config.engine == "torch"


@pytest.mark.slow
def test_what_the_net_has_to_do_is_left_to_it(asked, monkeypatch, tmp_path):
    run(replace(asked, trust=True))  # whatever it costs: a run that doesn't say so is to refuse it
    assert KeptPlace.of(Path(asked.model)).note() is None
    run(asked)
    (tmp_path / "damaged.png").write_bytes(b"no image")
    (tmp_path / "none").mkdir()
    damaged = replace(asked, inputs=(*asked.inputs, str(tmp_path / "damaged.png")))
    for settings in (damaged, replace(asked, out=tmp_path / "none")):
        with monkeypatch.context() as patched:
            if settings is not damaged:  # too large for the memory
                patched.setattr("fullconv.predict.room.available_memory", lambda: 1 << 20)
            assert label_by_kept(settings, kept_place(settings), reporter=None) is None
    assert not list((tmp_path / "none").iterdir())


@pytest.mark.slow
def test_a_net_that_scores_nothing_is_not_kept(asked, tmp_path, cache):
    net = fullconv.load(asked.model)
    for score in net.scores.values():
        nn.init.zeros_(score.weight)
        nn.init.zeros_(score.bias)
    net.save_pretrained(tmp_path / "model")
    run(replace(asked, model=tmp_path / "model"))
    assert not cache.exists()


def test_the_least_recently_used_make_room(tmp_path):
    for age, name in enumerate("abc"):
        for suffix in (".json", ".onnx"):
            (tmp_path / f"{name}{suffix}").write_bytes(bytes(50))
        note = (tmp_path / f"{name}.json").stat()
        os.utime(tmp_path / f"{name}.json", (note.st_atime, note.st_mtime - 100 * age))
    remove_oldest(tmp_path, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.onnx", "b.json", "b.onnx"}
