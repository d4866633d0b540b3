"""Nets that grow from others, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from coloured_scenes import write_scenes
from torch import nn

from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetInfo
from fullconv.net import rehearsal
from fullconv.net.fcn import FCN
from fullconv.papers.blueprint import Blueprint
from fullconv.train.nets import grown_net, is_model
from fullconv.train.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


INFO = DatasetInfo(name="tiny", classes=("red", "green", "blue"))


def seeded(backbone: str, stride: int, classes: tuple[str, ...]) -> FCN:
    torch.manual_seed(0)
    net = FCN(backbone, stride, len(classes), classes=classes)
    for layer in (*net.scores.values(), *net.upscores.values()):
        nn.init.normal_(layer.weight)
    return net


def test_a_stage_computes_what_the_one_before_did() -> None:
    before = seeded("squeezenet1_1", 16, INFO.classes).eval()
    after = grown_net(before, 8, INFO, Recipe()).eval()
    images = torch.randn(1, 3, 40, 56)
    coarse = before.coarse(images)
    size = after.trunk(after._seen(images))[1].shape[-2:]
    assert torch.equal(after.coarse(images), after.upscores["16-8"](coarse, tuple(size)))


@pytest.mark.slow
def test_classes_are_taken_over_by_name() -> None:
    source = seeded("squeezenet1_1", 8, ("blue", "road", "red"))
    net = grown_net(source, 8, INFO, Recipe(learn_upscores="all"))
    for name in ("scores.16.weight", "scores.8.bias", "upscores.16-8.weight"):
        old, new = source.head.state_dict()[name], net.head.state_dict()[name]
        assert torch.equal(new[0], old[2])
        assert torch.equal(new[2], old[0])
    assert not net.scores["16"].weight[1].any()
    for name, value in source.trunk.state_dict().items():
        assert torch.equal(net.trunk.state_dict()[name], value)
    assert net.upscores["8-1"].weight.requires_grad
    assert net.preprocessing == source.preprocessing
    assert net.classes == INFO.classes


@pytest.mark.slow
def test_a_source_that_costs_too_much_is_taken_if_it_is_trusted(
    tmp_path: Path, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    seeded("squeezenet1_1", 16, INFO.classes).save_pretrained(tmp_path / "source")
    data = write_scenes(tmp_path / "data", train=2, val=1)
    common = ["--quiet", "--set", "workers=0", "--set", "precision=fp32", "--set", "steps=1"]
    source = ["--data", data, "--weights", tmp_path / "source", "--model", "fcn16s"]
    words = ["train", "--out", tmp_path / "run", *source, *common]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))  # where what was made is noted
        patch.setattr(rehearsal, "MOST_OPERATIONS", 10**6)
        assert command_line("describe", tmp_path / "source") == 2
        assert command_line(*words) == 2
        for told in capsys.readouterr().err.splitlines():
            assert f"{tmp_path}/source" in told and "--trust takes it" in told
        assert command_line("describe", tmp_path / "source", "--trust") == 0
        assert command_line(*words, "--trust") == 0
        assert command_line("train", "--out", tmp_path / "run", "--resume", "--quiet") == 0


def test_names_of_nets_and_weights(tmp_path: Path) -> None:
    assert Blueprint.named("fcn4s").stride == 4
    with pytest.raises(FullconvError, match=r"'fcn9s' is none of fcn32s.*did you mean fcn8s"):
        Blueprint.named("fcn9s")
    (tmp_path / "w.safetensors").touch()
    assert not is_model("imagenet")
    assert not is_model(str(tmp_path / "w.safetensors"))
    assert is_model(str(tmp_path))
    assert is_model("someone/streets")
    with pytest.raises(FullconvError, match="no such weights file"):
        is_model("elsewhere/w.safetensors")
    with pytest.raises(FullconvError, match="did you mean imagenet"):
        is_model("imagnet")
