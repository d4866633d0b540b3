"""Fused kernels against torch's own interpolation, argmax and cross entropy in float64."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NarrowVGG, lively, narrow_caffe_vgg, random_scores
from torch.nn import functional as F

from fullconv import FCN
from fullconv.kernels import cross_entropy, openmp, upsample_argmax, upsample_cross_entropy
from fullconv.kernels.argmax import plain
from fullconv.kernels.bilinear import axes, extended


def upsampled(scores, factor, size, offset, edge):
    """Bilinear interpolation in float64, pixel by pixel: weights max(0, 1 - distance)."""
    offsets = offset if isinstance(offset, tuple) else (offset, offset)
    matrices = []
    for cells, length, given_ in zip(scores.shape[-2:], size, offsets, strict=True):
        shift = (1 - factor) / 2 if given_ is None else given_
        at = (torch.arange(length, dtype=torch.float64) + shift) / factor
        if edge == "replicate":
            at = at.clamp(0, cells - 1)
        cell = torch.arange(cells, dtype=torch.float64)
        matrices.append((1 - (at[:, None] - cell).abs()).clamp(min=0))
    return torch.einsum("yi,ncij,xj->ncyx", matrices[0], scores.double(), matrices[1])


def assert_labels(labels, scores, factor, size, offset, edge):
    """Equal to the argmax wherever the two best scores differ by more than 1e-6 relatively."""
    full = upsampled(scores, factor, size, offset, edge)
    assert labels.shape == (full.shape[0], *size)
    best = full.max(1)
    taken = full.gather(1, labels[:, None].long())[:, 0]
    wrong = labels != best.indices
    assert ((best.values - taken)[wrong] <= 1e-6 * best.values[wrong].abs()).all()
    assert wrong.double().mean() < 1e-3


SHAPES = st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 6), st.integers(1, 6))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    shape=SHAPES,
    factor=st.sampled_from([1, 2, 3, 4, 8, 16, 32]),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    halves=st.tuples(st.integers(-70, 70), st.integers(-70, 70)),
    edge=st.sampled_from(["replicate", "zero"]),
    kind=st.sampled_from(["noise", "smooth", "equal"]),
    seed=st.integers(0, 1000),
)
def test_labels_of_every_geometry(shape, factor, size, halves, edge, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    if kind == "smooth":
        scores = F.avg_pool2d(scores, 3, 1, 1)
    if kind == "equal":
        scores = scores.round()
    offset = (halves[0] / 2, halves[1] / 2)
    labels = upsample_argmax(scores, factor, size, offset, edge)
    assert labels.dtype == torch.uint8
    assert_labels(labels, scores, factor, size, offset, edge) if kind != "equal" else None
    vertical, horizontal = axes(scores, factor, size, offset)
    reference = plain(extended(scores, vertical, horizontal, edge), vertical, horizontal)
    full = upsampled(scores, factor, size, offset, edge)
    differ = labels != reference  # only where scores are equal up to rounding
    taken, other = (full.gather(1, each[:, None].long())[:, 0] for each in (labels, reference))
    assert ((taken - other)[differ].abs() <= 1e-12 * taken[differ].abs().clamp(min=1)).all()


@pytest.mark.parametrize("edge", ["replicate", "zero"])
@pytest.mark.parametrize("classes", [1, 2, 21, 150, 256, 257, 300])
def test_any_number_of_classes(classes, edge):
    torch.manual_seed(classes)
    scores = torch.randn(2, classes, 9, 11)
    labels = upsample_argmax(scores, 8, (70, 83), edge=edge)
    assert labels.dtype == (torch.uint8 if classes <= 256 else torch.int32)
    assert_labels(labels, scores, 8, (70, 83), None, edge)


def test_default_offset_is_torchs_without_aligned_corners():
    scores = torch.randn(2, 5, 6, 7)
    expected = F.interpolate(scores.double(), scale_factor=4, mode="bilinear").argmax(1)
    assert upsample_argmax(scores, 4, (24, 28)).equal(expected.byte())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_precisions_and_layouts(dtype, layout):
    scores = torch.randn(2, 5, 6, 7, dtype=torch.double).to(dtype).contiguous(memory_format=layout)
    assert_labels(
        upsample_argmax(scores, 8, (40, 50)), scores.float(), 8, (40, 50), None, "replicate"
    )


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("padding", [None, 100])
def test_the_end_of_a_net(stride, padding):
    """Both kernels on a net's coarse scores do what its last upscore does, at odd sizes."""
    torch.manual_seed(stride)
    trunk = NarrowVGG() if padding is None else narrow_caffe_vgg()
    net = lively(random_scores(FCN(trunk, stride, 5, padding=padding))).eval()
    for size in ((1, 1), (33, 47), (65, 81)):
        with torch.no_grad():
            coarse = net.coarse(torch.randn(1, 3, *size))
            full = net.double().upsample(coarse.double(), size)
            net.float()
        a, b = net.vertical.alignments[-1], net.horizontal.alignments[-1]
        offset, edge = (float(a.shift), float(b.shift)), net.vertical.edge
        assert_labels(
            upsample_argmax(coarse, a.factor, size, offset, edge),
            coarse,
            a.factor,
            size,
            offset,
            edge,
        )
        torch.testing.assert_close(upsampled(coarse, a.factor, size, offset, edge), full)
        target = torch.randint(0, 5, (1, *size))
        expected = F.cross_entropy(full, target)
        actual = upsample_cross_entropy(coarse, target, a.factor, offset, edge)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)


