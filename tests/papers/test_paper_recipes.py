"""The recipes of the paper's nets against what is known of the authors' solvers."""

from __future__ import annotations

from pathlib import Path

import pytest

import fullconv
from fullconv.train.recipe import Recipe, read_recipe, shipped_recipes

# What the authors' repository ran: learning rate, steps. All with SGD, momentum 0.99, decay 5e-4, a
# fixed rate, one whole image a step drawn with replacement, no augmentation, a loss summed over
# pixels, biases at twice the rate and not decayed, upscores not learnt.
SOLVERS = {
    "voc-fcn32s": (1e-10, 100_000),
    "voc-fcn16s": (1e-12, 100_000),
    "voc-fcn8s": (1e-14, 100_000),
    "voc-fcn8s-atonce": (1e-10, 300_000),
    "siftflow-fcn32s": (1e-10, 100_000),
    "siftflow-fcn16s": (1e-12, 100_000),
    "siftflow-fcn8s": (1e-12, 100_000),
    "pascalcontext-fcn32s": (1e-10, 400_000),
    "pascalcontext-fcn16s": (1e-12, 400_000),
    "pascalcontext-fcn8s": (1e-14, 400_000),
    "nyud-fcn32s-color": (1e-10, 100_000),
    "nyud-fcn32s-hha": (1e-10, 100_000),
    "nyud-fcn32s-color-d": (1e-10, 100_000),
    "nyud-fcn32s-color-hha": (1e-12, 100_000),
}
CAFFE = {
    "optimizer": "sgd",
    "momentum": 0.99,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "warmup": 0.0,
    "clip": None,
    "ema": None,
    "batch_size": 1,
    "accumulate": 1,
    "crop": "whole",
    "sampling": "replacement",
    "sampled_cells": 1.0,
    "flip": 0.0,
    "color": 0.0,
    "loss": "sum",
    "class_weights": "none",
    "doubled_biases": "all",
    "learn_upscores": "none",
    "keep": "last",
    "precision": "fp32",
    "epochs": None,
    "minutes": None,
}
# The paper's own comparisons: what differs from the above.
CVPR = {"loss": "image_mean", "accumulate": 20, "momentum": 0.9, "learn_upscores": "inner"}
OTHERS = {
    "voc-fcn-alexnet": {
        "lr": 1e-4,
        "steps": 100_000,
        "momentum": 0.9,
        "accumulate": 20,
        "loss": "image_mean",
        "doubled_biases": "scores",
    },
    "voc-fcn-googlenet": {**CVPR, "lr": 5e-5, "steps": 9_730},
    "voc-fcn32s-cvpr2015": {**CVPR, "lr": 1e-4, "steps": 20_000},
    "voc-fcn32s-accum": {"lr": 1e-10, "steps": 5_000, "momentum": 0.9, "accumulate": 20},
    "voc-fcn32s-online": {"lr": 1e-10, "steps": 100_000, "momentum": 0.9},
}
LEARNING = ("voc-fcn32s-cvpr2015", "voc-fcn32s-accum", "voc-fcn32s-online")  # of one net
EXPECTED = {
    **{name: {**CAFFE, "lr": lr, "steps": steps} for name, (lr, steps) in SOLVERS.items()},
    **{name: {**CAFFE, **other} for name, other in OTHERS.items()},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_recipe_is_the_authors(name: str) -> None:
    recipe = read_recipe(name)
    assert {key: getattr(recipe, key) for key in EXPECTED[name]} == EXPECTED[name]
    rest = Recipe.model_fields.keys() - EXPECTED[name].keys() - {"stage_lr", "seed"}
    assert all(getattr(recipe, key) == Recipe.model_fields[key].default for key in rest)
    assert recipe.seed == 1337


@pytest.mark.parametrize("family", ["voc-fcn{}s", "siftflow-fcn{}s", "pascalcontext-fcn{}s"])
def test_stages_learn_at_the_rates_of_their_own_recipes(family: str) -> None:
    stages = [32, 16, 8]
    rates = [read_recipe(family.format(stride)).lr for stride in stages]
    for last in (16, 8):
        recipe = read_recipe(family.format(last))
        count = stages.index(last) + 1
        assert [recipe.lr * rate for rate in recipe.stage_lr] == pytest.approx(rates[:count])


def test_what_is_shipped_is_what_is_known() -> None:
    folder = Path(fullconv.__file__).parent / "papers" / "recipes"
    shipped = {path.stem for path in folder.glob("*.yaml")}
    assert shipped == EXPECTED.keys()
    assert shipped | {"default", "demo"} == set(shipped_recipes())


@pytest.mark.parametrize("name", EXPECTED)
def test_the_header_has_commands_and_a_sourced_result(name: str) -> None:
    path = Path(fullconv.__file__).parent / "papers" / "recipes" / f"{name}.yaml"
    header = path.read_text("utf-8").split("\n\n")[0]
    commands = [line for line in header.split("\n") if line.startswith("#   fullconv ")]
    assert commands[0].startswith("#   fullconv data get ")
    net = "voc-fcn32s" if name in LEARNING else name
    assert commands[1].startswith(f"#   fullconv train --model {net} ")
    assert f"--out runs/{name}\n" in header
    assert ("--recipe " in header) == (net != name)
    assert "\n# Data: " in header
    assert "\n# Kept are the last weights" in header
    assert "\n# Expect " in header
    assert any(source in header for source in ("README", "CVPR 2015", "PAMI 2016", "none were"))
