"""Normalisation in few passes, against torch's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("numba")

from fullconv.kernels.batch_norm_cpu import Gradients, Normalisation, Statistics
from fullconv.kernels.openmp import has_torch_threads

pytestmark = pytest.mark.skipif(not has_torch_threads(), reason="torch runs on other threads")

INFINITE = float("inf")
BOUNDS = [(0.0, 6.0), (0.0, INFINITE), (-INFINITE, INFINITE)]
SHAPES = [(1, 1, 1, 2), (2, 3, 5, 7), (3, 16, 11, 9), (2, 33, 1, 40), (4, 70, 23, 19)]


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [1, 2])
def test_as_float64(dtype, shape, bounds, parts):
    torch.manual_seed(0)
    features = channels_last((100 + 3 * torch.randn(shape)).to(dtype))
    weight, bias = torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    gradient = channels_last(torch.randn(shape).to(dtype))
    exact = [each.double().requires_grad_() for each in (features, weight, bias)]
    unclamped = F.batch_norm(exact[0], None, None, exact[1], exact[2], training=True)
    expected = unclamped.clamp(*bounds)
    near = torch.stack([(unclamped - bound).abs() for bound in bounds]).amin(0) < 1e-3
    gradient[near] = 0  # there rounding alone would decide
    expected.backward(gradient.double())

    statistics = Statistics(features)
    for some in torch.tensor_split(features, parts):
        if len(some):
            statistics.add(some)
    norm = Normalisation(statistics, weight, bias, 1e-5, bounds)
    mean = features.double().mean((0, 2, 3)).numpy()
    variance = features.double().var((0, 2, 3), correction=0).numpy()
    assert np.allclose(norm.mean, mean, rtol=1e-7)
    assert np.allclose(norm.variance, variance, rtol=1e-4, atol=1e-6)
    assert norm.count == features.numel() / shape[1]

    result = norm.applied(features)
    assert result.dtype == dtype and result.stride() == features.stride()
    one = 2**-8 if dtype == torch.bfloat16 else 2e-4  # of a difference of large numbers
    assert torch.allclose(result.double(), expected.detach(), rtol=one, atol=2e-4)

    found, passed = Gradients(norm), torch.empty_like(features)
    found.add(gradient, features)
    found.to_features(gradient, features, passed)
    assert torch.allclose(passed.double(), exact[0].grad, rtol=2 * one, atol=1e-3)
    to_weight, to_bias = found.to_parameters()
    scale = gradient.double().abs().sum((0, 2, 3))
    assert ((to_weight.double() - exact[1].grad).abs() <= 1e-3 * scale).all()
    assert ((to_bias.double() - exact[2].grad).abs() <= 1e-5 * scale).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_on_the_way(dtype):
    torch.manual_seed(0)
    features, gradient = (channels_last(torch.randn(2, 5, 31, 17).to(dtype)) for _ in range(2))
    copies = [torch.zeros_like(features) for _ in range(2)]
    statistics = Statistics(features)
    statistics.add(features, copies[0])
    norm = Normalisation(statistics, torch.ones(5), torch.zeros(5), 1e-5, (0, 6))
    Gradients(norm).add(gradient, features, copies[1])
    assert copies[0].equal(features) and copies[1].equal(gradient)


def test_bfloat16_is_rounded_as_torch_does():
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite() & (every.abs() < 1e38)].view(1, 1, 1, -1)
    statistics = Statistics(channels_last(torch.tensor([[[[-1.0, 1.0]]]])))
    statistics.add(channels_last(torch.tensor([[[[-1.0, 1.0]]]])))
    for factor in (1.0, 1.1, 0.3333):
        weight, bias = torch.tensor([factor]), torch.zeros(1)
        norm = Normalisation(statistics, weight, bias, 0.0, (-INFINITE, INFINITE))
        expected = (every.float() * weight).bfloat16()
        assert norm.applied(channels_last(every)).equal(expected)


@pytest.mark.parametrize("bad", [float("nan"), INFINITE])
def test_what_is_no_number_is_not_hidden(bad):
    features = channels_last(torch.randn(2, 3, 4, 5))
    features[1, 2, 3, 4] = bad
    statistics = Statistics(features)
    statistics.add(features)
    with np.errstate(invalid="ignore"):
        norm = Normalisation(statistics, torch.ones(3), torch.zeros(3), 1e-5, (0, 6))
        result = norm.applied(features)
    assert result[:, :2].isfinite().all() and result[:, 2].isnan().all()
    found, passed = Gradients(norm), torch.empty_like(features)
    found.add(torch.ones_like(features), features)
    found.to_features(torch.ones_like(features), features, passed)
    assert passed[:, 2].isnan().all()


def test_a_cell_far_off_costs_no_precision():
    torch.manual_seed(0)
    features = channels_last(torch.randn(4, 3, 64, 64))
    features[0, :, 0, 0] = 100
    statistics = Statistics(features)
    statistics.add(features)
    exact = features.double().var((0, 2, 3), correction=0).numpy()
    assert np.allclose(statistics.moments()[1], exact, rtol=2e-6)


def test_threads_may_become_more_in_between():
    features = channels_last(torch.randn(2, 3, 20, 20))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        statistics = Statistics(features)
        torch.set_num_threads(4)
        statistics.add(features)
    finally:
        torch.set_num_threads(before)
    assert np.allclose(statistics.moments()[0], features.double().mean((0, 2, 3)).numpy())
