"""What stands for a layer of a net during a training."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn


class Twin(nn.Module):
    """A layer that does as a plain one does, with its parameters, in less time or memory."""

    @abstractmethod
    def plain(self) -> nn.Module:
        """Return the plain layer, with the parameters and in the mode that the twin has now."""
