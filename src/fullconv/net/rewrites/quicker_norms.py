"""Batch normalisations, with the ReLU after them, that pass over features half as often."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import has_torch_function

from fullconv.kernels.openmp import has_torch_threads
from fullconv.net.rewrites.norms import activation_of
from fullconv.net.rewrites.twin import StandIn, channels_last, is_workable, lie_channels_last

if TYPE_CHECKING:
    from fullconv.kernels.batch_norm_cpu import Gradients, Normalisation, Statistics

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)


class Source:
    """What a convolution, whose result a normalisation alone reads, shares with that.

    Attributes:
        statistics: of the result, for the normalisation.
        unfinished: what the gradients are to be found by of a normalisation that, in the backward
            pass, returns the gradient to what it made; and the features that it took. Between the
            two layers the gradient is not torch's then.
    """

    statistics: Statistics | None = None
    unfinished: tuple[Gradients, Tensor] | None = None


class Found(NamedTuple):
    """What normalises some features.

    Attributes:
        norm: does it.
        source: of the features, if it can finish their gradient.
    """

    norm: Normalisation
    source: Source | None

    def passed(self, gradient: Tensor, features: Tensor, found: Gradients) -> Tensor:
        """Return the gradient to features, or that to their result where the source finishes it."""
        if self.source is not None:
            self.source.unfinished = found, features
            return gradient
        result = torch.empty_like(features)
        found.to_features(gradient, features, result)
        return result


class FusedNorm(StandIn, nn.BatchNorm2d):
    """A batch normalisation and the ReLU after it, if any.

    In training on a CPU, on channels_last features in bfloat16 or float32, numba's kernels do the
    work; anything else is worked out by torch, to the same result.

    Attributes:
        relu: the one after it, alone, or nothing.
        bounds: what its result is clamped to.
        deferred: whether it leaves its work to the convolution after it.
    """

    relu: tuple[Clamped, ...] = ()  # tuples: no children
    deferred = False

    def __init__(self, layer: nn.BatchNorm2d, bounds: Bounds) -> None:
        """Take a layer's place; its parameters and buffers stay its own."""
        sizes = layer.num_features, layer.eps, layer.momentum
        nn.BatchNorm2d.__init__(self, *sizes, device="meta")
        self._parameters, self._buffers = layer._parameters, layer._buffers
        self.stood, self.bounds = (layer,), bounds
        self._told: tuple[weakref.ref[Tensor], Source] | None = None
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise and clamp N x C x H x W features, unless that is deferred."""
        result = input
        if not self.deferred and self.fits(input):
            result = _Normalised.apply(input, self.found(input), self.weight, self.bias)
        elif not self.deferred:
            result = self.by_torch(input)
        for relu in self.relu:
            relu.tell(result)
        return result

    def by_torch(self, input: Tensor) -> Tensor:
        """Normalise and clamp features in the plain way, in any mode."""
        normalised = super().forward(input)
        return normalised if self.bounds == UNBOUNDED else clamped(normalised, self.bounds)

    def fits(self, features: Tensor) -> bool:
        """Tell whether features are such that the kernels may take this layer's place."""
        return (
            self.is_free()
            and is_workable(features)
            and lie_channels_last(features)
            and features.numel() > features.shape[1]  # of one value there is no variance
        )

    def is_free(self) -> bool:
        """Tell whether the kernels may work for this layer at all.

        Whoever shares statistics among processes looks at torch's own functions.
        """
        learns = self.training and self.weight.dtype == torch.float32
        return learns and not has_torch_function((self.weight,))

    def tell(self, features: Tensor, source: Source) -> None:
        """Say where features come from that are to be normalised next."""
        self._told = weakref.ref(features), source

    @torch.no_grad()
    def found(self, features: Tensor) -> Found:
        """Return what normalises features, and move the running statistics towards theirs."""
        from fullconv.kernels.batch_norm_cpu import Normalisation, Statistics

        told, self._told = self._told, None
        source = told[1] if told is not None and told[0]() is features else None
        statistics = source.statistics if source else None
        if statistics is None:
            statistics = Statistics(features)
            statistics.add(features)
        norm = Normalisation(statistics, self.weight, self.bias, self.eps, self.bounds)
        assert self.momentum is not None and self.running_mean is not None
        assert self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        unbiased = norm.variance * norm.count / (norm.count - 1)
        self.running_mean.lerp_(torch.from_numpy(norm.mean).float(), self.momentum)
        self.running_var.lerp_(torch.from_numpy(unbiased).float(), self.momentum)
        return Found(norm, source)


class Clamped(StandIn):
    """A ReLU that leaves those features as they are that a normalisation clamps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self._told: weakref.ref[Tensor] | None = None

    def tell(self, features: Tensor) -> None:
        """Say which features come next, and need not be clamped."""
        self._told = weakref.ref(features)

    def forward(self, input: Tensor) -> Tensor:
        """Return N x C x H x W features clamped, here or elsewhere."""
        told, self._told = self._told, None
        if told and told() is input:
            return input
        layer, bounds = self.stood[0], bounds_of(self.stood[0])
        return clamped(input, bounds) if bounds and layer.inplace else layer(input)


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, found: Found, *_learnt: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        ctx.found = found
        return found.norm.applied(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from fullconv.kernels.batch_norm_cpu import Gradients

        (features,), found = ctx.saved_tensors, Gradients(ctx.found.norm)
        gradient = channels_last(gradients[0])
        found.add(gradient, features)
        passed = ctx.found.passed(gradient, features, found) if ctx.needs_input_grad[0] else None
        return passed, None, *found.to_parameters()


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, lowest: float, highest: float) -> Tensor:
        ctx.mark_dirty(features)
        ctx.bounds = lowest, highest
        features.clamp_(lowest, highest)
        ctx.save_for_backward(features)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (clamped,) = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradients[0], clamped, *ctx.bounds)
        return passed, None, None


def clamped(features: Tensor, bounds: Bounds) -> Tensor:
    """Clamp features where they lie, and keep of them what the next layer keeps too.

    Torch's own ReLU6 keeps a copy of what it overwrites, though where that lay strictly between
    the bounds the result tells as well.
    """
    if not (features.requires_grad and torch.is_grad_enabled()):
        return features.clamp_(*bounds)
    result: Tensor = _Clamp.apply(features, *bounds)
    return result


def is_fusible(layer: nn.Module | None) -> bool:
    """Tell whether a layer is a batch normalisation that a `FusedNorm` may stand for."""
    return (
        isinstance(layer, nn.BatchNorm2d)
        and has_torch_threads()
        and own_bounds(layer) is not None
        and layer.affine
        and layer.track_running_stats
        and layer.momentum is not None
    )


def bounds_of(layer: nn.Module | None) -> Bounds | None:
    """Return what a layer clamps its input to, where that is all that it does."""
    if type(layer) is nn.ReLU6:
        return layer.min_val, layer.max_val
    return (0.0, math.inf) if type(layer) is nn.ReLU else None


def own_bounds(layer: nn.Module) -> Bounds | None:
    """Return what a batch normalisation clamps its result to by itself, as timm's may."""
    act = activation_of(layer)
    return UNBOUNDED if type(act) is nn.Identity else bounds_of(act)