def test_from_several_threads():
    torch.manual_seed(0)
    maps = [torch.randn(1, 9, 8, 8) for _ in range(16)]
    expected = [upsample_argmax(each, 8, (64, 64)) for each in maps]
    barrier = threading.Barrier(4)

    def work(index):
        if index < 4:
            barrier.wait()
        return upsample_argmax(maps[index], 8, (64, 64))

    with ThreadPoolExecutor(4) as pool:
        assert all(a.equal(b) for a, b in zip(pool.map(work, range(16)), expected, strict=True))


PROGRAM = """
import multiprocessing, sys, torch
from fullconv.kernels import upsample_argmax
scores = torch.randn(1, 5, 6, 6)
assert "numba" not in sys.modules  # imported lazily
expected = upsample_argmax(scores, 8, (48, 48))
def child(queue):
    queue.put(bool(upsample_argmax(scores, 8, (48, 48)).equal(expected)))
fork = multiprocessing.get_context("fork")
queue = fork.SimpleQueue()
process = fork.Process(target=child, args=(queue,))
process.start()
assert queue.get()
process.join()
"""


@pytest.mark.slow
def test_after_a_fork_and_lazily():
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch's own others don't outlive a fork
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=600, env=one_thread)


TRITON = """
import torch
from fullconv.kernels.argmax import plain
from fullconv.kernels.argmax_cuda import labels_at
from fullconv.kernels.bilinear import axes, extended
torch.manual_seed(0)
for classes, layout in ((3, torch.contiguous_format), (300, torch.channels_last)):
    scores = torch.randn(2, classes, 4, 5).contiguous(memory_format=layout)
    a, b = axes(scores, 4, (7, 300), (-1.5, 0.0))
    ready = extended(scores, a, b, "replicate")
    assert labels_at(ready, a, b).equal(plain(ready, a, b))
"""


@pytest.mark.slow
def test_triton_interpreted():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", TRITON], check=True, timeout=600, env=environment)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("classes", [2, 21, 150, 300])
def test_on_a_gpu(classes):
    torch.manual_seed(0)
    scores = torch.randn(2, classes, 9, 11, device="cuda")
    labels = upsample_argmax(scores, 8, (70, 83)).cpu()
    assert_labels(labels, scores.cpu(), 8, (70, 83), None, "replicate")
    target = torch.randint(0, classes, (2, 70, 83), device="cuda")
    loss = upsample_cross_entropy(scores, target, 8)
    expected = upsample_cross_entropy(scores.cpu().double(), target.cpu(), 8)
    torch.testing.assert_close(loss.cpu().double(), expected, rtol=1e-5, atol=1e-6)


def test_without_numba(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    scores = torch.randn(2, 5, 6, 7)
    expected = F.interpolate(scores.double(), scale_factor=4, mode="bilinear").argmax(1)
    assert upsample_argmax(scores, 4, (24, 28)).equal(expected.byte())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="must be N,C,h,w"):
        upsample_argmax(torch.randn(5, 6, 7), 4, (24, 28))
    with pytest.raises(ValueError, match="must be 1 or more"):
        upsample_argmax(torch.randn(1, 5, 6, 7), 0, (24, 28))
    scores, target = torch.randn(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="do not fit"):
        upsample_cross_entropy(scores, target[0], 2)
    target[0, 1, 2] = 7
    with pytest.raises(ValueError, match="label 7 is neither one of 3 classes nor 255"):
        upsample_cross_entropy(scores, target, 2)


