"""What a training begins with: how finely a net sees, what is frozen, and what one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from coloured_scenes import write_scenes
from dataset_folders import write_dataset, write_yaml
from PIL import Image
from torch import nn
from training import trained

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import Batch, Part
from fullconv.net.fcn import FCN
from fullconv.train.advice import about_details, about_precision, about_resolution, hints
from fullconv.train.nets import target_net
from fullconv.train.optimizer import make_optimizer
from fullconv.train.recipe import Recipe, read_recipe
from fullconv.train.resolution import judged
from fullconv.train.settings import TrainSettings
from fullconv.train.step import Objective, take_step

pytestmark = pytest.mark.usefixtures("one_thread")


def asked(data: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    plain = ["batch_size=2", "workers=0", "precision=fp32", "steps=1", *overrides]
    usual = {"backbone": "squeezenet1_1", "model": "fcn8s", "weights": "none"}
    return {"data": data, "recipe": read_recipe("default", plain), **usual, **options}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "model", "overrides", "factor"),
    [
        ((40, 60), "fcn8s", (), 4),
        ((40, 60), "fcn4s", (), 2),
        ((40, 60), "fcn8s", ("magnify=1",), 1),
        ((40, 60), "fcn8s", ("magnify=2",), 2),
        ((390, 390), "fcn8s", (), 1),
    ],
)
def test_small_images_are_magnified(
    tmp_path: Path, size: tuple[int, int], model: str, overrides: tuple[str, ...], factor: int
) -> None:
    data = write_scenes(tmp_path / "data", train=2, val=1, size=size)
    folder = trained(tmp_path / "run", asked(data, *overrides, model=model))
    assert fullconv.load(folder).arguments.magnify == factor
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert record["nets"][model]["magnify"] == factor


@pytest.mark.parametrize(
    ("side", "width", "model", "overrides", "resolution"),
    [
        (400, 2, "fcn8s", (), (2, 1)),
        (400, 13, "fcn8s", (), (4, 1)),
        (400, 24, "fcn8s", (), (8, 1)),
        (400, 2, "fcn16s", (), (16, 4)),
        (400, 24, "fcn16s", (), (16, 1)),  # judged as the FCN-8s that it is compared with
        (400, 8, "fcn4s", (), (4, 1)),
        (400, 2, "fcn4s", (), (2, 1)),
        (200, 2, "fcn8s", (), (4, 2)),  # smaller than what trunks learnt from
        (200, 24, "fcn8s", (), (8, 2)),
        (300, 24, "fcn8s", (), (4, 1)),  # cells as fine as magnification would make them
        (400, 3, "fcn8s", ("magnify=1",), (8, 1)),
        (400, 3, "fcn8s", ("magnify=2",), (8, 2)),
        (400, 3, "fcn8s", ("reduce=2",), (8, 1)),
        (400, 3, "fcn8s", ("finest=4",), (4, 2)),
        (400, 24, "fcn8s", ("finest=2",), (2, 1)),
        (1300, 2, "fcn8s", (), (2, 1)),
    ],
)
def test_what_is_too_thin_for_the_cells_is_scored_at_finer_strides(
    tmp_path: Path,
    side: int,
    width: int,
    model: str,
    overrides: tuple[str, ...],
    resolution: tuple[int, int],
) -> None:
    data = write_stripes(tmp_path, width, (side, side))
    settings = TrainSettings(**asked(data, *overrides, model=model))
    net = target_net(settings, DatasetFolder(data))
    assert (net.stride, net.arguments.magnify) == resolution


@pytest.mark.parametrize(
    ("side", "width", "options", "resolution"),
    [
        (400, 2, {"staged": True}, (8, 4)),  # whose nets have the strides of their names
        (400, 13, {"staged": True}, (8, 2)),
        (400, 24, {"staged": True}, (8, 1)),
        (1000, 2, {"staged": True}, (8, 2)),  # more would take too long
        (1300, 2, {"staged": True}, (8, 1)),
        (400, 2, {"backbone": "timm:test_convnext"}, (4, 2)),  # no layer has stride 2
    ],
)
def test_where_finer_strides_cannot_be_it_is_magnified(
    tmp_path: Path, side: int, width: int, options: dict[str, Any], resolution: tuple[int, int]
) -> None:
    data = write_stripes(tmp_path, width, (side, side))
    settings = TrainSettings(**asked(data, **options))
    net = target_net(settings, DatasetFolder(data))
    assert (net.stride, net.arguments.magnify) == resolution


@pytest.mark.parametrize(
    ("side", "overrides", "strides"),
    [
        (200, (), (16, 4)),  # magnified
        (200, ("coarsest=32",), (32, 4)),
        (200, ("finest=4",), (32, 4)),
        (200, ("magnify=2",), (32, 8)),
        (400, (), (32, 2)),
        (400, ("coarsest=16",), (16, 2)),
        (400, ("coarsest=8", "finest=4"), (8, 4)),
    ],
)
def test_layers_coarser_than_stride_16_are_left_out_of_magnified_images(
    tmp_path: Path, side: int, overrides: tuple[str, ...], strides: tuple[int, int]
) -> None:
    data = write_stripes(tmp_path, 2, (side, side))
    settings = TrainSettings(**asked(data, *overrides, backbone="mobilenet_v2"))
    net = target_net(settings, DatasetFolder(data))
    assert (net.taps[0].stride, net.stride) == strides


@pytest.mark.slow
def test_a_trained_net_is_cut_off_and_a_net_cut_off_stays_so(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=2, val=1, size=(240, 320))
    whole = trained(tmp_path / "whole", asked(data, "magnify=1", backbone="resnet18"))
    cut = trained(tmp_path / "cut", asked(data, "coarsest=16", weights=str(whole), backbone=None))
    record = yaml.safe_load((tmp_path / "cut" / "recipe.yaml").read_text())["nets"]["fcn8s"]
    assert record["coarsest"] == 16
    assert "16 down to 8" in (cut / "README.md").read_text()
    settings = TrainSettings(**asked(data, weights=str(cut), backbone=None))
    assert target_net(settings, DatasetFolder(data)).taps[0].stride == 16


@pytest.mark.parametrize(
    ("overrides", "options", "wrong"),
    [
        (("finest=16",), {}, "finest=16 is coarser than fcn8s: --model fcn16s"),
        (("coarsest=4",), {}, "coarsest=4 is finer than the finest stride, 8"),
        (("coarsest=16", "finest=32"), {}, "finest=32 is coarser than fcn8s"),
        (("finest=4",), {"staged": True}, "name fcn4s there and leave finest out"),
        (("coarsest=16",), {"staged": True}, "leave coarsest out"),
        (
            ("coarsest=16",),
            {"model": "voc-fcn8s", "backbone": None},
            "voc-fcn8s has skips of its own: leave coarsest out",
        ),
        (
            ("finest=4",),
            {"model": "voc-fcn8s", "backbone": None},
            "voc-fcn8s has skips of its own: leave finest out",
        ),
    ],
)
def test_a_finest_stride_that_cannot_be_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], options: dict[str, Any], wrong: str
) -> None:
    data = write_dataset(tmp_path)
    settings = TrainSettings(**asked(data, *overrides, **options))
    with pytest.raises(FullconvError, match=wrong):
        target_net(settings, DatasetFolder(data))


@pytest.mark.slow
def test_a_finer_net_s_strides_last_and_its_crops_show_less(tmp_path: Path) -> None:
    data = write_stripes(tmp_path / "data", 2, (400, 400))
    first = trained(tmp_path / "first", asked(data))
    assert (first.name, fullconv.load(first).stride) == ("fcn8s", 2)
    assert "FCN-2s" in (first / "README.md").read_text()
    record = yaml.safe_load((tmp_path / "first" / "recipe.yaml").read_text())["nets"]["fcn8s"]
    assert (record["stride"], record["plan"]["crop"]) == (2, [96, 96])
    for overrides, model, stride in (
        ((), "fcn8s", 2),
        (("finest=4",), "fcn8s", 4),
        ((), "fcn16s", 16),
    ):
        more = {"weights": str(first), "backbone": None, "model": model}
        settings = TrainSettings(**asked(data, *overrides, **more))
        assert target_net(settings, DatasetFolder(data)).stride == stride


@pytest.mark.slow
def test_a_model_s_magnification_lasts_unless_another_is_asked_for(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=2, val=1, size=(40, 60))
    first = trained(tmp_path / "first", asked(data, "magnify=2"))
    for overrides, factor in (((), 2), (("magnify=4",), 4)):
        settings = TrainSettings(**asked(data, *overrides, weights=str(first), backbone=None))
        assert target_net(settings, DatasetFolder(data)).arguments.magnify == factor


def test_the_paper_s_nets_see_images_as_they_are(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=2, val=1)
    settings = TrainSettings(**asked(data, "magnify=2", model="voc-fcn8s", backbone=None))
    with pytest.raises(FullconvError, match="voc-fcn8s sees images as they are"):
        target_net(settings, DatasetFolder(data))


def small_net() -> FCN:
    torch.manual_seed(0)
    return FCN("mobilenet_v2", 32, 3)


def test_the_trunk_has_a_rate_of_its_own() -> None:
    net, recipe = small_net(), Recipe(trunk_lr=0.25, doubled_biases="all")
    factors = {
        id(parameter): group["factor"]
        for group in make_optimizer(net, recipe).param_groups
        for parameter in group["params"]
    }
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            expected = 0.25 if name.startswith("trunk.") else 1.0
            assert factors[id(parameter)] == expected * (2 if name.endswith("bias") else 1), name


@pytest.mark.parametrize("batch_norm", ["learned", "frozen"])
def test_frozen_normalisation_keeps_its_statistics(batch_norm: str) -> None:
    net, recipe = small_net(), Recipe.model_validate({"batch_norm": batch_norm})
    objective = Objective(net, recipe).train()
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = Batch([Part(images, torch.zeros(2, 1, 64, 64, dtype=torch.uint8))], ["a", "b"])
    take_step(objective, make_optimizer(net, recipe), batch)
    after = [norm.running_mean for norm in norms if norm.running_mean is not None]
    same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert all(same) if batch_norm == "frozen" else not any(same)
    assert net.training


@pytest.mark.parametrize(
    ("side", "overrides", "told"),
    [
        (40, (), ("4 times as large", "16 times as long")),
        (40, ("magnify=4",), ()),
        (40, ("magnify=1",), ()),
        (400, (), ("as an FCN-2s does",)),
        (200, (), ("as an FCN-4s does", "2 times as large", "4 times as long")),
        (200, (), ("as an FCN-4s does", "coarser than stride 16")),
        (200, ("finest=4",), ("2 times as large",)),
    ],
)
def test_who_did_not_ask_for_so_fine_a_net_is_told(
    tmp_path: Path, side: int, overrides: tuple[str, ...], told: tuple[str, ...]
) -> None:
    data = write_stripes(tmp_path, 2, (side, side))
    settings = TrainSettings(**asked(data, *overrides))
    hint = about_resolution(settings, target_net(settings, DatasetFolder(data))) or ""
    assert bool(hint) == bool(told)
    assert all(part in hint for part in told)
    assert ("FCN-" in hint) == any("FCN-" in part for part in told)


def test_who_asks_for_emulated_bf16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, asked = torch.device("cpu"), Recipe(precision="bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    told = about_precision(asked, cpu)
    assert told is not None
    assert "precision=auto" in told
    assert about_precision(Recipe(precision="fp32"), cpu) is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})
    assert about_precision(asked, cpu) is None


def write_stripes(root: Path, width: int, size: tuple[int, int] = (64, 96)) -> Path:
    """Write a dataset folder whose masks are vertical stripes of `width` pixels."""
    write_dataset(root)
    columns = np.arange(size[1]) // width % 2
    for split in ("train", "val", "test"):
        for path in (root / "masks" / split).iterdir():
            Image.fromarray(np.tile(columns, (size[0], 1)).astype(np.uint8)).save(path)
            image = root / "images" / split / path.name
            Image.fromarray(np.zeros((*size, 3), np.uint8)).save(image)
    return root


@pytest.mark.parametrize(
    ("width", "overrides", "model", "told"),
    [
        (3, ("magnify=1",), "fcn8s", "in cells of 8 pixels"),
        (3, ("magnify=1",), "fcn16s", "try --model fcn8s"),
        (16, ("magnify=1",), "fcn8s", None),
        (1, ("magnify=2",), "fcn8s", "in cells of 4 pixels"),
        (1, ("magnify=4",), "fcn8s", None),  # fcn4s has no finer cells
        (1, (), "fcn2s", None),  # nothing is finer
    ],
)
def test_what_cells_are_too_coarse_for_is_told(
    tmp_path: Path, width: int, overrides: tuple[str, ...], model: str, told: str | None
) -> None:
    data = write_stripes(tmp_path, width)
    settings, folder = TrainSettings(**asked(data, *overrides, model=model)), DatasetFolder(data)
    net = target_net(settings, folder)
    of_train = judged(folder, ("color",))
    found = list(about_details(settings, net, folder, of_train))
    assert list(hints(settings, net, folder, of_train, torch.device("cpu"))) == found
    assert (told in found[0]) if told else not found


def test_few_of_a_split_are_evenly_chosen(tmp_path: Path) -> None:
    split = DatasetFolder(write_dataset(tmp_path, train=9)).split("train")
    names = [sample.name for sample in split.samples]
    assert [sample.name for sample in split.few(3).samples] == [names[0], names[4], names[8]]
    assert len(split.few(100)) == len(split) == 9
    assert split.few(1)[0].name == names[0]


def test_one_class_is_refused_before_a_net_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullconv.train.run.target_net", None)  # would fail if it were called
    data = write_scenes(tmp_path / "data", train=2, val=1)
    write_yaml(data, ("object",))
    with pytest.raises(FullconvError, match=r"'object' is the only class.*write \[background,"):
        trained(tmp_path / "run", asked(data))
    assert not (tmp_path / "run").exists()
