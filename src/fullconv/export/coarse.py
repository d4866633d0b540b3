"""What is exported of a net: the way from images as they are stored to coarse scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.net.described import Size
from fullconv.net.fcn import FCN
from fullconv.net.rewrites.magnification import with_merged_magnification

ODD = (97, 131)  # pixels; an example that fits no stride, so that no converter takes it for a rule


class CoarseScores(nn.Module):
    """A net from images as they are stored, N x H x W x C, to the coarse scores of each head."""

    def __init__(self, net: FCN) -> None:
        super().__init__()
        self.net = with_merged_magnification(net)
        self.training = net.training  # the exporter leaves all parts in this mode

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return N x classes x h x w of each head, in the net's order."""
        return tuple(self.net.coarse_of_pixels(images).values())


def example_of(net: FCN, kind: np.dtype[Any], size: Size | None) -> Tensor:
    """Return a black image to trace a net with, 1 x H x W x C, of a `size` or an odd one."""
    return torch.from_numpy(np.zeros((1, *(size or ODD), sum(net.inputs.values())), kind))
