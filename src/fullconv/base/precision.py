"""What float32 means while a net works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def full_float32(*, enabled: bool = True) -> Iterator[None]:
    """Let NVIDIA GPUs compute float32 in the body with all its 24 bits.

    Left alone, torch lets cuDNN convolve float32 as TF32, which keeps 11 bits. The settings are
    the process's own; they are put back as they were. Elsewhere than on these GPUs nothing changes.

    Args:
        enabled: False leaves everything as it is.
    """
    from torch import backends

    cudnn: Any = backends.cudnn
    kinds: tuple[Any, ...] = (cudnn.conv, cudnn.rnn, backends.cuda.matmul) if enabled else ()
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@contextmanager
def inference(kind: str = "cpu", *, bf16: bool = False) -> Iterator[None]:
    """Compute without gradients in the body, in bfloat16 or true float32.

    Args:
        kind: of device: "cpu", "cuda" or "mps".
        bf16: whether convolutions are worked out in bfloat16.
    """
    import torch

    with (
        torch.inference_mode(),
        full_float32(enabled=kind == "cuda" and not bf16),
        torch.autocast(kind, torch.bfloat16, enabled=bf16),
    ):
        yield
