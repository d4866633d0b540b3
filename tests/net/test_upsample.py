"""Frozen upscores against F.interpolate and numpy's interpolation, up to the border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fullconv.geometry import Grid, Window, align
from fullconv.net.upscore import Upscore, bilinear_kernel

FACTORS = (2, 3, 4, 8, 16, 32)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}  # the tents are float32, and thirds are not exact in it


def upscore(vertical, horizontal=None, fine=None, classes=2, edge="replicate"):
    steps = [align(grid, fine or Grid(), edge) for grid in (vertical, horizontal or vertical)]
    return Upscore(classes, *steps, learn=False).double()


def interpolated(scores, places):
    """Interpolate linearly along the last axis at coordinates `places`, clamped to the map."""
    rows = scores.reshape(-1, scores.shape[-1])
    cells = np.arange(scores.shape[-1])
    return np.stack([np.interp(places, cells, row) for row in rows]).reshape(
        *scores.shape[:-1], len(places)
    )


def reference(scores, size, vertical, horizontal):
    """Interpolate at the pixels' places on grids given by (offset, stride), in numpy."""
    rows, columns = (
        (np.arange(length) - float(grid.offset)) / grid.stride
        for length, grid in zip(size, (vertical, horizontal), strict=True)
    )
    across = interpolated(scores.numpy(), columns)
    down = interpolated(across.swapaxes(-1, -2), rows)
    return torch.from_numpy(down.swapaxes(-1, -2).copy())


def test_kernel_is_the_tent_of_caffe():
    """surgery.py: factor (k + 1) // 2, centre factor - 1 for odd k, factor - 0.5 for even k."""
    for size in (1, 3, 4, 15, 16, 63, 64):
        factor = (size + 1) // 2
        centre = factor - 1 if size % 2 else factor - 0.5
        tent = np.array([1 - abs(i - centre) / factor for i in range(size)], dtype=np.float32)
        expected = torch.from_numpy(tent[:, None] * tent)
        torch.testing.assert_close(bilinear_kernel(size, size), expected)


@pytest.mark.parametrize("factor", FACTORS)
def test_equals_interpolate_where_cells_cover_the_pixels_evenly(factor):
    """Cell i covers pixels factor * i onwards, as F.interpolate's align_corners=False has it.

    For even factors the grids differ by half a cell.
    """
    step = upscore(Grid().through(Window(factor, factor)))
    assert step.vertical.kernel == (2 * factor if factor % 2 == 0 else 2 * factor - 1)
    scores = torch.randn(2, 2, 5, 7, dtype=torch.double)
    expected = F.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
    actual = step(scores, (5 * factor, 7 * factor))
    torch.testing.assert_close(actual, expected, **CLOSE)
    assert step(scores[:, :, :1, :1], (factor, factor)).allclose(scores[:, :, :1, :1])


