"""Convolutions with most of a net's weights, a slice of their result at a time.

In bfloat16 a copy of the weights is needed for the forward pass, another for the backward pass, and
the gradient comes in bfloat16 before it is in float32. Of VGG16's first dense layer that is 0.6 GB.
Of a slice at a time it is a small part of that, and no copy is kept. In float32 nothing is cast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fullconv.base.runtime import has_narrow_vectors
from fullconv.net.rewrites.quicker_convolutions import (
    Geometry,
    geometry_of,
    gradients_by_torch,
    has_twin,
    in_place_of,
    prefers_planes,
)
from fullconv.net.rewrites.twin import Twin, channels_last, is_workable

LARGE = 1 << 24  # weights; such a layer is sliced
SLICE = 1 << 23  # weights of a slice, about


class SlicedConvolution(Twin, nn.Conv2d):
    """A convolution without groups that casts its weights slice by slice.

    In float32, without AVX-512, one of 1 x 1 is a product of matrices: oneDNN (3.13) takes 2.6
    times as long for VGG16's second dense layer, forward and backward.
    """

    def plain(self) -> nn.Conv2d:
        """Return torch's own layer."""
        return in_place_of(self, nn.Conv2d)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve N x C x H x W features."""
        if not is_workable(input):
            return super().forward(input)
        if not torch.is_autocast_enabled("cpu"):
            product = self._is_product() and input.dtype == self.weight.dtype == torch.float32
            return self._product(input) if product else super().forward(input)
        low = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            result: Tensor = _Sliced.apply(input.to(low), self.weight, self.bias, geometry_of(self))
        return result

    def _is_product(self) -> bool:
        """Tell whether each cell of the result is of one cell, and sooner found as a product."""
        here = self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0)
        return here and has_narrow_vectors()

    def _product(self, input: Tensor) -> Tensor:
        cells = F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return cells.permute(0, 3, 1, 2)


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.geometry, ctx.biased, kind = geometry, bias is not None, features.dtype
        parts = []
        for some in _slices(weight):
            own = None if bias is None else bias[some].to(kind)
            parts.append(F.conv2d(features, weight[some].to(kind), own, *geometry))
        return channels_last(torch.cat(parts, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (features, weight), gradient = ctx.saved_tensors, gradients[0]
        asked = ctx.needs_input_grad[:2]
        to_features = torch.zeros_like(features, dtype=torch.float32) if asked[0] else None
        to_weight = torch.empty_like(weight) if asked[1] else None
        for some in _slices(weight):
            given = channels_last(gradient[:, some])
            low = weight[some].to(features.dtype)
            part, change = gradients_by_torch(given, features, low, ctx.geometry, asked)
            if to_features is not None and part is not None:
                to_features += part
            if to_weight is not None and change is not None:
                to_weight[some] = change
        to_bias = gradient.sum((0, 2, 3), dtype=torch.float32) if ctx.biased else None
        passed = None if to_features is None else to_features.to(features.dtype)
        return passed, to_weight, to_bias, None


def _slices(weight: Tensor) -> Iterator[slice]:
    """Yield slices of the channels of the result."""
    count = -(-weight.numel() // SLICE)
    each = -(-len(weight) // count)
    for begin in range(0, len(weight), each):
        yield slice(begin, begin + each)


def sliced_convolution(layer: nn.Module) -> SlicedConvolution | None:
    """Return the twin of a layer, if it is a convolution with very many weights."""
    if not (isinstance(layer, nn.Conv2d) and has_twin(layer)):
        return None
    if layer.groups > 1 or layer.weight.numel() < LARGE:
        return None
    if prefers_planes(layer.weight, layer.groups):  # where bfloat16 is only emulated
        return None
    return in_place_of(layer, SlicedConvolution)
