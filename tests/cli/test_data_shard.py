"""data shard, and shards in place of a dataset folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coloured_scenes import write_scenes
from dataset_folders import write_dataset, write_yaml
from packed import uploaded


def test_packed_checked_and_evaluated(command_line, random_model, tmp_path, capsys):
    root, shards = write_scenes(tmp_path / "street"), tmp_path / "shards"
    write_yaml(root, ("red", "green", "'[blue]'"))
    code = command_line("data", "shard", root, "--out", shards, "--count", "3", "--quiet")
    said = capsys.readouterr().out
    assert code == 0
    assert f"{shards}: 6 train images in 2 shards\n{shards}: 2 val images in 1 shard\n" in said
    size = sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert f"{size:,} bytes in 3 shards\nnext: fullconv data check {shards}\n" in said
    address = uploaded(shards, "command-line")
    for where in (shards, address):
        assert command_line("data", "check", where, "--quiet") == 0
        assert f"{where}: no errors" in capsys.readouterr().out
    for where, out in ((root, "one"), (address, "other")):
        words = ("--data", where, "--split", "val", "--out", tmp_path / out, "--quiet")
        assert command_line("evaluate", random_model, *words) == 0
    assert json.loads((tmp_path / "one").read_text()) == json.loads(
        (tmp_path / "other").read_text()
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("data", "shard", "none", "--out", "s"), "none: is no folder"),
        (("data", "shard", "street", "--out", "s", "--size", "x"), "size 'x': give a number"),
        (("data", "shard", "street", "--out", "street"), "street: is not empty; choose another"),
        (("data", "check", "memory://none"), "memory://none/dataset.yaml: no such file"),
        (("data", "check", "nonsense://x"), "nonsense://x/dataset.yaml: is no address that fsspec"),
        (("data", "split", "shards", "--out", "s"), "shards: is packed into shards; divide the"),
        (("train", "--data", "memory://none", "--out", "r"), "memory://none/dataset.yaml: no such"),
    ],
)
def test_what_is_wrong_is_a_line(command_line, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("street"))
    assert command_line("data", "shard", "street", "--out", "shards", "--quiet") == 0
    capsys.readouterr()
    assert command_line(*words, "--quiet") == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
