"""AdamW whose moments are rounded at random, against its formulas in float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")

from fullconv.kernels.adamw_cpu import Settings, adamw_step
from fullconv.kernels.openmp import has_torch_threads

pytestmark = pytest.mark.skipif(not has_torch_threads(), reason="torch runs on other threads")

SETTINGS = Settings(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)


def drawn(count):
    """Return weights, a gradient and moments."""
    torch.manual_seed(0)
    weights, gradient = torch.randn(count), torch.randn(count) * 1e-3
    first, second = torch.randn(count) * 1e-3, torch.rand(count) * 1e-5
    return weights, gradient, (first.bfloat16(), second.bfloat16())


def exact(weights, gradient, moments, step):
    """Return what becomes of weights and moments, in float64."""
    weights, gradient, first, second = (each.double() for each in (weights, gradient, *moments))
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    by = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return weights * (1 - 0.01 * 0.1) - 0.01 * by, (first, second)


def neighbours(value):
    """Return the bfloat16 towards 0 from a number, and the next one away from it."""
    bits = value.float().view(torch.int32)
    lower = (bits >> 16 << 16).view(torch.float32)
    return lower.double(), ((bits >> 16) + 1 << 16).view(torch.float32).double()


@pytest.mark.parametrize("count", [1, 7, 64, 1000, 4099])
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_a_step(count, step):
    weights, gradient, moments = drawn(count)
    expected, exact_moments = exact(weights, gradient, moments, step)
    adamw_step(weights, gradient, moments, SETTINGS, step, seed=3)
    torch.testing.assert_close(weights.double(), expected, rtol=2e-6, atol=2e-7)
    for found, one in zip(moments, exact_moments, strict=True):
        around = neighbours(one)
        close = [torch.isclose(found.double(), each, rtol=1e-5, atol=0) for each in around]
        assert (close[0] | close[1]).all()


def test_rounding_loses_nothing_on_average():
    count = 1 << 20
    weights, gradient = torch.zeros(count), torch.full((count,), 1.0)
    moments = tuple(torch.full((count,), value, dtype=torch.bfloat16) for value in (2.0, 3.0))
    adamw_step(weights, gradient, moments, SETTINGS, 1, seed=0)
    for moment, expected, gap in zip(moments, (1.9, 2.998), (2**-7, 2**-6), strict=True):
        assert len(moment.unique()) == 2
        # The mean of so many drawn from two values a gap apart lies as near, six sigma allowed.
        assert moment.double().mean().item() == pytest.approx(expected, abs=3 * gap / count**0.5)
    ups = [(moment == moment.max()).double() for moment in moments]
    ups = torch.stack(ups) - torch.stack(ups).mean(1, keepdim=True)
    assert abs((ups[0] * ups[1]).mean().item()) < 6 * 0.25 / count**0.5  # drawn independently


def test_the_second_moment_follows_though_its_changes_are_small():
    count, steps = 1 << 14, 400
    weights, gradient = torch.zeros(count), torch.ones(count)
    moments = tuple(torch.zeros(count, dtype=torch.bfloat16) for _ in range(2))
    nearest, variance = torch.zeros(1, dtype=torch.bfloat16), 0.0
    for step in range(1, steps + 1):
        adamw_step(weights, gradient, moments, SETTINGS, step, seed=step * 7919)
        nearest = (nearest.float() + (1 - nearest.float()) * 0.001).bfloat16()
        lower, upper = neighbours(torch.tensor(1 - 0.999**step))
        variance += (upper - lower).item() ** 2 / 4  # at most, of one draw between the two
    expected = 1 - 0.999**steps
    assert moments[1].double().mean().item() == pytest.approx(expected, rel=0.002)
    assert moments[1].double().std().item() < variance**0.5 < 0.04 * expected
    assert nearest.item() < 0.8 * expected  # where rounding to the nearest stands still


def test_what_is_drawn_follows_from_the_seed():
    found = []
    for seed in (0, 0, 2**32 - 1):
        weights, gradient, moments = drawn(5000)
        adamw_step(weights, gradient, moments, SETTINGS, 1, seed)
        found.append(moments[0])
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


def test_huge_gradients_stop_weights_but_spoil_none():
    weights, _, moments = drawn(100)
    before = weights.clone()
    for step in (1, 2):
        adamw_step(weights, torch.full((100,), 1e22), moments, SETTINGS, step, 0)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights, before * (1 - 0.01 * 0.1) ** 2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_weights(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = drawn(1001)
    adamw_step(*found, SETTINGS, 1, 0)
    monkeypatch.undo()
    other = drawn(1001)
    adamw_step(*other, SETTINGS, 1, 0)
    assert found[0].equal(other[0])
    assert all(one.equal(same) for one, same in zip(found[2], other[2], strict=True))


def test_all_must_lie_alike():
    weights, gradient, moments = drawn(12)
    with pytest.raises(AssertionError):
        adamw_step(weights.view(3, 4), gradient.view(4, 3).t(), moments, SETTINGS, 1, 0)
    with pytest.raises(AssertionError, match="float32"):
        adamw_step(weights, gradient, tuple(each.float() for each in moments), SETTINGS, 1, 0)
