"""Chains of layers that read each other alone, trained in one go: less memory, fewer passes.

Between two windows (convolutions, poolings) lie a normalisation and an activation. Layer by layer,
each of these reads and writes all values anew, and both keep them for the gradient. A chain keeps
what its windows gave, and nothing else: what follows from it is worked out again when its gradient
is. And it goes through a link (normalise, clamp, convolve) some images at a time, so that what one
layer writes is still in the cache when the next reads it. Values and gradients are those of the
layers, in whose places it stands while they train on a CPU; they stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import wrap_torch_function

from fullconv.base.processes import ALONE, Processes
from fullconv.net.rewrites.windows import Window

Bounds = tuple[float, float]
AT_ONCE = 2 * 2**20  # bytes a thread of the largest value of a link that is worked on


@dataclass(frozen=True)
class Link:
    """What is done from one window's output to the next one's: normalise, clamp, then that window.

    Attributes:
        norm: None: what the window before gave stays as it is.
        bounds: what the activation clamps to; None: there is none.
        window: None at a chain's end.
    """

    norm: nn.BatchNorm2d | None
    bounds: Bounds | None
    window: Window | None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return what is learnt of a link: the norm's weight and bias, the window's likewise."""
        norm = self.norm
        learnt = (None, None) if norm is None else (norm.weight, norm.bias)
        return *learnt, *((None, None) if self.window is None else self.window.tensors())


@dataclass(frozen=True)
class Chain:
    """Links, the first of which is a window alone.

    Attributes:
        links: in order.
        growth: how many times as large as the chain's input its largest value is.
    """

    links: tuple[Link, ...]
    growth: float

    def __call__(self, features: Tensor) -> Tensor:
        """Do what the layers do with features N x C x H x W."""
        kind = features.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        tensors = [tensor for link in self.links for tensor in link.tensors()]
        with torch.autocast(kind, enabled=False):
            result: Tensor = _Chained.apply(features, self, low or features.dtype, *tensors)
        return result

    def at_once(self, features: Tensor, dtype: torch.dtype) -> int:
        """Return how many images are to be worked on at once."""
        image = features.numel() / len(features) * dtype.itemsize * self.growth
        return max(int(AT_ONCE * torch.get_num_threads() / image), 1)


@wrap_torch_function(lambda features: (features,))
def sharing(features: Tensor) -> Processes:  # noqa: ARG001 (it has them ask the mode)
    """Return the processes that share the batch which `features` are of: this one alone.

    Where others do, a torch function mode answers in its place (see ``train.batch_norm``).
    """
    return ALONE


def combined(every: Tensor) -> Tensor:
    """Return mean, biased variance and number (3C values) of what parts of a batch hold together.

    As Chan, Golub and LeVeque (1983) combine them: no large sum is taken from another.

    Args:
        every: the same of each part: K x 3C, of float64.
    """
    means, variances, counts = every.chunk(3, 1)
    whole = counts.sum(0)
    middle = (means * counts).sum(0) / whole
    spread = ((variances + (means - middle).square()) * counts).sum(0) / whole
    return torch.cat([middle, spread, whole])


