"""``fullconv compare``: what it measures, and the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.export.evaluation import run as evaluate
from fullconv.measure.run import EvaluateSettings as OfOne
from fullconv.predict.comparison import CompareSettings, _names, run

CLASSES = ["red", "green", "[blue]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight random scenes, the last of which is all ignored."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "noise", "classes": CLASSES}))
    for kind in ("images", "masks"):
        (folder / kind / "test").mkdir(parents=True)
    for index in range(8):
        pixels = random.integers(0, 256, (33, 40 + index, 3)).astype(np.uint8)
        cells = random.integers(0, 3, (4, 6)).repeat(9, 0).repeat(8, 1)
        mask = cells[: pixels.shape[0], : pixels.shape[1]].astype(np.uint8)
        mask[:, :3] = 255
        Image.fromarray(pixels).save(folder / f"images/test/{index}.png")
        Image.fromarray(mask if index < 7 else mask * 0 + 255).save(
            folder / f"masks/test/{index}.png"
        )
    return folder


@pytest.fixture(scope="module")
def other_model(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    net = fullconv.load(random_model)
    for score in net.scores.values():
        torch.nn.init.normal_(score.weight)
    folder = tmp_path_factory.mktemp("other")
    net.save_pretrained(folder)
    return folder


def test_figures_are_those_of_evaluate(random_model: Path, other_model: Path, data: Path) -> None:
    models = (str(random_model), str(other_model))
    found = run(CompareSettings(models, data))
    for model, net, contender in zip(models, found.report.nets, found.contenders, strict=True):
        assert net.metrics == evaluate(OfOne(model, data)).to_dict()
        span = contender.intervals["labels"]["mean_iu"]
        assert span.low < net.metrics["mean_iu"] < span.high
        files = [Path(model) / name for name in ("model.safetensors", "config.json")]
        assert contender.size == sum(path.stat().st_size for path in files)
        assert contender.milliseconds > 0
        assert 0 <= net.borders["labels"].mean_boundary_iu <= 1
    first, second = found.contenders
    assert (first.differences["labels"].low, first.differences["labels"].high) == (0, 0)
    assert second.differences["labels"].low < second.differences["labels"].high


def test_images_on_which_they_differ_most_come_first(
    random_model: Path, other_model: Path, data: Path
) -> None:
    found = run(CompareSettings((str(random_model), str(other_model)), data))
    one, other = map(fullconv.load, (random_model, other_model))
    shares = {}
    for index in range(8):
        truth = np.asarray(Image.open(data / f"masks/test/{index}.png"))
        path = data / f"images/test/{index}.png"
        known = truth < 3
        apart = one.predict(path) != other.predict(path)
        shares[str(index)] = apart[known].mean() if known.any() else 0.0
    expected = sorted(shares, key=lambda name: -shares[name])[:6]
    assert [example.name for example in found.report.examples] == expected
    assert f"{shares[expected[0]]:.1%}" in found.report.examples[0].caption


@pytest.mark.slow
def test_an_export_stands_beside_its_model(
    random_model: Path,
    data: Path,
    tmp_path: Path,
    command_line: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out, page = tmp_path / "net.onnx", tmp_path / "page.html"
    assert command_line("export", random_model, "--format", "onnx", "--out", out, "--quiet") == 0
    capsys.readouterr()
    words = ("compare", random_model, out, "--data", data, "--out", page, "--quiet")
    assert command_line(*words) == 0
    told = capsys.readouterr().out
    assert random_model.name in told
    assert "net.onnx" in told
    source = page.read_text()
    assert "onnxruntime, fp32" in source
    assert len(source) < 5_000_000


def test_the_page_needs_nothing_from_elsewhere(
    random_model: Path,
    other_model: Path,
    data: Path,
    tmp_path: Path,
    command_line: Callable[..., int],
) -> None:
    page = tmp_path / "page.html"
    words = ("compare", random_model, other_model, "--data", data, "--out", page, "--quiet")
    assert command_line(*words) == 0
    source = page.read_text()
    assert "<script" not in source
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", source)
    assert not re.search(r"url\((?!#)|@import", source)
    assert source.count("<img") == 6 * (2 + 2 * 2)
    assert "[blue]" in source
    assert "prefers-color-scheme: dark" in source
    assert source.count("At borders") == 1


def test_one_model_alone_shows_where_it_errs(random_model: Path, data: Path) -> None:
    found = run(CompareSettings((str(random_model),), data))
    assert found.report.examples[0].caption.startswith("errs on")


def test_models_that_do_not_fit(random_model: Path, data: Path, tmp_path: Path) -> None:
    net = fullconv.FCN("squeezenet1_1", 16, 2)
    net.save_pretrained(tmp_path / "two")
    with pytest.raises(FullconvError, match="2 classes"):
        run(CompareSettings((str(random_model), str(tmp_path / "two")), data))


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["runs/a/fcn8s", "runs/b/fcn8s"], ["a/fcn8s", "b/fcn8s"]),
        (["runs/a/fcn8s", "net.onnx"], ["fcn8s", "net.onnx"]),
        (["x/a/fcn8s", "y/a/fcn8s", "z"], ["x/a/fcn8s", "y/a/fcn8s", "z"]),
        (["a", "a"], ["a", "a"]),
    ],
)
def test_names_are_as_short_as_they_are_distinct(models: list[str], names: list[str]) -> None:
    assert _names(models) == names
