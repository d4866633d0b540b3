"""Fixtures of tests of the training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training import SmallClassifier

from fullconv.net.fcn import FCN


@pytest.fixture
def net() -> FCN:
    """A small FCN with random scores."""
    torch.manual_seed(0)
    made = FCN(SmallClassifier(), 4, 3)
    for score in made.scores.values():
        nn.init.normal_(score.weight)
    return made.train()
