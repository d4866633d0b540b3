"""Losses: cross entropy over pixels, what classes weigh in it, and losses of overlap.

Mean IU counts classes where cross entropy counts pixels: a class of few pixels hardly matters to
it. What is added to it here, the Lovász extension of 1 - IU (Berman et al., 2018) or 1 - Dice's
coefficient (Milletari et al., 2016), counts each class that occurs alike. Both are taken at the
pixels on which the coarse cells are centred: they are a fair sample of all, and scores are had
there without any enlargement. Of very many cells some are drawn at random, for the Lovász extension
sorts them all for each class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from fullconv.base.processes import ALONE, Processes
from fullconv.data.fingerprint import Fingerprint, LabelCounts
from fullconv.data.info import HeadInfo
from fullconv.geometry import SkipGeometry
from fullconv.train.recipe import Recipe

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN, Scores

ClassWeights = Sequence[Tensor]  # float32 (classes,) of each head

MOST_CELLS = 1 << 15
HEAVIEST = 10.0  # a class of a few pixels must not drown all others


def image_losses(
    net: FCN, coarse: Scores, labels: Tensor, class_weights: ClassWeights | None = None
) -> Tensor:
    """Return each image's cross entropy for each head, summed over its valid pixels: float32 N,K.

    Args:
        net: whose heads enlarge the scores.
        coarse: its scores N,C,h,w, of several heads by name.
        labels: N,K,H,W.
        class_weights: what a pixel counts by its class; None: all alike.
    """
    scores = net.by_head(coarse)
    weights: Sequence[Tensor | None] = class_weights or [None] * len(scores)
    losses = [
        head.losses(scores[name], truth, net.ignore_index, weight)
        for (name, head), truth, weight in zip(
            net.heads.items(), labels.unbind(1), weights, strict=True
        )
    ]
    return torch.stack(losses, 1)


def valid_weights(labels: Tensor, ignore_index: int, class_weights: ClassWeights | None) -> Tensor:
    """Return what the valid pixels of labels N,K,H,W weigh together: float32 N,K."""
    valid = labels != ignore_index
    if class_weights is None:
        return valid.sum((2, 3)).float()
    weights = [
        of_head[truth.where(known, 0).long()] * known
        for of_head, truth, known in zip(
            class_weights, labels.unbind(1), valid.unbind(1), strict=True
        )
    ]
    return torch.stack([weight.sum((1, 2)) for weight in weights], 1)


def class_weights(
    found: Fingerprint, heads: Mapping[str, HeadInfo], kind: Literal["softened", "balanced"]
) -> list[Tensor]:
    """Return float32 weights (classes,) of each head.

    Balanced: the median class's frequency over each one's own; softened: the square root of that.

    A class's frequency is its share of the valid pixels of the images that show it (Eigen and
    Fergus, 2015). Weights are at most 10; a class that is not seen has that.

    Args:
        found: the fingerprint of the training images, with what is in their masks.
        heads: whose weights are wanted.
        kind: how much rarer classes weigh more.
    """
    balanced = [_balanced(found.labels[name], len(head.classes)) for name, head in heads.items()]
    return balanced if kind == "balanced" else [weights.sqrt() for weights in balanced]


def _balanced(counts: LabelCounts, classes: int) -> Tensor:
    """Weigh classes by their own pixels and those of the images that show them."""
    pixels, beside = counts.pixels[:classes], counts.beside[:classes]
    weights = np.full(classes, HEAVIEST)
    present = pixels > 0
    frequency = pixels[present] / beside[present]
    if present.any():
        weights[present] = np.minimum(np.median(frequency) / frequency, HEAVIEST)
    return torch.tensor(weights, dtype=torch.float32)


# Of overlap ---------------------------------------------------------------------------------------


def overlap_loss(
    net: FCN, coarse: Scores, labels: Tensor, recipe: Recipe, sharing: Processes = ALONE
) -> Tensor:
    """Return the losses of overlap of coarse scores, as the recipe weighs them; of heads the sum.

    Args:
        net: whose scores they are.
        coarse: its scores N,C,h,w, of several heads by name.
        labels: N,K,H,W.
        recipe: its `lovasz` and `dice` are the weights.
        sharing: processes whose images these are together; gradients go to this one's own scores.

    Returns:
        A float32 scalar, 0 or more; 0 where no cell is centred on a labelled pixel.
    """
    losses = []
    for scores, truth in zip(net.by_head(coarse).values(), labels.unbind(1), strict=True):
        at_cells = cell_labels(net, truth, (scores.shape[2], scores.shape[3]))
        known = _sample(at_cells != net.ignore_index)
        pixels = sharing.joined(scores.float().movedim(1, -1)[known])
        classes = sharing.joined(at_cells[known].long())
        for loss, weight in ((lovasz_loss, recipe.lovasz), (dice_loss, recipe.dice)):
            if weight:
                losses.append(weight * loss(pixels, classes))
    return torch.stack(losses).sum()


def cell_labels(net: FCN, labels: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return the label of the pixel on which each coarse cell is centred.

    Args:
        net: tells where its cells lie.
        labels: N,H,W.
        cells: h and w, how many there are.

    Returns:
        N,h,w; the net's `ignore_index` where a cell is centred beyond the image.
    """
    chains = net.vertical, net.horizontal
    for axis, (chain, count) in enumerate(zip(chains, cells, strict=True), start=1):
        pixels = _centres(chain, count).to(labels.device)
        within = (pixels >= 0) & (pixels < labels.shape[axis])
        shape = [-1 if dimension == axis else 1 for dimension in range(3)]
        labels = labels.index_select(axis, pixels.clamp(0, labels.shape[axis] - 1))
        labels = labels.where(within.view(shape), net.ignore_index)
    return labels


