"""The loss straight from coarse scores: bilinear enlargement and cross entropy in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fullconv.geometry import Edge
from fullconv.kernels.bilinear import Axis, Offset, axes, extended
from fullconv.kernels.openmp import has_torch_threads

# How many full-resolution scores are held at once: few enough to stay in a CPU's cache, many enough
# to be worth a call; a GPU wants more of them.
BAND, BAND_CUDA = 1 << 19, 1 << 25


def upsample_cross_entropy(
    scores: Tensor,
    target: Tensor,
    factor: int,
    offset: Offset = None,
    edge: Edge = "replicate",
    ignore_index: int = 255,
    weight: Tensor | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Return the cross entropy of bilinearly enlarged scores, differentiable in the coarse ones.

    Equal to ``cross_entropy(upscored, target)`` of a frozen upscore. The full-resolution scores
    exist a band of rows at a time only; the gradient is worked out along with the loss.

    Args:
        scores: coarse scores N,C,h,w; float16 and bfloat16 are worked out in float32.
        target: labels N,H,W of any integer type.
        factor: pixels between neighbouring cells.
        offset: pixel y samples the coarse coordinate ``(y + offset) / factor``; see
            `upsample_argmax`.
        edge: beyond the map lie copies of its edge cells ("replicate"), or zeros ("zero").
        ignore_index: pixels with this label count nowhere.
        weight: of each class, (C,); None for all alike.
        reduction: "sum" over the valid pixels, or "mean" (weighted, as torch's; NaN where none is
            valid), or "none": the sum of each image.

    Returns:
        A scalar, or (N,), of the precision of the computation.

    Raises:
        ValueError: the shapes do not fit, or a label is neither a class nor `ignore_index`.
    """
    if target.ndim != 3 or scores.ndim != 4 or len(target) != len(scores):
        raise ValueError(f"scores {tuple(scores.shape)} do not fit target {tuple(target.shape)}")
    _require_labels(target, scores.shape[1], ignore_index)
    size = (target.shape[1], target.shape[2])
    vertical, horizontal = axes(scores, factor, size, offset)
    values = extended(
        scores if scores.dtype == torch.float64 else scores.float(), vertical, horizontal, edge
    )
    with torch.autocast(scores.device.type, enabled=False):
        losses, masses = _Fused.apply(values, target, vertical, horizontal, ignore_index, weight)
    if reduction == "none":
        return cast(Tensor, losses)
    loss: Tensor = losses.sum() if reduction == "sum" else losses.sum() / masses.sum()
    return loss


def _require_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Refuse foreign labels; not on a GPU, which would have to be waited for."""
    if target.device.type == "cpu":
        foreign = target[(target != ignore_index) & ((target < 0) | (target >= num_classes))]
        if len(foreign):
            raise ValueError(
                f"label {int(foreign[0])} is neither one of {num_classes} classes nor "
                f"{ignore_index}"
            )


class _Fused(torch.autograd.Function):
    """Each image's sum of losses, and of the weights of its pixels that count: both (N,)."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        target: Tensor,
        vertical: Axis,
        horizontal: Axis,
        ignore_index: int,
        weight: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Work out the gradient along with the loss, a band of rows at a time."""
        losses, masses = scores.new_zeros(len(scores)), scores.new_zeros(len(scores))
        down, across = _matrix(vertical, scores), _matrix(horizontal, scores)
        each_class = scores.new_ones(scores.shape[1]) if weight is None else weight.to(scores)
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        images, bands = _bands(scores, vertical, horizontal)
        fused = _loss_and_gradient(scores)
        for some in images:
            wide = scores[some] @ across
            wide_gradient = torch.zeros_like(wide) if gradient is not None else None
            for cells, pixels in bands:
                to_pixels = down[cells, pixels]
                values = to_pixels.T @ wide[:, :, cells]
                truth = target[some, pixels]
                loss, each = fused(values, truth, each_class, ignore_index)
                losses[some] += loss.sum((1, 2))
                masses[some] += each.sum((1, 2))
                if wide_gradient is not None:
                    wide_gradient[:, :, cells] += to_pixels @ values
            if gradient is not None and wide_gradient is not None:
                gradient[some] = wide_gradient @ across.T
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(masses)
        return losses, masses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients of the images that `forward` found."""
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None, None, None], None, None, None, None, None


Fused = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def _loss_and_gradient(scores: Tensor) -> Fused:
    """Return the quickest function that does as `plain` for such scores."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32 and has_torch_threads():
        from fullconv.kernels.cross_entropy_cpu import loss_and_gradient

        return loss_and_gradient
    return plain


def plain(
    scores: Tensor, truth: Tensor, weight: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the cross entropy N,H,W of each pixel, times its weight, and this, in plain torch.

    Args:
        scores: N,C,H,W; the gradient takes their place.
        truth: a class or `ignore_index` of each pixel, N,H,W.
        weight: of each class.
        ignore_index: of pixels that weigh nothing.
    """
    truth = truth.long()
    counts = truth != ignore_index
    truth = torch.where(counts, truth, 0)[:, None]
    each = weight[truth[:, 0]] * counts
    own, highest = scores.gather(1, truth), scores.amax(1, keepdim=True)
    scores.sub_(highest).exp_()
    mass = scores.sum(1, keepdim=True)
    scores.mul_(mass.reciprocal() * each[:, None])
    scores.scatter_add_(1, truth, -each[:, None])
    return (mass.log() + highest - own)[:, 0] * each, each


def _matrix(axis: Axis, like: Tensor) -> Tensor:
    """Return interpolation as a matrix: extended cells x pixels."""
    lower, fraction = axis.lower(), axis.fraction()
    pixels = torch.arange(axis.size)
    matrix = torch.zeros(axis.count, axis.size, dtype=torch.float64)
    matrix[lower, pixels] = 1 - fraction
    matrix[lower + 1, pixels] = fraction
    return matrix.to(like)


def _bands(
    scores: Tensor, vertical: Axis, horizontal: Axis
) -> tuple[list[slice], list[tuple[slice, slice]]]:
    """Return slices of images and, of rows of cells, those that pixels read and those pixels.

    One slice of images by one of rows is as much of the full-resolution scores as is held at once.
    """
    count, classes = scores.shape[:2]
    most = BAND_CUDA if scores.device.type == "cuda" else BAND
    row = classes * vertical.factor * horizontal.size  # the scores of the pixels of a row of cells
    together = min(max(most // row, 1), count)
    at_once = max(most // (row * together), 1)
    lower = vertical.lower()
    bands = []
    for first in range(int(lower[0]), int(lower[-1]) + 1, at_once):
        begin, end = torch.searchsorted(lower, torch.tensor([first, first + at_once])).tolist()
        bands.append((slice(first, int(lower[end - 1]) + 2), slice(begin, end)))
    return [slice(n, n + together) for n in range(0, count, together)], bands
