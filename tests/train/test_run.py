"""Runs: what they leave, what ends them, and the command line."""

from __future__ import annotations

import csv
import errno
import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from coloured_scenes import write_scenes
from huggingface_hub import ModelCard
from PIL import Image
from torch import Tensor, nn
from training import (
    SimulatedClock,
    changed,
    stage_on,
    trained,
    weights_of,
)

import fullconv
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.progress import Reporter
from fullconv.data.folder import DatasetInfo
from fullconv.net import folder as model_folder
from fullconv.net.fcn import FCN
from fullconv.train import checkpoint, evaluators, lock, loop, timing
from fullconv.train import step as step_module
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe, read_recipe
from fullconv.train.record import Record
from fullconv.train.run import run
from fullconv.train.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")


INFO = DatasetInfo(name="tiny", classes=("red", "green", "blue"))


def seeded(backbone: str, stride: int, classes: tuple[str, ...]) -> FCN:
    torch.manual_seed(0)
    net = FCN(backbone, stride, len(classes), classes=classes)
    for layer in (*net.scores.values(), *net.upscores.values()):
        nn.init.normal_(layer.weight)
    return net


SMALL = ("batch_size=2", "workers=0", "precision=fp32", "magnify=1")
QUICK = {"backbone": "squeezenet1_1", "model": "fcn16s", "weights": "none"}


