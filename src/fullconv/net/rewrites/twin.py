"""What stands for a layer of a net during a training."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

PRECISIONS = (torch.bfloat16, torch.float32)  # of features that twins work on


class Twin(nn.Module):
    """A layer that does as a plain one does, with its parameters, in less time or memory."""

    @abstractmethod
    def plain(self) -> nn.Module:
        """Return the plain layer, with the parameters and in the mode that the twin has now."""


class StandIn(Twin):
    """A twin that keeps the layer whose place it has.

    Attributes:
        stood: that layer, alone: in a tuple, and so no child.
    """

    stood: tuple[nn.Module]

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stood = (layer,)
        self.train(layer.training)

    def plain(self) -> nn.Module:
        """Return the layer that stood here."""
        return self.stood[0].train(self.training)


def is_workable(features: Tensor) -> bool:
    """Tell whether features are such as twins work on: a CPU's, that nobody traces or compiles."""
    return (
        type(features) is Tensor
        and features.device.type == "cpu"
        and features.dtype in PRECISIONS
        and features.numel() > 0
        and not torch.compiler.is_compiling()
    )


def channels_last(features: Tensor) -> Tensor:
    """Return N x C x H x W features whose channels are innermost in memory."""
    return features.contiguous(memory_format=torch.channels_last)


def lie_channels_last(features: Tensor) -> bool:
    """Tell whether they are so already."""
    return features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last)
