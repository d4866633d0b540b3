"""Which inputs of a dataset a net is trained on: chosen, fused, resumed, and told if left out."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dataset_folders import write_rich
from safetensors.torch import load_file
from torch import nn
from training import trained

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetFolder
from fullconv.net.fcn import FCN
from fullconv.net.preprocessing import Preprocessing
from fullconv.train import loop
from fullconv.train import run as run_module
from fullconv.train.advice import about_unseen
from fullconv.train.nets import joined_preprocessing, preprocessing_for, target_net
from fullconv.train.recipe import read_recipe
from fullconv.train.settings import TrainSettings

BACKBONE = "squeezenet1_1"
SETTINGS = ("epochs=1", "batch_size=2", "crop=64", "workers=0", "precision=fp32")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of color, depth and hha with the heads sem and geo."""
    return write_rich(tmp_path_factory.mktemp("scenes") / "data")


def settings(data: Path, **options: Any) -> TrainSettings:
    usual: dict[str, Any] = {"model": "fcn16s", "backbone": BACKBONE, "weights": "none"}
    return TrainSettings(data=data, **{**usual, **options})


def built(data: Path, **options: Any) -> FCN:
    return target_net(settings(data, **options), DatasetFolder(data))


def refusal(data: Path, **options: Any) -> str:
    with pytest.raises(FullconvError) as caught:
        built(data, **options)
    return str(caught.value)


def first_filters(trunk: nn.Module) -> torch.Tensor:
    return next(m for m in trunk.modules() if isinstance(m, nn.Conv2d)).weight


# What a net is built of ---------------------------------------------------------------------------


def test_early_fusion_gives_the_trunk_more_channels(data: Path) -> None:
    net = built(data, inputs=("color", "depth", "hha"))
    assert net.inputs == {"color": 3, "depth": 1, "hha": 3}
    filters = first_filters(net.trunk)
    assert filters.shape[1] == 7
    assert torch.allclose(filters[:, 3], filters[:, :3].mean(1), atol=1e-6)


def test_late_fusion_gives_each_input_a_trunk(data: Path) -> None:
    net = built(data, inputs=("color", "depth"), fusion="late")
    assert {name: first_filters(trunk).shape[1] for name, trunk in net.trunks.items()} == net.inputs
    assert net.arguments.fusion == "late"


def test_distances_become_as_wide_as_colours(data: Path) -> None:
    """Rooms a few metres deep, evenly lit pictures: both come to the net around 0, 1 wide."""
    net = built(data, inputs=("color", "depth"))
    random = torch.Generator().manual_seed(0)
    colours = torch.randint(256, (1, 3, 50, 50), generator=random)
    distances = (1.0 + 6 * torch.rand(1, 1, 50, 50, generator=random)) * 1000  # in millimetres
    seen = net.preprocessing(torch.cat((colours.float(), distances), 1))
    assert net.preprocessing.logarithmic == (3,)
    for channel in seen[0]:
        assert abs(channel.mean()) < 1
        assert 0.5 < channel.std() < 2


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "caffe:vgg16"])
def test_colours_are_seen_as_before_and_hha_as_bytes(backbone: str) -> None:
    from fullconv.net.classifiers import default_preprocessing

    own = default_preprocessing(backbone)
    inputs = {"color": 3, "depth": 1, "hha": 3}
    made = preprocessing_for(inputs, own, {"color": 3})
    values = torch.randint(256, (7, 5, 5)).float()
    assert torch.equal(made(values)[:3], own(values[:3]))
    average = sum(own.mean) / 3, sum(own.std) / 3
    expected = (values[4:] * own.scale - average[0]) / average[1]
    assert torch.allclose(made(values)[4:], expected, atol=1e-4)
    depth = (values[3].clamp(min=1).log() - 7.844) * own.scale
    assert torch.allclose(made(values)[3], depth / (average[1] * 0.5 / 58), atol=1e-3)


def test_joined_nets_see_what_each_saw() -> None:
    color = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    depth = Preprocessing(scale=1.0, mean=(7.0,), std=(2.0,), logarithmic=(0,))
    values = torch.randint(1, 256, (4, 5, 5)).float()
    joined = joined_preprocessing({"color": color, "depth": depth})(values)
    assert torch.allclose(joined, torch.cat((color(values[:3]), depth(values[3:]))), atol=1e-5)
    with pytest.raises(FullconvError, match="input hha: its model expects BGR"):
        joined_preprocessing({"color": color, "hha": replace(color, channels="BGR")})


@pytest.mark.slow
def test_two_models_make_one_of_two_trunks(data: Path, tmp_path: Path) -> None:
    parts = {}
    for seed, (name, channels) in enumerate((("color", 3), ("depth", 1))):
        torch.manual_seed(seed)
        parts[name] = built(data, inputs=(name,)).eval()
        for _, head in parts[name].heads.items():
            nn.init.normal_(head.scores["16"].weight)
        parts[name].save_pretrained(tmp_path / name)
        assert parts[name].inputs == {name: channels}
    weights = f"color={tmp_path / 'color'},depth={tmp_path / 'depth'}"
    net = built(data, inputs=("color", "depth"), fusion="late", weights=weights).eval()
    image = DatasetFolder(data).split("val", ("color", "depth"))[0].image
    values = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        found = net(net.preprocessing(values))
        own = [
            part(part.preprocessing(own))
            for part, own in zip(parts.values(), values.split((3, 1), 1), strict=True)
        ]
    for head, scores in found.items():
        expected = (own[0][head] + own[1][head]) / 2
        torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)
    assert "fcn16s has no trunks of its own for color, depth; its inputs are color; --inputs " in (
        refusal(data, weights=weights)
    )