@dataclass
class _Norm:
    """A normalisation at work.

    Attributes:
        layer: whose it is.
        mean, variance: of the features that are normalised, of float64 as `count` is.
        count: of values of each channel; None: the statistics were learnt before.
        factor, shift: x becomes ``x * factor + shift``.
    """

    layer: nn.BatchNorm2d
    mean: Tensor
    variance: Tensor
    count: Tensor | None
    factor: Tensor
    shift: Tensor

    @classmethod
    def of(cls, layer: nn.BatchNorm2d, moments: list[Tensor], processes: Processes) -> _Norm:
        """Work out the statistics from those of the parts; have the layer learn them."""
        if moments:
            own = combined(torch.stack(moments))
            mean, variance, counts = combined(processes.stacked(own)).chunk(3)
            count = counts[0]
            if count < 2:
                raise ValueError("Expected more than 1 value per channel when training")
            _learn(layer, mean, variance, count)
        else:
            assert layer.running_mean is not None and layer.running_var is not None
            mean, variance, count = layer.running_mean.double(), layer.running_var.double(), None
        factor = (variance + layer.eps).rsqrt()
        shift = -mean * factor
        if layer.affine:
            weight = layer.weight.detach()
            factor, shift = factor * weight, shift * weight + layer.bias.detach()
        return cls(layer, mean, variance, count, factor, shift)

    def to_input(self, sums: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
        """Return a, b and c: the gradient to x is ``a * gradient + b * x + c``.

        Args:
            sums: of gradients times normalised values, and of gradients: 2 x C, this process's.
            processes: have shares of the same batch.
        """
        if self.count is None:
            zero = torch.zeros_like(self.factor)
            return self.factor, zero, zero
        by_weight, by_bias = processes.total(sums).double().div(self.count)
        slope = -self.factor * (self.variance + self.layer.eps).rsqrt() * by_weight
        return self.factor, slope, -self.factor * by_bias - slope * self.mean


def _learn(layer: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running statistics towards those of a batch, as the layer does."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    rate = layer.momentum
    if rate is None:
        rate = 1 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean.to(layer.running_mean), rate)
    layer.running_var.lerp_((variance * count / (count - 1)).to(layer.running_var), rate)


class _Chained(torch.autograd.Function):
    """The chain of features, which depends on the tensors of each link, four by four."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, chain: Chain, dtype: torch.dtype, *tensors: Tensor | None
    ) -> Tensor:
        ctx.links, ctx.dtype, ctx.processes = chain.links, dtype, sharing(features)
        ctx.size, ctx.kept = chain.at_once(features, dtype), []
        ctx.save_for_backward(features, *tensors)
        values, norm = _parts(features, ctx.size, dtype), None
        for place, link in enumerate(chain.links):
            following = chain.links[place + 1].norm if place + 1 < len(chain.links) else None
            weights = _cast(tensors[4 * place + 2 : 4 * place + 4], dtype)
            moments, made = [], []
            for part in values:
                ready = _ready(link, norm, part)
                made.append(ready if link.window is None else link.window(ready, weights))
                if following is not None and _by_batch(following):
                    moments.append(_moments(made[-1]))
            ctx.kept.append((norm, values if place else None))
            values = made
            norm = None if following is None else _Norm.of(following, moments, ctx.processes)
        last = chain.links[-1]
        kept = last.window is None and last.norm is None
        return torch.cat(values) if len(values) > 1 or kept else values[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, *tensors = ctx.saved_tensors
        if not ctx.kept:
            raise RuntimeError("the gradient of a chain of layers was worked out before")
        needs = ctx.needs_input_grad
        passed = _Passed(_parts(gradients[0], ctx.size, ctx.dtype))
        learnt: list[Tensor | None] = []
        for place in reversed(range(len(ctx.links))):
            norm, values = ctx.kept.pop()
            if values is None:
                values = _parts(features, ctx.size, ctx.dtype)
            own = slice(4 * place, 4 * place + 4)
            link = _LinkGradient(
                ctx.links[place],
                norm,
                _cast(tensors[own][2:], ctx.dtype),
                (place > 0 or needs[0], *needs[3:][own][2:]),
            )
            passed.through(link, values, ctx.processes)
            learnt = [*link.learnt(tensors[own]), *learnt]
        to_features = torch.cat(passed.gradients).to(features.dtype) if needs[0] else None
        return to_features, None, None, *learnt


class _Passed:
    """The gradient on its way back through a chain, in parts.

    Attributes:
        gradients: to what the norm above gave, or, where there is none, to what it was given.
        above: what that norm was given, and how the gradient to it follows (see `_Norm`).
    """

    def __init__(self, gradients: list[Tensor]) -> None:
        self.gradients = gradients
        self.above: tuple[list[Tensor | None], tuple[Tensor, ...]] | None = None

    def through(self, link: _LinkGradient, values: list[Tensor], processes: Processes) -> None:
        """Go through a link whose input was `values`."""
        for number, part in enumerate(values):
            gradient, self.gradients[number] = self.gradients[number], part
            if self.above is not None:
                below, ways = self.above[0][number], self.above[1]
                assert below is not None
                gradient, self.above[0][number] = _to_input(gradient, below, ways), None
            self.gradients[number] = link.gradient(gradient, part)
        self.above = None
        if link.norm is not None:
            ways = link.norm.to_input(link.sums, processes)
            self.above = list(values), ways


class _LinkGradient:
    """Gradients of a link, added up over the parts of a batch.

    Attributes:
        norm: that of the link, at work; None: it has none.
        sums: see `_Norm.to_input`.
    """

    def __init__(
        self,
        link: Link,
        norm: _Norm | None,
        weights: Sequence[Tensor | None],
        needs: Sequence[bool],
    ) -> None:
        self.link, self.norm, self.weights, self.needs = link, norm, weights, needs
        self.sums = torch.zeros(())
        self.of_window: list[Tensor | None] = [None, None]

    def gradient(self, gradient: Tensor, part: Tensor) -> Tensor:
        """Return the gradient to what the norm gave of a part; without one, to the part."""
        link = self.link
        ready = part if self.norm is None else _ready(link, self.norm, part)
        if link.window is not None:
            gradient, *learnt = link.window.gradients(gradient, ready, self.weights, self.needs)
            for place, each in enumerate(learnt):
                if each is not None:
                    before = self.of_window[place]
                    self.of_window[place] = _precise(each) if before is None else before.add_(each)
        if link.bounds is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, ready, *link.bounds)
        if self.norm is not None:
            self.sums = self.sums + _sums(gradient, part, self.norm)
        return gradient

    def learnt(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients to the link's tensors."""
        of_norm = [None, None] if self.norm is None else [*self.sums]
        return [
            None if found is None or tensor is None else found.to(tensor.dtype)
            for found, tensor in zip((*of_norm, *self.of_window), tensors, strict=True)
        ]


def _parts(features: Tensor, size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return features, some images at a time, as the windows take them."""
    parts = torch.split(features, size)
    return [part.to(dtype).contiguous(memory_format=torch.channels_last) for part in parts]


def _cast(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if each is None else each.detach().to(dtype) for each in tensors]


def _precise(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is where it has more bits."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _by_batch(layer: nn.BatchNorm2d) -> bool:
    return layer.training or layer.running_mean is None


# Passes over a part of the features --------------------------------------------------------------


def _ready(link: Link, norm: _Norm | None, part: Tensor) -> Tensor:
    """Return what a link's window is given of what the window before gave.

    Without a norm, that is clamped where it lies.
    """
    if norm is not None:
        part = _affine(part, norm.factor, norm.shift)
    return part if link.bounds is None else part.clamp_(*link.bounds)


def _affine(features: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """Return ``features * factor + shift``, by channel, in one pass."""
    how = torch.float64 if features.dtype == torch.float64 else torch.float32
    zero, one = torch.zeros(len(factor), dtype=how), torch.ones(len(factor), dtype=how)
    factor, shift = factor.to(how), shift.to(how)
    return torch.batch_norm(features, factor, shift, zero, one, False, 0.0, 0.0, False)


def _moments(part: Tensor) -> Tensor:
    """Return mean, biased variance and number of each channel's values: 3C of float64."""
    channels = part.shape[1]
    how = torch.float64 if part.dtype == torch.float64 else torch.float32
    unread = torch.zeros(2, channels, dtype=how)  # of the type that the results are to have
    mean, variance = torch.ops.aten.batch_norm_update_stats(part, *unread, 0.0)
    count = torch.full_like(mean, part.numel() / channels)
    return torch.cat([mean, variance, count]).double()


def _sums(gradient: Tensor, part: Tensor, norm: _Norm) -> Tensor:
    """Return the sums of gradients times normalised values, and of gradients: 2 x C."""
    how = torch.float64 if part.dtype == torch.float64 else torch.float32
    mean, variance = norm.mean.to(how), norm.variance.to(how)
    known = torch.ones_like(mean), mean, variance, None, None
    found = torch.ops.aten.native_batch_norm_backward(
        gradient, part, *known, False, norm.layer.eps, (False, True, True)
    )
    return torch.stack(found[1:])


def _to_input(gradient: Tensor, part: Tensor, ways: tuple[Tensor, ...]) -> Tensor:
    """Return ``gradient * a + part * b + c``, by channel, for the three `ways`."""
    factor, slope, shift = ways
    if gradient.dtype in (torch.float32, torch.float64):
        by_channel = factor.to(gradient.dtype)[:, None, None]
        return _affine(part, slope, shift).addcmul_(gradient, by_channel)
    return _affine(part, slope, shift).add_(_affine(gradient, factor, torch.zeros_like(shift)))
