"""What works out the coarse scores, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullconv.errors import FullconvError, nearest

if TYPE_CHECKING:
    import torch

ENGINES = ("auto", "torch")
PLANNED_ENGINES = ("openvino", "onnxruntime")
PRECISIONS = ("auto", "fp32", "bf16")
PLANNED_PRECISIONS = ("int8",)


def check_engine(name: str) -> None:
    """Refuse an engine that there isn't (FullconvError)."""
    _check("engine", name, ENGINES, PLANNED_ENGINES)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Tell whether `precision` means bfloat16 on `device`; "auto" does on CUDA where it is native.

    Raises:
        FullconvError: there is no such precision.
    """
    import torch

    _check("precision", precision, PRECISIONS, PLANNED_PRECISIONS)
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def _check(what: str, name: str, known: tuple[str, ...], planned: tuple[str, ...]) -> None:
    if name in planned:
        raise FullconvError(f"{what} {name} is not supported yet; use --{what} {known[1]}")
    if name not in known:
        raise FullconvError(f"{what} {name!r} is none of {', '.join(known)}{nearest(name, known)}")
