"""Batch normalisation over several processes, against torch's over the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from side_by_side import side_by_side
from torch import Tensor, nn

from fullconv.base.processes import Processes
from fullconv.train.batch_norm import shared_statistics


def images(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 3, 5, 4, generator=random)
    return features * torch.tensor([1.0, 3.0, 0.5])[:, None, None] + 10  # far from 0


def layer(**options: object) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(3, **options).train()
    if made.affine:
        with torch.no_grad():
            made.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
            made.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    return made


def passed(norm: nn.Module, batch: Tensor, weights: Tensor) -> list[Tensor]:
    """Normalise twice; return what came out, the gradients, and the layer's own state."""
    batch = batch.clone().requires_grad_()
    norm(batch + 1)
    output = norm(batch)
    (output.square() * (weights - 10)).sum().backward()
    return [output, batch.grad, *(each.grad for each in norm.parameters())]


def own(processes: Processes, options: dict[str, object], count: int) -> list[object]:
    norm, block = layer(**options), processes.block(count)
    some = slice(block.start, block.stop)
    with shared_statistics(processes):
        batch, weights = images(count), images(count, 1)
        found = passed(norm, batch[some], weights[some])
    return [*found, norm.state_dict()]


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
@pytest.mark.parametrize("count", [2, 5])
def test_the_batch_is_that_of_all_processes(options: dict[str, object], count: int) -> None:
    exact = layer(**options).double()
    output, gradient, *learnt = passed(exact, images(count).double(), images(count, 1).double())
    parts = side_by_side(own, options, count)
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(np.concatenate([p[0] for p in parts]), output.detach(), **close)
    scale = float(gradient.abs().max())
    of_images = np.concatenate([part[1] for part in parts])
    np.testing.assert_allclose(of_images / scale, gradient / scale, **close)
    for place, expected in enumerate(learnt, start=2):
        found = sum(part[place] for part in parts)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    for name, value in exact.state_dict().items():
        for part in parts:
            np.testing.assert_allclose(part[-1][name], value, rtol=1e-5, err_msg=name)


def test_statistics_that_are_not_learnt_stay() -> None:
    norm = layer().eval()
    before = norm(images(2))
    with shared_statistics(Processes(0, 2)):  # without another to hear from
        torch.testing.assert_close(norm(images(2)), before, rtol=0, atol=0)
