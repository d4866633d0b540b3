"""Convolutions that do the passes between them along the way, and whose slow gradients are quick.

A batch normalisation and a ReLU between two convolutions do hardly any arithmetic; what they take
is the time to fetch features from memory. Here the second convolution does their work, a few
images at a time, while these lie in the cache, and finds the statistics of its result for the next
normalisation. What is between is not kept, but found anew in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fullconv.base.runtime import has_narrow_vectors
from fullconv.dense.layers import convolution_of
from fullconv.net.rewrites.quicker_norms import Found, FusedNorm, Source
from fullconv.net.rewrites.twin import PRECISIONS, Twin, channels_last, is_workable

if TYPE_CHECKING:
    from fullconv.kernels.batch_norm_cpu import Gradients

Convolution = TypeVar("Convolution", bound=nn.Conv2d)
LARGEST_KERNEL = 3  # for whose gradient oneDNN has a fast bfloat16 kernel
LEARNT = 4  # place of the first parameter of the normalisation before among `forward`'s arguments
VECTOR = 16  # channels that oneDNN works on at a time
MOST_AT_ONCE = 1 << 22  # values of features that are worked on at a time


class Geometry(NamedTuple):
    """Of a convolution, as `F.conv2d` takes it."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def rest(self) -> tuple[Any, ...]:
        """Return it as torch's function for the gradients takes it."""
        return self.stride, self.padding, self.dilation, False, (0, 0), self.groups


