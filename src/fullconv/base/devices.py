"""Which device does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError, nearest

if TYPE_CHECKING:
    import torch

NAMES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; "auto" is the first of CUDA, MPS and CPU that is there.

    Raises:
        FullconvError: `name` is none of auto, cpu, cuda (or cuda:N) and mps, or isn't there.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in NAMES or (index and (kind != "cuda" or not index.isdecimal())):
        raise FullconvError(f"device {name!r} is none of {', '.join(NAMES)}{nearest(kind, NAMES)}")
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if kind == "auto":
        return torch.device(next(each for each, here in present.items() if here))
    if not present[kind] or (index and int(index) >= torch.cuda.device_count()):
        there = ", ".join(each for each, here in present.items() if here)
        raise FullconvError(f"no {name} device found (present: {there}); use --device auto")
    return torch.device(name)
