"""The losses of overlap: against IU, Dice's coefficient, their definitions, and geometry."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from nets import NarrowVGG, random_scores
from torch import nn

from fullconv import FCN
from fullconv.data.loading import Batch, Part
from fullconv.train import losses as overlap
from fullconv.train.losses import cell_labels, dice_loss, lovasz_loss, overlap_loss
from fullconv.train.recipe import Recipe
from fullconv.train.step import Objective, take_step

torch.manual_seed(0)


def mean_jaccard_loss(labels, truth):
    """Return 1 - IU, averaged over the classes of `truth`."""
    losses = []
    for label in truth.unique():
        own, true = labels == label, truth == label
        losses.append(1 - (own & true).sum() / (own | true).sum())
    return torch.stack(losses).double().mean()


def extension(errors, true):
    """Return the Lovász extension of 1 - IU by its definition: an integral over thresholds.

    At each threshold in 0..1 the pixels whose error exceeds it are wrong.
    """
    loss = 0.0
    thresholds = sorted({0.0, 1.0, *errors.tolist()})
    for low, high in pairwise(thresholds):
        wrong = errors > (low + high) / 2
        missed, added = (wrong & true).sum(), (wrong & ~true).sum()
        loss += (high - low) * float((missed + added) / (true.sum() + added))
    return loss


@pytest.mark.parametrize("classes", [2, 5])
def test_of_certain_scores_it_is_one_minus_iu(classes):
    labels, truth = torch.randint(classes, (2, 200))
    scores = 1e4 * nn.functional.one_hot(labels, classes).double()
    assert lovasz_loss(scores, truth) == pytest.approx(float(mean_jaccard_loss(labels, truth)))


def test_it_is_the_extension_as_defined():
    scores, truth = torch.randn(60, 4, dtype=torch.float64), torch.randint(3, (60,))
    shares = scores.softmax(1)
    expected = [
        extension(((truth == c).double() - shares[:, c]).abs(), truth == c) for c in truth.unique()
    ]
    assert lovasz_loss(scores, truth) == pytest.approx(sum(expected) / len(expected))


def test_dice_of_certain_scores_is_a_matter_of_counting():
    labels, truth = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 1])
    scores = 1e4 * nn.functional.one_hot(labels).double()  # class 2 does not occur
    assert dice_loss(scores, truth) == pytest.approx(1 - (2 / 3 + 4 / 6) / 2)


@pytest.mark.parametrize("loss", [lovasz_loss, dice_loss])
def test_its_gradient_is_right(loss):
    scores = torch.randn(30, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (scores, torch.randint(3, (30,))))


@pytest.mark.parametrize("loss", [lovasz_loss, dice_loss])
def test_without_pixels_it_is_nothing(loss):
    scores = torch.zeros(0, 3, requires_grad=True)
    loss(scores, torch.zeros(0, dtype=torch.long)).backward()
    assert scores.grad is not None


@pytest.mark.parametrize("stride", [8, 32])
@pytest.mark.parametrize("trunk", ["mobilenet_v2", "narrow vgg"])
def test_cells_get_the_labels_of_the_pixels_they_are_centred_on(trunk, stride):
    """Labels are the pixels' own rows or columns; the centre is where a cell's upscore peaks."""
    net = FCN(NarrowVGG() if trunk == "narrow vgg" else trunk, stride, 2)
    height, width = 96, 130
    coarse = net.coarse(torch.zeros(1, 3, height, width))
    cells = coarse.shape[2:]
    rows = torch.arange(height)[:, None].expand(height, width)[None].to(torch.uint8)
    columns = torch.arange(width).expand(height, width)[None].to(torch.uint8)
    own = [cell_labels(net, labels, tuple(cells))[0] for labels in (rows, columns)]
    checked = 0
    for row in range(cells[0]):
        for column in range(cells[1]):
            bump = torch.zeros_like(coarse)
            bump[0, 0, row, column] = 1
            with torch.no_grad():
                peak = net.upsample(bump, (height, width))[0, 0]
            at = int(own[0][row, column]), int(own[1][row, column])
            if 255 in at:
                continue
            inside = [0 < p < n - 1 for p, n in zip(at, (height, width), strict=True)]
            if all(inside) and 0 < row < cells[0] - 1 and 0 < column < cells[1] - 1:
                assert peak[at] == peak.max()
                checked += 1
    assert checked >= 2


def test_cells_centred_beyond_the_image_are_ignored():
    net = FCN(NarrowVGG(), 32, 2)
    labels = cell_labels(net, torch.zeros(1, 40, 40, dtype=torch.uint8), (3, 3))[0]
    assert labels[0, 0] == 0 and (labels[2] == 255).all() and (labels[:, 2] == 255).all()


@pytest.mark.parametrize("recipe", [Recipe(lovasz=1.0), Recipe(dice=2.0)])
def test_a_net_s_loss_ignores_what_is_ignored_and_falls_as_it_learns(recipe):
    net = FCN(NarrowVGG(), 8, 3)
    coarse = torch.randn(2, 3, 4, 4, requires_grad=True)
    truth = torch.randint(3, (2, 1, 32, 32)).to(torch.uint8)
    loss = overlap_loss(net, coarse, truth, recipe)
    loss.backward()
    with torch.no_grad():
        assert overlap_loss(net, coarse - coarse.grad, truth, recipe) < loss
        truth[1] = 255
        of_both = overlap_loss(net, coarse, truth, recipe)
        assert of_both == overlap_loss(net, coarse[:1], truth[:1], recipe) != loss
        assert overlap_loss(net, coarse, torch.full_like(truth, 255), recipe) == 0


@pytest.mark.parametrize("part", [1, 2])
def test_a_step_adds_it_with_its_weight_in_however_many_parts(part):
    net = random_scores(FCN(NarrowVGG(), 8, 3)).eval()  # neither statistics of batches nor dropout
    images = torch.randint(256, (2, 3, 32, 32)).to(torch.uint8).split(part)
    labels = torch.randint(3, (2, 1, 32, 32)).to(torch.uint8).split(part)
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def gradients(weight):
        batch = Batch([Part(*each) for each in zip(images, labels, strict=True)], ["", ""])
        optimizer = torch.optim.SGD(learnt, 0.0)
        recipe = Recipe(lovasz=weight, dice=2 * weight, clip=None)
        take_step(Objective(net, recipe), optimizer, batch)
        return [parameter.grad.clone() for parameter in learnt]

    recipe = Recipe(lovasz=1.0, dice=2.0)
    losses = [
        overlap_loss(net, net.coarse(net.preprocessing(image)), truth, recipe)
        for image, truth in zip(images, labels, strict=True)
    ]
    expected = torch.autograd.grad(torch.stack(losses).mean(), learnt)
    for plain, both, own in zip(gradients(0.0), gradients(0.5), expected, strict=True):
        torch.testing.assert_close(both, plain + 0.5 * own, rtol=1e-4, atol=1e-6)


def test_of_very_many_cells_some_are_drawn(monkeypatch):
    """What is left of two equal halves, one ignored, is drawn from the other; the mean is near."""
    net, recipe = FCN(NarrowVGG(), 8, 3), Recipe(dice=1.0)
    coarse, truth = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 1, 512, 512)).to(torch.uint8)
    truth[1] = 255
    whole = overlap_loss(net, coarse, truth, recipe)
    monkeypatch.setattr(overlap, "MOST_CELLS", 2000)
    drawn = torch.stack([overlap_loss(net, coarse, truth, recipe) for _ in range(20)])
    assert drawn.std() > 0
    assert float(drawn.mean()) == pytest.approx(float(whole), abs=0.01)