class QuickConvolution(Twin, nn.Conv2d):
    """A convolution, with the normalisation before it and the statistics for the one after it.

    Of depthwise ones the slow gradients are worked out otherwise. oneDNN has no fast bfloat16
    kernel for the input's gradient where the stride is 2 or more: as a convolution of stride 1 it
    takes a tenth of the time or less. Nor has it one for the weight's gradient where the kernel is
    larger than 3: in float32 it takes a fifth of the time, conversions included. Of dense ones the
    gradients are found with the channels outermost where that is quicker (`prefers_planes`).

    Attributes:
        before: the normalisation of its input, which is deferred to here, alone, or nothing.
        after: that of its result, likewise.
    """

    before: tuple[FusedNorm, ...] = ()  # tuples: they are children elsewhere
    after: tuple[FusedNorm, ...] = ()

    def plain(self) -> nn.Conv2d:
        """Return torch's own layer."""
        return in_place_of(self, nn.Conv2d)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve N x C x H x W features, which are normalised before."""
        low = torch.is_autocast_enabled("cpu")
        kind = torch.get_autocast_dtype("cpu") if low else self.weight.dtype
        fused = [norm for norm in self.before if norm.fits(input) and input.dtype == kind]
        if not fused:
            for norm in self.before:
                input = norm.by_torch(input)
        after = [norm for norm in self.after if norm.is_free()]
        planes = prefers_planes(self.weight, self.groups)
        if not (is_workable(input) and kind in PRECISIONS and (low or fused or after or planes)):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            features, weight = input.to(kind), self.weight.to(kind)
            bias = None if self.bias is None else self.bias.to(kind)
            before = [norm.found(features) for norm in fused]
            work = _Work(geometry_of(self), before, wanted=bool(after))
            learnt = [each for norm in fused for each in (norm.weight, norm.bias)]
            result: Tensor = _Convolution.apply(features, weight, bias, work, *learnt)
        for norm in after:
            norm.tell(result, work)
        return result


def quick_convolution(
    layer: nn.Conv2d, before: FusedNorm | None, after: FusedNorm | None
) -> QuickConvolution:
    """Return the twin of a convolution between two normalisations, with its parameters."""
    twin = in_place_of(layer, QuickConvolution)
    twin.before = () if before is None else (before,)
    twin.after = () if after is None else (after,)
    return twin


def has_twin(layer: nn.Module | None) -> bool:
    """Tell whether a layer is a convolution that a `QuickConvolution` may stand for."""
    return (
        type(layer) is nn.Conv2d
        and isinstance(layer.padding, tuple)
        and layer.padding_mode == "zeros"
    )


def has_poor_gradient(layer: nn.Conv2d) -> bool:
    """Tell whether a convolution has a twin that finds a gradient better than oneDNN alone."""
    return has_twin(layer) and (
        _has_slow_gradient(layer)
        or _has_short_bias(layer)
        or prefers_planes(layer.weight, layer.groups)
    )


def prefers_planes(weight: Tensor, groups: int) -> bool:
    """Tell whether a convolution's gradients are found sooner with the channels outermost.

    Without AVX-512 oneDNN (3.13) has quick kernels for features whose channels are innermost, but
    for the gradient to a dense weight: that takes 1.5 to 6 times as long as with planes of
    channels, the longer the larger maps are.
    """
    dense = groups == 1 and weight.shape[1] >= VECTOR and max(weight.shape[2:]) > 1
    found_here = weight.device.type == "cpu" and weight.dtype == torch.float32
    return dense and found_here and has_narrow_vectors()


def is_for_planes(weight: Tensor, groups: int) -> bool:
    """Tell whether all of a convolution is best done with the channels outermost, its weight's too.

    The larger the kernel, the more of the time is laying out the weight anew: of VGG16's first
    dense layer a tenth of a step.
    """
    return prefers_planes(weight, groups) and _is_large(weight.shape[2:])


def _has_slow_gradient(layer: nn.Conv2d) -> bool:
    """Tell whether a convolution is depthwise, with a slow gradient in bfloat16."""
    depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    return depthwise and (_is_strided(layer.stride) or _is_large(layer.kernel_size))


def _has_short_bias(layer: nn.Conv2d) -> bool:
    """Tell whether a bias is shorter than a vector, so that its gradient is better added up here.

    Trainings of a VGG16 crashed where oneDNN 3.13 (of torch 2.15) found it, on Intel processors
    with AMX.
    """
    return layer.bias is not None and len(layer.bias) < VECTOR


def in_place_of(layer: nn.Conv2d, kind: type[Convolution]) -> Convolution:
    """Return a convolution of a kind, with the geometry, mode and very parameters of another."""
    geometry = geometry_of(layer)._asdict()
    made = convolution_of(layer.weight, layer.bias, kind=kind, **geometry)
    assert isinstance(made, kind)
    return made.train(layer.training)


def geometry_of(layer: nn.Conv2d) -> Geometry:
    """Return the geometry of a convolution that `has_twin`."""
    assert not isinstance(layer.padding, str)
    return Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)


class _Work(Source):
    """What a convolution does besides.

    Attributes:
        geometry: of the convolution.
        before: what normalises its input, alone, or nothing.
        wanted: whether the statistics of its result are.
    """

    def __init__(self, geometry: Geometry, before: list[Found], *, wanted: bool) -> None:
        self.geometry, self.before, self.wanted = geometry, before, wanted

    def prepared(self, features: Tensor) -> Tensor:
        """Return some features as they are convolved."""
        for found in self.before:
            features = found.norm.applied(features)
        return features

    def look_at(self, result: Tensor, copy: Tensor | None) -> None:
        """Let a part of the result count, and put a copy of it down, if there is room for one."""
        if self.wanted:
            from fullconv.kernels.batch_norm_cpu import Statistics

            self.statistics = self.statistics or Statistics(result)
            self.statistics.add(result, copy)
        elif copy is not None:
            copy.copy_(result)

    def finished(self, gradient: Tensor, some: slice) -> Tensor:
        """Return the gradient to some images' results, which the normalisation after may leave."""
        if self.unfinished is None:
            return gradient[some]
        found, features = self.unfinished
        result = torch.empty_like(gradient[some])
        found.to_features(gradient[some], features[some], result)
        return result

    def gradients(self) -> list[Gradients]:
        """Begin to find the gradients of the normalisation before."""
        if not self.before:
            return []
        from fullconv.kernels.batch_norm_cpu import Gradients

        return [Gradients(found.norm) for found in self.before]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        work: _Work,
        *_learnt: Tensor,  # by the normalisation before: its weight and bias
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.work, ctx.biased = work, bias is not None
        whole: Tensor | None = None
        for some in _parts(features, weight, work.geometry):
            prepared = work.prepared(features[some])
            if is_for_planes(weight, work.geometry.groups):
                prepared = prepared.contiguous()
            part = channels_last(F.conv2d(prepared, weight, bias, *work.geometry))
            whole = _whole(whole, part, len(features))
            work.look_at(part, None if whole is part else whole[some])
        assert whole is not None
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (features, weight), work = ctx.saved_tensors, ctx.work
        gradient, norms = channels_last(gradients[0]), work.gradients()
        wanted, to_learn, *_ = ctx.needs_input_grad
        asked = wanted or any(ctx.needs_input_grad[LEARNT:]), to_learn
        to_features: Tensor | None = None
        to_weight: Tensor | None = None
        to_bias = torch.zeros(len(weight)) if ctx.biased else None
        for some in _parts(features, weight, work.geometry):
            given, prepared = work.finished(gradient, some), work.prepared(features[some])
            part, change = _gradients(given, prepared, weight, work.geometry, asked)
            if change is not None:
                to_weight = change.float() if to_weight is None else to_weight.add_(change)
            if to_bias is not None:
                to_bias += given.sum((0, 2, 3), dtype=torch.float32)
            if part is not None:
                to_features = _whole(to_features, part, len(features))
                place = None if to_features is part else to_features[some]
                _look_at(part, features[some], norms, place)
        work.unfinished = None
        learnt = [each for norm in norms for each in norm.to_parameters()]
        for found, norm in zip(work.before, norms, strict=True):
            if wanted and to_features is not None:
                to_features = found.passed(to_features, features, norm)
        passed = to_features if wanted else None
        return passed, _like(weight, to_weight), _like(weight, to_bias), None, *learnt


