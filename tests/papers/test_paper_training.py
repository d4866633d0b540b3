"""The paper's nets through the whole training, on a VGG16 whose layers are narrow."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from training import trained

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetFolder
from fullconv.data.info import DatasetInfo
from fullconv.net import caffe_classifiers as classifiers
from fullconv.net.fcn import FCN
from fullconv.papers.blueprint import PAPER_NETS, Blueprint
from fullconv.train import checkpoint, loop
from fullconv.train.advice import about_stages
from fullconv.train.nets import grown_net, take_over
from fullconv.train.recipe import Recipe, read_recipe, shipped_recipes
from fullconv.train.settings import TrainSettings

CLASSES = {"sem": ("bed", "chair", "lamp"), "geo": ("flat", "steep")}


class NarrowVGG16(classifiers.VGG16):
    """VGG16's layers and names, a few channels wide."""

    def __init__(self, num_classes: int = 10) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
            for index in range(1, convolutions + 1):
                layers[f"conv{block}_{index}"] = nn.Conv2d(channels, 6, 3, padding=1)
                layers[f"relu{block}_{index}"] = nn.ReLU(inplace=True)
                channels = 6
            layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        layers["flatten"] = nn.Flatten()
        for dense, size in (("6", 6 * 7 * 7), ("7", 12)):
            layers[f"fc{dense}"] = nn.Linear(size, 12)
            layers[f"relu{dense}"] = nn.ReLU(inplace=True)
            layers[f"drop{dense}"] = nn.Dropout(0.5)
        layers["fc8"] = nn.Linear(12, num_classes)
        nn.Sequential.__init__(self, layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # as large as in a trained net
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "VGG16", NarrowVGG16)


def write_rooms(
    root: Path,
    inputs: tuple[str, ...] = ("color",),
    heads: tuple[str, ...] = ("sem",),
    size: tuple[int, int] = (33, 37),
) -> Path:
    """A dataset of random pictures with further inputs (depth has 16 bits), and several heads."""
    info: dict[str, Any] = {"name": "rooms", "inputs": {name: name for name in inputs}}
    info["heads"] = {
        name: {"masks": f"masks_{name}", "classes": list(CLASSES[name])} for name in heads
    }
    if heads == ("sem",):
        info = {"name": "rooms", "inputs": info["inputs"], "classes": list(CLASSES["sem"])}
    root.mkdir(parents=True)
    (root / "dataset.yaml").write_text(yaml.safe_dump(info, sort_keys=False))
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1)):
        for index in range(count):
            sides = (size[0] + index, size[1] - index)  # no two alike: images stay whole
            pixels: dict[str, np.ndarray] = {
                name: random.integers(500, 9000, sides).astype(np.uint16)
                if name == "depth"
                else random.integers(0, 256, (*sides, 3), dtype=np.uint8)
                for name in inputs
            }
            for name in heads:
                folder = "masks" if heads == ("sem",) else f"masks_{name}"
                pixels[folder] = random.integers(0, len(CLASSES[name]), sides).astype(np.uint8)
            for folder, values in pixels.items():
                path = root / folder / split / f"{split}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    return root


def with_random_scores(net: FCN, seed: int = 0) -> FCN:
    torch.manual_seed(seed)
    for _, head in net.heads.items():
        for name, parameter in head.named_parameters():
            if name.startswith("scores"):
                nn.init.normal_(parameter)
    return net


def info_of(name: str) -> DatasetInfo:
    """The classes of the paper's own dataset."""
    heads = {
        head: {"masks": f"masks_{head}", "classes": classes}
        for head, classes in PAPER_NETS[name].heads.items()
    }
    return DatasetInfo(name=name, heads=heads)