@given(
    st.sampled_from((2, 4, 8, 16)),
    st.integers(1, 40),
    st.integers(0, 19),
    st.integers(1, 60),
    st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_a_resize_gives_the_same(factor, window, padding, height, width):
    """Wherever layers put the cells, aligned with the pixels or half a cell off; in float64."""
    grid = Grid().through(Window(window, factor, min(padding, window // 2)))
    step = upscore(grid)
    cells = [max(1, -(-length // factor)) + 2 for length in (height, width)]
    scores = torch.randn(1, 2, *cells, dtype=torch.double)
    expected = step(scores, (height, width))
    assert step.fade is not None
    found = step.cropped(step.resized(scores), (height, width), step.fade)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, **CLOSE)


def test_what_no_resize_gives():
    grid = Grid().through(Window(8, 8))
    assert upscore(grid, edge="zero").fade is None
    assert upscore(grid, Grid().through(Window(1, 8))).fade is None  # axes that align differently
    learnt = upscore(grid)
    learnt.weight.data[0, 0, 0, 0] += 1
    assert learnt.fade is None


@pytest.mark.parametrize("factor", FACTORS)
def test_equals_numpy_where_the_grids_align(factor):
    """Cell i lies on pixel factor * i: an odd kernel of 2 * factor - 1."""
    grid = Grid().through(Window(2 * factor - 1, factor, factor - 1, factor - 1))
    step = upscore(grid)
    assert step.vertical.kernel == 2 * factor - 1 and grid.offset == 0
    for height, width in ((1, 1), (factor, factor + 1), (4 * factor - 1, 3 * factor + 2)):
        cells = grid.cells(height), grid.cells(width)
        scores = torch.randn(2, 2, *cells, dtype=torch.double)
        expected = reference(scores, (height, width), grid, grid)
        torch.testing.assert_close(step(scores, (height, width)), expected, **CLOSE)


@st.composite
def grids(draw, factor):
    """Any grid of stride `factor`: its centres anywhere from well before pixel 0 to well after."""
    kernel = draw(st.integers(1, 3 * factor))
    before, after = draw(st.integers(0, 2 * factor)), draw(st.integers(0, 2 * factor))
    return Grid().through(Window(kernel, factor, before, after))


@given(st.data(), st.sampled_from((2, 3, 4, 8)), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_equals_numpy_on_any_grid(data, factor, height, width):
    vertical, horizontal = data.draw(grids(factor)), data.draw(grids(factor))
    step = upscore(vertical, horizontal)
    cells = [g.cells(g.covering_size(n)) for g, n in ((vertical, height), (horizontal, width))]
    scores = torch.randn(1, 2, *cells, dtype=torch.double)
    expected = reference(scores, (height, width), vertical, horizontal)
    torch.testing.assert_close(step(scores, (height, width)), expected, **CLOSE)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kernel", [1, 2], ids=["aligned", "half a cell"])
def test_a_linear_ramp_passes_unchanged(factor, kernel):
    """Scores equal to their own pixel coordinates come out as every pixel's coordinates."""
    grid = Grid().through(Window(kernel if kernel == 1 else factor, factor))
    offset = float(grid.offset)
    cells = 6
    places = offset + factor * torch.arange(cells, dtype=torch.double)
    scores = places[:, None].expand(1, 2, cells, cells)
    size = factor * cells
    pixels = torch.arange(size, dtype=torch.double)
    inner = (pixels >= places[0]) & (pixels <= places[-1])
    down = upscore(grid)(scores, (size, size))
    torch.testing.assert_close(down[0, 0, inner, 3], pixels[inner], **CLOSE)
    across = upscore(grid)(scores.mT, (size, size))
    torch.testing.assert_close(across[0, 1, 2, inner], pixels[inner], **CLOSE)
    assert inner.sum() > size - 2 * factor


def test_zero_edges_fade_as_caffe_does():
    """The paper's nets: no replication; beyond the outermost cells scores go to nothing."""
    grid = Grid().through(Window(2, 2))
    step = upscore(grid, edge="zero")
    scores = torch.ones(1, 2, 3, 3, dtype=torch.double)
    enlarged = step(scores, (6, 6))
    assert enlarged[0, 0, 3].tolist() == [0.75, 1, 1, 1, 1, 0.75]


def test_each_class_by_itself():
    step = upscore(Grid().through(Window(4, 4)), classes=3)
    scores = torch.zeros(1, 3, 4, 4, dtype=torch.double)
    scores[0, 1] = 1
    enlarged = step(scores, (16, 16))
    assert enlarged[0, 1].allclose(torch.ones((), dtype=torch.double))
    assert not enlarged[0, [0, 2]].any()


def test_axes_may_lie_differently():
    """An odd kernel down, an even one across."""
    vertical = Grid().through(Window(3, 2, 1, 1))
    horizontal = Grid().through(Window(2, 2))
    step = upscore(vertical, horizontal)
    assert step.weight.shape == (2, 1, 3, 4)
    scores = torch.randn(1, 2, 4, 4, dtype=torch.double)
    expected = reference(scores, (7, 8), vertical, horizontal)
    torch.testing.assert_close(step(scores, (7, 8)), expected)


def test_computes_in_its_own_precision_under_autocast():
    step = upscore(Grid().through(Window(8, 8))).float()
    scores = torch.randn(1, 2, 5, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        enlarged = step(scores, (40, 40))
    assert enlarged.dtype == torch.float32
    assert enlarged.equal(step(scores.float(), (40, 40)))


def test_learning_can_be_switched_and_undone():
    alignment = align(Grid().through(Window(4, 4)), Grid())
    frozen = Upscore(2, alignment, alignment, learn=False)
    learned = Upscore(2, alignment, alignment, learn=True)
    assert not frozen.weight.requires_grad and learned.weight.requires_grad
    learned(torch.ones(1, 2, 3, 3), (12, 12)).sum().backward()
    assert learned.weight.grad.abs().sum() > 0
    with torch.no_grad():
        learned.weight += 1
    learned.reset_parameters()
    assert learned.weight.equal(frozen.weight)
    assert "frozen" in repr(frozen) and "frozen" not in repr(learned)


def test_weights_of_a_frozen_upscore_sum_to_one_for_every_pixel():
    """Interpolation, not amplification: a constant map stays that constant, also at the border."""
    for factor in FACTORS:
        for offset in range(0, 2 * factor, max(1, factor // 2)):
            grid = Grid().through(Window(1 + offset, factor))
            size = 3 * factor + 1
            cells = grid.cells(grid.covering_size(size))
            ones = torch.ones(1, 2, cells, cells, dtype=torch.double)
            enlarged = upscore(grid)(ones, (size, size))
            assert enlarged.shape[-2:] == (size, size)
            torch.testing.assert_close(enlarged, torch.ones_like(enlarged), **CLOSE)
