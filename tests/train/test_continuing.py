"""A run that is continued: on data or settings that changed, from damaged files, beside another."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from coloured_scenes import write_scenes
from filelock import FileLock
from training import trained

import fullconv
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.progress import Reporter
from fullconv.cli.signals import Stopped, stoppable
from fullconv.train import checkpoint, lock, loop
from fullconv.train.recipe import read_recipe
from fullconv.train.run import run

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = (
    "epochs=2",
    "batch_size=2",
    "workers=0",
    "precision=fp32",
    "crop=32",
    "magnify=1",
    "validate_every=1",
)


class StopError(Exception):
    """Ends a run from within."""


def asked(data: Path, *settings: str, **options: Any) -> dict[str, Any]:
    recipe = read_recipe("default", [*SETTINGS, *settings])
    net = {"backbone": "squeezenet1_1", "model": "fcn16s", "weights": "none"}
    return {"data": data, "recipe": recipe, **net, **options}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make data and two runs on it, one of them cut after its first epoch."""
    root = tmp_path_factory.mktemp("pristine")
    data = write_scenes(root / "data", train=4, val=2)
    trained(root / "whole", asked(data))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopError):
        real, made = loop.take_step, []

        def take_step(*args: Any) -> float:
            made.append(0)
            if len(made) == 3:
                raise StopError
            return real(*args)

        patch.setattr(loop, "take_step", take_step)
        trained(root / "cut", asked(data, "save_minutes=0.00001"))
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """Return a copy of it, moved, with the runs on the data beside them."""
    shutil.copytree(pristine, tmp_path / "root")
    for name in ("whole", "cut"):
        record = tmp_path / "root" / name / "recipe.yaml"
        record.write_text(record.read_text().replace(str(pristine), str(tmp_path / "root")))
    return tmp_path / "root"


def classes_of(data: Path, *names: str, **more: Any) -> None:
    values = {"name": "tiny", "classes": list(names), **more}
    (data / "dataset.yaml").write_text(yaml.safe_dump(values))


# Classes, images, settings ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "cut"])
@pytest.mark.parametrize(
    ("classes", "more", "told"),
    [
        (("green", "red", "blue"), {}, "class 0 was 'red' and is 'green'"),
        (("red", "green", "blue", "grey"), {}, "there were 3 classes and are 4"),
        (("red", "green", "blue"), {"ignore_index": 99}, "ignore_index was 255 and is 99"),
    ],
)
def test_changed_classes_are_refused(
    root: Path, name: str, classes: tuple[str, ...], more: dict[str, Any], told: str
) -> None:
    before = {path: path.read_bytes() for path in (root / name).rglob("*") if path.is_file()}
    classes_of(root / "data", *classes, **more)
    with pytest.raises(FullconvError) as caught:
        trained(root / name, {}, resume=True)
    assert told in str(caught.value)
    assert f"--weights {root / name / 'fcn16s'} --out OTHER" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "cut"])
def test_changed_classes_of_runs_of_old_are_refused(root: Path, name: str) -> None:
    """Their last.pt says nothing of classes; the model that was kept does."""
    last = root / name / "fcn16s" / "last.pt"
    state = checkpoint.load(last)
    del state["origin"], state["metrics"]
    torch.save(state, last)
    classes_of(root / "data", "green", "red", "blue")
    with pytest.raises(FullconvError, match="class 0 was 'red' and is 'green'"):
        trained(root / name, {}, resume=True)
    classes_of(root / "data", "red", "green", "blue")
    trained(root / name, {}, resume=True)


@pytest.mark.slow
def test_what_a_run_of_old_kept_is_told_of_though_nothing_better_follows(root: Path) -> None:
    folder = root / "cut" / "fcn16s"
    state = checkpoint.load(folder / "last.pt")
    del state["origin"], state["metrics"]
    torch.save({**state, "best": 0.99}, folder / "last.pt")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert run(root / "cut", {}, resume=True).last.metrics == metrics
    assert json.loads((folder / "config.json").read_text())["metrics"] == metrics


