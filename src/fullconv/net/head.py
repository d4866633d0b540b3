"""A head: the scores of one labelling, fused from stride to stride and enlarged to the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fullconv.base.palette import Colour
from fullconv.geometry import Chain, Edge
from fullconv.kernels import upsample_argmax, upsample_cross_entropy
from fullconv.net.surgery import with_parts
from fullconv.net.trunk import Tap
from fullconv.net.upscore import Upscore

Features = Tensor | tuple[Tensor, ...]  # the latter: of several trunks, whose scores are averaged


@dataclass(frozen=True)
class Joints:
    """Where the scores of a net are taken and how they are joined; the same for all its heads.

    Attributes:
        taps: the scored layers, coarsest first.
        vertical, horizontal: how their scores are joined along H and W.
        inputs: names of the trunks whose scores are averaged; empty for a single trunk.
        scales: constant factors on the features of skips, by stride (paper: "at once").
    """

    taps: tuple[Tap, ...]
    vertical: Chain
    horizontal: Chain
    inputs: tuple[str, ...] = ()
    scales: Mapping[int, float] | None = None

    @classmethod
    def of(
        cls,
        taps: Sequence[Tap],
        edge: Edge,
        inputs: Sequence[str] = (),
        scales: Mapping[int, float] | None = None,
        *,
        magnify: int = 1,
        reduce: int = 1,
    ) -> Joints:
        """Derive the joints of `taps`; raises GeometryError where they can't be aligned."""
        vertical = Chain.of([tap.vertical for tap in taps], edge, magnify, reduce)
        horizontal = Chain.of([tap.horizontal for tap in taps], edge, magnify, reduce)
        return cls(tuple(taps), vertical, horizontal, tuple(inputs), scales)


class Head(nn.Module):
    """Scores a trunk's features for one set of classes.

    Attributes:
        classes: names, index = label id.
        palette: an RGB colour a class.
        scores: the 1x1 convolutions, by the stride of their features; they start at zero.
        upscores: by "from-to" strides, "8-1" being the last one of an FCN-8s.
        temperature: what scores are divided by before they become probabilities (see
            `calibration`); no label depends on it.
    """

    def __init__(
        self,
        joints: Joints,
        classes: tuple[str, ...],
        palette: tuple[Colour, ...],
        *,
        learn_upscores: bool,
        learn_last_upscore: bool,
    ) -> None:
        super().__init__()
        self.classes, self.palette = classes, palette
        self.temperature = 1.0
        self.scales = dict(joints.scales or {})
        self.strides = tuple(tap.stride for tap in joints.taps)
        count = len(classes)
        self.scores = nn.ModuleDict(
            {str(tap.stride): _score(tap.channels, count, joints.inputs) for tap in joints.taps}
        )
        self.upscores = nn.ModuleDict()
        for stride, finer, vertical, horizontal in zip(
            self.strides,
            (*self.strides[1:], 1),
            joints.vertical.alignments,
            joints.horizontal.alignments,
            strict=True,
        ):
            learn = learn_last_upscore if finer == 1 else learn_upscores
            self.upscores[f"{stride}-{finer}"] = Upscore(count, vertical, horizontal, learn=learn)

    def rejoined(self, joints: Joints) -> Head:
        """Return this head with a last upscore of other joints; all else is shared."""
        name = f"{self.strides[-1]}-1"
        vertical, horizontal = joints.vertical.alignments[-1], joints.horizontal.alignments[-1]
        last = Upscore(self.num_classes, vertical, horizontal, learn=False)
        upscores = nn.ModuleDict({**self.upscores, name: last.to(self._last_upscore.weight.device)})
        return with_parts(self, upscores=upscores)

    @property
    def num_classes(self) -> int:
        """Number of scores a pixel."""
        return len(self.classes)

    def coarse(self, features: Sequence[Features]) -> Tensor:
        """Return the fused scores N x classes x h x w of a trunk's features, coarsest first."""
        fused = self._score(self.strides[0], features[0])
        for stride, finer, feature in zip(
            self.strides, self.strides[1:], features[1:], strict=False
        ):
            upscore = self.upscores[f"{stride}-{finer}"]
            assert isinstance(upscore, Upscore)
            fused = upscore.fuse(fused, self._score(finer, feature))
        return fused

    def upsample(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        """Upscore coarse scores to an image of `size` (H, W) pixels."""
        scores: Tensor = self._last_upscore(coarse, size)
        return scores

    def labels(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the class (the first of equals) with the highest score at each of H x W pixels.

        Args:
            coarse: scores N x classes x h x w.
            size: height and width of the image.

        Returns:
            uint8 N x H x W; without full-resolution scores where the last upscore is frozen.
        """
        upscore = self._last_upscore
        if upscore.interpolates:
            return upsample_argmax(coarse, upscore.factor, size, upscore.shifts, upscore.edge)
        return self.upsample(coarse, size).max(1).indices.byte()

    def losses(
        self, coarse: Tensor, truth: Tensor, ignore_index: int, weight: Tensor | None = None
    ) -> Tensor:
        """Return each image's cross entropy, summed over its pixels that count: float32 (N,).

        Args:
            coarse: scores N x classes x h x w.
            truth: labels N x H x W.
            ignore_index: the label of pixels that don't count.
            weight: of each class; None for all alike.
        """
        upscore = self._last_upscore
        if upscore.interpolates:  # no full-resolution scores then
            return upsample_cross_entropy(
                coarse,
                truth,
                upscore.factor,
                upscore.shifts,
                upscore.edge,
                ignore_index,
                weight,
                reduction="none",
            )
        scores = self.upsample(coarse, (truth.shape[1], truth.shape[2])).float()
        pixels = F.cross_entropy(
            scores, truth.long(), weight, ignore_index=ignore_index, reduction="none"
        )
        return pixels.flatten(1).sum(1)

    @property
    def _last_upscore(self) -> Upscore:
        upscore = self.upscores[f"{self.strides[-1]}-1"]
        assert isinstance(upscore, Upscore)
        return upscore

    def _score(self, stride: int, features: Features) -> Tensor:
        scale = self.scales.get(stride)
        if scale is not None and isinstance(features, Tensor):
            features = features * scale
        elif scale is not None:
            features = tuple(feature * scale for feature in features)
        scored: Tensor = self.scores[str(stride)](features)
        return scored


class MeanScore(nn.ModuleDict):
    """The average of the scores that several trunks' features get, one 1x1 convolution each."""

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return N x classes x h x w scores of equally large features, one a trunk."""
        scores = [score(each) for score, each in zip(self.values(), features, strict=True)]
        return torch.stack(scores).mean(0)


def _score(channels: int, num_classes: int, inputs: tuple[str, ...]) -> nn.Module:
    if inputs:
        return MeanScore({name: _score(channels, num_classes, ()) for name in inputs})
    score = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(score.weight)
    assert score.bias is not None
    nn.init.zeros_(score.bias)
    return score
