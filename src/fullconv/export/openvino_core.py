"""OpenVINO itself: imported in private, and one core a process."""

from __future__ import annotations

import functools
import sys
from typing import Any


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report each import to its maker."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@functools.cache
def core() -> Any:
    """Return the process's one OpenVINO core, never to be dropped.

    Its first use sets aside a stack for signals on the thread at hand. Dropped by another thread,
    it would free that stack and leave it in use: the next signal, Ctrl-C say, would crash Python.
    """
    return import_openvino().Core()
