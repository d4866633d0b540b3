"""Several processes train as one does: the same images, losses, gradients, weights and metrics."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from shared_trainings import asked, assert_alike, write_textures
from side_by_side import side_by_side
from torch import nn
from training import SmallClassifier, in_parts, random_batch

from fullconv.base.errors import FullconvError, ToldElsewhereError
from fullconv.base.processes import ALONE, Processes
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import Batch, Batches, Part, Share
from fullconv.measure.evaluation import Evaluation, evaluate
from fullconv.net.fcn import FCN
from fullconv.train import loop
from fullconv.train.optimizer import make_optimizer
from fullconv.train.recipe import Recipe
from fullconv.train.run import run
from fullconv.train.sharing import about_sharing, require_shareable
from fullconv.train.step import Objective, take_step

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_textures(tmp_path_factory.mktemp("scenes"))


# Which images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [5, 23, 24])
@pytest.mark.parametrize(("size", "accumulate"), [(4, 1), (5, 1), (3, 4), (1, 4), (2, 5)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_image_of_an_epoch_once_over_all(
    images: int, size: int, accumulate: int, count: int
) -> None:
    """And with the augmentation that a single process would have given it."""
    steps = max(images // (size * accumulate), 1)

    def draws(rank: int, count: int) -> list[list[Any]]:
        share = Share(size, Processes(rank, count))
        found = iter(Batches(images, size * accumulate, 7, share=share))
        return [next(found) for _ in range(2 * steps)]

    whole, parts = draws(0, 1), [draws(rank, count) for rank in range(count)]
    for step, expected in enumerate(whole):
        found = [draw for part in parts for draw in part[step]]
        assert Counter(found) == Counter(expected)
    for epoch in (0, 1):
        seen = Counter(
            draw.image
            for part in parts
            for draws_ in part[epoch * steps : (epoch + 1) * steps]
            for draw in draws_
        )
        assert images < size * accumulate or set(seen.values()) == {1}


def test_parts_are_slices_of_the_same_batches() -> None:
    whole = next(iter(Batches(12, 6, 0)))
    for rank, own in enumerate(([0, 3], [1, 2, 4, 5])):
        share = Share(3, Processes(rank, 2))
        assert (share.sliced, share.part) == (True, rank + 1)
        assert share.of(whole) == [whole[place] for place in own]
    dealt = Share(1, Processes(1, 2))
    assert (dealt.sliced, dealt.part) == (False, 1)
    assert dealt.of(whole) == whole[1::2]


def test_what_cannot_be_shared(net: FCN) -> None:
    two = Processes(0, 2)
    with pytest.raises(FullconvError, match=r"no more than 1 images .* --set batch_size=2 or more"):
        require_shareable(net, Recipe(batch_size=1), two)
    require_shareable(net, Recipe(batch_size=1, accumulate=2), two)
    normalised = FCN("shufflenet_v2_x0_5", 16, 3)
    one_by_one = Recipe(batch_size=1, accumulate=2)
    with pytest.raises(FullconvError, match=r"no image each to normalise .* batch_norm=frozen"):
        require_shareable(normalised, one_by_one, two)
    require_shareable(normalised, one_by_one.model_copy(update={"batch_norm": "frozen"}), two)
    require_shareable(normalised, one_by_one, ALONE)
    (told,) = about_sharing(normalised, Recipe(batch_size=8), two)
    assert told == (
        "2 processes make each step together: each has about 4 images of each batch; batch "
        "normalisation is over the images of all"
    )
    assert list(about_sharing(normalised, Recipe(), ALONE)) == []


# One step -----------------------------------------------------------------------------------------


class Normalised(SmallClassifier):
    """With batch normalisation before the second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features.insert(1, nn.BatchNorm2d(4))


def small_net() -> FCN:
    torch.manual_seed(0)
    made = FCN(Normalised(), 4, 3)
    for score in made.scores.values():
        nn.init.normal_(score.weight)
    return made.train()


def steps(processes: Processes, recipe: Recipe, weights: list[float] | None) -> list[Any]:
    """Make three steps; return their losses and what was learnt."""
    net, size, share = small_net(), recipe.step_images, Share(recipe.batch_size, processes)
    class_weights = None if weights is None else [torch.tensor(weights)]
    objective = Objective(net, recipe, class_weights=class_weights, processes=processes).train()
    forward, optimizer = processes.spread(objective), make_optimizer(net, recipe)
    losses = []
    for step in range(3):
        some = random_batch(size, step)
        own = share.of(list(range(size)))
        part = Part(*(each[own] for each in some.parts[0]))
        own_batch = in_parts(Batch([part], [str(each) for each in own]), share.part)
        losses.append(take_step(objective, optimizer, own_batch, forward))
    return [losses, dict(net.state_dict())]