def _look_at(
    gradient: Tensor, features: Tensor, norms: list[Gradients], copy: Tensor | None
) -> None:
    """Let a part of the gradient count, and put a copy of it down, if there is room for one."""
    for norm in norms:
        norm.add(gradient, features, copy)
    if copy is not None and not norms:
        copy.copy_(gradient)


def _like(weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.to(weight.dtype)


def _parts(features: Tensor, weight: Tensor, geometry: Geometry) -> Iterator[slice]:
    """Yield which images are worked on at a time: few of large maps, so that caches hold them.

    Nothing is gained by features that are fetched less often where the weights are fetched more.
    """
    cells = features[0, 0].numel()
    made = len(weight) * cells // math.prod(geometry.stride)
    most = max(MOST_AT_ONCE, weight.numel())
    count = max(most // max(features[0].numel(), made), 1)
    for begin in range(0, len(features), count):
        yield slice(begin, min(begin + count, len(features)))


def _whole(whole: Tensor | None, part: Tensor, count: int) -> Tensor:
    """Return room for what is found of `count` images; a part of as many is the whole itself."""
    if whole is not None or len(part) == count:
        return part if whole is None else whole
    size = count, *part.shape[1:]
    return torch.empty(size, dtype=part.dtype, memory_format=torch.channels_last)


def _gradients(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    geometry: Geometry,
    asked: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients to the features and to the weight of a convolution, if asked for."""
    stride, padding, dilation, groups = geometry
    slow = features.dtype == torch.bfloat16 and weight.shape[1] == 1 < groups == len(weight)
    spread = slow and _is_strided(stride) and min(_margins(weight, padding, dilation)) >= 0
    large = slow and _is_large(weight.shape[2:])
    wholly = is_for_planes(weight, groups)
    planes = prefers_planes(weight, groups) and not wholly
    if wholly:
        gradient, features, weight = _planes(gradient, features, weight)
    by_torch = asked[0] and not spread, asked[1] and not (large or planes)
    found = gradients_by_torch(gradient, features, weight, geometry, by_torch)
    if asked[0] and spread:
        found[0] = _features_gradient(gradient, features, weight, geometry)
    if asked[1] and large:
        given = gradient.float(), features.float(), weight.float()
        found[1] = gradients_by_torch(*given, geometry, (False, True))[1]
    if asked[1] and planes:
        given = _planes(gradient, features, weight)
        found[1] = gradients_by_torch(*given, geometry, (False, True))[1]
    return None if found[0] is None else channels_last(found[0]), found[1]


def gradients_by_torch(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    geometry: Geometry,
    asked: tuple[bool, bool],
) -> list[Tensor | None]:
    """Return torch's gradients to the features and to the weight, of which some are asked for."""
    if not any(asked):
        return [None, None]
    backward, asked_of = torch.ops.aten.convolution_backward, (*asked, False)
    found = backward(gradient, features, weight, None, *geometry.rest(), asked_of)
    return list(found[:2])


def _margins(weight: Tensor, padding: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """Return by how much, above and beside, what a cell gave to features reaches beyond them."""
    above, beside = (
        apart * (size - 1) - before
        for size, before, apart in zip(weight.shape[2:], padding, dilation, strict=True)
    )
    return above, beside


def _features_gradient(
    gradient: Tensor, features: Tensor, weight: Tensor, geometry: Geometry
) -> Tensor:
    """Return the gradient to the input, in the precision of the features.

    Cells are spread out, with zeros between them, and convolved by the mirrored kernel.
    """
    (down, right), padding, dilation, groups = geometry
    margins = _margins(weight, padding, dilation)
    rows, columns = (
        length + before - margin
        for length, before, margin in zip(features.shape[2:], padding, margins, strict=True)
    )
    size = len(gradient), rows, columns, len(weight)
    spread = gradient.new_zeros(size).permute(0, 3, 1, 2)
    height, width = gradient.shape[2:]
    spread[:, :, : down * height : down, : right * width : right] = gradient
    return F.conv2d(spread, weight.flip(2, 3), None, 1, margins, dilation, groups)


def _planes(gradient: Tensor, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return them with their channels outermost in memory."""
    return gradient.contiguous(), features.contiguous(), weight.contiguous()


def _is_strided(stride: Sequence[int]) -> bool:
    return max(stride) > 1


def _is_large(kernel: Sequence[int]) -> bool:
    return max(kernel) > LARGEST_KERNEL
