"""The model card of each net that a run trained."""

from __future__ import annotations

from pathlib import Path

import torch

import fullconv
from fullconv.base.files import write_text
from fullconv.data.info import DatasetInfo
from fullconv.net.card import CARD, Background, card
from fullconv.net.folder import ModelConfig, read_config
from fullconv.train.outcome import Outcome, Trained
from fullconv.train.resolution import strides_told, told


def write_cards(outcome: Outcome, info: DatasetInfo) -> None:
    """Write README.md into the model folder of each net of a run whose trainings have ended.

    Args:
        outcome: of the run.
        info: of its dataset.

    Raises:
        OSError: a file can't be written.
    """
    unscored = {name: head.unscored for name, head in info.heads.items()}
    for trained in outcome.stages:
        config = read_config(trained.folder)
        background = Background(info.name, unscored, tuple(_facts(outcome, trained, config)))
        write_text(trained.folder / CARD, card(config, background))


def _facts(outcome: Outcome, trained: Trained, config: ModelConfig) -> list[tuple[str, str]]:
    """Return what a stranger may know of the training: no path of this machine."""
    settings, recipe, plan = outcome.settings, outcome.settings.recipe, trained.plan
    crop = "whole images" if plan.crop == "whole" else "crops of {} x {} pixels".format(*plan.crop)
    before = outcome.stages[: outcome.stages.index(trained)]
    start = before[-1].name if before else Path(settings.weights).name
    return [
        ("backbone", str(config.net.trunk or "a module of the user's own")),
        ("started from", start),
        ("epochs", f"{plan.epochs:.3g}"),
        ("batch", f"{recipe.step_images} {crop}"),
        ("strides", strides_told(config.net)),
        ("images are seen", told(config.net.scale)),
        ("optimizer", f"{recipe.optimizer}, learning rate {recipe.lr:g}, {recipe.schedule}"),
        ("kept", "the best on val" if recipe.keep == "best" else "the last weights"),
        ("precision", plan.precision),
        ("seed", str(recipe.seed)),
        ("minutes", f"{trained.seconds / 60:.1f}"),
        ("made with", f"fullconv {fullconv.__version__}, torch {torch.__version__}"),
    ]
