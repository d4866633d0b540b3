"""From a net to an ONNX file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullconv.export.coarse import CoarseScores, Size, example_of
from fullconv.net.fcn import FCN

IMAGE = "image"  # the name of the graph's input


def write_onnx(net: FCN, path: Path, kind: np.dtype[Any], size: Size | None = None) -> None:
    """Write the graph of a net from images to coarse scores as an ONNX file.

    Args:
        net: in evaluation mode.
        path: of the file.
        kind: of the images' values, uint8 or float32.
        size: height and width of the images in pixels; None: any.
    """
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        # Deprecated, but its successor takes twenty times as long.
        torch.onnx.export(
            CoarseScores(net),
            (example_of(net, kind, size),),
            path,
            dynamo=False,
            input_names=[IMAGE],
            dynamic_axes=None if size else {IMAGE: {1: "height", 2: "width"}},
        )
