"""Labels straight from coarse scores: bilinear enlargement and argmax in one."""

from __future__ import annotations

import importlib.util
from contextlib import suppress

import torch
from torch import Tensor

from fullconv.geometry import Edge
from fullconv.kernels.bilinear import Axis, Offset, axes, extended, label_type


def upsample_argmax(
    scores: Tensor,
    factor: int,
    size: tuple[int, int],
    offset: Offset = None,
    edge: Edge = "replicate",
) -> Tensor:
    """Return the class with the highest bilinearly enlarged score at each pixel.

    Equal to the argmax over a frozen upscore's result (the first of equals), without ever holding
    full-resolution scores. Interpolation is a convex combination: where the four cells around
    agree on a class, it wins all pixels between them; elsewhere only few classes can win, and only
    they are evaluated, in float64.

    Args:
        scores: coarse scores N,C,h,w of any floating-point type.
        factor: pixels between neighbouring cells.
        size: height and width of the result.
        offset: pixel y samples the coarse coordinate ``(y + offset) / factor``; a pair gives one
            for each axis; None means ``(1 - factor) / 2`` (``align_corners=False``).
        edge: beyond the map lie copies of its edge cells ("replicate"), or zeros ("zero").

    Returns:
        Labels N,H,W on the scores' device: uint8 for up to 256 classes, else int32.

    Raises:
        ValueError: the scores are not N,C,h,w, or a number is not positive.
    """
    vertical, horizontal = axes(scores, factor, size, offset)
    scores = scores.detach()
    if scores.device.type == "cpu" and importlib.util.find_spec("numba"):
        from fullconv.kernels.argmax_cpu import labels_between

        return labels_between(scores, vertical, horizontal, edge)
    scores = extended(scores, vertical, horizontal, edge)
    if scores.device.type == "cuda" and importlib.util.find_spec("triton"):
        from fullconv.kernels.argmax_cuda import labels_at

        with suppress(OSError):  # triton has no place for what it compiles
            return labels_at(scores, vertical, horizontal)
    return plain(scores, vertical, horizontal)


def plain(scores: Tensor, vertical: Axis, horizontal: Axis) -> Tensor:
    """Do the same in plain torch, a row of cells at a time; `scores` are extended already."""
    labels = torch.empty(
        scores.shape[0],
        vertical.size,
        horizontal.size,
        dtype=label_type(scores.shape[1]),
        device=scores.device,
    )
    double = torch.float64 if scores.device.type != "mps" else torch.float32
    columns = horizontal.lower().to(scores.device)
    across = horizontal.fraction().to(scores.device, double)
    lower = vertical.lower()
    for row in range(vertical.count - 1):
        pixels = (lower == row).nonzero().flatten()
        down = vertical.fraction()[pixels].to(scores.device, double)[:, None]
        above, below = (
            torch.lerp(line[..., columns], line[..., columns + 1], across)[..., None, :]
            for line in scores[:, :, row : row + 2].to(double).unbind(2)
        )
        between = torch.lerp(above, below, down)
        labels[:, int(pixels[0]) : int(pixels[-1]) + 1] = between.max(1).indices.to(labels.dtype)
    return labels
