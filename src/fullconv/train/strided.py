"""Depthwise convolutions that stride, trained in bfloat16 on CPUs without their slow gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution of stride 2 or more whose input gradient is worked out in float32.

    oneDNN has no fast bfloat16 kernel for that gradient: in float32 it takes a fifth of the time,
    conversions included. Everything else is as in the parent class.
    """

    computes_as = nn.Conv2d

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
        features, weight = ctx.saved_tensors
        gradient = gradients[0]
        rest = (*ctx.geometry, False, (0, 0), len(weight))
        backward = torch.ops.aten.convolution_backward
        to_weight = backward(gradient, features, weight, None, *rest, (False, True, False))[1]
        to_features = None
        if ctx.needs_input_grad[0]:
            shape = torch.empty((), device=gradient.device).expand(features.shape)
            wide = backward(
                gradient.float(), shape, weight.float(), None, *rest, (True, False, False)
            )[0]
            to_features = wide.to(features.dtype)
        to_bias = gradient.sum((0, 2, 3)) if ctx.biased else None
        return to_features, to_weight, to_bias, None, None, None


def quicken(net: nn.Module) -> nn.Module:
    """Let the strided depthwise convolutions of a net be `StridedDepthwise`, in place.

    Their parameters and names stay as they are.
    """
    for layer in net.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels == layer.out_channels:
            plain = isinstance(layer.padding, tuple) and layer.padding_mode == "zeros"
            if plain and layer.groups > 1 and max(layer.stride) > 1:
                layer.__class__ = StridedDepthwise
    return net