# The loss ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    shape=SHAPES,
    factor=st.sampled_from([1, 2, 3, 8]),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    halves=st.integers(-9, 9),
    edge=st.sampled_from(["replicate", "zero"]),
    weighted=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradient(shape, factor, size, halves, edge, weighted, reduction, dtype, seed):
    torch.manual_seed(seed)
    scores = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    target = torch.randint(0, shape[1], (shape[0], *size), dtype=torch.uint8)
    target[torch.rand(target.shape) < 0.2] = 255
    target.view(-1)[0] = 0  # at least one counts
    weight = torch.rand(shape[1]) + 0.1 if weighted else None
    offset = halves / 2
    loss = upsample_cross_entropy(
        scores, target, factor, offset, edge, weight=weight, reduction=reduction
    )
    (gradient,) = torch.autograd.grad(loss, scores)
    twin = scores.detach().double().requires_grad_()
    full = upsampled(twin, factor, size, offset, edge)
    expected = F.cross_entropy(
        full,
        target.long(),
        None if weight is None else weight.double(),
        ignore_index=255,
        reduction=reduction,
    )
    (wanted,) = torch.autograd.grad(expected, twin)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    assert abs(float((loss - expected).detach())) <= tolerance * max(float(expected.detach()), 1)
    valid = target[target != 255].long()  # a sure pixel's gradient is the difference of ones
    one = 1 if reduction == "sum" else 1 / (len(valid) if weight is None else weight[valid].sum())
    scale = wanted.abs().max().clamp(min=float(one))
    assert gradient.dtype == dtype
    assert ((gradient.double() - wanted).abs().max() / scale) <= tolerance


@pytest.mark.parametrize("edge", ["replicate", "zero"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(edge, reduction, weighted):
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 3, 5, dtype=torch.double, requires_grad=True)
    target = torch.randint(0, 4, (2, 11, 19))
    target[0, :3] = 255
    weight = torch.rand(4).double() if weighted else None
    assert torch.autograd.gradcheck(
        lambda x: upsample_cross_entropy(
            x, target, 4, -1.5, edge, weight=weight, reduction=reduction
        ),
        (scores,),
    )


def test_nothing_valid():
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.full((1, 16, 16), 255)
    total = upsample_cross_entropy(scores, target, 4, reduction="sum")
    total.backward()
    assert total.detach().eq(0) and scores.grad.eq(0).all()
    assert upsample_cross_entropy(scores, target, 4).isnan()


@pytest.mark.parametrize("band", [1, 100, 10_000, 1 << 30])
def test_any_band_gives_the_same(band, monkeypatch):
    monkeypatch.setattr("fullconv.kernels.cross_entropy.BAND", band)
    torch.manual_seed(0)
    scores = torch.randn(3, 4, 5, 6, dtype=torch.double, requires_grad=True)
    target = torch.randint(0, 4, (3, 33, 40))
    loss = upsample_cross_entropy(scores, target, 8, -2.5)
    expected = F.cross_entropy(upsampled(scores, 8, (33, 40), -2.5, "replicate"), target)
    for ours, theirs in zip(
        (loss, *torch.autograd.grad(loss, scores)),
        (expected, *torch.autograd.grad(expected, scores)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("labels", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize(("classes", "size"), [(2, (1, 1)), (3, (7, 11)), (300, (20, 60))])
def test_softmax_on_torch_s_threads_is_the_plain_one(labels, classes, size):
    if not openmp.has_torch_threads():
        pytest.skip("other threads than GNU's")
    from fullconv.kernels import cross_entropy_cpu as cpu

    torch.manual_seed(0)
    classes = min(classes, 200) if labels == torch.uint8 else classes
    scores = 10 * torch.randn(2, classes, *size)
    truth = torch.randint(0, classes, (2, *size)).to(labels)
    truth[0, 0, 0] = 255
    weight = torch.rand(classes) + 0.5
    exact = scores.double()
    expected = cross_entropy.plain(exact, truth, weight.double(), 255)
    found = cpu.loss_and_gradient(scores, truth, weight, 255)
    for own, their in zip((scores, *found), (exact, *expected), strict=True):
        assert torch.allclose(own.double(), their, rtol=1e-5, atol=1e-6)


def test_the_loss_of_what_is_no_number_is_none():
    for bad in (float("nan"), float("inf")):
        scores = torch.randn(1, 3, 4, 4)
        scores[0, 1, 2, 2] = bad
        truth = torch.zeros(1, 8, 8, dtype=torch.uint8)
        assert not upsample_cross_entropy(scores, truth, 2).isfinite()


def test_extreme_scores_stay_finite():
    """Cells that are sure of different classes: between them neither exponential may vanish."""
    scores = torch.tensor([[200.0, -200.0], [-200.0, 200.0]])[None, :, None].requires_grad_()
    target = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    loss = upsample_cross_entropy(scores, target, 4)
    expected = F.cross_entropy(upsampled(scores, 4, (1, 8), None, "replicate"), target)
    torch.testing.assert_close(loss.double(), expected)
    loss.backward()
    assert scores.grad.isfinite().all()


def test_no_gradient_is_worked_out_where_none_is_wanted():
    scores = torch.randn(1, 3, 4, 4)
    target = torch.randint(0, 3, (1, 16, 16))
    assert not upsample_cross_entropy(scores, target, 4).requires_grad
    assert np.isfinite(float(upsample_cross_entropy(scores, target, 4)))