FROZEN = {"batch_norm": "frozen"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"batch_size": 4}, None),
        ({"batch_size": 3, "accumulate": 2, "loss": "image_mean"}, [0.5, 1.0, 4.0]),
        ({"batch_size": 3, "lovasz": 0.5, "dice": 0.7}, None),
        ({"batch_size": 2, "accumulate": 2, "lovasz": 0.5, "loss": "sum"}, None),
        ({"batch_size": 1, "accumulate": 3, "dice": 0.5, **FROZEN}, None),
    ],
)
def test_steps_are_those_of_a_single_process(
    settings: dict[str, Any], weights: list[float] | None
) -> None:
    recipe = Recipe(optimizer="sgd", lr=0.05, **settings)
    losses, learnt = steps(ALONE, recipe, weights)
    for found, state in side_by_side(steps, recipe, weights):
        assert found == pytest.approx(losses, rel=1e-5)
        for name, value in learnt.items():
            np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


# Validation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
def test_metrics_of_parts_are_those_of_the_whole_to_the_digit(data: Path, count: int) -> None:
    """Also where a process has no image."""
    net, val = small_net().eval(), DatasetFolder(data).split("val")
    whole = evaluate(net, val)
    parts = [
        evaluate(net, val, only=Processes(rank, count).block(len(val))) for rank in range(count)
    ]
    joined = Evaluation.joined(parts)
    assert joined.to_dict(net) == whole.to_dict(net)
    assert joined.per_image == whole.per_image
    assert joined.metrics.mean_iu == whole.metrics.mean_iu > 0


# A whole run --------------------------------------------------------------------------------------


def run_shared(processes: Processes, out: Path, wanted: dict[str, Any], resume: bool) -> Any:
    outcome = run(out, wanted, resume=resume, processes=processes)
    return outcome.last.metrics, outcome.last.per_image, processes.traffic.bytes


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run(out, asked(data))
    return out / "fcn16s"


@pytest.mark.slow
def test_two_processes_train_the_net_that_one_trains(
    data: Path, alone: Path, tmp_path: Path
) -> None:
    results = side_by_side(run_shared, tmp_path / "run", asked(data), False)
    assert results[0][:2] == results[1][:2]
    learnt = load_file(alone / "model.safetensors")
    assert results[0][2] > 20 * sum(value.nbytes for value in learnt.values() if value.ndim > 1)
    assert_alike(alone, tmp_path / "run" / "fcn16s")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "fcn16s",
        "recipe.yaml",
        "report.html",
    ]


class StopError(Exception):
    """Ends a run from within."""


@pytest.mark.slow
def test_resumed_by_another_number_of_processes(
    data: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process makes 7 steps, two the next 7, and one the rest."""
    out, wanted = tmp_path / "run", asked(data, "save_minutes=1e-9")
    real, made = loop.take_step, []

    def take_step(*arguments: Any) -> float:
        made.append(1)
        if len(made) == 8:
            raise StopError
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", take_step)
        with pytest.raises(StopError):
            run(out, wanted)
    ends = side_by_side(stopped_at_15, out)
    assert {type(end) for end in ends} == {StopError, ToldElsewhereError}
    run(out, {}, resume=True)
    assert_alike(alone, out / "fcn16s")


def stopped_at_15(processes: Processes, out: Path) -> None:
    real = loop.TrainingState.advance

    def advance(state: Any, loss: float) -> None:
        if state.step == 14:
            raise StopError
        real(state, loss)

    loop.TrainingState.advance = advance  # of a process that ends with this
    run(out, {}, resume=True, processes=processes)


def test_what_is_wrong_is_told_once(data: Path, tmp_path: Path) -> None:
    first, second = side_by_side(run_shared, tmp_path / "run", asked(data, "batch_size=1"), False)
    assert isinstance(first, FullconvError) and "2 processes have no more than 1" in str(first)
    assert isinstance(second, ToldElsewhereError) and second.exit_code == 2
    assert not (tmp_path / "run").exists()
