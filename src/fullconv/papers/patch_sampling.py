"""Patch sampling: the loss counts a random subset of cells (CVPR 2015, sections 3.4 and 4.3).

A cell of the coarsest scores answers for one patch of the image: its receptive field. Training on
whole images is therefore training on a regular grid of large, overlapping patches, and leaving
cells out of the loss *is* sampling patches, without cutting a single one. The paper tries it to see
whether batches that vary more converge sooner: each cell is kept with probability p by itself, and
the batch has 1/p times the images, so that as many patches count as before.

The verdict: it converges no faster per step, and each step costs 1/p times the images, so training
takes longer. Whole images, every pixel counted, are the better recipe, and fullconv's default.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import torch
from torch import Tensor

from fullconv.base.errors import FullconvError
from fullconv.data.loading import Batch


def sampled_labels(
    labels: Tensor,
    share: float,
    stride: int,
    ignore_index: int = 255,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return labels in which the pixels of a random subset of cells are ignored.

    Each square of ``stride`` x ``stride`` pixels, counted from the top left, is kept with
    probability `share`, independently. The summed loss over what is kept, divided by `share`, is an
    unbiased estimate of the summed loss over the whole image.

    Args:
        labels: N x H x W, or N x K x H x W for the labellings of K heads, which keep the same
            cells. Any integer type; not changed.
        share: probability of keeping a cell, above 0 and at most 1 (every cell).
        stride: side of a cell in pixels: the stride of the net's coarsest scores.
        ignore_index: the label of pixels that don't count.
        generator: source of the draws, on any device. The draws depend on it and on the shape.

    Raises:
        FullconvError: `share` is out of range.
    """
    if not 0 < share <= 1:
        raise FullconvError(f"the share of sampled cells is {share}; give one above 0, up to 1")
    if share == 1:
        return labels
    height, width = labels.shape[-2:]
    cells = (len(labels), -(-height // stride), -(-width // stride))
    source = generator.device if generator else torch.device("cpu")
    dropped = torch.rand(cells, generator=generator, device=source) >= share
    ignored = dropped.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    ignored = ignored[:, :height, :width].to(labels.device)
    return labels.masked_fill(ignored if labels.dim() == 3 else ignored[:, None], ignore_index)


def sampled_batches(
    batches: Iterable[Batch], share: float, stride: int, ignore_index: int
) -> Generator[Batch]:
    """Yield batches in whose labels N,K,H,W only sampled cells count (see `sampled_labels`).

    Every batch is sampled when it is asked for, by torch's own generator.
    """
    for parts, names in batches:
        sampled = [
            part._replace(labels=sampled_labels(part.labels, share, stride, ignore_index))
            for part in parts
        ]
        yield Batch(sampled, names)
