"""Poolings as OpenVINO works them out right: rounded down, over maps that are padded before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fullconv.dense.grids import pair

Sides = int | list[int] | tuple[int, ...]  # one number for H and W, or one of each


class RoundedDown(TorchFunctionMode):
    """While it lasts, poolings that OpenVINO errs on are worked out by others, with equal results.

    It takes torch's functions, since layers call them, too.
    """

    def __init__(self, *, tiny: bool) -> None:
        """Prepare.

        Args:
            tiny: whether maps may be smaller than a pooling's window, which OpenVINO refuses.
        """
        super().__init__()
        self._tiny = tiny

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call what stands for a function of torch's, or else the function."""
        ours: dict[Callable[..., Any], Callable[..., Tensor]] = {
            F.avg_pool2d: average_pool,
            F.max_pool2d: largest_pool,
            torch.max_pool2d: largest_pool,
        }
        if function in ours:
            return ours[function](*args, **(kwargs or {}), tiny=self._tiny)
        return function(*args, **(kwargs or {}))


def average_pool(  # noqa: PLR0917 (torch's own)
    input: Tensor,
    kernel_size: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    tiny: bool = True,
) -> Tensor:
    """Do as `F.avg_pool2d`.

    Where that rounds up OpenVINO counts padding that there is not, and it takes no divisor.
    """
    miscounted = ceil_mode and count_include_pad and any(pair(padding))
    refused = ceil_mode and tiny and _may_exceed(kernel_size, padding)
    if divisor_override is None and not (miscounted or refused):
        return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad)
    kernel, steps = pair(kernel_size), pair(stride or kernel_size)
    around = _sides(pair(padding), pair(padding))
    beyond = _sides((0, 0), _missing(kernel, steps, padding) if ceil_mode else (0, 0))

    def means(values: Tensor, frame: float) -> Tensor:
        padded = F.pad(F.pad(values, around, value=frame), beyond)
        return F.avg_pool2d(padded, kernel, steps)

    if divisor_override is not None:
        return means(input, 0.0) * (kernel[0] * kernel[1] / divisor_override)
    counted = means(torch.ones_like(input[:1, :1]), float(count_include_pad))
    return means(input, 0.0) / counted


def largest_pool(  # noqa: PLR0917 (torch's own)
    input: Tensor,
    kernel_size: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    dilation: Sides = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    tiny: bool = True,
) -> Any:
    """Do as `F.max_pool2d`.

    Maps are padded by copies of their edge, which change no window's maximum, and which int8
    passes.
    """
    refused = ceil_mode and tiny and _may_exceed(kernel_size, padding)
    if not refused or return_indices or pair(dilation) != (1, 1):
        plain: Callable[..., Any] = F.max_pool2d  # whose types tell indices from none by literals
        return plain(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    kernel, steps = pair(kernel_size), pair(stride or kernel_size)
    beyond = _sides((0, 0), _missing(kernel, steps, padding))
    return F.max_pool2d(F.pad(input, beyond, mode="replicate"), kernel, steps, padding)


def _may_exceed(kernel: Sides, padding: Sides) -> bool:
    """Tell whether a window is larger than a padded map of one cell."""
    return any(side > 1 + 2 * own for side, own in zip(pair(kernel), pair(padding), strict=True))


def _missing(kernel: Sides, steps: Sides, padding: Sides) -> tuple[int, int]:
    """Return by how many rows and columns more to pad, so that rounding down gives all windows.

    None of them may begin beyond the map.
    """
    high, wide = (
        min(step - 1, side - 1 - own)
        for side, step, own in zip(pair(kernel), pair(steps), pair(padding), strict=True)
    )
    return high, wide


def _sides(before: tuple[int, int], behind: tuple[int, int]) -> list[int]:
    """Return rows and columns to pad by as `F.pad` takes them: columns first."""
    return [before[1], behind[1], before[0], behind[0]]
