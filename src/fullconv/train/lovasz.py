"""The Lovász loss: intersection over union itself, made differentiable (Berman et al., 2018).

Cross entropy counts pixels, so that a class of few pixels hardly matters; mean IU counts classes.
The Lovász extension of 1 - IU is added to it here, at the pixels on which the coarse cells are
centred: they are a fair sample of all, and scores are had there without any enlargement.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fullconv.geometry import Grid

if TYPE_CHECKING:
    from fullconv.fcn import FCN, Scores


def lovasz_loss(net: FCN, coarse: Scores, labels: Tensor) -> Tensor:
    """Return 1 - mean IU, made differentiable, of coarse scores; of several heads the sum.

    Args:
        net: whose scores they are.
        coarse: its scores N,C,h,w, of several heads by name.
        labels: N,K,H,W.

    Returns:
        A float32 scalar from 0 to K; 0 where no cell is centred on a labelled pixel.
    """
    losses = []
    for scores, truth in zip(net.by_head(coarse).values(), labels.unbind(1), strict=True):
        at_cells = cell_labels(net, truth, (scores.shape[2], scores.shape[3]))
        known = at_cells != net.ignore_index
        losses.append(of_pixels(scores.float().movedim(1, -1)[known], at_cells[known].long()))
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
        pixels = _centres(chain.fused[-1], count).to(labels.device)
        within = (pixels >= 0) & (pixels < labels.shape[axis])
        shape = [-1 if dimension == axis else 1 for dimension in range(3)]
        labels = labels.index_select(axis, pixels.clamp(0, labels.shape[axis] - 1))
        labels = labels.where(within.view(shape), net.ignore_index)
    return labels


def of_pixels(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the Lovász extension of 1 - IU, averaged over the classes that occur.

    Args:
        scores: of pixels, P x C.
        truth: the class of each, P integers.
    """
    if not len(truth):
        return scores.sum()  # 0, with a gradient
    classes = torch.bincount(truth).nonzero()[:, 0]  # those that occur
    true = (truth == classes[:, None]).to(scores)  # classes x P
    errors = (true - scores.softmax(1).T[classes]).abs()
    errors, order = errors.sort(dim=1, descending=True)
    true = true.gather(1, order)
    whole = true.sum(1, keepdim=True)
    # What 1 - IU is when all pixels up to this one are wrong; each error weighs what it adds.
    lost = 1 - (whole - true.cumsum(1)) / (whole + (1 - true).cumsum(1))
    weights = lost.diff(dim=1, prepend=torch.zeros_like(whole))
    loss: Tensor = (errors * weights).sum(1).mean()
    return loss


def _centres(grid: Grid, count: int) -> Tensor:
    """Return the pixels nearest to the centres of `count` cells; of two equally near, the first."""
    first, stride = grid.offset, grid.stride
    return torch.tensor([math.ceil(first + stride * cell - 0.5) for cell in range(count)])
