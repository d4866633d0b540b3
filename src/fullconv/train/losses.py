"""Losses of overlap: mean IU counts classes where cross entropy counts pixels.

A class of few pixels hardly matters to cross entropy. What is added to it here, the Lovász
extension of 1 - IU (Berman et al., 2018) or 1 - Dice's coefficient (Milletari et al., 2016), counts
each class that occurs alike. Both are taken at the pixels on which the coarse cells are centred:
they are a fair sample of all, and scores are had there without any enlargement. Of very many cells
some are drawn at random, for the Lovász extension sorts them all for each class.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fullconv.geometry import Chain
from fullconv.train.recipe import Recipe

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN, Scores


MOST_CELLS = 1 << 15


def overlap_loss(net: FCN, coarse: Scores, labels: Tensor, recipe: Recipe) -> Tensor:
    """Return the losses of overlap of coarse scores, as the recipe weighs them; of heads the sum.

    Args:
        net: whose scores they are.
        coarse: its scores N,C,h,w, of several heads by name.
        labels: N,K,H,W.
        recipe: its `lovasz` and `dice` are the weights.

    Returns:
        A float32 scalar, 0 or more; 0 where no cell is centred on a labelled pixel.
    """
    losses = []
    for scores, truth in zip(net.by_head(coarse).values(), labels.unbind(1), strict=True):
        at_cells = cell_labels(net, truth, (scores.shape[2], scores.shape[3]))
        known = _sample(at_cells != net.ignore_index)
        pixels, classes = scores.float().movedim(1, -1)[known], at_cells[known].long()
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


def _centres(chain: Chain, count: int) -> Tensor:
    """Return the pixels nearest to the centres of `count` cells; of two equally near, the first."""
    cells, pixels = chain.fused[-1], chain.pixels
    first = (cells.offset - pixels.offset) / pixels.stride
    stride = Fraction(cells.stride, pixels.stride)
    half = Fraction(1, 2)
    return torch.tensor([math.ceil(first + stride * cell - half) for cell in range(count)])