def lovasz_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the Lovász extension of 1 - IU, averaged over the classes that occur: 0 to 1.

    Args:
        scores: of pixels, P x C.
        truth: the class of each, P integers.
    """
    if not len(truth):
        return scores.sum()  # 0, with a gradient
    shares, true = _shares(scores, truth)
    errors, order = (true - shares).abs().sort(dim=1, descending=True)
    true = true.gather(1, order)
    whole = true.sum(1, keepdim=True)
    # What 1 - IU is when all pixels up to this one are wrong; each error weighs what it adds.
    lost = 1 - (whole - true.cumsum(1)) / (whole + (1 - true).cumsum(1))
    weights = lost.diff(dim=1, prepend=torch.zeros_like(whole))
    loss: Tensor = (errors * weights).sum(1).mean()
    return loss


def dice_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - Dice's coefficient, ``2 |A and B| / (|A| + |B|)``, averaged likewise: 0 to 1.

    Args:
        scores: of pixels, P x C.
        truth: the class of each, P integers.
    """
    if not len(truth):
        return scores.sum()
    shares, true = _shares(scores, truth)
    coefficients = 2 * (shares * true).sum(1) / (shares.sum(1) + true.sum(1))
    return 1 - coefficients.mean()


def _sample(known: Tensor) -> tuple[Tensor, ...]:
    """Return the places where a mask is true, or `MOST_CELLS` of them drawn with replacement."""
    places = known.nonzero()
    if len(places) > MOST_CELLS:
        places = places[torch.randint(len(places), (MOST_CELLS,), device=places.device)]
    return places.unbind(1)


def _shares(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of the classes that occur, probabilities and truth at each pixel: classes x P."""
    classes = torch.bincount(truth).nonzero()[:, 0]
    return scores.softmax(1).T[classes], (truth == classes[:, None]).to(scores)


def _centres(chain: SkipGeometry, count: int) -> Tensor:
    """Return the pixels nearest to the centres of `count` cells; of two equally near, the first."""
    cells, pixels = chain.fused[-1], chain.pixels
    first = (cells.offset - pixels.offset) / pixels.stride
    stride = Fraction(cells.stride, pixels.stride)
    half = Fraction(1, 2)
    return torch.tensor([math.ceil(first + stride * cell - half) for cell in range(count)])
