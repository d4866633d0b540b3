"""Poolings that keep no map of where their maxima came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fullconv.dense.grids import pair
from fullconv.kernels.openmp import has_torch_threads
from fullconv.net.rewrites.twin import Twin, channels_last, is_workable, lie_channels_last


class FrugalMaxPool(Twin, nn.MaxPool2d):
    """A max pooling whose windows lie side by side: what it takes tells where maxima came from.

    The layer before keeps that anyway. Torch's own keeps 8 bytes a result besides.
    """

    def plain(self) -> nn.MaxPool2d:
        """Return torch's own layer."""
        plain = nn.MaxPool2d(self.kernel_size, ceil_mode=self.ceil_mode)
        return plain.train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        """Pool N x C x H x W features."""
        keeps = input.requires_grad and torch.is_grad_enabled()
        if not (keeps and is_workable(input) and lie_channels_last(input)):
            return self._by_torch(input)
        window = pair(self.kernel_size)
        down, across = (
            -(-length // side) if self.ceil_mode else length // side
            for length, side in zip(input.shape[2:], window, strict=True)
        )
        if not down or not across:
            return self._by_torch(input)  # which says what is wrong
        result: Tensor = _Pooled.apply(input, window, (down, across))
        return result

    def _by_torch(self, input: Tensor) -> Tensor:
        pooled: Tensor = super().forward(input)
        return pooled


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, window: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        from fullconv.kernels.max_pool_cpu import max_pool

        ctx.save_for_backward(features)
        ctx.window = window
        return max_pool(features, window, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from fullconv.kernels.max_pool_cpu import max_pool_gradient

        (features,) = ctx.saved_tensors
        return max_pool_gradient(channels_last(gradients[0]), features, ctx.window), None, None


def frugal_pool(layer: nn.Module) -> FrugalMaxPool | None:
    """Return the twin of a layer, if it is a max pooling whose windows lie side by side."""
    if (
        type(layer) is nn.MaxPool2d
        and has_torch_threads()
        and pair(layer.stride) == pair(layer.kernel_size)
        and pair(layer.padding) == (0, 0)
        and pair(layer.dilation) == (1, 1)
        and not layer.return_indices
    ):
        return FrugalMaxPool(layer.kernel_size, ceil_mode=layer.ceil_mode).train(layer.training)
    return None
