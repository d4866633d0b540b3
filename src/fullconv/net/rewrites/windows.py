"""Layers with a sliding window, as a chain has them: values and gradients apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]
Learnt = Sequence[Tensor | None]  # weight and bias
Gradients = tuple[Tensor, Tensor | None, Tensor | None]  # to features, weight and bias


class Window(Protocol):
    """A layer with a sliding window."""

    def tensors(self) -> tuple[Tensor | None, Tensor | None]:
        """Return weight and bias."""

    def __call__(self, features: Tensor, learnt: Learnt, /) -> Tensor:
        """Return the layer's output N x C x H x W."""

    def gradients(
        self, gradient: Tensor, features: Tensor, learnt: Learnt, needs: Sequence[bool], /
    ) -> Gradients:
        """Return the gradients to features, weight and bias, as far as they are needed."""


@dataclass(frozen=True)
class Convolution:
    """A convolution, after zeros on four sides, if need be.

    Attributes:
        tensors: gives its weight and bias as they are now.
        stride, padding, dilation: down and across.
        groups: of channels.
        margins: of zeros: left, right, top and bottom, in place of what `padding` can't say.
    """

    tensors: Callable[[], tuple[Tensor | None, Tensor | None]]
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    margins: tuple[int, ...] = ()

    def __call__(self, features: Tensor, learnt: Learnt, /) -> Tensor:
        """Convolve."""
        weight, bias = learnt
        assert weight is not None
        padded = F.pad(features, self.margins) if self.margins else features
        return F.conv2d(padded, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def gradients(
        self, gradient: Tensor, features: Tensor, learnt: Learnt, needs: Sequence[bool], /
    ) -> Gradients:
        """See `Window`.

        oneDNN has no fast bfloat16 kernel for a strided depthwise convolution's gradient to its
        features: in float32 it takes a fifth of the time, conversions included.
        """
        weight, bias = learnt
        assert weight is not None
        if self.margins:
            features = F.pad(features, self.margins)
        wanted = [needs[0], needs[1], needs[2] and bias is not None]
        slow = needs[0] and features.dtype == torch.bfloat16 and self._is_strided_depthwise(weight)
        found = self._backward(gradient, features, weight, [wanted[0] and not slow, *wanted[1:]])
        to_features = self._in_float32(gradient, features, weight) if slow else found[0]
        if self.margins and to_features is not None:
            to_features = F.pad(to_features, [-margin for margin in self.margins])
        return to_features, found[1], found[2]

    def _backward(
        self, gradient: Tensor, features: Tensor, weight: Tensor, wanted: Sequence[bool]
    ) -> Any:
        geometry = self.stride, self.padding, self.dilation, False, (0, 0), self.groups
        return torch.ops.aten.convolution_backward(
            gradient, features, weight, [weight.shape[0]], *geometry, wanted
        )

    def _is_strided_depthwise(self, weight: Tensor) -> bool:
        return 1 < self.groups == weight.shape[0] and max(self.stride) > 1 == weight.shape[1]

    def _in_float32(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        result, wide = torch.empty_like(features), weight.float()
        shape = torch.empty((), device=features.device).expand(1, *features.shape[1:])
        for image, made in zip(torch.split(gradient, 1), torch.split(result, 1), strict=True):
            found = self._backward(image.float(), shape, wide, (True, False, False))
            made.copy_(found[0])
        return result


@dataclass(frozen=True)
class Pooling:
    """Windows' largest values; where they lay is found again for the gradient, not kept.

    Attributes:
        kernel, stride, padding, dilation: down and across.
        ceil: whether windows may begin inside and end outside.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil: bool

    def tensors(self) -> tuple[None, None]:
        """Return nothing: there is nothing to learn."""
        return None, None

    def __call__(self, features: Tensor, _: Learnt, /) -> Tensor:
        """Pool."""
        return self._pooled(features)[0]

    def gradients(
        self, gradient: Tensor, features: Tensor, _learnt: Learnt, _needs: Sequence[bool], /
    ) -> Gradients:
        """See `Window`."""
        geometry = self.kernel, self.stride, self.padding, self.dilation, self.ceil
        indices = self._pooled(features)[1]
        found = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient, features, *geometry, indices
        )
        return found, None, None

    def _pooled(self, features: Tensor) -> tuple[Tensor, Tensor]:
        geometry = self.kernel, self.stride, self.padding, self.dilation, self.ceil
        return torch.ops.aten.max_pool2d_with_indices(features, *geometry)  # type: ignore[no-any-return]
