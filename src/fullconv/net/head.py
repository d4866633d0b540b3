"""A head: the scores of one labelling, fused from stride to stride and enlarged to the image.

An image may have two views, itself and its left-right mirror (test-time augmentation). Each pixel
then gets the class whose probability is the highest on their average. Probabilities are averaged
pixel by pixel, the mirror's turned back, since the coarse cells of both need not lie on the same
pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fullconv.geometry import Alignment, Edge, SkipGeometry
from fullconv.kernels import upsample_argmax, upsample_cross_entropy
from fullconv.net.arguments import Labelling
from fullconv.net.certainty import BAND, unsure_share
from fullconv.net.described import Size
from fullconv.net.surgery import with_parts
from fullconv.net.trunk import Tap
from fullconv.net.upscore import Upscore

Features = Tensor | tuple[Tensor, ...]  # the latter: of several trunks, whose scores are averaged


@dataclass(frozen=True)
class Skips:
    """Where the scores of a net are taken and how they are joined; the same for all its heads.

    Attributes:
        taps: the scored layers, coarsest first.
        vertical, horizontal: how their scores are joined along H and W.
        inputs: names of the trunks whose scores are averaged; empty for a single trunk.
        scales: constant factors on the features of skips, by stride (paper: "at once").
    """

    taps: tuple[Tap, ...]
    vertical: SkipGeometry
    horizontal: SkipGeometry
    inputs: tuple[str, ...] = ()
    scales: Mapping[int, float] | None = None

    @classmethod
    def of(
        cls,
        taps: Sequence[Tap],
        edge: Edge,
        inputs: Sequence[str] = (),
        scales: Mapping[int, float] | None = None,
        scale: Fraction | int = 1,
    ) -> Skips:
        """Derive how the scores of `taps` are joined, if the trunk sees images at `scale`.

        Raises:
            GeometryError: they can't be aligned.
        """
        vertical = SkipGeometry.of([tap.vertical for tap in taps], edge, scale)
        horizontal = SkipGeometry.of([tap.horizontal for tap in taps], edge, scale)
        return cls(tuple(taps), vertical, horizontal, tuple(inputs), scales)


class Head(nn.Module):
    """Scores a trunk's features for one set of classes.

    Attributes:
        classes: names, index = label id.
        palette: an RGB colour a class.
        scores: the 1x1 convolutions, by the stride of their features; they start at zero.
        upscores: by "from-to" strides, "8-1" being the last one of an FCN-8s.
        temperature: what scores are divided by before they become probabilities (see
            `measure.calibration`); no label depends on it.
    """

    def __init__(
        self, skips: Skips, labelling: Labelling, *, learn_upscores: bool, learn_last_upscore: bool
    ) -> None:
        super().__init__()
        self.classes, self.palette = labelling.classes, labelling.palette
        self.temperature = labelling.temperature
        self.scales = dict(skips.scales or {})
        self.strides = tuple(tap.stride for tap in skips.taps)
        count = len(self.classes)
        self.scores = nn.ModuleDict(
            {str(tap.stride): _score(tap.channels, count, skips.inputs) for tap in skips.taps}
        )
        self.upscores = nn.ModuleDict()
        for stride, finer, vertical, horizontal in zip(
            self.strides,
            (*self.strides[1:], 1),
            skips.vertical.alignments,
            skips.horizontal.alignments,
            strict=True,
        ):
            learn = learn_last_upscore if finer == 1 else learn_upscores
            self.upscores[f"{stride}-{finer}"] = Upscore(count, vertical, horizontal, learn=learn)

    def rejoined(self, skips: Skips) -> Head:
        """Return this head with a last upscore of other joints; all else is shared."""
        name = f"{self.strides[-1]}-1"
        vertical, horizontal = skips.vertical.alignments[-1], skips.horizontal.alignments[-1]
        last = Upscore(self.num_classes, vertical, horizontal, learn=False)
        upscores = nn.ModuleDict({**self.upscores, name: last.to(self.last_upscore.weight.device)})
        return with_parts(self, upscores=upscores)

    @property
    def labelling(self) -> Labelling:
        """What it labels, as a value."""
        return Labelling(classes=self.classes, palette=self.palette, temperature=self.temperature)

    @property
    def last_upscore(self) -> Upscore:
        """What enlarges the coarse scores to the image."""
        upscore = self.upscores[f"{self.strides[-1]}-1"]
        assert isinstance(upscore, Upscore)
        return upscore

    @property
    def last_alignments(self) -> tuple[Alignment, Alignment]:
        """How the coarse scores lie on the image's pixels, along H and W."""
        return self.last_upscore.vertical, self.last_upscore.horizontal

    @property
    def num_classes(self) -> int:
        """Number of scores a pixel."""
        return len(self.classes)

    def coarse(self, features: Sequence[Features]) -> Tensor:
        """Return the fused scores N x classes x h x w of a trunk's features, coarsest first."""
        return self.fused(list(map(self.scored, self.strides, features)))

    def fused(self, scores: Sequence[Tensor]) -> Tensor:
        """Return the sum N x classes x h x w of the scores at each stride, coarsest first."""
        fused = scores[0]
        for stride, finer, skip in zip(self.strides, self.strides[1:], scores[1:], strict=False):
            upscore = self.upscores[f"{stride}-{finer}"]
            assert isinstance(upscore, Upscore)
            fused = upscore.fuse(fused, skip)
        return fused

    def upsample(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        """Upscore coarse scores to an image of `size` (H, W) pixels."""
        scores: Tensor = self.last_upscore(coarse, size)
        return scores

    def labels(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the class (the first of equals) with the highest score at each of H x W pixels.

        Args:
            coarse: scores N x classes x h x w.
            size: height and width of the image.

        Returns:
            uint8 N x H x W; without full-resolution scores where the last upscore is frozen.
        """
        upscore = self.last_upscore
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
        upscore = self.last_upscore
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

    def scores_within(self, coarse: Tensor, rows: range, columns: range) -> Tensor:
        """Return the scores of a part of an image, those that `upsample` gives all of it.

        Args:
            coarse: scores of the whole image, 1 x C x h x w.
            rows: successive ones, of pixels.
            columns: likewise.

        Returns:
            1 x C x rows x columns.
        """
        starts, cells = [], []
        read = self._cells_read(coarse, rows, columns)
        for alignment, pixels, own in zip(self.last_alignments, (rows, columns), read, strict=True):
            first = min(own.start, pixels.start // alignment.factor)  # cells before are not read
            cells.append(slice(first, own.stop))
            starts.append(pixels.start - first * alignment.factor)
        (down, across), (top, left) = cells, starts
        scores = self.upsample(coarse[..., down, across], (top + len(rows), left + len(columns)))
        return scores[..., top:, left:]

    def probability_bands(self, views: Sequence[Tensor], size: Size) -> Iterator[Tensor]:
        """Yield the calibrated probabilities of each pixel from the top, a band of rows at a time.

        So memory is bounded, however large the image and many the classes.

        Args:
            views: the coarse scores, 1 x C x h x w, of one view or two, which are averaged.
            size: height and width of the image.

        Yields:
            float32, classes x rows x W.
        """
        height, width = size
        step = max(BAND // (self.num_classes * width), self.last_alignments[0].factor)
        for top in range(0, height, step):
            rows = range(top, min(top + step, height))
            scores = [self.scores_within(view, rows, range(width)) for view in views]
            each = [probabilities(of_view, self.temperature)[0] for of_view in scores]
            yield each[0] if len(each) == 1 else (each[0] + each[1].flip(-1)) / 2

    def labels_of_views(self, views: Sequence[Tensor], size: Size) -> NDArray[np.uint8]:
        """Return the class of each pixel of an image, H x W.

        Args:
            views: the coarse scores of one view or two. Of a single one, labels are worked out
                without full-resolution scores where that can be (see `labels`).
            size: height and width of the image.
        """
        if len(views) == 1:
            return self.labels(views[0], size)[0].cpu().numpy()
        bands = self.probability_bands(views, size)
        best = torch.cat([band.max(0).indices.byte() for band in bands])
        return best.cpu().numpy()

    def unsure_share(self, views: Sequence[Tensor], size: Size) -> float:
        """Return the share of an image's labels that are unsure, 0..1.

        Unsure is what has a calibrated probability below `UNSURE`. It is looked for among the
        coarse cells that the image's pixels read, not among pixels, whose scores would cost more
        than labels.

        Args:
            views: the coarse scores of one view or two, whose cells all count.
            size: height and width of the image.
        """
        cells = [self.cells_of(view, size).float().cpu().numpy() for view in views]
        return unsure_share(cells, self.temperature)

    def cells_of(self, coarse: Tensor, size: Size) -> Tensor:
        """Return the coarse scores, classes x h x w, that an image's pixels read.

        Args:
            coarse: scores of the whole image, 1 x classes x h x w; some may lie beyond the image.
            size: height and width of the image.
        """
        return coarse[(0, ..., *self._cells_read(coarse, range(size[0]), range(size[1])))]

    def _cells_read(self, coarse: Tensor, rows: range, columns: range) -> tuple[slice, slice]:
        """Return which coarse cells, down and across, a part of the image reads; one at least."""
        (vertical, horizontal), (height, width) = self.last_alignments, coarse.shape[-2:]
        return vertical.cells_within(rows, height), horizontal.cells_within(columns, width)

    def scored(self, stride: int, features: Features) -> Tensor:
        """Return the scores N x classes x h x w of features at a stride."""
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


def probabilities(scores: Tensor, temperature: float) -> Tensor:
    """Return the calibrated probabilities of scores N x classes x ..., as float32."""
    return (scores.float() / temperature).softmax(1)


def _score(channels: int, num_classes: int, inputs: tuple[str, ...]) -> nn.Module:
    if inputs:
        return MeanScore({name: _score(channels, num_classes, ()) for name in inputs})
    score = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(score.weight)
    assert score.bias is not None
    nn.init.zeros_(score.bias)
    return score
