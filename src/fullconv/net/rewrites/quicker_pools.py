"""Poolings that keep a byte a result, and a ReLU before them whose result nobody keeps."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fullconv.dense.grids import windows_of
from fullconv.geometry import Window
from fullconv.kernels.openmp import has_torch_threads
from fullconv.net.rewrites.twin import (
    StandIn,
    Twin,
    channels_last,
    is_workable,
    lie_channels_last,
)

Pool = TypeVar("Pool", bound=nn.MaxPool2d)
MOST_PLACES = 255  # that a byte tells from nowhere


class DeferredReLU(StandIn):
    """A ReLU that leaves its work to the pooling after it, which has less to do for it."""

    def forward(self, input: Tensor) -> Tensor:
        """Return features as they are."""
        return input


class FrugalMaxPool(Twin, nn.MaxPool2d):
    """A max pooling, and the ReLU before it.

    A maximum's place in its window is a byte, where torch keeps 8. Of a ReLU's result nothing else
    would be needed, so that is not kept at all.

    Attributes:
        clamps: whether a ReLU before leaves its work to this layer.
    """

    clamps = False

    def plain(self) -> nn.MaxPool2d:
        """Return torch's own layer."""
        return _in_place_of(self, nn.MaxPool2d)

    def forward(self, input: Tensor) -> Tensor:
        """Pool N x C x H x W features."""
        windows = windows_of(self)
        assert windows is not None
        if not (is_workable(input) and lie_channels_last(input)):
            return self._by_torch(input)
        if not all(w.cells(length) for w, length in zip(windows, input.shape[2:], strict=True)):
            return self._by_torch(input)  # which says what is wrong
        result: Tensor = _Pooled.apply(input, windows, self.clamps)
        return result

    def _by_torch(self, input: Tensor) -> Tensor:
        pooled: Tensor = super().forward(input)
        return F.relu(pooled) if self.clamps else pooled


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, windows: tuple[Window, Window], clamps: bool) -> Tensor:
        from fullconv.kernels.max_pool_cpu import max_pool

        result, places = max_pool(features, windows, clamped=clamps)
        ctx.save_for_backward(places)
        ctx.windows, ctx.size = windows, (features.shape[2], features.shape[3])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from fullconv.kernels.max_pool_cpu import max_pool_gradient

        (places,) = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        return max_pool_gradient(gradient, places, ctx.windows, ctx.size), None, None


def frugal_pool(layer: nn.Module) -> FrugalMaxPool | None:
    """Return the twin of a layer, if it is a max pooling that asks for no indices."""
    if type(layer) is not nn.MaxPool2d or layer.return_indices or not has_torch_threads():
        return None
    windows = windows_of(layer)
    assert windows is not None
    few = math.prod(window.kernel for window in windows) <= MOST_PLACES
    dense = all(window.dilation == 1 for window in windows)
    return _in_place_of(layer, FrugalMaxPool) if few and dense else None


def _in_place_of(layer: nn.MaxPool2d, kind: type[Pool]) -> Pool:
    """Return a pooling of a kind, with the windows and in the mode of another."""
    windows = layer.kernel_size, layer.stride, layer.padding
    return kind(*windows, ceil_mode=layer.ceil_mode).train(layer.training)