# Growing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["voc", "siftflow", "pascalcontext"])
def test_each_stage_starts_from_the_coarse_scores_of_the_one_before(family: str) -> None:
    """Nothing is added by the fuse; labels nearly agree: two bilinear steps are not quite one."""
    torch.manual_seed(0)
    name = f"{family}-fcn32s"
    before = with_random_scores(Blueprint.of_paper(name).build()).eval()
    images = torch.randn(1, 3, 120, 150) * 60
    for stride in (16, 8):
        after = grown_net(before, stride, info_of(name), read_recipe(name)).eval()
        assert after.arguments.padding == 100
        assert after.classes == before.classes if family != "siftflow" else len(after.heads) == 2
        new = after.trunk(images)[-1]
        coarse = before.by_head(before.coarse(images))
        for (head, own), fused in zip(
            after.heads.items(), after.by_head(after.coarse(images)).values(), strict=True
        ):
            skip = own.scores[str(stride)]
            assert not skip.weight.any()
            assert not skip.bias.any()
            upscore = own.upscores[f"{2 * stride}-{stride}"]
            nothing = torch.zeros(1, own.num_classes, *new.shape[-2:])
            torch.testing.assert_close(fused, upscore.fuse(coarse[head], nothing))
        agree = [
            (one.argmax(1) == other.argmax(1)).float().mean()
            for one, other in zip(
                before.by_head(before(images)).values(),
                after.by_head(after(images)).values(),
                strict=True,
            )
        ]
        assert min(agree) > 0.95
        assert any(share < 1 for share in agree) or stride == 8
        before = with_random_scores(after, stride)


def test_a_source_knows_other_classes_and_heads() -> None:
    """Heads are matched by name and classes by name; what is new starts at zero."""
    heads = {
        "sem": {"masks": "a", "classes": ["sky", "bed"]},
        "geo": {"masks": "b", "classes": ["x"]},
    }
    source = with_random_scores(
        Blueprint.of_paper("siftflow-fcn32s").build(heads={"sem": ("bed", "sky")})
    )
    net = grown_net(source, 16, DatasetInfo(name="other", heads=heads), Recipe())
    theirs, (sem, geo) = source.head.scores["32"], net.heads.values()
    assert torch.equal(sem.scores["32"].weight, theirs.weight[[1, 0]])
    assert torch.equal(sem.scores["32"].bias, theirs.bias[[1, 0]])
    assert not geo.scores["32"].weight.any()
    one = DatasetInfo.plain("one", ["sky"])
    assert torch.equal(grown_net(source, 32, one, Recipe()).scores["32"].bias, theirs.bias[[1]])


def test_depth_starts_as_the_mean_of_the_colours() -> None:
    color = with_random_scores(Blueprint.of_paper("nyud-fcn32s-color").build())
    net = Blueprint.of_paper("nyud-fcn32s-color-d").build()
    take_over(color, net)
    theirs = color.trunk.state_dict()
    for name, value in net.trunk.state_dict().items():
        if name == "layers.conv1_1.weight":
            assert torch.equal(value[:, :3], theirs[name])
            torch.testing.assert_close(value[:, 3], theirs[name].mean(1))
        else:
            assert torch.equal(value, theirs[name])
    assert torch.equal(net.scores["32"].weight, color.scores["32"].weight)


@pytest.mark.slow
def test_two_models_become_one_of_two_trunks() -> None:
    """The fused scores are the mean of the two nets' own."""
    color, hha = (
        with_random_scores(Blueprint.of_paper(f"nyud-fcn32s-{kind}").build(), seed).eval()
        for seed, kind in enumerate(("color", "hha"))
    )
    net = Blueprint.of_paper("nyud-fcn32s-color-hha").build().eval()
    take_over(color, net, "color")
    take_over(hha, net, "hha")
    images = torch.randn(1, 6, 40, 50) * 60
    expected = (color(images[:, :3]) + hha(images[:, 3:])) / 2
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(FullconvError, match="--weights color=MODEL,hha=MODEL says"):
        take_over(color, net)


@pytest.mark.slow
def test_trunks_that_differ() -> None:
    vgg, alexnet = (
        Blueprint.of_paper("voc-fcn32s").build(),
        Blueprint.of_paper("voc-fcn-alexnet").build(),
    )
    with pytest.raises(FullconvError, match=r"the trunk's \S+ can't be taken over"):
        take_over(vgg, alexnet)