def asked(data: Path, *settings: str, **options: Any) -> dict[str, Any]:
    recipe = read_recipe("default", [*SMALL, *settings])
    return {"data": data, "recipe": recipe, **QUICK, **options}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_leaves_what_the_contract_names(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    folder = trained(tmp_path / "run", asked(data, "epochs=2"))
    assert folder == tmp_path / "run" / "fcn16s"
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert names == {"model", "config", "metrics", "log", "last", "events", "README"}
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results[0].dataset_split == "val"
    assert str(tmp_path) not in card.content  # it is for others
    assert "At borders" in (tmp_path / "run" / "report.html").read_text()
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


@pytest.mark.slow
def test_the_fingerprint_of_the_data_is_written_down(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    trained(tmp_path / "run", asked(data, "epochs=1"))
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["fingerprint"]
    assert written["train"]["sizes"] == {"32x48": 6}
    masks = [np.array(Image.open(path)) for path in (data / "masks" / "train").iterdir()]
    counts = np.bincount(np.stack(masks).ravel(), minlength=3)
    assert written["train"]["labels"]["labels"]["pixels"] == dict(enumerate(counts.tolist()))
    assert written["val"]["images"] == 2
    trained(tmp_path / "run", {}, resume=True)
    again = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["fingerprint"]
    assert again == written


@pytest.mark.slow
def test_tensorboard_is_used_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not
    folder = trained(tmp_path / "run", asked(write_scenes(tmp_path / "data"), "epochs=1"))
    assert len(rows(folder)) == 1
    assert not list(folder.glob("events*"))


@pytest.mark.slow
def test_what_a_run_achieved_is_read_nowhere_again(
    tmp_path: Path, command_line: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks for it again, of a run that has ended, is told the same."""
    wanted = asked(write_scenes(tmp_path / "data", test=1), "epochs=2")
    outcome = run(tmp_path / "run", wanted)
    again = run(tmp_path / "run", {}, resume=True)
    assert again == outcome
    metrics = json.loads((outcome.folder / "metrics.json").read_text())
    assert outcome.last.metrics == metrics
    assert (outcome.splits, outcome.settings.inputs) == (("train", "val", "test"), ("color",))
    assert command_line("train", "--out", tmp_path / "run", "--resume") == 0
    assert f"on val mean IU {metrics['mean_iu']:.3f}" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "kept"), [("best", 0), ("last", 2)])
def test_which_weights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, kept: int
) -> None:
    """The first of three validations is the best, and the last is none."""
    data, scores, seen = write_scenes(tmp_path / "data"), [0.3, 0.1, 0.2], []
    real = evaluators.evaluate

    def evaluate(net: FCN, *args: Any, **options: Any) -> Any:
        seen.append(weights_of(net))
        result = real(net, *args, **options)
        metrics = replace(result.metrics, mean_iu=scores[len(seen) - 1])
        return replace(result, heads={"labels": metrics}, per_image=(("val0", scores[0]),))

    monkeypatch.setattr(evaluators, "evaluate", evaluate)
    settings = ("epochs=3", "validate_every=1", f"keep={keep}", "lr=0.01", "schedule=constant")
    folder = trained(tmp_path / "run", asked(data, *settings))
    assert not changed(fullconv.load(folder), seen[kept])
    assert changed(fullconv.load(folder), seen[2 - kept])
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] == scores[kept]
    assert [float(row["val_mean_iu"]) for row in rows(folder)] == scores
    told = {"best": "the best on val", "last": "the last weights"}
    assert told[keep] in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 5])
def test_tiny_datasets(tmp_path: Path, images: int) -> None:
    data = write_scenes(tmp_path / "data", train=images, val=1, size=(20, 27))
    wanted = asked(data, "epochs=2", "batch_size=4", backbone="shufflenet_v2_x0_5")
    folder = trained(tmp_path / "run", wanted)
    steps = max(images // 4, 1) * 2
    assert [row["step"] for row in rows(folder)] == [str(steps // 2), str(steps)]


@pytest.mark.slow
def test_data_without_val(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=2, val=0)
    folder = trained(tmp_path / "run", asked(data, "epochs=1"))
    assert json.loads((folder / "metrics.json").read_text())["images"] == 1


def test_data_without_train(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    for kind in ("images", "masks"):
        shutil.rmtree(data / kind / "train")
    with pytest.raises(FullconvError, match="has no split 'train'"):
        trained(tmp_path / "run", asked(data))


@pytest.mark.slow
def test_images_smaller_than_the_crop(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", size=(9, 7))
    folder = trained(tmp_path / "run", asked(data, "epochs=1", "crop=40"))
    assert math.isfinite(float(rows(folder)[0]["train_loss"]))


@pytest.mark.slow
def test_an_all_ignored_dataset_trains_to_nothing_but_does_not_break(tmp_path: Path) -> None:

    data = write_scenes(tmp_path / "data", train=2)
    for mask in (data / "masks").rglob("*.png"):
        Image.fromarray(np.full((32, 48), 255, np.uint8)).save(mask)
    folder = trained(tmp_path / "run", asked(data, "epochs=2"))
    assert [row["train_loss"] for row in rows(folder)] == ["0.0", "0.0"]
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] is None
    assert (folder / "model.safetensors").is_file()


@pytest.mark.slow
def test_staged_nets_follow_each_other(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    settings = ("epochs=3", "stage_lr=[4, 1]", "schedule=constant", "warmup=0", "lr=1e-4")
    wanted = asked(data, *settings, model="fcn8s", staged=True)
    folder = trained(tmp_path / "run", wanted)
    assert folder.name == "fcn8s"
    for name, rate in (("fcn16s", 4e-4), ("fcn8s", 1e-4)):
        assert {float(row["lr"]) for row in rows(tmp_path / "run" / name)} == {rate}
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert list(record["nets"]) == ["fcn16s", "fcn8s"]  # squeezenet's stride ends at 16
    steps = [net["plan"]["steps"] for net in record["nets"].values()]
    assert steps == [6, 3]  # two thirds and one third of three epochs
    assert [fullconv.load(tmp_path / "run" / name).stride for name in record["nets"]] == [16, 8]
    assert "| started from | fcn16s |" in (folder / "README.md").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "FCN-16s" in page
    assert "FCN-8s" in page


@pytest.mark.slow
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
    folder = trained(tmp_path / "run", wanted)
    net = fullconv.load(folder)
    assert {name: head.classes for name, head in net.heads.items()} == dict.fromkeys(
        ("one", "two"), INFO.classes
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    ious = [head["mean_iu"] for head in metrics["heads"].values()]
    assert float(rows(folder)[-1]["val_mean_iu"]) == pytest.approx(sum(ious) / 2)


@pytest.mark.slow
def test_steps_of_each_stage(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    wanted = asked(data, "steps=4", "stage_shares=[9, 1]", model="fcn8s", staged=True)
    trained(tmp_path / "run", wanted)
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert [net["plan"]["steps"] for net in record["nets"].values()] == [4, 4]


@pytest.mark.slow
def test_fine_tuning_a_model_of_ones_own(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data")
    source = seeded("squeezenet1_1", 16, ("blue", "road"))
    source.save_pretrained(tmp_path / "source")
    wanted = asked(data, "epochs=1", "lr=1e-12", weights=str(tmp_path / "source"))
    del wanted["backbone"]
    net = fullconv.load(trained(tmp_path / "run", wanted))
    assert net.arguments.trunk == "squeezenet1_1"
    torch.testing.assert_close(net.scores["16"].weight[2], source.scores["16"].weight[0])
    with pytest.raises(FullconvError, match="its backbone is squeezenet1_1, not vgg16"):
        trained(tmp_path / "other", {**wanted, "backbone": "vgg16"})
    assert not (tmp_path / "other").exists()


def nan_from(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss become NaN in a step."""
    made, real = 0, step_module.image_losses

    def image_losses(*args: Any) -> Tensor:
        nonlocal made
        made += torch.is_grad_enabled()
        return real(*args) * (math.nan if made >= step else 1.0)

    monkeypatch.setattr(step_module, "image_losses", image_losses)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_scenes(tmp_path / "data")
    nan_from(4 + 2, monkeypatch)  # two steps are made in the calibration
    with pytest.raises(WorkFailedError) as caught:
        trained(tmp_path / "run", asked(data, "epochs=3"))
    message = str(caught.value)
    named = [name for name in (f"train{index}" for index in range(6)) if name in message]
    assert len(named) == 2
    assert "fcn16s: the loss of step 4 is not finite" in message
    assert f"the best is kept in {tmp_path / 'run' / 'fcn16s'}" in message
    assert "\n" not in message
    assert fullconv.load(tmp_path / "run" / "fcn16s").num_classes == 3


@pytest.mark.slow
def test_a_loss_that_is_never_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nan_from(0, monkeypatch)
    data = write_scenes(tmp_path / "data", train=2)
    with pytest.raises(WorkFailedError, match=r"loss of step 1 is not finite.*no model was kept"):
        trained(tmp_path / "run", asked(data, "epochs=3"), reporter=Reporter())
    assert "for a time unknown" in capfd.readouterr().err


@pytest.mark.slow
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

    def scored(*args: Any, **options: Any) -> Any:
        evaluation = real_evaluate(*args, **options)
        metrics = replace(evaluation.metrics, mean_iu=next(scores))
        return replace(evaluation, heads={"labels": metrics})

    real_evaluate = evaluators.evaluate
    monkeypatch.setattr(model_folder, "save_file", save_file)
    monkeypatch.setattr(evaluators, "evaluate", scored)
    with pytest.raises(WorkFailedError, match=r"cannot save: the disk is full; .* --resume"):
        trained(tmp_path / "run", asked(data, "epochs=3"))
    folder = tmp_path / "run" / "fcn16s"
    assert (folder / "model.safetensors").read_bytes() == saves[0]
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] == 0.3
    assert fullconv.load(folder).num_classes == 3
    monkeypatch.undo()
    trained(tmp_path / "run", {}, resume=True)  # after making room


def test_a_full_disk_leaves_the_training_state_as_it_was(
    net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_on(write_scenes(tmp_path / "data"), tmp_path / "out")
    state = TrainingState.start(net, Recipe(), Plan(9, 3, 1, (8, 8)))
    loop.save(stage, state)
    before = stage.last.read_bytes()
    real = torch.save

    def full(_: Any, file: Any) -> None:
        real({}, file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WorkFailedError, match="the disk is full"):
        loop.save(stage, state)
    assert stage.last.read_bytes() == before
    assert sorted(path.name for path in tmp_path.joinpath("out").iterdir()) == [
        "last.pt",
        "log.csv",
    ]


def test_batch_norm_of_a_single_value_is_refused(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", size=(20, 30))
    with pytest.raises(FullconvError, match="batch_size=1 with crops of 20x30"):
        trained(tmp_path / "run", asked(data, "batch_size=1", backbone="resnet18"))


@pytest.mark.slow
def test_a_net_without_batch_norm_learns_of_a_single_value(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", size=(20, 30), train=2)
    trained(tmp_path / "run", asked(data, "batch_size=1", "steps=1"))


def test_a_record_tells_how_to_make_another_run_like_it(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=2)
    given = {"weights": "none", "inputs": ("color",), "staged": True, "trust": True, **QUICK}
    run_lock = lock.RunLock(tmp_path / "a run")
    record = Record.open(tmp_path / "a run", asked(data, **given), run_lock, resume=False)
    record.begin(["fcn16s"])
    told = record.out.joinpath("recipe.yaml").read_text().splitlines()[3]
    assert shlex.split(told, comments=False)[1:] == [
        *("fullconv", "train", "--data", "DIR", "--out", "OTHER"),
        *("--recipe", str(tmp_path / "a run/recipe.yaml"), "--model", "fcn16s"),
        *("--backbone", "squeezenet1_1", "--weights", "none", "--staged", "--trust"),
    ]


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


@pytest.mark.slow
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
    folder = trained(tmp_path / "run", wanted)
    assert json.loads((folder / "metrics.json").read_text())["mean_iu"] > 0.9


@pytest.mark.slow
def test_minutes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which steps take half a second and an image of val a quarter, nothing else."""
    data, clock = write_scenes(tmp_path / "data", train=16, val=4), SimulatedClock()

    def slowed(module: Any, name: str, seconds: float) -> None:
        real = getattr(module, name)

        def work(*args: Any, **options: Any) -> Any:
            clock.pass_(seconds)
            return real(*args, **options)

        monkeypatch.setattr(module, name, work)

    slowed(loop, "take_step", 0.5)
    slowed(timing, "take_step", 0.5)
    slowed(fullconv.FCN, "label", 0.25)
    wanted = asked(data, "minutes=0.6", model="fcn8s", staged=True)
    trained(tmp_path / "run", wanted, clock=clock)
    assert 12 < clock.now < 36
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    seconds = [net["seconds"] for net in record["nets"].values()]
    assert seconds[0] > seconds[1]
