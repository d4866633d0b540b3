"""Surgery on weights: from net to net by name (Caffe's ``surgery.py``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Transplant:
    """What a transplant did, by names of parameters and buffers.

    Attributes:
        copied: now equal to the source's.
        missing: in the target alone; left as they were (a new skip's score, say).
        misfit: in both, with different numbers of values; left as they were.
    """

    copied: tuple[str, ...]
    missing: tuple[str, ...]
    misfit: tuple[str, ...]


def transplant(source: nn.Module, target: nn.Module) -> Transplant:
    """Copy every same-named parameter and buffer from `source` into `target`, in place.

    A dense layer's matrix fits the convolution that it becomes: values are copied in order when
    their number is the same and the output channels agree. This is how each stage starts from the
    one before (paper, section 4.2): trunk and scores are taken over, a new skip's scores stay 0.
    """
    donors, own = source.state_dict(), target.state_dict()
    copied, misfit = [], []
    with torch.no_grad():
        for name in (name for name in own if name in donors):
            donor, value = donors[name], own[name]
            if donor.numel() == value.numel() and donor.shape[:1] == value.shape[:1]:
                value.copy_(donor.reshape(value.shape))
                copied.append(name)
            else:
                misfit.append(name)
    missing = tuple(name for name in own if name not in donors)
    return Transplant(tuple(copied), missing, tuple(misfit))
