from __future__ import annotations

import csv
import errno
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from coloured_scenes import write_scenes
from dataset_folders import write_dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import fullconv
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.data.folder import DatasetFolder, DatasetInfo
from fullconv.data.loading import Batch, CachedSplit, Part
from fullconv.net import folder as model_folder
from fullconv.net.fcn import FCN
from fullconv.net.upscore import Upscore
from fullconv.train import checkpoint, loop
from fullconv.train import step as step_module
from fullconv.train.loop import Task, validation_loss
from fullconv.train.nets import grown_net, is_model
from fullconv.train.plan import SLACK, Pace, Plan
from fullconv.train.recipe import Recipe, read_recipe
from fullconv.train.run import run
from fullconv.train.settings import stride_of
from fullconv.train.state import TrainingState, make_optimizer
from fullconv.train.step import take_step
from fullconv.train.timing import fitted_to_machine

INFO = DatasetInfo(name="tiny", classes=("red", "green", "blue"))


class Classifier(nn.Module):
    """A small classifier without normalisation: strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def net() -> FCN:
    """A small FCN with random scores."""
    torch.manual_seed(0)
    made = FCN(Classifier(), 4, 3)
    for score in made.scores.values():
        nn.init.normal_(score.weight)
    return made.train()


def batch(
    count: int = 4, seed: int = 0, size: tuple[int, int] = (16, 24), *, heads: int = 1
) -> Batch:
    """One part of random images."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, *size), generator=random).byte()
    labels = torch.randint(4, (count, heads, *size), generator=random).byte()
    labels[labels == 3] = 255
    labels[0, :, :10] = 255  # so that the images count differently
    return Batch([Part(images, labels)], [f"image{index}" for index in range(count)])


def in_parts(whole: Batch, size: int) -> Batch:
    (part,) = whole.parts
    parts = zip(part.images.split(size), part.labels.split(size), strict=True)
    return Batch([Part(*each) for each in parts], whole.names)


def ignored(whole: Batch, label: int = 255) -> Batch:
    parts = [Part(each.images, torch.full_like(each.labels, label)) for each in whole.parts]
    return Batch(parts, whole.names)


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }


SGD = Recipe(optimizer="sgd", lr=0.1, momentum=0, weight_decay=0, clip=None)


# A step --------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_valid_pixels(net: FCN) -> None:
    some = batch()
    images, (labels,) = some.parts[0].images, some.parts[0].labels.unbind(1)
    scores = net(net.preprocessing(images))
    chances = scores.detach().double().softmax(1)
    valid = labels != 255
    picked = chances.permute(0, 2, 3, 1)[valid].gather(1, labels[valid].long()[:, None])
    expected = float(-picked.log().mean())
    for kind in ("mean", "image_mean", "sum"):
        recipe = SGD.model_copy(update={"loss": kind, "lr": 1e-9})
        loss = take_step(net, make_optimizer(net, recipe), some, recipe)
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["mean", "image_mean", "sum"])
@pytest.mark.parametrize("class_weights", [None, [torch.tensor([0.5, 1.0, 4.0])]])
def test_accumulation_equals_one_bigger_batch(
    net: FCN, class_weights: list[Tensor] | None, kind: str
) -> None:
    other, some = deepcopy(net), batch(6)
    recipe = SGD.model_copy(update={"clip": 0.1, "loss": kind})
    before = weights_of(net)
    losses = [
        take_step(each, make_optimizer(each, recipe), its, recipe, class_weights=class_weights)
        for each, its in ((net, some), (other, in_parts(some, 2)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert changed(net, before)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def gradient(net: FCN, some: Batch, recipe: Recipe, **options: Any) -> Tensor:
    """What a step of plain descent at rate 1 takes from the parameters."""
    moved = deepcopy(net)
    plain = recipe.model_copy(update={"optimizer": "sgd", "lr": 1.0, "clip": None})
    plain = plain.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})
    take_step(moved, make_optimizer(moved, plain), some, plain, **options)
    pairs = zip(net.parameters(), moved.parameters(), strict=True)
    return torch.cat([(one - other).detach().reshape(-1) for one, other in pairs])


def test_losses_differ_by_what_they_divide_by(net: FCN) -> None:
    """The gradients of a batch follow from those of its images, each taken alone."""
    some = batch(3)
    recipes = {
        kind: SGD.model_copy(update={"loss": kind}) for kind in ("mean", "image_mean", "sum")
    }
    alone = [Batch([part], [""]) for part in in_parts(some, 1).parts]
    sums = torch.stack([gradient(net, each, recipes["sum"]) for each in alone])
    pixels = torch.tensor([int((each.parts[0].labels != 255).sum()) for each in alone])
    expected = {
        "mean": sums.sum(0) / pixels.sum(),
        "image_mean": (sums / pixels[:, None]).mean(0),
        "sum": sums.mean(0),
    }
    for kind, recipe in recipes.items():
        found = gradient(net, in_parts(some, 2), recipe)
        torch.testing.assert_close(found, expected[kind], rtol=1e-3, atol=1e-4 * found.abs().max())


def test_images_of_several_sizes_in_one_step(net: FCN) -> None:
    small, large = batch(1, 1, (9, 14)), batch(1, 2, (20, 31))
    both = Batch([*small.parts, *large.parts], ["small", "large"])
    recipe = SGD.model_copy(update={"loss": "image_mean"})
    expected = (gradient(net, small, recipe) + gradient(net, large, recipe)) / 2
    torch.testing.assert_close(gradient(net, both, recipe), expected, rtol=1e-3, atol=1e-6)


def test_class_weights_weigh_as_in_torch(net: FCN) -> None:
    weights, some = torch.tensor([0.5, 1.0, 4.0]), batch()
    images, labels = some.parts[0]
    scores = net(net.preprocessing(images))
    expected = F.cross_entropy(scores, labels[:, 0].long(), weights, ignore_index=255)
    loss = take_step(net, make_optimizer(net, SGD), some, SGD, class_weights=[weights])
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["mean", "image_mean", "sum"])
def test_a_batch_of_ignored_pixels_changes_nothing(net: FCN, kind: str) -> None:
    before = weights_of(net)
    recipe = SGD.model_copy(update={"loss": kind})
    assert take_step(net, make_optimizer(net, recipe), ignored(batch()), recipe) == 0.0
    assert not changed(net, before)


