"""From a net to an ONNX file."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.export.coarse import CoarseScores, example_of
from fullconv.export.metadata import IMAGE, KEY, ExportMetadata
from fullconv.export.whole import Exported
from fullconv.net.described import Size
from fullconv.net.fcn import FCN

OPSET = 17  # which all runtimes know
HALF = 65504.0  # the largest number in float16
# A tensor of fewer numbers than both stays in float32: for 5% more to store, a tenth as many labels
# change (MobileNetV2).
FEW = 8_000
FEW_OF_ALL = 1 / 200


def write_onnx(net: FCN, path: Path, kind: np.dtype[Any], size: Size | None = None) -> None:
    """Write the graph of a net from images to coarse scores as an ONNX file.

    Args:
        net: in evaluation mode.
        path: of the file.
        kind: of the images' values, uint8 or float32.
        size: height and width of the images in pixels; None: any.
    """
    axes = None if size else {IMAGE: {0: "images", 1: "height", 2: "width"}}
    _trace(
        CoarseScores(net),
        (example_of(net, kind, size),),
        path,
        input_names=[IMAGE],
        dynamic_axes=axes,
    )


def to_onnx(module: Exported) -> Any:
    """Return a module's graph as ONNX's ModelProto, for any number and size of images."""
    import onnx

    images = {0: "images", 1: "height", 2: "width"}
    axes = dict.fromkeys((*module.input_names, *module.output_names), images)
    for name, (down, across) in module.map_sides.items():
        axes[name] = {0: "images", 2: down, 3: across}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        _trace(
            module,
            module.examples(),
            path,
            input_names=list(module.input_names),
            output_names=list(module.output_names),
            dynamic_axes=axes,
            opset_version=OPSET,
        )
        return onnx.load(path)


def save_onnx(graph: Any, about: ExportMetadata, path: Path) -> None:
    """Write a graph with what it says of itself; it is one file.

    Args:
        graph: in float32; in the file its weights are of `about.precision`.
        about: what it says.
        path: of the file.

    Raises:
        OSError: it can't be written.
    """
    import onnx

    if about.precision == "fp16":
        graph = _halved(graph)
    del graph.metadata_props[:]
    graph.metadata_props.add(key=KEY, value=about.to_json())
    graph.producer_name, graph.producer_version = "fullconv", about.version
    onnx.save(graph, path)


def _trace(module: nn.Module, examples: Sequence[Tensor], path: Path, **options: Any) -> None:
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        # Deprecated, but its successor takes twenty times as long.
        torch.onnx.export(module, tuple(examples), path, dynamo=False, **options)


def _halved(graph: Any) -> Any:
    """Return a graph whose weights are stored in float16, and converted where it reads them.

    So every runtime computes in float32: on CPUs they have little else.
    """
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    conversions, stored = [], []
    few = min(FEW, FEW_OF_ALL * sum(prod(each.dims) for each in graph.graph.initializer))
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else None
        if values is None or values.size < few or np.abs(values).max() > HALF:
            stored.append(tensor)
            continue
        name = f"{tensor.name}.float16"
        stored.append(numpy_helper.from_array(values.astype(np.float16), name))
        conversions.append(
            helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT, name=name)
        )
    halved = ModelProto()
    halved.CopyFrom(graph)
    del halved.graph.initializer[:], halved.graph.node[:]
    halved.graph.initializer.extend(stored)
    halved.graph.node.extend([*conversions, *graph.graph.node])
    return halved
