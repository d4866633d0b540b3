"""A run that is killed and resumed ends with the very weights of one that was left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from coloured_scenes import write_scenes
from killed import exit_code, killed
from packed import pack, uploaded
from safetensors.torch import load_file
from training import trained

from fullconv.base.errors import FullconvError
from fullconv.train import checkpoint, loop
from fullconv.train.recipe import read_recipe

SETTINGS = ["epochs=6", "batch_size=2", "precision=fp32", "workers=0", "lr=0.003", "magnify=1"]


AS_THE_PAPER = (
    "epochs=3",
    "crop=whole",
    "batch_size=1",
    "accumulate=2",
    "sampling=replacement",
    "sampled_cells=0.5",
    "loss=image_mean",
    "optimizer=sgd",
    "doubled_biases=all",
    "keep=last",
)


def assert_same(one: Any, other: Any) -> None:
    """Compare nested tensors and values exactly, NaN with NaN."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert repr(one) == repr(other)  # exact for floats, and NaN is NaN


def assert_same_result(one: Path, other: Path) -> None:
    """Compare the kept models and the training states, bit by bit, but for the clock's share."""
    assert_same(load_file(one / "model.safetensors"), load_file(other / "model.safetensors"))
    states = [checkpoint.load(folder / "last.pt") for folder in (one, other)]
    for state in states:
        del state["seconds"], state["pace"]
        for row in state["rows"]:
            del row["seconds"]
    assert_same(*states)


def asked(data: str | Path, *settings: str, **options: Any) -> dict[str, Any]:
    return {
        "data": data,
        "weights": "none",
        "recipe": read_recipe("default", [*SETTINGS, *settings]),
        **options,
    }


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def one_thread_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes begun here