def two_headed() -> FCN:
    torch.manual_seed(0)
    net = FCN(Classifier(), 4, heads={"sem": 3, "geo": ["flat", "steep"]}).train()
    for _, head in net.heads.items():
        for score in head.scores.values():
            nn.init.normal_(score.weight)
    return net


@pytest.mark.parametrize("kind", ["mean", "image_mean", "sum"])
def test_the_losses_of_heads_add_up(kind: str) -> None:
    net, some = two_headed(), batch(heads=2)
    images, labels = some.parts[0]
    labels[:, 1][labels[:, 1] == 2] = 255
    scores = net(net.preprocessing(images))
    expected = sum(
        F.cross_entropy(scores[name], labels[:, layer].long(), ignore_index=255).item()
        for layer, name in enumerate(("sem", "geo"))
    )
    recipe = SGD.model_copy(update={"loss": kind})
    one, other = labels.clone(), labels.clone()
    one[:, 1], other[:, 0] = 255, 255
    apart = [
        gradient(net, Batch([Part(images, each)], some.names), recipe) for each in (one, other)
    ]
    together = gradient(net, some, recipe)
    torch.testing.assert_close(together, sum(apart), rtol=1e-3, atol=1e-4 * together.abs().max())
    assert all(each.abs().max() > 0 for each in apart)
    loss = take_step(net, make_optimizer(net, recipe), some, recipe)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_class_weights_of_heads() -> None:
    net, some = two_headed(), batch(heads=2)
    images, labels = some.parts[0]
    labels[:, 1][labels[:, 1] == 2] = 255
    weights = [torch.tensor([0.5, 1.0, 4.0]), torch.tensor([3.0, 0.1])]
    scores = net(net.preprocessing(images))
    expected = sum(
        F.cross_entropy(scores[name], labels[:, layer].long(), weights[layer], ignore_index=255)
        for layer, name in enumerate(("sem", "geo"))
    )
    loss = take_step(net, make_optimizer(net, SGD), some, SGD, class_weights=weights)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_cells(net: FCN) -> None:
    """Only pixels of sampled cells, 8 x 8 each, count; the draws are those of torch's generator."""
    some = batch(2)
    recipe = SGD.model_copy(update={"sampled_cells": 0.5, "loss": "sum"})
    torch.manual_seed(3)
    found = gradient(net, some, recipe)
    torch.manual_seed(3)
    kept = (torch.rand(2, 2, 3) < 0.5).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images, labels = some.parts[0]
    other = Batch([Part(images, labels.where(kept[:, None], 255))], some.names)
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(found, gradient(net, other, SGD.model_copy(update={"loss": "sum"})))


