"""Grids and alignments against torch's own layers, brute force, and the paper's numbers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fullconv import FullconvError
from fullconv.geometry import (
    Agreement,
    Alignment,
    Enlargement,
    GeometryError,
    Grid,
    SkipGeometry,
    Window,
    align,
    least_padding,
    merge,
)


def through(*windows, start=None):
    grid = start or Grid()
    for window in windows:
        grid = grid.through(window)
    return grid


# Windows against torch -------------------------------------------------------------------------


def torch_cells(layer, size):
    """Run a layer on a row without data; return its length, 0 where torch finds it too small."""
    try:
        return layer(torch.empty(1, 1, 1, size, device="meta")).shape[-1]
    except RuntimeError as error:
        assert "small" in str(error).lower() or "Kernel size can't be greater" in str(error)
        return 0


def test_cells_of_convolutions():
    for kernel, stride, before, after, dilation in product(
        (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (0, 1, 3), (1, 2)
    ):
        weight = torch.empty(1, 1, 1, kernel, device="meta")

        def layer(row, weight=weight, stride=stride, pad=(before, after), dilation=dilation):
            return F.conv2d(F.pad(row, pad), weight, stride=(1, stride), dilation=(1, dilation))

        window = Window(kernel, stride, before, after, dilation)
        for size in range(1, 12):
            assert window.cells(size) == torch_cells(layer, size), (window, size)


@pytest.mark.parametrize("ceil", [False, True])
def test_cells_of_poolings(ceil):
    for kernel, stride, dilation in product((1, 2, 3, 4, 5), (1, 2, 3, 4), (1, 2)):
        for pad in range(kernel // 2 + 1):
            window = Window(kernel, stride, pad, pad, dilation, ceil)

            def layer(row, kernel=kernel, stride=stride, pad=pad, dilation=dilation):
                return F.max_pool2d(
                    row, (1, kernel), (1, stride), (0, pad), (1, dilation), ceil_mode=ceil
                )

            for size in range(1, 14):
                expected = torch_cells(layer, size)
                if expected:
                    assert window.cells(size) == expected, (window, size)
                else:
                    assert window.cells(size) <= 1, (window, size)


@st.composite
def convolutions_and_poolings(draw):
    kernel, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        return Window(kernel, stride, before, after, draw(st.integers(1, 2)))
    pad = draw(st.integers(0, kernel // 2))  # torch allows poolings no more
    return Window(kernel, stride, pad, pad, ceil=True)


windows = convolutions_and_poolings()
chains = st.lists(windows, min_size=1, max_size=5)


@given(windows, st.integers(1, 6))
def test_least_size_of_a_window(window, cells):
    sizes = (size for size in range(1, 100) if window.cells(size) >= cells)
    assert window.least_size(cells) == next(sizes)


@given(chains, st.integers(1, 5))
def test_least_size_of_a_grid(chain, cells):
    grid = through(*chain)
    sizes = (size for size in range(1, 4000) if grid.cells(size) >= cells)
    assert grid.least_size(cells) == next(sizes)


@given(chains, st.integers(1, 300))
def test_cells_of_a_grid_are_those_of_its_windows(chain, size):
    expected = size
    for window in chain:
        expected = window.cells(expected)
    assert through(*chain).cells(size) == expected


def least_covering(grid, size):
    """Search for the least size, from `size` on, with a cell for every started stride."""
    wanted = -(-size // grid.stride)
    return next(padded for padded in range(size, 10_000) if grid.cells(padded) >= wanted)


@given(chains, st.integers(1, 200))
@settings(max_examples=200)
def test_covering_size_covers(chain, size):
    grid = through(*chain)
    padded = grid.covering_size(size)
    assert padded >= size
    assert grid.cells(padded) >= -(-size // grid.stride)


@given(chains, st.integers(1, 200))
@settings(max_examples=200)
def test_covering_size_is_the_least_but_for_ceil_and_cropped_cells(chain, size):
    """It is one rule for all sizes: exact where sizes shrink alike for every number of cells."""
    grid = through(*chain)
    excess = [grid.least_size(cells) - grid.stride * cells for cells in (1, 2, 3)]
    assume(len(set(excess)) == 1)
    assert grid.covering_size(size) == least_covering(grid, size)


needy = st.builds(Window, st.just(3), st.integers(1, 2), *[st.just(1)] * 3, needs=st.integers(2, 5))


@given(st.lists(windows | needy, min_size=1, max_size=4), st.sampled_from([1, 2, 4]))
def test_no_layer_lacks_cells_that_it_needs(chain, factor):
    """From a size on that is the least; ordinary windows need no more than one cell."""
    grid = through(*chain).reduced(factor)

    def runs(size):
        size = -(-size // factor)
        for window in chain:
            if size < window.needs:
                return False
            size = window.cells(size)
        return size > 0

    if any(window.needs > 1 for window in chain):
        least = next(size for size in range(1, 4000) if runs(size))
        assert grid.needs <= least == max(grid.needs, grid.least_size(1))
    else:
        assert grid.needs == 1
    assert all(runs(grid.covering_size(size)) for size in range(1, 40))


# branches: (their windows, the period and the rests of the sizes at which they agree)
BRANCHES = {
    "every second row": ([[Window(1, 2)], [Window(1, 2, before=-1)]], 2, (0,)),
    "padded beside pooled": ([[Window(3, 2, 1, 1)], [Window(2, 2)]], 2, (0,)),
    "unpadded beside pooled": ([[Window(3, 2)], [Window(2, 2)]], 2, (1,)),
    "twice each": ([[Window(3, 2, 1, 1)] * 2, [Window(2, 2)] * 2], 4, (0,)),
    "thirds": ([[Window(3, 3, 1, 0)], [Window(3, 3)]], 3, (0, 1)),
    "rounded alike": ([[Window(3, 2, 1, 1)], [Window(1, 2)], [Window(7, 2, 3, 3)]], 1, (0,)),
    "alike in the end": ([[Window(3, 2, 1, 1), Window(3, 2)], [Window(5, 4)]], 1, (0,)),
    "broadcast": ([[Window(1)], [Window(8)]], 1, (0,)),
}


@pytest.mark.parametrize("case", BRANCHES)
def test_sizes_at_which_branches_agree(case):
    chains, period, rests = BRANCHES[case]
    assert merge([through(*chain) for chain in chains]).agreement == Agreement(period, rests)


@pytest.mark.parametrize("tail", [[], [Window(3, 2, 1, 1)], [Window(3, 2), Window(2, 2)]])
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("case", [name for name in BRANCHES if name != "broadcast"])
def test_branches_agree_at_covering_sizes(case, factor, tail):
    """They are the least at which they do; of other nets the same as before."""
    branches = [through(*chain) for chain in BRANCHES[case][0]]
    grid = through(*tail, start=merge(branches)).reduced(factor)
    plain = replace(grid, agreement=Agreement())

    def agree(size):
        return len({branch.cells(-(-size // factor)) for branch in branches}) == 1

    sizes = range(1, 100)
    for size in sizes:
        later = range(plain.covering_size(size), 400)
        assert grid.covering_size(size) == next(filter(agree, later))
    raised = any(grid.covering_size(size) > plain.covering_size(size) for size in sizes)
    assert grid.disagrees == raised


def test_branches_that_never_agree():
    odd = merge([through(Window(3, 2)), through(Window(2, 2))])
    even = merge([through(Window(1, 2)), through(Window(1, 2, before=-1))])
    with pytest.raises(GeometryError, match="joined never have equally many cells"):
        merge([odd, even])
    with pytest.raises(GeometryError, match="layers of stride 2048 are joined"):
        merge([through(Window(2048, 2048)), through(Window(1, 2048))])


# Receptive fields and centres, by definition ------------------------------------------------------


@given(chains, st.integers(0, 3))
def test_a_cell_sees_from_its_first_tap_to_its_last(chain, cell):
    """Follow the taps of one cell down to the pixels, layer by layer."""
    taps = {cell}
    for window in reversed(chain):
        taps = {
            window.stride * tap - window.before + window.dilation * k
            for tap in taps
            for k in range(window.kernel)
        }
    grid = through(*chain)
    assert grid.stride * cell + grid.first == min(taps)
    assert grid.stride * cell + grid.last == max(taps)
    assert grid.offset + grid.stride * cell == Fraction(min(taps) + max(taps), 2)
    assert grid.receptive_field == max(taps) - min(taps) + 1


def test_merging_spans_all():
    narrow = through(Window(3, 2, 1, 1))
    wide = through(Window(7, 2, 3, 3))
    aside = through(Window(1, 2))
    merged = merge([narrow, aside, wide])
    assert (merged.first, merged.last, merged.stride) == (-3, 3, 2)
    assert merged.bounded and not merge([narrow, wide.unbounded()]).bounded
    assert merge([narrow, through(Window(7, 2, 3, 3, needs=4)), wide]).needs == 4
    with pytest.raises(GeometryError, match=r"strides \[1, 2\] are joined"):
        merge([narrow, Grid()])


# The paper's nets, built by hand (fcn.berkeleyvision.org) -----------------------------------------

POOL = Window(2, 2, ceil=True)


def conv3(times, pad=1):
    return [Window(3, 1, pad, pad)] + [Window(3, 1, 1, 1)] * (times - 1)


def vgg(pad=100):
    """Return the grids of pool3, pool4 and score_fr of the paper's VGG16 nets."""
    pool3 = through(*conv3(2, pad), POOL, *conv3(2), POOL, *conv3(3), POOL)
    pool4 = through(*conv3(3), POOL, start=pool3)
    score = through(*conv3(3), POOL, Window(7), Window(1), Window(1), start=pool4)
    return pool3, pool4, score