class StopError(Exception):
    """Ends a run from within, at a chosen step."""


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training fail in its `step`-th step, as if the process were killed there."""
    made, real = 0, loop.take_step

    def take_step(*args: Any, **options: Any) -> float:
        nonlocal made
        made += 1
        if made == step:
            raise StopError
        return real(*args, **options)

    monkeypatch.setattr(loop, "take_step", take_step)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (
            {"backbone": "squeezenet1_1", "model": "fcn16s"},
            ("ema=0.9", "accumulate=3", "magnify=2"),
        ),
        pytest.param(
            {"backbone": "shufflenet_v2_x0_5"},
            ("epochs=3", "optimizer=sgd", "lr=0.1", "class_weights=balanced"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"backbone": "squeezenet1_1", "model": "fcn16s"}, AS_THE_PAPER, marks=pytest.mark.slow
        ),
    ],
    ids=[
        "dropout-ema-accumulation-magnified",
        "batch_norm-sgd-balanced",
        "whole-replacement-sampled",
    ],
)
def test_resumed_within_an_epoch(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    settings: tuple[str, ...],
) -> None:
    wanted = asked(data, "save_minutes=0.000001", *settings, **options)
    whole = trained(tmp_path / "whole", wanted)
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        with pytest.raises(StopError):
            trained(tmp_path / "cut", wanted)
    state = checkpoint.load(tmp_path / "cut" / whole.name / "last.pt")
    assert state["step"] == 4
    assert state["plan"]["steps_per_epoch"] in (1, 3)
    resumed = trained(tmp_path / "cut", {}, resume=True)
    assert_same_result(whole, resumed)


@pytest.mark.slow
def test_of_shards_at_an_address(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They train as their folder does, to the last digit, with workers, cut short and continued."""
    pack(data, tmp_path / "shards", count=5)
    wanted = asked(data, "epochs=2", backbone="squeezenet1_1", model="fcn16s")
    whole = trained(tmp_path / "whole", wanted)
    address = uploaded(tmp_path / "shards", "resumed")
    again = asked(address, "epochs=2", "workers=1", "save_minutes=0.000001")
    again |= {"backbone": "squeezenet1_1", "model": "fcn16s"}
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        with pytest.raises(StopError):
            trained(tmp_path / "cut", again)
    assert f"data: {address}" in (tmp_path / "cut" / "recipe.yaml").read_text()
    resumed = trained(tmp_path / "cut", {}, resume=True)
    assert_same(load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors"))
    assert (resumed / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


@pytest.mark.slow
def test_resumed_from_the_last_save_though_more_was_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A better model may already have been kept by steps that are done again."""
    wanted = asked(data, backbone="squeezenet1_1", model="fcn16s")
    whole = trained(tmp_path / "whole", wanted)
    with monkeypatch.context() as patch:
        stop_at(12, patch)
        with pytest.raises(StopError):
            trained(tmp_path / "cut", wanted)
    assert checkpoint.load(tmp_path / "cut" / "fcn16s" / "last.pt")["step"] == 0
    assert_same_result(whole, trained(tmp_path / "cut", {}, resume=True))


@pytest.mark.slow
def test_two_runs_are_equal_and_workers_change_nothing(data: Path, tmp_path: Path) -> None:
    options = {"backbone": "squeezenet1_1", "model": "fcn16s"}
    one, two, three = (
        trained(
            tmp_path / f"w{index}",
            asked(data, workers, "epochs=3", **options),
        )
        for index, workers in enumerate(("workers=0", "workers=0", "workers=2"))
    )
    assert_same_result(one, two)
    assert_same(load_file(one / "model.safetensors"), load_file(three / "model.safetensors"))


@pytest.mark.slow
def test_another_seed_gives_another_model(data: Path, tmp_path: Path) -> None:
    options = {"backbone": "squeezenet1_1", "model": "fcn16s"}
    one, two = (
        trained(tmp_path / seed, asked(data, seed, "epochs=1", **options))
        for seed in ("seed=0", "seed=1")
    )
    states = [checkpoint.load(folder / "last.pt")["net"] for folder in (one, two)]
    assert any(not torch.equal(value, states[1][name]) for name, value in states[0].items())


# Where a process is killed: the call of a function, counted from 1, before it or after it. By
# counting and not by a clock, so that a fast machine and a busy one are killed at the same places.
KILLS = [
    ("fullconv.train.loop", "save", 1, "before"),  # nothing is saved
    ("fullconv.train.loop", "take_step", 3, "after"),
    ("fullconv.train.checkpoint", "digest", 4, "before"),  # last.pt is half written
    ("fullconv.train.evaluators", "evaluate", 2, "after"),  # measured, not kept
    ("fullconv.base.files", "write_json", 3, "after"),  # kept, and not noted in last.pt
    ("fullconv.train.evaluators", "calibrate_kept", 1, "before"),  # between two stages
    ("fullconv.train.run", "load", 1, "after"),
    ("fullconv.train.loop", "save", 2, "after"),
]


def words_for(data: Path, *settings: str, **options: str) -> list[object]:
    given = {"data": str(data), "weights": "none", "backbone": "squeezenet1_1", **options}
    words: list[object] = [word for name, value in given.items() for word in (f"--{name}", value)]
    return [*words, "--quiet", *(w for each in (*SETTINGS, *settings) for w in ("--set", each))]


@pytest.mark.slow
def test_killed_at_many_places(data: Path, tmp_path: Path) -> None:
    """Staged, saving at each step: in a step, a validation, a save, and between two stages."""
    words = [*words_for(data, "epochs=12", "save_minutes=1e-9"), "--staged"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert exit_code("train", *words, "--out", whole) == 0
    for place in KILLS:
        begun = (cut / "recipe.yaml").exists()
        killed(place, "train", "--out", cut, *(("--resume", "--quiet") if begun else words))
    assert exit_code("train", "--resume", "--quiet", "--out", cut) == 0
    assert_same_result(whole / "fcn16s", cut / "fcn16s")
    assert_same_result(whole / "fcn8s", cut / "fcn8s")
    assert not list(cut.rglob(".*"))
    assert (cut / "report.html").is_file()


@pytest.mark.slow
def test_killed_command_with_workers(data: Path, tmp_path: Path) -> None:
    """The real command line, its workers included, which outlive it for a while."""
    words = words_for(data, "workers=1", "epochs=5", "save_minutes=1e-9", model="fcn16s")
    assert exit_code("train", *words, "--out", tmp_path / "whole") == 0
    killed(("fullconv.train.loop", "save", 10, "after"), "train", "--out", tmp_path / "cut", *words)
    assert checkpoint.load(tmp_path / "cut" / "fcn16s" / "last.pt")["step"] == 9
    again = [sys.executable, "-m", "fullconv", "train", "--resume", "--out", str(tmp_path / "cut")]
    subprocess.run(again, check=True, capture_output=True)
    assert_same_result(tmp_path / "whole" / "fcn16s", tmp_path / "cut" / "fcn16s")


@pytest.mark.slow
def test_what_cannot_be_resumed(data: Path, tmp_path: Path) -> None:
    wanted = asked(data, "epochs=1", backbone="squeezenet1_1", model="fcn16s")
    with pytest.raises(FullconvError, match="holds no run to resume; --data"):
        trained(tmp_path / "none", {}, resume=True)
    trained(tmp_path / "run", wanted)
    with pytest.raises(FullconvError, match="holds a run already; continue it with --resume"):
        trained(tmp_path / "run", wanted)
    with pytest.raises(FullconvError, match="begun with another model"):
        trained(tmp_path / "run", {"model": "fcn8s"}, resume=True)
    with pytest.raises(FullconvError, match="is not empty and holds no run"):
        trained(data, wanted, resume=True)
    (tmp_path / "run" / "fcn16s" / "last.pt").write_bytes(b"PK\x03\x04 half of it")
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    (tmp_path / "run" / "recipe.yaml").write_text(text.replace("    seconds: ", "    second: "))
    with pytest.raises(FullconvError, match=r"last\.pt: not a training state .* remove it"):
        trained(tmp_path / "run", {}, resume=True)
    (tmp_path / "run" / "recipe.yaml").write_text("epochs: 3\n")
    with pytest.raises(FullconvError, match=r"recipe\.yaml: not the record of a run"):
        trained(tmp_path / "run", {}, resume=True)