def test_another_ignore_index() -> None:
    torch.manual_seed(0)
    net = FCN(Classifier(), 4, 3, ignore_index=77).train()
    some = batch()
    some.parts[0].labels[some.parts[0].labels == 255] = 77
    assert take_step(net, make_optimizer(net, SGD), some, SGD) == (
        pytest.approx(math.log(3))  # scores start at zero
    )


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_nothing_changes_when_the_loss_is_not_finite(net: FCN, broken: str) -> None:
    before = weights_of(net)
    if broken == "loss":
        nn.init.constant_(net.scores["4"].bias, math.nan)
        before = weights_of(net)
    else:
        net.scores["4"].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match=broken):
        take_step(net, make_optimizer(net, SGD), batch(), SGD)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_bf16_comes_close_to_fp32(net: FCN) -> None:
    other, some = deepcopy(net), batch()
    one = take_step(net, make_optimizer(net, SGD), some, SGD)
    two = take_step(other, make_optimizer(other, SGD), some, SGD, precision="bf16")
    assert one != two
    assert one == pytest.approx(two, rel=0.02)


def test_clipping_bounds_the_step(net: FCN) -> None:
    recipe = SGD.model_copy(update={"lr": 1.0, "clip": 1e-3})
    before = [p.detach().clone() for p in net.parameters()]
    take_step(net, make_optimizer(net, recipe), batch(), recipe)
    moved = [now.detach() - was for now, was in zip(net.parameters(), before, strict=True)]
    length = math.sqrt(sum(float((difference**2).sum()) for difference in moved))
    assert length == pytest.approx(1e-3, rel=1e-2)


# State ---------------------------------------------------------------------------------------


def test_decay_spares_biases_norms_and_upscores() -> None:
    net = FCN("shufflenet_v2_x0_5", 8, 3, learn_last_upscore=True)
    decayed, spared = (group["params"] for group in make_optimizer(net, Recipe()).param_groups)
    upscores = {p for m in net.modules() if isinstance(m, Upscore) for p in m.parameters()}
    assert len(upscores) == 3
    assert upscores <= set(spared)
    assert all(p.ndim == 4 for p in decayed)
    assert all(p.ndim == 1 for p in set(spared) - upscores)
    assert len(decayed) + len(spared) == len(list(net.parameters()))
    assert make_optimizer(net, Recipe()).param_groups[1]["weight_decay"] == 0


def test_frozen_upscores_are_not_in_the_optimizer(net: FCN) -> None:
    groups = make_optimizer(net, Recipe()).param_groups
    held = {p for group in groups for p in group["params"]}
    assert net.upscores["4-1"].weight not in held
    assert net.upscores["8-4"].weight in held


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_doubled_biases(net: FCN, optimizer: str) -> None:
    names = {parameter: name for name, parameter in net.named_parameters()}
    recipe = Recipe(optimizer=optimizer, lr=0.5, weight_decay=0.25, doubled_biases="all")
    for doubled in ("none", "all", "scores"):
        recipe = recipe.model_copy(update={"doubled_biases": doubled})
        plan = Plan(steps=3, steps_per_epoch=1, validate_every=1, crop=(16, 24))
        state = TrainingState.start(net, recipe, plan)
        found = {
            names[parameter]: (group["lr"], group["weight_decay"])
            for group in state.optimizer.param_groups
            for parameter in group["params"]
        }
        biases = {name: rates for name, rates in found.items() if name.endswith("bias")}
        of_scores = {name for name in biases if "scores" in name}
        assert (len(biases), len(of_scores)) == (4, 2)
        for name, rates in found.items():
            if "upscores" in name:
                assert rates == (0.5, 0.0)
            elif name not in biases:
                assert rates == (0.5, 0.25)
            elif doubled == "none":
                assert rates == (0.5, 0.0)
            elif doubled == "scores" and name not in of_scores:
                assert rates == (0.5, 0.25)
            else:
                assert rates == (1.0, 0.0)
        state.set_learning_rate(0.125)
        rates = {group["lr"] for group in state.optimizer.param_groups}
        assert rates == ({0.125} if doubled == "none" else {0.125, 0.25})


def test_the_average_forgets_its_first_weights(net: FCN) -> None:
    plan = Plan(steps=3, steps_per_epoch=1, validate_every=1, crop=(16, 24))
    state = TrainingState.start(net, Recipe(ema=0.15), plan)
    weight = net.scores["4"].bias
    expected = None
    for count, value in enumerate((1.0, 5.0, 9.0)):
        nn.init.constant_(weight, value)
        state.advance(0.0)
        decay = min(0.15, (1 + count) / (10 + count))  # 0.15 at last, 2/11 being more
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert state.evaluated.scores["4"].bias[0].item() == pytest.approx(expected)
    assert state.evaluated is not net
    assert state.evaluated.classes == net.classes


