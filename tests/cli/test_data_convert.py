"""data convert, data split, and annotations in place of a dataset folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures" / "formats"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FULLCONV_CACHE", str(folder))
    return folder


def test_convert_and_divide(command_line, tmp_path, capsys):
    out = tmp_path / "street"
    code = command_line(
        *("data", "convert", FIXTURES / "labelme", "--out", out, "--split", "0.5,0.5,0"),
        *("--map", "car=vehicle", "--background", "ignore", "--fill", "tool", "--quiet"),
    )
    assert code == 0
    said = capsys.readouterr().out
    assert f"{out}: 1 train, 1 val images of labelme, 2 classes" in said
    assert f"next: fullconv data check {out}" in said
    again = tmp_path / "again"
    assert command_line("data", "split", out, "--out", again, "--shares", "1,0,0", "--quiet") == 0
    assert f"{again}: 2 train images of a dataset folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fill", "some"), "fill 'some': is none of centres, outline, tool"),
        (("--overlap", "x"), "overlap 'x': is none of later, earlier, smaller"),
        (("--map", "car"), "map 'car': give OLD=NEW"),
        (("--split", "1,1,1"), "whose sum is 1"),
        (("--group-by", "("), "is no regular expression"),
        (("--ignore", "rod"), "did you mean road"),
    ],
)
def test_bad_usage_is_a_line(command_line, tmp_path, capsys, words, told):
    source = FIXTURES / "labelme"
    assert command_line("data", "convert", source, "--out", tmp_path / "o", *words, "--quiet") == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_check_takes_annotations_and_says_what_they_are(command_line, cache, tmp_path, capsys):
    source = tmp_path / "my labels"
    source.mkdir()
    for path in (FIXTURES / "labelme").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    for _ in "12":
        assert command_line("data", "check", source, "--quiet") == 0
        said = capsys.readouterr()
        assert "is labelme, 2 images; converted by" in said.err
        assert f"fullconv data convert '{source}' --out DIR" in said.err
    assert len([*(cache / "converted").glob("*/dataset.yaml")]) == 1
    content = json.loads((source / "a.json").read_text())
    content["shapes"].pop()
    (source / "a.json").write_text(json.dumps(content))
    assert command_line("data", "check", source, "--quiet") == 0
    assert len([*(cache / "converted").glob("*/dataset.yaml")]) == 2


def test_an_image_that_changed_beside_its_annotations_is_noticed(command_line, cache, tmp_path):
    source = tmp_path / "coco"
    shutil.copytree(FIXTURES / "datumaro-coco_instances", source)
    (about,) = source.glob("annotations/*train*.json")
    (source / "further").mkdir()
    for times in (1, 2):
        command_line("data", "check", about, "--quiet")
        assert len([*(cache / "converted").glob("*.lock")]) == times
        (source / "further" / "new.png").touch()


@pytest.mark.usefixtures("cache")
def test_check_of_nothing_known_is_told_as_before(command_line, tmp_path, capsys):
    assert command_line("data", "check", tmp_path, "--quiet") == 2
    assert "has no dataset.yaml" in capsys.readouterr().err


@pytest.mark.usefixtures("cache")
def test_evaluate_and_train_take_annotations(command_line, random_model, tmp_path, capsys):
    source = FIXTURES / "datumaro-coco_instances"
    words = ("--data", source, "--split", "val", "--quiet")
    assert command_line("evaluate", random_model, *words) == 2
    said = capsys.readouterr().err
    assert "is COCO, 2 images" in said
    assert "background" in said  # whose classes are others than the model's
    out = tmp_path / "run"
    assert command_line("train", "--data", source, "--out", out, "--model", "x", "--quiet") == 2
    assert not out.exists()
