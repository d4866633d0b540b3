"""A step: what it lowers, and what it changes."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from coloured_scenes import write_scenes
from torch import Tensor, nn
from torch.nn import functional as F
from training import (
    SmallClassifier,
    changed,
    gradient,
    in_parts,
    random_batch,
    stage_on,
    stepped,
    weights_of,
)

from fullconv.data.loading import Batch, Part
from fullconv.net.fcn import FCN
from fullconv.train import stage as stage_module
from fullconv.train.optimizer import make_optimizer
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe
from fullconv.train.step import Objective, take_step

pytestmark = pytest.mark.usefixtures("one_thread")


SGD = Recipe(optimizer="sgd", lr=0.1, momentum=0, weight_decay=0, clip=None)


def ignored(whole: Batch, label: int = 255) -> Batch:
    parts = [Part(each.images, torch.full_like(each.labels, label)) for each in whole.parts]
    return Batch(parts, whole.names)


def test_the_loss_is_the_mean_over_valid_pixels(net: FCN) -> None:
    some = random_batch()
    images, (labels,) = some.parts[0].images, some.parts[0].labels.unbind(1)
    scores = net(net.preprocessing(images))
    chances = scores.detach().double().softmax(1)
    valid = labels != 255
    picked = chances.permute(0, 2, 3, 1)[valid].gather(1, labels[valid].long()[:, None])
    expected = float(-picked.log().mean())
    for kind in ("mean", "image_mean", "sum"):
        recipe = SGD.model_copy(update={"loss": kind, "lr": 1e-9})
        loss = stepped(net, some, recipe)
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["mean", "image_mean", "sum"])
@pytest.mark.parametrize("class_weights", [None, [torch.tensor([0.5, 1.0, 4.0])]])
def test_accumulation_equals_one_bigger_batch(
    net: FCN, class_weights: list[Tensor] | None, kind: str
) -> None:
    other, some = deepcopy(net), random_batch(6)
    recipe = SGD.model_copy(update={"clip": 0.1, "loss": kind})
    before = weights_of(net)
    losses = [
        stepped(each, its, recipe, class_weights=class_weights)
        for each, its in ((net, some), (other, in_parts(some, 2)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert changed(net, before)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_losses_differ_by_what_they_divide_by(net: FCN) -> None:
    """The gradients of a batch follow from those of its images, each taken alone."""
    some = random_batch(3)
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
    small, large = random_batch(1, 1, (9, 14)), random_batch(1, 2, (20, 31))
    both = Batch([*small.parts, *large.parts], ["small", "large"])
    recipe = SGD.model_copy(update={"loss": "image_mean"})
    expected = (gradient(net, small, recipe) + gradient(net, large, recipe)) / 2
    torch.testing.assert_close(gradient(net, both, recipe), expected, rtol=1e-3, atol=1e-6)


def test_class_weights_weigh_as_in_torch(net: FCN) -> None:
    weights, some = torch.tensor([0.5, 1.0, 4.0]), random_batch()
    images, labels = some.parts[0]
    scores = net(net.preprocessing(images))
    expected = F.cross_entropy(scores, labels[:, 0].long(), weights, ignore_index=255)
    loss = stepped(net, some, SGD, class_weights=[weights])
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["mean", "image_mean", "sum"])
def test_a_batch_of_ignored_pixels_changes_nothing(net: FCN, kind: str) -> None:
    before = weights_of(net)
    recipe = SGD.model_copy(update={"loss": kind})
    assert stepped(net, ignored(random_batch()), recipe) == 0.0
    assert not changed(net, before)


def two_headed() -> FCN:
    torch.manual_seed(0)
    net = FCN(SmallClassifier(), 4, heads={"sem": 3, "geo": ["flat", "steep"]}).train()
    for _, head in net.heads.items():
        for score in head.scores.values():
            nn.init.normal_(score.weight)
    return net


@pytest.mark.parametrize("kind", ["mean", "image_mean", "sum"])
def test_the_losses_of_heads_add_up(kind: str) -> None:
    net, some = two_headed(), random_batch(heads=2)
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
    loss = stepped(net, some, recipe)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_class_weights_of_heads() -> None:
    net, some = two_headed(), random_batch(heads=2)
    images, labels = some.parts[0]
    labels[:, 1][labels[:, 1] == 2] = 255
    weights = [torch.tensor([0.5, 1.0, 4.0]), torch.tensor([3.0, 0.1])]
    scores = net(net.preprocessing(images))
    expected = sum(
        F.cross_entropy(scores[name], labels[:, layer].long(), weights[layer], ignore_index=255)
        for layer, name in enumerate(("sem", "geo"))
    )
    loss = stepped(net, some, SGD, class_weights=weights)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_cells(net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only pixels of sampled cells, 8 x 8 each, count; the draws are those of torch's generator."""
    some = random_batch(2)
    recipe = SGD.model_copy(update={"loss": "sum"})
    stage = stage_on(write_scenes(tmp_path), tmp_path, recipe=Recipe(sampled_cells=0.5))
    monkeypatch.setattr(stage_module, "training_batches", lambda *_, **__: iter([some]))
    torch.manual_seed(3)
    (sampled,) = stage.batches(net, Plan(1, 1, 1, (16, 24)))
    found = gradient(net, sampled, recipe)
    torch.manual_seed(3)
    kept = (torch.rand(2, 2, 3) < 0.5).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images, labels = some.parts[0]
    other = Batch([Part(images, labels.where(kept[:, None], 255))], some.names)
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(found, gradient(net, other, recipe))


