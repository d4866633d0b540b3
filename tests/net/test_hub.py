"""Models of the Hugging Face Hub, against a server of this machine that speaks its API."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN, FakeHub, Repository, hub_server
from huggingface_hub import ModelCard, constants
from PIL import Image

import fullconv
from fullconv.net.hub import Hub

NAME = "someone/street"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty Hub, an empty cache of it, and a user who is logged in."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # LFS, as the server has it
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    with hub_server() as served:
        template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def pushed(hub: FakeHub, folder: Path, **options: object) -> str:
    return Hub(TOKEN, hub.address).push(folder, NAME, **options)


def same_labels(one: fullconv.FCN, other: fullconv.FCN) -> bool:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 41, 3)).astype(np.uint8)
    return np.array_equal(one.predict(pixels), other.predict(pixels))


@pytest.mark.slow
def test_a_net_comes_back_from_the_hub(hub: FakeHub, random_model: Path) -> None:
    net = fullconv.load(random_model)
    address = net.push_to_hub(NAME, commit_message="The first", private=True, licence="mit")
    repository = hub.models[NAME]
    assert re.fullmatch(f"{hub.address}/{NAME}/commit/[0-9a-f]{{40}}", address)
    assert (repository.private, repository.messages) == (True, ["The first"])
    for again in (fullconv.load(NAME), fullconv.FCN.from_pretrained(NAME, token=TOKEN)):
        assert same_labels(net, again)
        assert all(map(torch.equal, net.state_dict().values(), again.state_dict().values()))
    assert ModelCard(repository.head()["README.md"].decode()).data.license == "mit"


def test_only_the_model_is_pushed(hub: FakeHub, random_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fullconv.load(random_model).save_pretrained(folder)
    for name in ("last.pt", "log.csv", "events.out.tfevents.1", ".secret", "metrics.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\nWritten by hand.\n")
    pushed(hub, folder)
    head = hub.models[NAME].head()
    assert set(head) == {"README.md", "config.json", "metrics.json", "model.safetensors"}
    assert all(held(folder)[name] == data for name, data in head.items())


def test_only_safetensors_and_config_are_fetched(hub: FakeHub, random_model: Path) -> None:
    repository = hub.models[NAME] = Repository()
    others = {"pytorch_model.bin": b"pickled", "model.py": b"import os", "README.md": b"#"}
    repository.commit(held(random_model) | others)
    folder = Hub(endpoint=hub.address).fetched(NAME)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert not any(name in request for request in hub.requests for name in others)


@pytest.mark.slow
def test_a_revision_is_a_branch_or_a_commit(
    hub: FakeHub, random_model: Path, tmp_path: Path
) -> None:
    net = fullconv.load(random_model)
    net.push_to_hub(NAME)
    first = hub.models[NAME].branches["main"]
    for score in net.scores.values():
        torch.nn.init.normal_(score.weight, std=3)
    net.save_pretrained(tmp_path / "new")
    pushed(hub, tmp_path / "new", branch="v2", message="The second")
    assert hub.models[NAME].branches["main"] == first
    for again in (
        fullconv.load(NAME, revision="v2"),
        fullconv.load(f"{NAME}@v2"),
        fullconv.load(NAME, revision=hub.models[NAME].branches["v2"]),
    ):
        assert same_labels(again, net)
    assert not same_labels(fullconv.load(f"{NAME}@{first}"), net)
    with pytest.raises(fullconv.FullconvError, match=f"{NAME}: .* of revision v3 from the Hug"):
        fullconv.load(NAME, revision="v3")


def test_private_models_are_for_those_who_may(
    hub: FakeHub, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(hub, random_model, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(fullconv.FullconvError, match=f"{NAME}: no such folder, and not to be had"):
        fullconv.load(NAME)
    fullconv.load(NAME, token=TOKEN)


@pytest.mark.slow
def test_what_is_in_the_cache_needs_no_network(
    hub: FakeHub, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(hub, random_model)
    fullconv.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert same_labels(fullconv.load(NAME), fullconv.load(random_model))
    assert len(hub.requests) == asked


def test_a_folder_of_that_name_wins(hub: FakeHub, random_model: Path, tmp_path: Path) -> None:
    fullconv.load(random_model).save_pretrained(tmp_path / NAME)
    fullconv.load(NAME)
    assert not hub.requests


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"config.json": None}, f"{NAME}: no model of fullconv: it has no config.json"),
        ({"model.safetensors": None}, f"{NAME}: no model of fullconv: it has no model.safetensors"),
        ({"config.json": b'{"model_type": "segformer"}'}, "config.json: .*"),
        ({"model.safetensors": b"else"}, "model.safetensors: .*"),
    ],
)
def test_strangers_models(
    changed: dict[str, bytes | None], told: str, hub: FakeHub, random_model: Path
) -> None:
    files = held(random_model) | changed
    hub.models[NAME] = Repository()
    hub.models[NAME].commit({name: data for name, data in files.items() if data is not None})
    with pytest.raises(fullconv.FullconvError, match=told) as refused:
        fullconv.load(NAME)
    assert "\n" not in str(refused.value)
    if "config.json" in changed:  # judged before its weights are asked for
        assert not any("model.safetensors" in request for request in hub.requests)


def test_a_model_of_any_cost_is_refused_unless_its_maker_is_trusted(
    hub: FakeHub, random_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pushed(hub, random_model)
    monkeypatch.setattr("fullconv.net.rehearsal.MOST_VALUES", 10)
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "no-models-known"))
    with pytest.raises(fullconv.FullconvError, match="trust"):
        fullconv.load(NAME)
    fullconv.load(NAME, trust=True)


def test_one_who_may_not_write(hub: FakeHub, random_model: Path) -> None:
    with pytest.raises(fullconv.WorkFailedError, match=r"put on .*401.*hf auth login"):
        Hub("hf_" + "b" * 34, hub.address).push(random_model, NAME)
    assert not hub.models


def test_no_hub_at_all(hub: FakeHub, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9"
    with pytest.raises(fullconv.WorkFailedError, match=f"{NAME}: could not be put"):
        Hub(TOKEN, nowhere).push(random_model, NAME)
    with pytest.raises(fullconv.FullconvError, match=f"{NAME}: no such folder, and not to be had"):
        Hub(TOKEN, nowhere).fetched(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(fullconv.WorkFailedError, match="HF_HUB_OFFLINE is set"):
        Hub(TOKEN, hub.address).push(random_model, NAME)


def test_only_model_folders_are_pushed(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(fullconv.FullconvError, match=r"config.json: missing"):
        pushed(hub, tmp_path)
    assert not hub.requests


@pytest.mark.slow
def test_the_commands_take_a_hub_id(
    hub: FakeHub,
    random_model: Path,
    tmp_path: Path,
    command_line: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line("push", random_model, NAME, "--license", "apache-2.0", "--quiet") == 0
    assert capsys.readouterr().out.startswith(f"{hub.address}/{NAME}/commit/")
    assert b"license: apache-2.0\n" in hub.models[NAME].head()["README.md"]
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photo.png")
    for words in (
        ("predict", NAME, "photo.png", "--out", "labelled", "--engine", "torch"),
        ("describe", f"{NAME}@main", "--size", "32x32"),
    ):
        assert command_line(*words) == 0, capsys.readouterr().err
    assert (tmp_path / "labelled/photo.png").is_file()
    assert not (tmp_path / "someone").exists()


def test_weights_may_be_read_by_others(random_model: Path) -> None:
    """safetensors writes files that only their owner may read."""
    beside = stat.S_IMODE((random_model / "config.json").stat().st_mode)
    assert stat.S_IMODE((random_model / "model.safetensors").stat().st_mode) == beside
    assert beside & stat.S_IROTH or os.umask(os.umask(0)) & 0o004


@pytest.mark.slow
def test_hf_endpoint_says_where_the_hub_is(
    hub: FakeHub, random_model: Path, tmp_path: Path
) -> None:
    pushed(hub, random_model)
    script = f"import fullconv, json; print(json.dumps(fullconv.load({NAME!r}).classes))"
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == ["red", "green", "[blue]"]