def test_a_state_that_does_not_fit_is_one_line(root: Path) -> None:
    last = root / "cut" / "fcn16s" / "last.pt"
    state = checkpoint.load(last)
    del state["origin"]
    torch.save(state, last)
    (last.parent / "config.json").unlink()
    classes_of(root / "data", "red", "green", "blue", "grey")
    with pytest.raises(FullconvError, match=r"last\.pt: does not fit the net") as caught:
        trained(root / "cut", {}, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_images_that_came_and_went_are_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = root / "data"
    for kind in ("images", "masks"):
        (data / kind / "train" / "train0.png").unlink()
        shutil.copy(data / kind / "train" / "train1.png", data / kind / "train" / "new.png")
    trained(root / "cut", {}, resume=True, reporter=Reporter(quiet=True))
    told = capsys.readouterr().err
    assert (
        "train has changed since it was last trained on: 1 image came (new) and 1 image went"
        in (told)
    )
    assert "(train0)" in told
    assert "val has changed" not in told
    trained(root / "cut", {}, resume=True, reporter=Reporter(quiet=True))
    assert capsys.readouterr().err == ""  # told once


@pytest.mark.slow
@pytest.mark.parametrize("changed", [True, False])
def test_the_best_so_far_counts_no_longer_when_val_has_changed(root: Path, changed: bool) -> None:
    """The validation to come is worse than the one before, which was made on other images."""
    last = root / "cut" / "fcn16s" / "last.pt"
    state = checkpoint.load(last)
    assert state["best"] is not None
    checkpoint.save(last, {**state, "best": 0.99})
    if changed:
        for kind in ("images", "masks"):
            (root / "data" / kind / "val" / "val0.png").unlink()
    folder = trained(root / "cut", {}, resume=True)
    images = json.loads((folder / "metrics.json").read_text())["images"]
    assert images == (1 if changed else 2)
    assert checkpoint.load(last)["best"] == (pytest.approx(0.5, abs=0.49) if changed else 0.99)
    assert (checkpoint.load(last)["best"] == 0.99) is not changed


@pytest.mark.parametrize(
    ("was", "is_", "told"),
    [
        ("  lr: 0.001", "  lr: 0.01", "lr was 0.001 when the training began and is 0.01 now"),
        ("  epochs: 2.0", "  epochs: 9.0", "epochs was 2.0 when the training began and is 9.0 now"),
        ("\nweights: none", "\nweights: imagenet", "weights was 'none'"),
    ],
)
@pytest.mark.parametrize("name", ["whole", "cut"])
def test_an_edited_recipe_is_refused(root: Path, name: str, was: str, is_: str, told: str) -> None:
    record = root / name / "recipe.yaml"
    text = record.read_text()
    assert was in text
    record.write_text(text.replace(was, is_))
    with pytest.raises(FullconvError) as caught:
        trained(root / name, {}, resume=True)
    assert str(caught.value).startswith(f"{record}: {told}")


@pytest.mark.slow
def test_data_moved_then_a_finished_run_resumed(
    root: Path, command_line: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "data").rename(root / "moved")
    command = ("train", "--out", root / "whole", "--resume", "--quiet")
    assert command_line(*command) == 2
    assert f"{root / 'data'}: is no folder; if the run's data have moved" in capfd.readouterr().err
    assert command_line(*command, "--data", root / "moved") == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert f"evaluate {root / 'whole' / 'fcn16s'} --data {root / 'moved'} --split val" in shown.out
    written = yaml.safe_load((root / "whole" / "recipe.yaml").read_text())
    assert written["data"] == str(root / "moved")
    assert command_line(*command) == 0


def test_a_finished_run_that_is_to_go_on_says_how(root: Path) -> None:
    longer = {"recipe": read_recipe("default", [*SETTINGS, "epochs=5"])}
    with pytest.raises(FullconvError, match="begun with another recipe") as caught:
        trained(root / "whole", longer, resume=True)
    further = f"to train on from what it learnt: --weights {root / 'whole' / 'fcn16s'} --out OTHER"
    assert further in str(caught.value)
    with pytest.raises(FullconvError, match="begun with another recipe") as caught:
        trained(root / "cut", longer, resume=True)
    assert further not in str(caught.value)


def test_a_finished_run_whose_states_were_removed_can_be_told_of_again(root: Path) -> None:
    (root / "whole" / "fcn16s" / "last.pt").unlink()
    assert trained(root / "whole", {}, resume=True) == root / "whole" / "fcn16s"


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["whole", "cut"])
def test_a_single_flipped_bit_is_noticed(root: Path, name: str) -> None:
    """Anywhere in the weights or the optimizer's state, whose bytes torch reads unchecked."""
    last = root / name / "fcn16s" / "last.pt"
    whole = last.read_bytes()
    state = checkpoint.load(last)
    moments = [v for v in state["optimizer"]["state"].values() for v in v.values() if v.ndim > 1]
    for tensor in (next(iter(state["net"].values())), moments[3]):
        bytes_ = bytearray(whole)
        place = whole.index(bytes(tensor.untyped_storage()))
        bytes_[place + 5] ^= 8
        last.write_bytes(bytes_)
        with pytest.raises(FullconvError, match=r"last\.pt: is damaged .* remove it") as caught:
            trained(root / name, {}, resume=True)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("what", [b"green", b"offsets", b"train1"])
def test_damage_of_what_is_compared_is_told_as_damage(root: Path, what: bytes) -> None:
    last = root / "cut" / "fcn16s" / "last.pt"
    bytes_ = bytearray(last.read_bytes())
    bytes_[bytes_.index(what) + 1] ^= 1
    last.write_bytes(bytes_)
    with pytest.raises(FullconvError, match=r"last\.pt: is damaged .* remove it"):
        trained(root / "cut", {}, resume=True)


