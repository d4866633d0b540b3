"""Upscores: transposed convolutions that enlarge scores, begun as bilinear interpolation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fullconv.geometry import Alignment, Edge


def bilinear_kernel(height: int, width: int) -> Tensor:
    """Return the height x width tent whose transposed convolution is bilinear interpolation.

    It enlarges each axis by ``(size + 1) // 2``; its centre is a tap for odd sizes and lies
    between two for even ones (Caffe's ``surgery.upsample_filt``). float32.
    """
    column, row = (
        1 - (torch.arange(size) - (size - 1) / 2).abs() / ((size + 1) // 2)
        for size in (height, width)
    )
    return torch.outer(column, row)


class Upscore(nn.Module):
    """Enlarges N x C x h x w scores, each class by itself, onto an exactly aligned finer grid.

    A depthwise transposed convolution: frozen it *is* bilinear interpolation, up to the border
    (where the alignment replicates edge cells); learnable it starts as that.

    Attributes:
        vertical, horizontal: the alignments of the two grids along H and W, with equal factors.
        weight: C x 1 x k_h x k_w.
    """

    def __init__(
        self, num_classes: int, vertical: Alignment, horizontal: Alignment, *, learn: bool
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.vertical, self.horizontal = vertical, horizontal
        size = (num_classes, 1, vertical.kernel, horizontal.kernel)
        self.weight = nn.Parameter(torch.empty(size), requires_grad=learn)
        self._checked: tuple[int, bool] | None = None  # which version of the weight, and the answer
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make it bilinear interpolation."""
        if self.weight.is_meta:  # to be filled from a file
            return
        kernel = bilinear_kernel(self.vertical.kernel, self.horizontal.kernel)
        with torch.no_grad():
            self.weight.copy_(kernel.expand_as(self.weight))

    @property
    def factor(self) -> int:
        """Ratio of the strides."""
        return self.vertical.factor

    @property
    def shifts(self) -> tuple[float, float]:
        """Of both axes: pixel y samples the coarse coordinate ``(y + shift) / factor``."""
        return float(self.vertical.shift), float(self.horizontal.shift)

    @property
    def edge(self) -> Edge:
        """What lies beyond the coarse map."""
        return self.vertical.edge

    @property
    def interpolates(self) -> bool:
        """Whether it is frozen, and as bilinear interpolation: nothing was loaded but that."""
        weight = self.weight
        if weight.requires_grad:
            return False
        if weight.is_inference():  # whose changes torch does not count
            return self._is_bilinear()
        if self._checked is None or self._checked[0] != weight._version:
            self._checked = weight._version, self._is_bilinear()
        return self._checked[1]

    def _is_bilinear(self) -> bool:
        kernel = bilinear_kernel(self.vertical.kernel, self.horizontal.kernel)
        return bool((self.weight.detach().cpu() == kernel.to(self.weight.dtype)).all())

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge to `size` (H, W): cells of the finer grid, whose first is the image's first."""
        return self.cropped(self.enlarged(scores), size)

    def cropped(self, enlarged: Tensor, size: tuple[int, int], fade: int = 0) -> Tensor:
        """Return `size` (H, W) cells of an enlarged map, of those that lie on the image.

        Args:
            enlarged: see there; its last two axes are H and W.
            size: of the image.
            fade: how many cells it lacks at each side.
        """
        top, left = self.vertical.crop - fade, self.horizontal.crop - fade
        height, width = size
        return enlarged[..., top : top + height, left : left + width]

    def fuse(self, scores: Tensor, skip: Tensor) -> Tensor:
        """Enlarge and add a skip's scores; where the enlarged map is the smaller, crop the skip."""
        v, h = self.vertical, self.horizontal
        enlarged = self.enlarged(scores)
        height = (enlarged if v.finer_crop else skip).shape[-2]
        width = (enlarged if h.finer_crop else skip).shape[-1]
        cropped = enlarged[..., v.crop : v.crop + height, h.crop : h.crop + width]
        if v.finer_crop or h.finer_crop:
            top, left = v.finer_crop, h.finer_crop
            skip = skip[..., top : top + height, left : left + width]
        return cropped + skip

    def enlarged(self, scores: Tensor) -> Tensor:
        """Return the whole enlarged map, before any crop.

        Computes in the weight's precision also under autocast: sums of scores deserve it.
        """
        v, h = self.vertical, self.horizontal
        with torch.autocast(scores.device.type, enabled=False):
            return F.conv_transpose2d(
                self._extended(scores.to(self.weight.dtype)),
                self.weight,
                stride=(v.factor, h.factor),
                groups=self.num_classes,
            )

    @property
    def fade(self) -> int | None:
        """How many cells at each side of the enlarged map have but one neighbour to lie between.

        None where the rest is not what `resized` gives: weights that are learnt, edges of zeros, or
        axes whose grids align differently.
        """
        v, h = self.vertical, self.horizontal
        even = v.kernel % 2 == 0
        if v.kernel != h.kernel or self.edge != "replicate" or (even and self.factor % 2):
            return None
        return (self.factor // 2 if even else self.factor - 1) if self._is_bilinear() else None

    def resized(self, scores: Tensor) -> Tensor:
        """Return `enlarged` without the `fade` at its sides, by a resize."""
        scores = self._extended(scores)
        if self.vertical.kernel % 2 == 0:
            return F.interpolate(scores, scale_factor=float(self.factor), mode="bilinear")
        size = [(length - 1) * self.factor + 1 for length in scores.shape[-2:]]
        return F.interpolate(scores, size, mode="bilinear", align_corners=True)

    def _extended(self, scores: Tensor) -> Tensor:
        """Repeat edge cells, as far as pixels lie beyond them."""
        v, h = self.vertical, self.horizontal
        if not (v.before or v.after or h.before or h.after):
            return scores
        return F.pad(scores, (h.before, h.after, v.before, v.after), mode="replicate")

    def extra_repr(self) -> str:
        """Show what geometry derived."""
        v, h = self.vertical, self.horizontal
        frozen = "" if self.weight.requires_grad else ", frozen"
        crops = v.crop if v.crop == h.crop else (v.crop, h.crop)
        return f"x{v.factor}, kernel {tuple(self.weight.shape[2:])}, crop {crops}{frozen}"