def test_average_of_batch_norm_statistics() -> None:
    net = FCN("shufflenet_v2_x0_5", 32, 3).train()
    plan = Plan(steps=3, steps_per_epoch=1, validate_every=1, crop=(16, 24))
    state = TrainingState.start(net, Recipe(ema=0.5), plan)
    for value in (1.0, 3.0):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.fill_(value)
                module.num_batches_tracked.fill_(int(value))
        state.advance(0.0)
    decay = 2 / 11
    found = next(m for m in state.evaluated.modules() if isinstance(m, nn.BatchNorm2d))
    assert float(found.running_mean[0]) == pytest.approx(decay * 1 + (1 - decay) * 3)
    assert int(found.num_batches_tracked) == 3


# Growing -------------------------------------------------------------------------------------


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


def test_names_of_nets_and_weights(tmp_path: Path) -> None:
    assert stride_of("fcn4s") == 4
    with pytest.raises(FullconvError, match=r"'fcn9s' is none of fcn32s.*did you mean fcn8s"):
        stride_of("fcn9s")
    (tmp_path / "w.safetensors").touch()
    assert not is_model("imagenet")
    assert not is_model(str(tmp_path / "w.safetensors"))
    assert is_model(str(tmp_path))
    assert is_model("someone/streets")
    with pytest.raises(FullconvError, match="no such weights file"):
        is_model("elsewhere/w.safetensors")
    with pytest.raises(FullconvError, match="did you mean imagenet"):
        is_model("imagnet")


# Time ----------------------------------------------------------------------------------------


@given(
    step=st.floats(0.01, 10),
    validation=st.floats(0.01, 100),
    seconds=st.floats(1, 10_000),
    per_epoch=st.integers(1, 200),
    every=st.integers(1, 10),
)
def test_fitted_steps_stay_within_the_time(
    step: float, validation: float, seconds: float, per_epoch: int, every: int
) -> None:
    pace = Pace(step, validation)
    plan = Plan(1, per_epoch, every, (8, 8))
    steps = pace.steps_within(seconds, plan)
    fitted = Plan(steps, per_epoch, every, (8, 8))
    assert steps == 1 or pace.seconds(fitted) <= seconds * (1 + 1e-9)
    if steps > 1:  # and use it: a few more steps and validations would not fit
        more = Plan(steps + 1 + per_epoch * every, per_epoch, every, (8, 8))
        assert pace.seconds(more) > seconds


def test_the_plan_follows_the_pace(net: FCN) -> None:
    """A machine turns slow, then fast: the steps are fitted each time, and the time is kept."""
    plan = Plan(50, 10, 2, (8, 8), seconds=100 / SLACK)
    state = TrainingState.start(net, Recipe(), plan)
    state.pace = Pace(2.0, 1.0)
    plans = []
    while state.step < state.plan.steps:
        taken = 2.0 if state.step < 10 else 4.0 if state.step < 15 else 0.5
        state.ticked -= taken
        state.advance(0.0)
        if state.plan.validates(state.step):
            state.ticked -= 1.0
            state.tick()
        state.keep_in_time()
        plans.append(state.plan.steps)
    assert plans[8] == pytest.approx(48, abs=3)
    assert 30 < plans[14] < 40
    assert plans[-1] == pytest.approx(15 + (100 - 10 * 2 - 5 * 4 - 5) / 0.5, rel=0.1)
    assert 95 < state.seconds <= 102
    assert state.plan.done(state.step) == pytest.approx(1)


def test_without_a_limit_the_plan_stays(net: FCN) -> None:
    state = TrainingState.start(net, Recipe(), Plan(50, 10, 2, (8, 8)))
    state.ticked -= 1e6
    state.advance(0.0)
    state.keep_in_time()
    assert state.plan == Plan(50, 10, 2, (8, 8))


def task_on(root: Path, folder: Path, **settings: Any) -> Task:
    data = DatasetFolder(root)
    train, val = (CachedSplit(data.split(name), 1 << 24) for name in ("train", "val"))
    return Task("fcn4s", train, val, Recipe(**settings), folder, torch.device("cpu"), quiet=True)