def test_every_value_of_a_state_counts_in_its_digest() -> None:
    state = {"a": [1, 2.0], "b": {"c": torch.arange(3)}, "d": None, "e": True}
    others = [
        {**state, "a": [1, 2]},
        {**state, "a": [[1], 2.0]},
        {**state, "b": {"c": torch.arange(3).float()}},
        {**state, "b": {"c": torch.arange(3)[None]}},
        {**state, "d": ""},
        {**state, "e": 1},
        {key: state[key] for key in ("b", "a", "d", "e")},
    ]
    digests = {checkpoint.digest(each) for each in (state, *others)}
    assert len(digests) == 1 + len(others)
    assert checkpoint.digest(dict(state)) == checkpoint.digest(state)


def test_weights_that_are_nan_are_not_blamed_on_images(root: Path) -> None:
    net = fullconv.load(root / "whole" / "fcn16s")
    torch.nn.init.constant_(net.scores["16"].bias, float("nan"))
    net.save_pretrained(root / "source")
    wanted = asked(root / "data", weights=str(root / "source"))
    with pytest.raises(FullconvError) as caught:
        trained(root / "other", wanted)
    assert f"{root / 'source'}: holds infinite numbers or NaN (heads.labels.scores.16.bias)" in (
        str(caught.value)
    )
    assert not (root / "other").exists()


@pytest.mark.slow
def test_a_net_that_became_nan_is_not_blamed_on_images(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.learn

    def learn(stage: Any, state: Any) -> None:
        torch.nn.init.constant_(state.net.scores["16"].bias, float("inf"))
        real(stage, state)

    monkeypatch.setattr(loop, "learn", learn)
    with pytest.raises(WorkFailedError) as caught:
        trained(root / "other", asked(root / "data"))
    assert "the net itself holds infinite numbers or NaN (heads.labels.scores.16.bias)" in (
        str(caught.value)
    )
    assert "train0" not in str(caught.value)


# Another process, and signals ---------------------------------------------------------------------


def test_a_folder_that_another_process_trains_into(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    with FileLock(root / "cut" / ".lock"):
        for name, options in (("cut", {"resume": True}), ("new", {})):
            out = root / "cut" if name == "cut" else root / "new"
            if name == "new":
                out.mkdir()
                (root / "cut" / ".lock").rename(out / ".lock")  # the same, held
            with pytest.raises(FullconvError, match="another process trains into it; wait"):
                trained(out, {} if name == "cut" else asked(root / "data"), **options)
    assert not (root / "new" / "recipe.yaml").exists()


def test_of_two_that_begin_at_once_the_second_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found an empty folder; when it came to write, the first had begun, and even ended."""
    from fullconv.train import run as run_module

    real = run_module.hints

    def hints(*args: Any) -> Any:
        shutil.copytree(root / "whole", root / "new")
        return real(*args)

    monkeypatch.setattr(run_module, "hints", hints)
    before = (root / "whole" / "recipe.yaml").read_bytes()
    with pytest.raises(FullconvError, match="new: holds a run already"):
        trained(root / "new", asked(root / "data"))
    assert (root / "new" / "recipe.yaml").read_bytes() == before


@pytest.mark.slow
def test_no_lock_stays(root: Path) -> None:
    trained(root / "cut", {}, resume=True)
    assert not list(root.rglob(".lock"))


@pytest.mark.slow
def test_what_a_killed_beginning_left_is_removed(root: Path) -> None:
    new = root / "new"
    new.mkdir()
    (new / ".recipe.yaml.4711.tmp").write_text("half of")
    (new / ".hidden").touch()
    trained(new, asked(root / "data"))
    assert not list(new.rglob(".*.tmp"))
    assert (new / ".hidden").exists()


@pytest.fixture
def heeded() -> Iterator[None]:
    """Let signals do what they do: nohup, and shells for what goes on behind, ignore some."""
    usual = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL}
    usual["SIGHUP"] = signal.SIG_DFL
    before = {name: signal.signal(getattr(signal, name), usual[name]) for name in usual}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.slow
@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_say_how_to_continue(
    root: Path,
    command_line: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    number = getattr(signal, name)
    monkeypatch.setattr(loop, "take_step", lambda *_: signal.raise_signal(number))
    code = command_line("train", "--out", root / "cut", "--resume", "--quiet")
    assert code == 128 + number
    first, second = capfd.readouterr().err.splitlines()
    assert first == f"continue with: fullconv train --out {root / 'cut'} --resume"
    assert second in ("fullconv: interrupted", "fullconv: stopped")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_before_anything_has_begun_there_is_nothing_to_continue(
    root: Path,
    command_line: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fullconv.train.run.target_net", interrupted)
    words = ("--data", root / "data", "--out", root / "new", "--weights", "none")
    assert command_line("train", *words) == 130
    assert "continue with" not in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_a_signal_that_is_ignored_stays_so_and_children_end_quietly() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    with pytest.raises(Stopped), stoppable():
        signal.raise_signal(signal.SIGTERM)
    child = """
import os, signal, sys
from fullconv.cli.signals import stoppable
with stoppable():
    pid = os.fork()
    if pid == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
sys.exit(0 if os.WTERMSIG(status) == signal.SIGTERM else 1)
"""
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
