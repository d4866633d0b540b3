"""Patch sampling keeps whole cells, independently, and estimates the loss without bias."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from fullconv.base.errors import FullconvError
from fullconv.papers.patch_sampling import sampled_labels


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_cells_are_kept_or_ignored_whole() -> None:
    labels = torch.randint(0, 5, (3, 50, 70), dtype=torch.uint8, generator=_generator())
    sampled = sampled_labels(labels, 0.5, 16, 255, _generator())
    verdicts = set()
    for n, top, left in itertools.product(range(3), range(0, 50, 16), range(0, 70, 16)):
        cell = slice(top, top + 16), slice(left, left + 16)
        before, after = labels[n][cell], sampled[n][cell]
        kept = bool((after == before).all())
        assert kept or bool((after == 255).all())
        verdicts.add(kept)
    assert verdicts == {True, False}
    assert sampled.dtype == torch.uint8


def test_every_cell_is_drawn_by_itself_with_the_asked_probability() -> None:
    labels = torch.zeros(400, 40, 60, dtype=torch.int64)
    kept = sampled_labels(labels, 0.3, 10, 255, _generator())[:, ::10, ::10] == 0
    kept = kept.flatten(1).double()  # 400 draws of 24 cells
    assert kept.mean(0) == pytest.approx(torch.full((24,), 0.3), abs=0.12)
    assert kept.mean().item() == pytest.approx(0.3, abs=0.02)
    correlations = torch.corrcoef(kept.T) - torch.eye(24)
    assert correlations.abs().max() < 0.25


def test_kept_loss_over_share_is_an_unbiased_estimate_of_the_summed_loss() -> None:
    """Over all 2^4 outcomes of four cells, weighted by their probabilities, equality is exact."""
    share, stride = 0.3, 4
    scores = torch.randn(
        1, 3, 7, 8, dtype=torch.float64, generator=_generator(), requires_grad=True
    )
    labels = torch.randint(0, 3, (1, 7, 8), generator=_generator(1))
    labels[0, 2, 3] = 255  # truth may ignore pixels too

    def loss(target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores, target, ignore_index=255, reduction="sum")

    seen: dict[tuple[bool, ...], torch.Tensor] = {}
    generator = _generator(2)
    for _ in range(2000):
        sampled = sampled_labels(labels, share, stride, 255, generator)
        kept = tuple((sampled[0, ::stride, ::stride] != 255).flatten().tolist())
        seen[kept] = loss(sampled)
    assert len(seen) == 16  # cells tied together never show all sixteen
    probability = {k: share ** sum(k) * (1 - share) ** (4 - sum(k)) for k in seen}
    expected = sum(probability[kept] * value / share for kept, value in seen.items())
    torch.testing.assert_close(expected, loss(labels), rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(expected, scores, retain_graph=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(loss(labels), scores))


def test_heads_keep_the_same_cells_and_images_different_ones() -> None:
    labels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    sampled = sampled_labels(labels, 0.5, 8, 255, _generator())
    assert (sampled[:, 0] == sampled[:, 1]).all()
    assert (sampled[:, 0] == sampled[:, 2]).all()
    assert (sampled[0] != sampled[1]).any()


def test_input_is_left_alone_and_equal_seeds_draw_equal_cells() -> None:
    labels = torch.zeros(1, 33, 33, dtype=torch.uint8)
    first, second = (sampled_labels(labels, 0.5, 4, 9, _generator(5)) for _ in range(2))
    assert (first == second).all()
    assert (first == 9).any()
    assert not labels.any()
    other = sampled_labels(labels, 0.5, 4, 9, _generator(6))
    assert (first != other).any()


def test_share_of_one_keeps_everything() -> None:
    labels = torch.randint(0, 5, (2, 2, 9, 9), dtype=torch.uint8)
    assert (sampled_labels(labels, 1.0, 4, 255, _generator()) == labels).all()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(FullconvError, match="share of sampled cells"):
        sampled_labels(torch.zeros(1, 4, 4, dtype=torch.uint8), share, 2, 255)
