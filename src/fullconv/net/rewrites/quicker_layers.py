"""Layers that train in less time or memory than torch's own, to the same result.

They are swapped in for a training, in the plain layers' places and with their parameters, and out
again wherever the net is written down: what is stored is always the plain layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fullconv.dense.layers import convolution_of

LARGEST_KERNEL = 3  # for whose gradient oneDNN has a fast bfloat16 kernel
MOST_AT_ONCE = 1 << 22  # values of features that are worked on at a time


class Depthwise(nn.Conv2d):
    """A depthwise convolution whose slow gradients are worked out otherwise.

    oneDNN has no fast bfloat16 kernel for the input's gradient where the stride is 2 or more: as a
    convolution of stride 1 it takes a tenth of the time or less. Nor has it one for the weight's
    gradient where the kernel is larger than 3: in float32 it takes a fifth of the time, conversions
    included. Everything else is as in the parent class.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve N x C x H x W features."""
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        low = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.to(low)
            convolved: Tensor = _Convolution.apply(
                input.to(low), self.weight.to(low), bias, self.stride, self.padding, self.dilation
            )
        return convolved


class FrugalReLU6(nn.ReLU6):
    """A ReLU6 in place that keeps its result for the gradient, which the next layer keeps too.

    Torch's own keeps a copy of what it overwrites, though where that lay strictly between 0 and 6
    the result tells as well.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Clamp N x C x H x W features to 0..6, where they lie."""
        if not (input.requires_grad and torch.is_grad_enabled()):
            return super().forward(input)
        clamped: Tensor = _Clamp.apply(input, self.min_val, self.max_val)
        return clamped


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, lowest: float, highest: float) -> Tensor:
        ctx.mark_dirty(features)
        ctx.bounds = lowest, highest
        features.clamp_(lowest, highest)
        ctx.save_for_backward(features)
        return features

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (clamped,) = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradients[0], clamped, *ctx.bounds)
        return passed, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.geometry, ctx.biased = (stride, padding, dilation), bias is not None
        return F.conv2d(features, weight, bias, stride, padding, dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (features, weight), gradient = ctx.saved_tensors, gradients[0]
        rest = (*ctx.geometry, False, (0, 0), len(weight))
        stride, padding, dilation = ctx.geometry
        spread = _is_strided(stride) and min(_margins(weight, padding, dilation)) >= 0
        backward = torch.ops.aten.convolution_backward
        to_features = None
        if ctx.needs_input_grad[0] and spread:
            to_features = _features_gradient(gradient, features, weight, *ctx.geometry)
        elif ctx.needs_input_grad[0]:
            asked = True, False, False
            to_features = backward(gradient, features, weight, None, *rest, asked)[0]
        if _is_large(weight.shape[2:]):
            to_weight = _weight_gradient(gradient, features, weight, rest)
        else:
            asked = False, True, False
            to_weight = backward(gradient, features, weight, None, *rest, asked)[1]
        to_bias = gradient.sum((0, 2, 3)) if ctx.biased else None
        return to_features, to_weight, to_bias, None, None, None


def _margins(weight: Tensor, padding: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """Return by how much, above and beside, what a cell gave to features reaches beyond them."""
    above, beside = (
        apart * (size - 1) - before
        for size, before, apart in zip(weight.shape[2:], padding, dilation, strict=True)
    )
    return above, beside


def _features_gradient(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Return the gradient to the input, in the precision of the features, a few images at a time.

    Cells are spread out, with zeros between them, and convolved by the mirrored kernel.
    """
    result, count = torch.empty_like(features), _at_once(features)
    margins = _margins(weight, padding, dilation)
    rows, columns = (
        length + before - margin
        for length, before, margin in zip(features.shape[2:], padding, margins, strict=True)
    )
    (down, right), mirrored = stride, weight.flip(2, 3)
    cells = slice(0, down * gradient.shape[2], down), slice(0, right * gradient.shape[3], right)
    for some, into in zip(torch.split(gradient, count), torch.split(result, count), strict=True):
        spread = some.new_zeros(len(some), rows, columns, len(weight)).permute(0, 3, 1, 2)
        spread[:, :, *cells] = some
        rest = 1, margins, tuple(dilation), len(weight)
        into.copy_(F.conv2d(spread, mirrored, None, *rest))
    return result


def _weight_gradient(
    gradient: Tensor, features: Tensor, weight: Tensor, rest: tuple[Any, ...]
) -> Tensor:
    """Return the gradient to the weight, worked out in float32, a few images at a time."""
    result, count = torch.zeros_like(weight, dtype=torch.float32), _at_once(features)
    backward, asked = torch.ops.aten.convolution_backward, (False, True, False)
    for some, of in zip(torch.split(gradient, count), torch.split(features, count), strict=True):
        result += backward(some.float(), of.float(), result, None, *rest, asked)[1]
    return result.to(weight.dtype)


def _at_once(features: Tensor) -> int:
    """Return how many images are worked on at a time: few of large maps, to save memory."""
    return max(MOST_AT_ONCE // features[0].numel(), 1)


def quicken(net: nn.Module) -> nn.Module:
    """Swap the faster twins of this file into a net, in place.

    Parameters, their names and the layers' modes stay as they are. Layers with hooks stay, too.
    """
    return _swap(net, _quick)


@contextmanager
def plain_layers(net: nn.Module) -> Iterator[None]:
    """Swap a net's plain layers back in for the body, in which it may be stored."""
    _swap(net, _plain)
    try:
        yield
    finally:
        quicken(net)


def _swap(net: nn.Module, other: Callable[[nn.Module], nn.Module]) -> nn.Module:
    swapped: dict[nn.Module, nn.Module] = {}  # a layer may stand in several places
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            setattr(parent, name, swapped.setdefault(layer, other(layer)))
    return net


def _quick(layer: nn.Module) -> nn.Module:
    """Return the faster twin of a layer, or itself where there is none."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return layer
    if type(layer) is nn.Conv2d and _is_depthwise(layer):
        slow = _is_strided(layer.stride) or _is_large(layer.kernel_size)
        return _convolution(layer, Depthwise) if slow else layer
    if type(layer) is nn.ReLU6 and layer.inplace:
        return FrugalReLU6(inplace=True).train(layer.training)
    return layer


def _plain(layer: nn.Module) -> nn.Module:
    """Return torch's own layer in place of a twin, or a plain layer itself."""
    if isinstance(layer, Depthwise):
        return _convolution(layer, nn.Conv2d)
    if isinstance(layer, FrugalReLU6):
        return nn.ReLU6(inplace=True).train(layer.training)
    return layer


def _convolution(layer: nn.Conv2d, kind: type[nn.Conv2d]) -> nn.Conv2d:
    """Return a convolution of a kind with the geometry and the very parameters of another."""
    geometry = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    made = convolution_of(layer.weight, layer.bias, kind=kind, **geometry)
    return made.train(layer.training)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    return depthwise and isinstance(layer.padding, tuple) and layer.padding_mode == "zeros"


def _is_strided(stride: Sequence[int]) -> bool:
    return max(stride) > 1


def _is_large(kernel: Sequence[int]) -> bool:
    return max(kernel) > LARGEST_KERNEL