# Runs --------------------------------------------------------------------------------------------


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_staged_run_by_the_command(tmp_path: Path, command_line: Any) -> None:
    data, out = write_rooms(tmp_path / "data", heads=("sem", "geo")), tmp_path / "run"
    words = ["--model", "siftflow-fcn8s", "--staged", "--weights", "none", "--set", "steps=2"]
    assert command_line("train", "--data", data, "--out", out, *words, "--quiet") == 0
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    recipe = read_recipe("siftflow-fcn8s", ["steps=2"])
    assert Recipe(**written["recipe"]) == recipe
    assert list(written["nets"]) == ["fcn32s", "fcn16s", "fcn8s"]
    for name, rate in (("fcn32s", 1e-10), ("fcn16s", 1e-12), ("fcn8s", 1e-12)):
        net = fullconv.load(out / name)
        assert f"fcn{net.stride}s" == name
        assert net.arguments.padding == 100
        assert {head: each.classes for head, each in net.heads.items()} == CLASSES
        assert net.preprocessing == Blueprint.of_paper("siftflow-fcn8s").preprocessing
        assert [float(row["lr"]) for row in rows(out / name)] == [pytest.approx(rate)]
        assert set(json.loads((out / name / "metrics.json").read_text())["heads"]) == set(CLASSES)
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_inputs_of_two_kinds_learn_with_two_heads(tmp_path: Path, command_line: Any) -> None:
    data = write_rooms(tmp_path / "data", ("color", "depth"), ("sem", "geo"))
    words = ["--model", "nyud-fcn32s-color-d", "--weights", "none", "--set", "steps=6"]
    settings = ["--set", "lr=1e-4", "--set", "validate_every=1", "--set", "sampled_cells=0.5"]
    out = tmp_path / "run"
    assert command_line("train", "--data", data, "--out", out, *words, *settings, "--quiet") == 0
    losses = [float(row["train_loss"]) for row in rows(out / "fcn32s")]
    assert len(losses) == 2
    assert losses[0] != losses[1]
    net = fullconv.load(out / "fcn32s")
    assert net.inputs == {"color": 3, "depth": 1}
    assert yaml.safe_load((out / "recipe.yaml").read_text())["inputs"] == ["color", "depth"]
    sample = DatasetFolder(data).split("val", ("color", "depth"))[0]
    assert sample.image.dtype == np.float32
    assert set(net.predict(sample.image)) == {"sem", "geo"}