def test_another_ignore_index() -> None:
    torch.manual_seed(0)
    net = FCN(SmallClassifier(), 4, 3, ignore_index=77).train()
    some = random_batch()
    some.parts[0].labels[some.parts[0].labels == 255] = 77
    assert stepped(net, some, SGD) == (
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
        stepped(net, random_batch(), SGD)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_bf16_comes_close_to_fp32(net: FCN) -> None:
    other, some = deepcopy(net), random_batch()
    one = stepped(net, some, SGD)
    two = stepped(other, some, SGD, precision="bf16")
    assert one != two
    assert one == pytest.approx(two, rel=0.02)


def test_clipping_bounds_the_step(net: FCN) -> None:
    recipe = SGD.model_copy(update={"lr": 1.0, "clip": 1e-3})
    before = [p.detach().clone() for p in net.parameters()]
    stepped(net, random_batch(), recipe)
    moved = [now.detach() - was for now, was in zip(net.parameters(), before, strict=True)]
    length = math.sqrt(sum(float((difference**2).sum()) for difference in moved))
    assert length == pytest.approx(1e-3, rel=1e-2)


def test_gradients_short_enough_are_not_clipped(net: FCN) -> None:
    found = []
    for clip in (None, 1e6):
        other = deepcopy(net)
        stepped(other, random_batch(), SGD.model_copy(update={"clip": clip}))
        found.append([each.grad for each in other.parameters() if each.grad is not None])
    assert found[0]
    assert all(one.equal(same) for one, same in zip(*found, strict=True))


# One forward ---------------------------------------------------------------------------------


def test_every_part_passes_one_forward(net: FCN) -> None:
    """Which whatever wraps the objective sees; its sums are those of the parts."""
    some, seen = in_parts(random_batch(6), 2), []
    objective = Objective(net, SGD)
    objective.register_forward_hook(lambda _, given, sums: seen.append((given, sums)))
    take_step(objective, make_optimizer(net, SGD), some)
    assert [given[0].shape[0] for given, _ in seen] == [2, 2, 2]
    for (images, labels), sums in seen:
        assert images.dtype == labels.dtype == torch.uint8
        assert sums.losses.shape == sums.weights.shape == (2, 1)
        assert torch.equal(sums.weights[:, 0], (labels != 255).sum((1, 2, 3)).float())
        assert not sums.overlap.any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compiled", "distributed"])
def test_a_step_through_what_wraps_the_forward(net: FCN, kind: str, tmp_path: Path) -> None:
    other, some = deepcopy(net), in_parts(random_batch(4), 2)
    recipe = SGD.model_copy(update={"lovasz": 0.5})
    expected = stepped(other, some, recipe)
    objective = Objective(net, recipe)
    if kind == "compiled":
        forward = torch.compile(objective, backend="eager")
        found = take_step(objective, make_optimizer(net, recipe), some, forward)
    else:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
        )
        try:
            forward = nn.parallel.DistributedDataParallel(objective)
            found = take_step(objective, make_optimizer(net, recipe), some, forward)
        finally:
            torch.distributed.destroy_process_group()
    assert found == pytest.approx(expected, rel=1e-6)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
