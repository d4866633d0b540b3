"""From a net to OpenVINO's graph."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.export.coarse import CoarseScores, Size, example_of
from fullconv.net.fcn import FCN


def to_openvino(net: FCN, kind: np.dtype[Any], size: Size | None = None) -> Any:
    """Return OpenVINO's graph of a net from images to coarse scores.

    Args:
        net: in evaluation mode.
        kind: of the images' values, uint8 or float32.
        size: height and width of the images in pixels; None: any.
    """
    module, example = CoarseScores(net), example_of(net, kind, size)

    def coarse(images: Tensor) -> tuple[Tensor, ...]:
        return module(images)  # type: ignore[no-any-return]

    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        # Tracing is deprecated, but its successor takes five times as long; and of modules it asks
        # for attributes that not every net has, of functions it doesn't.
        traced = torch.jit.trace(coarse, example, check_trace=False)  # type: ignore[no-untyped-call]
        graph = import_openvino().convert_model(traced, example_input=example)
    if size is not None:
        graph.reshape(list(example.shape))
    return graph


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report each import to its maker."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
