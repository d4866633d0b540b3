"""Fully convolutional networks: any image classifier becomes a network that labels every pixel.

Public names resolve on first use, so that ``import fullconv`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fullconv.base.errors import FullconvError, WorkFailedError

if TYPE_CHECKING:
    from fullconv.dense.layers import convolutionalize
    from fullconv.net.fcn import FCN, load
    from fullconv.net.preprocessing import Preprocessing
    from fullconv.papers.blueprint import paper

__version__ = "0.1.0"
__all__ = [
    "FCN",
    "FullconvError",
    "Preprocessing",
    "WorkFailedError",
    "convolutionalize",
    "load",
    "paper",
]

_HOMES = {
    "FCN": "fullconv.net.fcn",
    "Preprocessing": "fullconv.net.preprocessing",
    "convolutionalize": "fullconv.dense.layers",
    "load": "fullconv.net.fcn",
    "paper": "fullconv.papers.blueprint",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds the public `name` when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fullconv' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, resolved or not."""
    return sorted({*globals(), *__all__})
