"""`upsample_argmax` on NVIDIA GPUs, a Triton kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fullconv.kernels.bilinear import Axis, label_type

PIXELS = 256  # of a row, a program


def labels_at(scores: Tensor, vertical: Axis, horizontal: Axis) -> Tensor:
    """Return the labels N,H,W of extended coarse scores N,C,h,w, in float64 as elsewhere."""
    count, classes = scores.shape[:2]
    size = (count, vertical.size, horizontal.size)
    labels = torch.empty(size, dtype=label_type(classes), device=scores.device)
    rows, down, columns, across = (
        each.to(scores.device)
        for axis in (vertical, horizontal)
        for each in (axis.lower(), axis.fraction())
    )
    programs = (triton.cdiv(horizontal.size, PIXELS), vertical.size, count)
    _label[programs](
        scores,
        *scores.stride(),
        labels,
        rows,
        down,
        columns,
        across,
        classes,
        vertical.size,
        horizontal.size,
        BLOCK=PIXELS,
    )
    return labels


@triton.jit  # type: ignore[untyped-decorator]
def _label(
    scores: Any,
    image_stride: Any,
    class_stride: Any,
    row_stride: Any,
    column_stride: Any,
    labels: Any,
    rows: Any,
    down: Any,
    columns: Any,
    across: Any,
    classes: Any,
    height: Any,
    width: Any,
    BLOCK: tl.constexpr,  # noqa: N803 (Triton's custom)
) -> None:
    """Label BLOCK pixels of a row."""
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, image = tl.program_id(1), tl.program_id(2)
    inside = x < width
    column = tl.load(columns + x, mask=inside, other=0)
    right = tl.load(across + x, mask=inside, other=0.0)
    below = tl.load(down + y)
    corner = scores + image * image_stride + tl.load(rows + y) * row_stride
    corner = corner + column * column_stride
    value = tl.full((BLOCK,), float("-inf"), tl.float64)
    winner = tl.zeros((BLOCK,), tl.int32)
    for k in range(classes):
        here = corner + k * class_stride
        a = tl.load(here, mask=inside, other=0.0).to(tl.float64)
        b = tl.load(here + column_stride, mask=inside, other=0.0).to(tl.float64)
        c = tl.load(here + row_stride, mask=inside, other=0.0).to(tl.float64)
        d = tl.load(here + row_stride + column_stride, mask=inside, other=0.0).to(tl.float64)
        left = a + below * (c - a)
        score = left + right * (b + below * (d - b) - left)
        better = score > value
        value = tl.where(better, score, value)
        winner = tl.where(better, k, winner)
    place = labels + (image * height + y) * width + x
    tl.store(place, winner.to(labels.dtype.element_ty), mask=inside)
