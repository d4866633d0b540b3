"""From a net to OpenVINO's graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from operator import le
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.export.coarse import CoarseScores, example_of
from fullconv.export.metadata import KEY, ExportMetadata
from fullconv.export.openvino_core import import_openvino
from fullconv.export.openvino_pools import RoundedDown
from fullconv.export.whole import Exported
from fullconv.net.described import Size
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

    graph = _convert(coarse, (example,))
    if size is not None:
        graph.reshape(list(example.shape))
    return graph


def to_whole_openvino(module: Exported) -> Any:
    """Return a module's graph as OpenVINO's Model, for any number and size of images."""

    def outputs(*images: Tensor) -> tuple[Tensor, ...]:
        return module(*images)  # type: ignore[no-any-return]

    examples = module.examples()
    graph = _convert(outputs, examples, tiny=True)
    for place, name, example in zip(graph.inputs, module.input_names, examples, strict=True):
        place.set_names({name})
        place.get_node().set_friendly_name(name)
        place.get_node().set_partial_shape(
            import_openvino().PartialShape([-1, -1, -1, example.shape[-1]])
        )
    for place, name in zip(graph.outputs, module.output_names, strict=True):
        place.set_names({name})
    graph.validate_nodes_and_infer_types()
    return graph


def save_openvino(graph: Any, about: ExportMetadata, path: Path) -> None:
    """Write a graph with what it says of itself: an .xml, and its weights beside it as .bin.

    Raises:
        OSError: they can't be written.
    """
    graph.set_rt_info(about.to_json(), [KEY])
    try:
        import_openvino().save_model(graph, path, compress_to_fp16=about.precision == "fp16")
    except RuntimeError as error:
        raise OSError(f"{path}: can't be written ({error})") from error


def _convert(
    function: Callable[..., tuple[Tensor, ...]], examples: Sequence[Tensor], *, tiny: bool = False
) -> Any:
    """Return a function's graph; `tiny` ones are of any images (see `RoundedDown`)."""
    with torch.no_grad(), RoundedDown(tiny=tiny), warnings.catch_warnings(action="ignore"):
        # Tracing is deprecated, but its successor takes five times as long; and of modules it asks
        # for attributes that not every net has, of functions it doesn't.
        traced = torch.jit.trace(function, tuple(examples), check_trace=False)  # type: ignore[no-untyped-call]
        graph = import_openvino().convert_model(traced, example_input=tuple(examples))
    _simplify_poolings(graph)
    return graph


def _simplify_poolings(graph: Any) -> None:
    """Put poolings of opset 1 in the place of those that round up as torch does, if they are equal.

    In torch's way OpenVINO works out where maxima lay, though nobody asks for it; and its int8
    doesn't pass such a pooling: the convolution after it would compute in float32.
    """
    opset1 = import_openvino().opset1
    for pool in graph.get_ordered_ops():
        if pool.get_type_name() != "MaxPool" or not _is_simple(pool):
            continue
        how = pool.get_attributes()
        slides = [how[name] for name in ("strides", "pads_begin", "pads_end", "kernel")]
        simple = opset1.max_pool(pool.input_value(0), *slides, "ceil")
        simple.set_friendly_name(pool.get_friendly_name())
        pool.output(0).replace(simple.output(0))


def _is_simple(pool: Any) -> bool:
    """Tell whether a pooling rounds up as torch does, to what opset 1 gives.

    There its last window may lie in padding alone; without padding, and if no values lie between
    windows, none does.
    """
    how = pool.get_attributes()
    reaching = not any(how["pads_end"]) and all(map(le, how["strides"], how["kernel"]))
    dilated = any(each != 1 for each in how.get("dilations", ()))
    asked = any(output.get_target_inputs() for output in pool.outputs()[1:])
    return how["rounding_type"] == "ceil_torch" and reaching and not dilated and not asked