def test_calibration_changes_neither_net_nor_generators(net: FCN, tmp_path: Path) -> None:
    task = task_on(write_scenes(tmp_path), tmp_path / "out", lr=1.0)
    plan = Plan(1000, 1, 50, (16, 24))
    weights, random = weights_of(net), torch.get_rng_state()
    fitted, pace = fitted_to_machine(task, net, plan)
    assert not changed(net, weights)
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert fitted.steps == 1000
    assert 0 < pace.step < 5
    assert 0 < pace.validation < 5
    limited = Plan(1000, 1, 50, (16, 24), seconds=5.0)
    assert fitted_to_machine(task, net, limited)[0].steps != 1000


def test_precision_is_chosen_by_measurement(
    net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower, now = {"fp32": 0.03, "bf16": 0.02}, 0.0

    def step(*_: Any, precision: str, **__: Any) -> float:
        nonlocal now
        now += slower[precision]
        return 0.0

    clock = SimpleNamespace(monotonic=lambda: now)  # by which nothing but a step takes time
    monkeypatch.setattr("fullconv.train.timing.time", clock)
    monkeypatch.setattr("fullconv.train.timing.take_step", step)
    root = write_scenes(tmp_path)
    auto = task_on(root, tmp_path / "out")
    plan = Plan(1000, 1, 50, (16, 24))
    assert fitted_to_machine(auto, net, plan)[0].precision == "bf16"
    assert fitted_to_machine(auto, net, Plan(20, 1, 50, (16, 24)))[0].precision == "fp32"
    slower["bf16"] = 0.029  # faster, but not worth it
    assert fitted_to_machine(auto, net, plan)[0].precision == "fp32"
    fixed = task_on(root, tmp_path / "out", precision="bf16")
    assert fitted_to_machine(fixed, net, plan)[0].precision == "bf16"


def test_validation_loss_is_the_mean_over_valid_pixels(net: FCN, tmp_path: Path) -> None:
    task = task_on(write_dataset(tmp_path, val=3), tmp_path / "out")
    total, pixels = 0.0, 0
    net.eval()
    for index in range(3):
        image = torch.from_numpy(task.val[index].image).permute(2, 0, 1)[None]
        labels = torch.from_numpy(task.val[index].labels).long()
        scores = net(net.preprocessing(image)).detach()
        total += float(F.cross_entropy(scores, labels, ignore_index=255, reduction="sum"))
        pixels += int((labels != 255).sum())
    net.train()
    assert validation_loss(net, task.val) == pytest.approx(total / pixels, rel=1e-5)
    assert net.training


# Runs ----------------------------------------------------------------------------------------

QUICK = {"backbone": "squeezenet1_1", "model": "fcn16s", "weights": "none"}


def asked(data: Path, *settings: str, **options: Any) -> dict[str, Any]:
    recipe = read_recipe("default", ["batch_size=2", "workers=0", "precision=fp32", *settings])
    return {"data": data, "recipe": recipe, **QUICK, **options}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_the_contract_names(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    folder = run(tmp_path / "run", asked(data, "epochs=2"), resume=False, quiet=True)
    assert folder == tmp_path / "run" / "fcn16s"
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert names == {"model", "config", "metrics", "log", "last", "events"}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "fcn16s",
        "recipe.yaml",
        "report.html",
    ]
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert set(written["recipe"]) == set(Recipe.model_fields)
    assert written["versions"]["fullconv"] == fullconv.__version__
    assert written["nets"]["fcn16s"]["plan"]["steps"] == 6
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["split"], metrics["images"]) == ("val", 2)
    log = rows(folder)
    assert [row["step"] for row in log] == ["3", "6"]
    assert max(float(row["val_mean_iu"]) for row in log) == pytest.approx(metrics["mean_iu"])
    assert float(log[0]["train_loss"]) > 0
    kept = fullconv.load(folder)
    assert kept.classes == INFO.classes
    assert kept.predict(np.zeros((5, 7, 3), np.uint8)).shape == (5, 7)


@pytest.mark.parametrize(("keep", "kept"), [("best", 0), ("last", 2)])
def test_which_weights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, kept: int
) -> None:
    """The first of three validations is the best, and the last is none."""
    data, scores, seen = write_scenes(tmp_path / "data"), [0.3, 0.1, 0.2], []
    real = loop.evaluate

    def evaluate(net: FCN, *args: Any, **options: Any) -> Any:
        seen.append(weights_of(net))
        result = real(net, *args, **options)
        metrics = replace(result.metrics, mean_iu=scores[len(seen) - 1])
        return replace(result, heads={"labels": metrics}, per_image=(("val0", scores[0]),))

    monkeypatch.setattr(loop, "evaluate", evaluate)
    settings = ("epochs=3", "validate_every=1", f"keep={keep}", "lr=0.01", "schedule=constant")
    folder = run(tmp_path / "run", asked(data, *settings), resume=False, quiet=True)
    assert not changed(fullconv.load(folder), seen[kept])
    assert changed(fullconv.load(folder), seen[2 - kept])
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] == scores[kept]
    assert [float(row["val_mean_iu"]) for row in rows(folder)] == scores
    told = {"best": "the best on val", "last": "the last weights"}
    assert told[keep] in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("images", [1, 5])
