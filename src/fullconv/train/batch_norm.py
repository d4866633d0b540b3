"""Batch normalisation over the images of a batch that several processes share.

Each process sees a slice of every batch. Normalised by the statistics of the whole, its images are
what they would be in a single process, and so are all gradients. Torch's own SyncBatchNorm does so
on GPUs alone, and in the place of layers; here calls of ``F.batch_norm`` are caught, whatever
layer makes them, and the layers stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from fullconv.base.processes import Processes

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.train.recipe import Recipe


def normalises(net: FCN, recipe: Recipe) -> bool:
    """Tell whether a net normalises batches by their own statistics while it learns."""
    learns = recipe.batch_norm == "learned"
    return learns and any(isinstance(layer, _BatchNorm) for layer in net.modules())


def shared_statistics(processes: Processes) -> AbstractContextManager[Any]:
    """Return what layers are called in, so that they normalise over what all `processes` see."""
    return nullcontext() if processes.count == 1 else _SharedStatistics(processes)


class _SharedStatistics(TorchFunctionMode):
    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self.batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        *,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Do as ``F.batch_norm``."""
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
        how = eps, self.processes
        normalised, mean, variance, count = _Normalised.apply(input, weight, bias, how)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
        return normalised  # type: ignore[no-any-return]


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        how: tuple[float, Processes],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        eps, processes = how
        mean, variance, count = _statistics(input, processes)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(input, weight, mean.float(), scale.float(), count)
        ctx.processes = processes
        ctx.mark_non_differentiable(mean, variance, count)
        own = mean.float(), variance.float()
        normalised = F.batch_norm(input, *own, weight, bias, training=False, eps=eps)
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, scale, count = ctx.saved_tensors
        gradient, shape = gradients[0].float(), (1, -1, *(1,) * (input.dim() - 2))
        others = [dimension for dimension in range(input.dim()) if dimension != 1]
        normalised = (input.float() - mean.view(shape)) * scale.view(shape)
        to_bias, to_weight = gradient.sum(others), (gradient * normalised).sum(others)
        by_bias, by_weight = ctx.processes.total(torch.stack([to_bias, to_weight])).div(count)
        through = (
            gradient - by_bias.float().view(shape) - normalised * by_weight.float().view(shape)
        )
        factor = scale if weight is None else scale * weight
        to_input = (through * factor.view(shape)).to(input.dtype)
        learnt = (None, None) if weight is None else (to_weight, to_bias)
        return to_input, *learnt, None


def _statistics(input: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance of each channel over all processes, and of how many values.

    In float64, combined as Chan, Golub and LeVeque (1983) do: no large sum is taken from another.
    """
    others = [dimension for dimension in range(input.dim()) if dimension != 1]
    variance, mean = torch.var_mean(input.float(), others, correction=0)
    count = mean.new_tensor([input.numel() // input.shape[1]])
    every = processes.stacked(torch.cat([mean, variance, count]).double())
    means, variances, counts = every.tensor_split((len(mean), 2 * len(mean)), 1)
    whole = counts.sum()
    middle = (means * counts).sum(0) / whole
    spread = ((variances + (means - middle).square()) * counts).sum(0) / whole
    return middle, spread, whole
