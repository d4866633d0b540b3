"""A head's labels and losses: the same with and without full-resolution scores."""

from __future__ import annotations

import pytest
import torch
from nets import NarrowVGG, lively, narrow_caffe_vgg, random_scores
from torch import nn
from torch.nn import functional as F

from fullconv import FCN
from fullconv.net.head import Head


def net(padding=None, stride=8, **arguments):
    torch.manual_seed(stride)
    trunk = NarrowVGG() if padding is None else narrow_caffe_vgg()
    made = FCN(trunk, stride, 4, padding=padding, **arguments)
    return lively(random_scores(made)).eval()


def last(head: Head) -> nn.Module:
    return list(head.upscores.values())[-1]


@pytest.mark.parametrize("padding", [None, 100])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
def test_labels_and_losses_are_those_of_the_upscored(padding, learned, size):
    made = net(padding, learn_last_upscore=learned)
    if learned:
        with torch.no_grad():
            last(made.head).weight.mul_(torch.rand(4, 1, 1, 1) + 0.5)
    coarse = made.coarse(torch.randn(2, 3, *size)).detach().requires_grad_()
    truth = torch.randint(0, 4, (2, *size))
    truth[0, 0, 0] = 255
    weight = torch.rand(4)
    scores = made.upsample(coarse, size)
    labels = made.head.labels(coarse, size)
    assert labels.dtype == torch.uint8 and labels.equal(scores.argmax(1).byte())
    losses = made.head.losses(coarse, truth, 255, weight)
    expected = F.cross_entropy(scores, truth, weight, ignore_index=255, reduction="none")
    torch.testing.assert_close(losses, expected.sum((1, 2)))
    scale = torch.tensor([2.0, -3.0])
    (ours,) = torch.autograd.grad((losses * scale).sum(), coarse)
    (theirs,) = torch.autograd.grad((expected.sum((1, 2)) * scale).sum(), coarse)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_only_a_frozen_bilinear_upscore_interpolates():
    """A learned one, or one that was loaded from a net where it was, is applied as it is."""
    frozen, learned = last(net().head), last(net(learn_last_upscore=True).head)
    assert frozen.interpolates and not learned.interpolates
    with torch.no_grad():
        frozen.weight[2, 0, 3, 3] += 1e-3
    assert not frozen.interpolates
    frozen.reset_parameters()
    assert frozen.interpolates
    assert frozen.to(torch.bfloat16).interpolates


def test_a_loaded_upscore_that_differs_is_used(monkeypatch):
    made, other = net(), net(learn_last_upscore=True)
    with torch.no_grad():
        last(other.head).weight.mul_(torch.rand(4, 1, 1, 1) * 3)
    assert last(made.head).interpolates
    made.load_state_dict(other.state_dict())
    monkeypatch.setattr("fullconv.net.head.upsample_argmax", None)  # would fail if it were called
    coarse = made.coarse(torch.randn(1, 3, 40, 50)).detach()
    assert made.head.labels(coarse, (40, 50)).equal(
        made.upsample(coarse, (40, 50)).argmax(1).byte()
    )