@pytest.mark.slow
def test_only_the_inputs_of_the_net_are_checked(
    tmp_path: Path, command_line: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = write_rooms(tmp_path / "data", ("color", "depth")), tmp_path / "run"
    (data / "depth" / "train" / "train0.png").unlink()
    words = ["--data", data, "--weights", "none", "--set", "steps=1", "--quiet", "--out", out]
    assert command_line("train", "--model", "nyud-fcn32s-color-d", *words) == 2
    assert "train0.png: has no image in depth" in capfd.readouterr().err
    assert not out.exists()
    assert command_line("train", "--model", "nyud-fcn32s-color", *words) == 0
    assert command_line("train", "--out", out, "--resume", "--quiet") == 0


@pytest.mark.slow
def test_late_fusion_from_two_models_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once begun, a run knows its inputs and their order, and needs the models no more."""
    data = write_rooms(tmp_path / "data", ("hha", "color"))
    for seed, kind in enumerate(("color", "hha")):
        source = Blueprint.of_paper(f"nyud-fcn32s-{kind}").build({"labels": CLASSES["sem"]})
        with_random_scores(source, seed).save_pretrained(tmp_path / kind)
    recipe = read_recipe("nyud-fcn32s-color-hha", ["steps=3", "lr=1e-6", "save_minutes=0.000001"])
    asked = {
        "data": data,
        "model": "nyud-fcn32s-color-hha",
        "weights": f"color={tmp_path / 'color'},hha={tmp_path / 'hha'}",
        "recipe": recipe,
    }
    whole = trained(tmp_path / "whole", asked)
    real, made = loop.take_step, []

    def take_step(*args: Any, **options: Any) -> float:
        made.append(0)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", take_step)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", asked)
    (tmp_path / "color" / "config.json").unlink()
    cut = trained(tmp_path / "cut", {}, resume=True)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert fullconv.load(cut).inputs == {"color": 3, "hha": 3}
    before = load_file(tmp_path / "hha" / "model.safetensors")["trunk.layers.fc7.weight"]
    moved = one["trunk.hha.layers.fc7.weight"] - before
    assert 0 < moved.abs().max() < 0.1


def test_advice_to_who_starts_with_a_later_stage(tmp_path: Path) -> None:
    def told(model: str, **options: Any) -> str | None:
        recipe = read_recipe(model if model in PAPER_NETS else "default")
        return about_stages(TrainSettings(data=tmp_path, model=model, recipe=recipe, **options))

    assert "rate of a last stage (1e-14): start it from the coarser net" in str(told("voc-fcn8s"))
    assert told("voc-fcn8s", weights="none")
    assert told("voc-fcn8s", weights=str(tmp_path)) is None
    assert told("voc-fcn8s", staged=True) is None
    assert told("voc-fcn32s") is None
    assert told("voc-fcn8s-atonce") is None
    assert told("nyud-fcn32s-color-hha", weights="color=a,hha=b") is None
    assert told("fcn8s") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "voc-fcn9s"], "did you mean voc-fcn8s"),
        (["--backbone", "vgg16"], "voc-fcn8s: its backbone is caffe:vgg16, not vgg16; leave"),
        (["--model", "voc-fcn8s-atonce", "--staged"], "leave --staged out, or train voc-fcn8s in"),
        (["--weights", "a.caffemodel"], "a.caffemodel: no such weights file"),
        (["--weights", "color=a,hha=b"], "voc-fcn8s has no trunks of its own for color, hha"),
        (["--model", "nyud-fcn32s-color-d"], "has the inputs color, none called 'depth'"),
        (["--model", "nyud-fcn32s-color-hha", "--weights", "MODEL"], "MODEL: the net has a trunk"),
        (["--model", "voc-fcn-alexnet", "--weights", "MODEL"], "can't be taken over"),
    ],
)
def test_bad_usage_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    command_line: Any,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    data, out, model = write_rooms(tmp_path / "data"), tmp_path / "run", tmp_path / "MODEL"
    if "MODEL" in words:
        Blueprint.of_paper("voc-fcn8s").build({"labels": CLASSES["sem"]}).save_pretrained(model)
    given = {"--model": "voc-fcn8s", "--weights": "none"}
    given |= dict(zip(words[::2], words[1::2], strict=False))
    line = [word.replace("MODEL", str(model)) for pair in given.items() for word in pair]
    line += words[len(words) // 2 * 2 :]  # an option without a value
    assert command_line("train", "--data", data, "--out", out, *line, "--quiet") == 2
    error = capfd.readouterr().err
    assert message.replace("MODEL", str(model)) in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_every_net_has_its_recipe() -> None:
    assert set(PAPER_NETS) <= set(shipped_recipes())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["voc-fcn-alexnet", "voc-fcn-googlenet"])
def test_the_other_trunks_as_they_are(tmp_path: Path, name: str) -> None:
    """The paper's comparisons: all weights change but the upscores'."""
    data = write_rooms(tmp_path / "data")
    recipe = read_recipe(name, ["steps=2", "accumulate=2", "lr=0.01"])
    asked = {"data": data, "model": name, "weights": "none", "recipe": recipe}
    folder = trained(tmp_path / "run", asked)
    state = checkpoint.load(folder / "last.pt")
    torch.manual_seed(recipe.seed)
    before = Blueprint.of_paper(name).build({"labels": CLASSES["sem"]}).state_dict()
    weights = {key: value for key, value in before.items() if key.endswith("weight")}
    same = {key for key, value in weights.items() if torch.equal(value, state["net"][key])}
    assert same == {"heads.labels.upscores.32-1.weight"}
    assert {row["step"] for row in state["rows"]} == {1, 2}


STEP = """
import torch
import fullconv
from fullconv.data.loading import Batch, Part
from fullconv.train.recipe import read_recipe
from fullconv.train.optimizer import make_optimizer
from fullconv.train.step import Objective, take_step

net = fullconv.paper("voc-fcn32s").to(memory_format=torch.channels_last).train()
recipe = read_recipe("voc-fcn32s")
optimizer, objective = make_optimizer(net, recipe), Objective(net, recipe)
for side in (32, 500):  # the momentum is there from the second on
    images = torch.randint(256, (1, 3, side, side)).byte()
    labels = torch.randint(21, (1, 1, side, side)).byte()
    take_step(objective, optimizer, Batch([Part(images, labels)], ["one"]))
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(peak.split()[1])  # getrusage would tell the peak of the process that begot this one
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the unit is another")
def test_a_step_of_the_whole_net_takes_less_than_6_gib() -> None:
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    kibibytes = int(done.stdout)
    assert 1.5 < kibibytes / 2**20 < 6  # weights, gradients and momentum alone are 1.5
