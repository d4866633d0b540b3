"""Several settings may follow one --set; without --recipe and --set, a new run takes the usual."""

from __future__ import annotations

import pytest
from coloured_scenes import write_scenes

from fullconv.cli.options import each_set
from fullconv.train.recipe import read_recipe


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--set lr=1", "--set lr=1"),
        ("--set lr=1 seed=2 --resume", "--set lr=1 --set seed=2 --resume"),
        ("--set lr=1 crop=[8,8] seed=2", "--set lr=1 --set crop=[8,8] --set seed=2"),
        ("--set lr=1 --set seed=2 dice=1", "--set lr=1 --set seed=2 --set dice=1"),
        ("--weights color=a --set lr=1", "--weights color=a --set lr=1"),
        ("--set lr=1 --weights color=a seed=1", "--set lr=1 --weights color=a seed=1"),
        ("--set lr=1 stray", "--set lr=1 stray"),
    ],
)
def test_each_setting_gets_its_option(typed, words):
    assert each_set(typed.split()) == words.split()


@pytest.fixture
def asked(monkeypatch):
    """What a training is asked for, which ends there."""
    told = {}

    def run(_, settings, **__):
        told.update(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("fullconv.train.run.run", run)
    return told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], read_recipe("default")),
        (["--resume"], read_recipe("default")),
        (["--resume", "--model", "voc-fcn8s"], read_recipe("voc-fcn8s")),
        (["--set", "lr=0.01", "seed=3"], read_recipe("default", ["lr=0.01", "seed=3"])),
    ],
)
def test_what_a_new_run_is_asked(tmp_path, asked, command_line, words, expected):
    data = write_scenes(tmp_path / "data", train=2)
    command_line("train", "--data", data, "--out", tmp_path / "run", *words, "--quiet")
    assert asked["recipe"] == expected


def test_a_run_that_is_continued_keeps_its_own(tmp_path, asked, command_line):
    (tmp_path / "recipe.yaml").write_text("")
    command_line("train", "--out", tmp_path, "--resume", "--quiet")
    assert "recipe" not in asked
