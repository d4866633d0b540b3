"""``fullconv heatmap``, from its words to its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models as tv
from PIL import Image
from safetensors.torch import save_file

import fullconv


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1.safetensors"
    save_file(tv.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_of_a_classifier(
    weights: Path,
    photo: Path,
    tmp_path: Path,
    command_line: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("heatmap", "squeezenet1_1", photo, "--weights", weights, "--scales", "1")
    assert (
        command_line(*words, "--class", "tabby", "--class", "281", "--out", tmp_path / "a.jpg") == 0
    )
    assert capsys.readouterr().out.startswith("tabby: highest probability 0.")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.width >= 2 * 90
        assert picture.height > 60
    assert command_line(*words, "--class", "hot dog", "--out", tmp_path / "a.npy") == 0
    heat = np.load(tmp_path / "a.npy")
    assert (heat.shape, heat.dtype) == ((60, 90), np.float32)


def test_of_a_model(
    random_model: Path, photo: Path, tmp_path: Path, command_line: Callable[..., int]
) -> None:
    out = tmp_path / "a.npy"
    assert command_line("heatmap", random_model, photo, "--class", "blue", "--out", out) == 0
    labels = fullconv.load(random_model).predict(photo)
    heat = np.load(out)
    assert (labels[heat > 0.5 + 1e-4] == 2).all()
    assert (heat[labels == 2] > 1 / 3).all()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--class", "yellow"), "no class is called 'yellow'"),
        (("--class", "red", "--out", "a.tif"), "a.tif: give a name in .png, .jpg"),
        (("--class", "red", "--scales", "0"), "scales are above 0"),
        (("--class", "red", "--scales", "one"), "scales 'one': give numbers"),
    ],
)
def test_bad_input(
    words: tuple[str, ...],
    told: str,
    random_model: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = words if "--out" in words else (*words, "--out", "a.png")
    assert command_line("heatmap", random_model, photo, *given) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("a.*"))


def test_a_net_of_several_inputs_has_no_heat_map_of_one(
    two_headed_model: Path,
    photo: Path,
    tmp_path: Path,
    command_line: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("heatmap", two_headed_model, photo, "--class", "near", "--out", tmp_path / "a.png")
    assert command_line(*words) == 2
    assert "sees color, depth" in capsys.readouterr().err