@pytest.mark.slow
def test_a_model_of_colours_learns_depth_besides(data: Path, tmp_path: Path) -> None:
    color = built(data)
    color.save_pretrained(tmp_path / "color")
    weights = str(tmp_path / "color")
    net = built(data, weights=weights, inputs=("color", "depth"))
    assert torch.equal(first_filters(net.trunk)[:, :3], first_filters(color.trunk))
    assert net.preprocessing.mean[:3] == color.preprocessing.mean
    assert net.preprocessing.logarithmic == (3,)
    net.save_pretrained(tmp_path / "both")
    again = built(data, weights=str(tmp_path / "both"))
    assert again.inputs == {"color": 3, "depth": 1}
    assert again.preprocessing == net.preprocessing
    one = built(data, weights=str(tmp_path / "both"), inputs=("color",))
    assert torch.equal(first_filters(one.trunk), first_filters(color.trunk))
    told = refusal(data, weights=str(tmp_path / "both"), inputs=("color", "hha"))
    assert "both: its inputs are color, depth: color, hha don't begin alike" in told
    told = refusal(data, weights=weights, inputs=("color", "depth"), fusion="late")
    assert "--weights color=MODEL,depth=MODEL says" in told


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"inputs": ("color", "dept")}, "none called 'dept'; did you mean depth?"),
        ({"inputs": ("color", "")}, "none called ''"),
        ({"inputs": ("color", "depth", "color")}, "color,depth,color: name each of the dataset's"),
        ({"inputs": ("depth", "color")}, "the input color must come first"),
        ({"fusion": "late"}, "late fusion is of several inputs"),
        (
            {"model": "voc-fcn16s", "inputs": ("color", "depth"), "backbone": None},
            "voc-fcn16s: its inputs are color; leave --inputs out",
        ),
        (
            {"model": "nyud-fcn32s-color-hha", "fusion": "early", "backbone": None},
            "nyud-fcn32s-color-hha: its fusion is late; leave --fusion out",
        ),
    ],
)
def test_what_does_not_fit_is_refused(data: Path, options: dict[str, Any], reason: str) -> None:
    assert reason in refusal(data, **options)


def test_what_the_net_does_not_see_is_told(data: Path) -> None:
    folder, net = DatasetFolder(data), built(data)
    told = about_unseen(settings(data), net, folder)
    assert told == (
        "the net sees color of each scene, not depth, hha; --inputs color,depth,hha lets it"
    )
    told = about_unseen(settings(data, model="voc-fcn16s"), net, folder)
    assert told == "the net sees color of each scene, not depth, hha"
    net.arguments = net.arguments.changed(inputs={"color": 3, "depth": 1, "hha": 3})
    assert about_unseen(settings(data), net, folder) is None


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_trains_on_them_and_resumes(
    data: Path,
    tmp_path: Path,
    command_line: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut before the first save, too: the run knows its inputs from its beginning."""
    words = ["--data", data, "--backbone", BACKBONE, "--model", "fcn16s", "--weights", "none"]
    words += ["--inputs", "color, depth", "--fusion", "late"]
    words += [word for each in SETTINGS for word in ("--set", each)]
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", None)
        with pytest.raises(TypeError):
            trained(tmp_path / "cut", asked(data))
    assert command_line("train", *words, "--out", tmp_path / "whole") == 0
    assert "note: the net sees color, depth of each scene, not hha\n" in capfd.readouterr().err
    for name in ("whole", "cut"):
        written = yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())
        assert (written["inputs"], written["fusion"]) == (["color", "depth"], "late")
    given = ["--inputs", "color,depth", "--quiet"]
    assert command_line("train", "--out", tmp_path / "cut", "--resume", *given) == 0
    whole, cut = (
        load_file(tmp_path / name / "fcn16s" / "model.safetensors") for name in ("whole", "cut")
    )
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    net = fullconv.load(tmp_path / "cut" / "fcn16s")
    assert net.inputs == {"color": 3, "depth": 1}
    assert net.preprocessing.logarithmic == (3,)
    other = ["--inputs", "color,hha", "--quiet"]
    assert command_line("train", "--out", tmp_path / "cut", "--resume", *other) == 2
    assert "begun with another inputs" in capfd.readouterr().err


def asked(data: Path, **options: Any) -> dict[str, Any]:
    usual = settings(data, inputs=("color", "depth"), fusion="late").model_dump()
    return {**usual, "recipe": read_recipe("default", SETTINGS), **options}


def test_a_fusion_that_there_is_not(command_line: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line("train", "--data", "x", "--out", "y", "--fusion", "middle") == 2
    assert "neither early nor late" in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_a_later_stage_has_the_inputs_and_the_earlier_net_is_freed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[weakref.ref[nn.Parameter]] = []  # a parameter of each net
    real_learn, real_load = loop.learn, run_module.load

    def load(folder: Path, *, trust: bool) -> FCN:
        assert all(weight() is None for weight in others)
        net = real_load(folder, trust=trust)
        others.append(weakref.ref(next(net.parameters())))
        return net

    def learn(stage: Any, state: Any) -> None:
        assert all(weight() is None for weight in others)
        others.append(weakref.ref(next(state.net.parameters())))
        real_learn(stage, state)

    monkeypatch.setattr(loop, "learn", learn)
    monkeypatch.setattr(run_module, "load", load)
    wanted = asked(data, model="fcn8s", staged=True, fusion="early")
    gc.disable()  # nets are freed only where that is asked for
    try:
        folder = trained(tmp_path / "run", wanted)
    finally:
        gc.enable()
    assert len(others) == 3
    assert fullconv.load(folder).inputs == {"color": 3, "depth": 1}