def alexnet(pad=100):
    return through(
        Window(11, 4, pad, pad),
        Window(3, 2, ceil=True),
        Window(5, 1, 2, 2),
        Window(3, 2, ceil=True),
        *conv3(3),
        Window(3, 2, ceil=True),
        Window(6),
        Window(1),
    )


def test_receptive_fields_of_the_paper():
    assert vgg()[2].receptive_field == 404  # Table 1
    assert alexnet().receptive_field == 355
    assert vgg()[2].stride == alexnet().stride == 32


def test_crops_of_the_paper_32s():
    step = align(vgg()[2], Grid(), edge="zero")
    assert (step.kernel, step.factor, step.crop) == (64, 32, 19)
    step = align(alexnet(), Grid(), edge="zero")
    assert (step.kernel, step.factor, step.crop) == (63, 32, 18)


def crops(chain):
    """Return of each upscore its kernel, and the crops of the enlarged and of the finer map."""
    return [(step.kernel, step.crop, step.finer_crop) for step in chain.alignments]


def test_crops_of_the_paper_16s_and_8s():
    """Pool4's scores lose 5 cells at the edge, pool3's 9; the last crops are 27 and 31."""
    pool3, pool4, score = vgg()
    assert crops(SkipGeometry.of([score, pool4], "zero")) == [(4, 0, 5), (32, 27, 0)]
    assert crops(SkipGeometry.of([score, pool4, pool3], "zero")) == [
        (4, 0, 5),
        (4, 0, 9),
        (16, 31, 0),
    ]


