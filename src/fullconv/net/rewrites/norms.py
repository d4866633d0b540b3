"""What a batch normalisation does besides: torch's nothing, timm's activates, others who knows."""

from __future__ import annotations

from torch import nn


def activation_of(layer: nn.Module | None) -> nn.Module | None:
    """Return what a batch normalisation of images applies to what it has normalised.

    Of torch's own, which applies nothing, it is an `nn.Identity`; of timm's BatchNormAct2d its
    activation. None: the layer is no such normalisation, or a subclass that may do anything.
    """
    if type(layer) is nn.BatchNorm2d:
        return nn.Identity()
    kind = type(layer)
    of_timm = (kind.__module__.partition(".")[0], kind.__name__) == ("timm", "BatchNormAct2d")
    if layer is None or not of_timm or type(layer.get_submodule("drop")) is not nn.Identity:
        return None
    return layer.get_submodule("act")
