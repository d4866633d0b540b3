"""Large tensors, a portion at a time: half a gigabyte of weights need not be there twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PORTION = 1 << 24  # bytes


def portions(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's values in order, some lines of its first axis at a time."""
    import torch

    lines = tensor.detach().reshape(tensor.shape or (1,))
    yield from torch.split(lines, max(PORTION // max(lines[:1].nbytes, 1), 1))


def bits_of(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor in the order of its values, wherever these lie in memory."""
    import torch

    for some in portions(tensor):
        flat = some.cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds neither infinite numbers nor NaN."""
    return all(bool(some.isfinite().all()) for some in portions(tensor))