def test_grid_sizes_of_the_paper():
    """500 -> 698, 349, 175, 88, 44, 22 -> 16 cells."""
    pool3, pool4, score = vgg()
    assert (pool3.cells(500), pool4.cells(500), score.cells(500)) == (88, 44, 16)
    for height in range(1, 3000):
        halved = height + 198
        for _ in range(5):
            halved = -(-halved // 2)
        assert score.cells(height) == halved - 6
        assert 32 * (score.cells(height) - 1) + 64 >= 19 + height


def paper_chains(pad):
    """Return the scored grids of FCN-32s, 16s and 8s on VGG16, and of FCN-AlexNet."""
    pool3, pool4, score = vgg(pad)
    return [score], [score, pool4], [score, pool4, pool3], [alexnet(pad)]


@pytest.mark.parametrize("chain", paper_chains(100))
def test_crops_fit_at_every_size(chain):
    """By maps counted one by one, not by `SkipGeometry.fits`, which must agree."""
    joined = SkipGeometry.of(chain, "zero")
    finest = [step.factor for step in joined.alignments][-1]
    for size in range(1, 2001):
        cells = chain[0].cells(size)
        for grid, step in zip(chain[1:], joined.alignments, strict=False):
            cells = 2 * (cells - 1) + 4
            assert grid.cells(size) >= step.finer_crop + cells, size
        last = joined.alignments[-1]
        assert finest * (cells - 1) + last.kernel >= last.crop + size, size
        assert joined.fits(size)


@pytest.mark.parametrize(
    ("chain", "least"), list(zip(paper_chains(100), (97, 97, 97, 99), strict=True))
)
def test_least_padding_that_fits_every_image(chain, least):
    """The paper pads by 100; 97 (VGG16) and 99 (AlexNet) are the least that do for every size."""
    assert least_padding(chain) == least
    for padding in range(90, 102):
        joined = SkipGeometry.of([grid.repadded(padding) for grid in chain], "zero")
        every = all(joined.fits(size) for size in range(1, 2001))
        assert joined.always_fits == every == (padding >= least), padding


def test_padding_at_which_the_last_crop_is_nothing():
    for build, padding in ((lambda p: vgg(p)[2], 81), (alexnet, 82)):
        assert align(build(padding), Grid(), "zero").crop == 0
        assert build(100).repadded(padding) == build(padding)
        with pytest.raises(GeometryError, match="1 pixels inside the image"):
            SkipGeometry.of([build(padding - 1)], "zero")


def test_a_skip_that_the_coarser_scores_never_cover():
    """Padding the image lengthens both maps alike."""
    fine = through(Window(3, 2, 1, 1), Window(3, 2, 1, 1))
    with pytest.raises(GeometryError, match="no padding up to 1000 pixels"):
        least_padding([fine.through(Window(3, 2, 1, 1, dilation=2)), fine])


def test_an_enlarged_grid_lies_between_its_source_s_cells():
    """Two cells at 0 and 4, enlarged twice by a kernel of 4: cells at -3, -1, 1, 3, 5, 7."""
    enlarged = through(Window(1, 4)).enlarged(Enlargement(4, 2))
    assert (enlarged.stride, enlarged.offset) == (2, -3)
    assert [enlarged.cells(size) for size in (1, 4, 5, 8, 9)] == [4, 4, 6, 6, 8]
    assert [enlarged.least_size(cells) for cells in (1, 4, 5, 6, 7)] == [1, 1, 5, 5, 9]


def test_centres_at_stride_32():
    """15.5 for VGG (five halvings of even windows), 0 for odd padded kernels."""
    plain = through(
        *conv3(2), POOL, *conv3(2), POOL, *conv3(3), POOL, *conv3(3), POOL, *conv3(3), POOL
    )
    assert plain.offset == Fraction(31, 2)
    assert through(Window(7, 2, 3, 3), Window(3, 2, 1, 1), *[Window(3, 2, 1, 1)] * 3).offset == 0


# Alignment ----------------------------------------------------------------------------------------


def test_kernel_parity_follows_the_shift():
    half = align(through(Window(2, 2)), Grid())
    assert (half.shift, half.kernel) == (Fraction(-1, 2), 4)
    whole = align(through(Window(3, 2, 1, 1)), Grid())
    assert (whole.shift, whole.kernel, whole.crop) == (0, 3, 1)


def test_alignment_of_impossible_grids():
    fine = through(Window(4, 4))  # centres at 1.5
    coarse = Grid(stride=8, first=0, last=5)  # at 2.5: a quarter of a fine cell further
    with pytest.raises(GeometryError, match=r"strides 8 and 4 differ by -0\.25 cells"):
        align(coarse, fine)
    with pytest.raises(GeometryError, match="stride 6 is no multiple of stride 4"):
        align(Grid(stride=6), fine)
    assert issubclass(GeometryError, FullconvError)


def taps_of(step, cells, length):
    """Return, for each output cell, the coarse cells with a non-zero weight, by running it."""
    row = torch.eye(cells).reshape(cells, 1, 1, cells)
    if step.before or step.after:
        row = F.pad(row, (step.before, step.after, 0, 0), mode="replicate")
    kernel = torch.ones(1, 1, 1, step.kernel)
    enlarged = F.conv_transpose2d(row, kernel, stride=(1, step.factor))
    read = enlarged[:, 0, 0, step.crop : step.crop + length]
    return [tuple(torch.nonzero(read[:, j]).flatten().tolist()) for j in range(read.shape[1])]


grids = st.builds(lambda chain: through(*chain), st.lists(windows, min_size=1, max_size=3))


@given(grids, st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_an_alignment_covers_every_pixel_and_tells_what_it_reads(grid, size):
    step = align(grid, Grid())
    cells = grid.cells(grid.covering_size(size))
    taps = taps_of(step, cells, size)
    assert len(taps) == size, "the enlarged map is too short"
    for position, read in enumerate(taps):
        first, last = step.cells_read(position)
        assert (min(max(first, 0), cells - 1), min(max(last, 0), cells - 1)) == (read[0], read[-1])
        # Bilinear interpolation is complete: the cells around the pixel's place, clamped.
        place = (position + step.shift) / step.factor
        around = {min(max(int(c), 0), cells - 1) for c in (place // 1, -(-place // 1))}
        assert around <= set(read)


@given(grids, st.integers(1, 3), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_an_alignment_covers_every_cell_of_a_finer_grid(fine, stride, size):
    window = Window(3, stride, 1, 1)
    coarse = fine.through(window)
    step = align(coarse, fine)
    padded = coarse.covering_size(size)
    length = fine.cells(padded)
    assert len(taps_of(step, coarse.cells(padded), length)) == length


def test_pixels_seen_by_hand():
    """Cells of 3 pixels at stride 2, centred on pixels 0, 2, 4...; a pixel reads the two around."""
    grid = through(Window(3, 2, 1, 1))
    chain = SkipGeometry.of([grid])
    assert chain.pixels_seen(4, 11) == (3, 5)  # on cell 2, which sees 3, 4, 5
    assert chain.pixels_seen(5, 11) == (3, 7)  # between cells 2 and 3
    assert chain.pixels_seen(0, 11) == (0, 1)  # the padding is no pixel
    assert chain.pixels_seen(10, 11) == (9, 10)
    assert SkipGeometry.of([grid.unbounded()]).pixels_seen(4, 11) is None


def test_alignments_are_plain_values():
    assert Alignment(2, Fraction(0), 3, 1).cells_read(0) == (0, 0)
    assert Alignment(2, Fraction(0), 3, 1).cells_read(1) == (0, 1)