def test_tiny_datasets(tmp_path: Path, images: int) -> None:
    data = write_scenes(tmp_path / "data", train=images, val=1, size=(20, 27))
    wanted = asked(data, "epochs=2", "batch_size=4", backbone="shufflenet_v2_x0_5")
    folder = run(tmp_path / "run", wanted, resume=False, quiet=True)
    steps = max(images // 4, 1) * 2
    assert [row["step"] for row in rows(folder)] == [str(steps // 2), str(steps)]


def test_data_without_val(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=2, val=0)
    folder = run(tmp_path / "run", asked(data, "epochs=1"), resume=False, quiet=True)
    assert json.loads((folder / "metrics.json").read_text())["images"] == 1


def test_data_without_train(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    for kind in ("images", "masks"):
        shutil.rmtree(data / kind / "train")
    with pytest.raises(FullconvError, match="has no split 'train'"):
        run(tmp_path / "run", asked(data), resume=False, quiet=True)


def test_images_smaller_than_the_crop(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", size=(9, 7))
    folder = run(tmp_path / "run", asked(data, "epochs=1", "crop=40"), resume=False, quiet=True)
    assert math.isfinite(float(rows(folder)[0]["train_loss"]))


def test_an_all_ignored_dataset_trains_to_nothing_but_does_not_break(tmp_path: Path) -> None:
    from PIL import Image

    data = write_scenes(tmp_path / "data", train=2)
    for mask in (data / "masks").rglob("*.png"):
        Image.fromarray(np.full((32, 48), 255, np.uint8)).save(mask)
    folder = run(tmp_path / "run", asked(data, "epochs=2"), resume=False, quiet=True)
    assert [row["train_loss"] for row in rows(folder)] == ["0.0", "0.0"]
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] is None
    assert (folder / "model.safetensors").is_file()


def test_staged_nets_follow_each_other(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    settings = ("epochs=3", "stage_lr=[4, 1]", "schedule=constant", "warmup=0", "lr=1e-4")
    wanted = asked(data, *settings, model="fcn8s", staged=True)
    folder = run(tmp_path / "run", wanted, resume=False, quiet=True)
    assert folder.name == "fcn8s"
    for name, rate in (("fcn16s", 4e-4), ("fcn8s", 1e-4)):
        assert {float(row["lr"]) for row in rows(tmp_path / "run" / name)} == {rate}
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert list(record["nets"]) == ["fcn16s", "fcn8s"]  # squeezenet's stride ends at 16
    steps = [net["plan"]["steps"] for net in record["nets"].values()]
    assert steps == [6, 3]  # two thirds and one third of three epochs
    assert [fullconv.load(tmp_path / "run" / name).stride for name in record["nets"]] == [16, 8]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "FCN-16s" in page
    assert "FCN-8s" in page


def test_whole_images_of_two_labellings(tmp_path: Path) -> None:
    """Images of several sizes; one net learns both labellings, in stages."""
    data = write_scenes(tmp_path / "data", train=2, val=1)
    write_scenes(tmp_path / "other", train=3, val=0, size=(23, 40))
    for kind in ("images", "masks"):
        path = Path(kind) / "train" / "train2.png"
        (tmp_path / "other" / path).rename(data / path)
    shutil.copytree(data / "masks", data / "more")
    heads = {"one": {"masks": "masks"}, "two": {"masks": "more"}}
    for head in heads.values():
        head["classes"] = list(INFO.classes)
    (data / "dataset.yaml").write_text(yaml.safe_dump({"name": "both", "heads": heads}))
    settings = ("batch_size=1", "crop=whole", "accumulate=2", "steps=2", "class_weights=balanced")
    wanted = asked(data, *settings, model="fcn8s", staged=True)
    folder = run(tmp_path / "run", wanted, resume=False, quiet=True)
    net = fullconv.load(folder)
    assert {name: head.classes for name, head in net.heads.items()} == dict.fromkeys(
        ("one", "two"), INFO.classes
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    ious = [head["mean_iu"] for head in metrics["heads"].values()]
    assert float(rows(folder)[-1]["val_mean_iu"]) == pytest.approx(sum(ious) / 2)


def test_steps_of_each_stage(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    wanted = asked(data, "steps=4", "stage_shares=[9, 1]", model="fcn8s", staged=True)
    run(tmp_path / "run", wanted, resume=False, quiet=True)
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert [net["plan"]["steps"] for net in record["nets"].values()] == [4, 4]


def test_fine_tuning_a_model_of_ones_own(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    source = seeded("squeezenet1_1", 16, ("blue", "road"))
    source.save_pretrained(tmp_path / "source")
    wanted = asked(data, "epochs=1", "lr=1e-12", weights=str(tmp_path / "source"))
    del wanted["backbone"]
    net = fullconv.load(run(tmp_path / "run", wanted, resume=False, quiet=True))
    assert net.arguments.trunk == "squeezenet1_1"
    torch.testing.assert_close(net.scores["16"].weight[2], source.scores["16"].weight[0])
    with pytest.raises(FullconvError, match="its backbone is squeezenet1_1, not vgg16"):
        run(tmp_path / "other", {**wanted, "backbone": "vgg16"}, resume=False, quiet=True)
    assert not (tmp_path / "other").exists()


def nan_from(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss become NaN in a step."""
    made, real = 0, step_module.image_losses

    def image_losses(*args: Any) -> Tensor:
        nonlocal made
        made += torch.is_grad_enabled()
        return real(*args) * (math.nan if made >= step else 1.0)

    monkeypatch.setattr(step_module, "image_losses", image_losses)


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_scenes(tmp_path / "data")
    nan_from(4 + 2, monkeypatch)  # two steps are made in the calibration
    with pytest.raises(WorkFailedError) as caught:
        run(tmp_path / "run", asked(data, "epochs=3"), resume=False, quiet=True)
    message = str(caught.value)
    named = [name for name in (f"train{index}" for index in range(6)) if name in message]
    assert len(named) == 2
    assert "fcn16s: the loss of step 4 is not finite" in message
    assert f"the best is kept in {tmp_path / 'run' / 'fcn16s'}" in message
    assert "\n" not in message
    assert fullconv.load(tmp_path / "run" / "fcn16s").num_classes == 3


def test_a_loss_that_is_never_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nan_from(0, monkeypatch)
    data = write_scenes(tmp_path / "data", train=2)
    with pytest.raises(WorkFailedError, match=r"loss of step 1 is not finite.*no model was kept"):
        run(tmp_path / "run", asked(data, "epochs=3"), resume=False, quiet=False)
    assert "for a time unknown" in capfd.readouterr().err


def test_a_full_disk_leaves_the_best_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_scenes(tmp_path / "data")
    real, scores = model_folder.save_file, iter([0.3, 0.2, 0.4])
    saves: list[bytes] = []

    def save_file(tensors: Any, path: Path, metadata: Any) -> None:
        real(tensors, path, metadata)
        if saves:
            path.write_bytes(path.read_bytes()[:100])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        saves.append(path.read_bytes())

    def validated(task: Task, state: TrainingState, row: dict[str, Any]) -> None:
        evaluation = real_evaluate(state.evaluated, task.val)
        metrics = replace(evaluation.metrics, mean_iu=next(scores))
        worse = replace(evaluation, heads={"labels": metrics})
        monkeypatch.setattr(loop, "evaluate", lambda *_, **__: worse)
        real_validate(task, state, row)

    real_evaluate, real_validate = loop.evaluate, loop.validate
    monkeypatch.setattr(model_folder, "save_file", save_file)
    monkeypatch.setattr(loop, "validate", validated)
    with pytest.raises(WorkFailedError, match=r"cannot save: the disk is full; .* --resume"):
        run(tmp_path / "run", asked(data, "epochs=3"), resume=False, quiet=True)
    folder = tmp_path / "run" / "fcn16s"
    assert (folder / "model.safetensors").read_bytes() == saves[0]
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] == 0.3
    assert fullconv.load(folder).num_classes == 3
    monkeypatch.undo()
    run(tmp_path / "run", {}, resume=True, quiet=True)  # after making room


def test_a_full_disk_leaves_the_training_state_as_it_was(
    net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_on(write_scenes(tmp_path / "data"), tmp_path / "out")
    state = TrainingState.start(net, Recipe(), Plan(9, 3, 1, (8, 8)))
    loop.save(task, state)
    before = task.last.read_bytes()
    real = torch.save

    def full(_: Any, file: Any) -> None:
        real({}, file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WorkFailedError, match="the disk is full"):
        loop.save(task, state)
    assert task.last.read_bytes() == before
    assert sorted(path.name for path in tmp_path.joinpath("out").iterdir()) == [
        "last.pt",
        "log.csv",
    ]


def test_batch_norm_of_a_single_value_is_refused(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", size=(20, 30))
    with pytest.raises(FullconvError, match="batch_size=1 with crops of 20x30"):
        run(tmp_path / "run", asked(data, "batch_size=1", "magnify=1"), resume=False, quiet=True)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let the system itself refuse to write larger files, as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_the_systems_own_refusal_is_told_in_one_line(tmp_path: Path, size: int) -> None:
    """torch and safetensors each wrap the system's error in one of their own."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"kept": 1})
    full = pytest.raises(WorkFailedError, match="File too large")
    with full as caught, checkpoint.saving_in(tmp_path), no_file_above(size):
        checkpoint.save(path, {"numbers": torch.zeros(100_000), "more": torch.ones(10)})
    assert str(caught.value).startswith(f"{tmp_path}: cannot save: File too large; what was saved")
    assert checkpoint.load(path) == {"kept": 1}
    net = seeded("squeezenet1_1", 16, INFO.classes)
    with full as caught, checkpoint.saving_in(tmp_path), no_file_above(size):
        net.save_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


# The command line ----------------------------------------------------------------------------


def test_command(tmp_path: Path, command_line: Any, capfd: pytest.CaptureFixture[str]) -> None:
    data, out = write_scenes(tmp_path / "data"), tmp_path / "run"
    words = ["--backbone", "squeezenet1_1", "--model", "fcn16s", "--weights", "none"]
    settings = ["--set", "epochs=1", "--set", "batch_size=2"]
    assert command_line("train", "--data", data, "--out", out, *words, *settings) == 0
    shown = capfd.readouterr()
    assert "fcn16s: 1 epochs of 3 steps" in shown.err
    assert "about" in shown.err
    assert "val mean IU" in shown.err
    assert f"fullconv evaluate {out / 'fcn16s'} --data {data}" in shown.out
    assert f"report: {out / 'report.html'}" in shown.out
    assert command_line("train", "--out", out, "--resume", "--quiet") == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "fcn88s"], "did you mean fcn8s"),
        (["--backbone", "mobilenet_v9"], "mobilenet_v"),
        (["--weights", "nowhere.safetensors"], "no such weights file"),
        (["--set", "epoch=3"], "did you mean epochs?"),
        (["--recipe", "fast"], "recipe fast: no such file"),
        (["--device", "gpu"], "device 'gpu'"),
        (["--data", "nowhere"], "nowhere: is no folder"),
        (["--backbone", "squeezenet1_1", "--model", "fcn32s"], "has no layer at stride 32"),
    ],
)
def test_bad_usage_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    command_line: Any,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    data, out = write_scenes(tmp_path / "data", train=2), tmp_path / "run"
    base = {"--data": str(data), "--weights": "none", "--out": str(out)}
    base |= dict(zip(words[::2], words[1::2], strict=True))
    line = [word for pair in base.items() for word in pair]
    assert command_line("train", *line, "--quiet") == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, command_line: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_scenes(tmp_path / "data", train=2)
    (tmp_path / "file").touch()
    words = ["--data", data, "--weights", "none", "--backbone", "squeezenet1_1", "--quiet"]
    words += ["--model", "fcn16s"]
    assert command_line("train", *words, "--out", tmp_path / "file") == 2
    assert "is a file; --out names a folder" in capfd.readouterr().err
    assert command_line("train", *words, "--out", tmp_path / "file" / "run") == 2
    error = capfd.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1


# Slow ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=24, val=6)
    wanted = asked(
        data,
        "epochs=25",
        "batch_size=8",
        "lr=0.01",
        backbone="shufflenet_v2_x0_5",
        model="fcn4s",
    )
    folder = run(tmp_path / "run", wanted, resume=False, quiet=True)
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] > 0.9


@pytest.mark.slow
def test_minutes_are_kept(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=16, val=4)
    begun = time.monotonic()
    wanted = asked(data, "minutes=0.6", model="fcn8s", staged=True)
    run(tmp_path / "run", wanted, resume=False, quiet=True)
    taken = time.monotonic() - begun
    assert 12 < taken < 36
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    seconds = [net["seconds"] for net in record["nets"].values()]
    assert seconds[0] > seconds[1]
