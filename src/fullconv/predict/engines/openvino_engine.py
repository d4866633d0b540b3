"""OpenVINO, on CPUs."""

from __future__ import annotations

import functools
import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.export.int8 import openvino_layers, quantised
from fullconv.export.openvino import to_openvino
from fullconv.export.openvino_core import core, import_openvino
from fullconv.export.verified import Precision
from fullconv.net.described import Pixels, Size
from fullconv.net.fcn import FCN
from fullconv.net.rewrites.by_size import Twin
from fullconv.predict.engines.engine import Run, Share
from fullconv.predict.engines.errors import EngineError
from fullconv.predict.engines.torch_engine import Torch

SMALL = 64  # pixels a side of what a trunk sees; OpenVINO errs on maps smaller than a window


class OpenVINO:
    """Runs nets by OpenVINO.

    One graph serves all image sizes: in OpenVINO that costs nothing, where a graph for each would
    have to be compiled anew.
    """

    def __init__(self, precision: Precision = "fp32", samples: Sequence[Pixels] = ()) -> None:
        """Settle how to work.

        Args:
            precision: of convolutions; int8 of those of the trunk.
            samples: images that int8 is calibrated on.

        Raises:
            EngineError: the CPU hasn't the precision, or int8 has no images.
        """
        samples = [image for image in samples if min(image.shape[:2]) >= SMALL]
        if precision == "int8" and not samples:
            raise EngineError(
                f"int8 is calibrated on the first images, and none of them has {SMALL} pixels a "
                "side; use --precision fp32"
            )
        if precision == "bf16" and "BF16" not in core().get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise EngineError("engine openvino has no bf16 on this CPU; use --precision fp32")
        self._hint = {"bf16": "bf16"}.get(precision, "f32")
        self._precision: Precision = "bf16" if precision == "bf16" else "fp32"  # of small images
        self._samples = samples if precision == "int8" else ()
        self._graph = functools.cache(self._converted)

    def start(self, twin: Twin, kind: np.dtype[Any], share: Share) -> Run:
        """Return what works out coarse scores (see `Runtime`)."""
        of_small = self._of_small(twin.net, kind, share)
        return Requests(self._compiled(twin, kind, share), of_small, _least_side(twin.net))

    def _compiled(self, twin: Twin, kind: np.dtype[Any], share: Share) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,  # without it bf16 is taken where it can be
            "INFERENCE_NUM_THREADS": share.all_threads,
            "NUM_STREAMS": share.at_once,
            "PERFORMANCE_HINT": "LATENCY" if share.at_once == 1 else "THROUGHPUT",
        }
        return core().compile_model(self._graph(twin.net, kind, twin.size), "CPU", settings)

    def _converted(self, net: FCN, kind: np.dtype[Any], size: Size | None) -> Any:
        graph = to_openvino(net, kind, size)
        if not self._samples:
            return graph
        (name,) = graph.inputs[0].get_names()
        images = [
            {name: image[None].astype(kind)}
            for image in self._samples
            if size in (None, image.shape[:2]) and min(image.shape[:2]) >= _least_side(net)
        ]
        return quantised(graph, openvino_layers(graph), images) if images else graph

    def _of_small(self, net: FCN, kind: np.dtype[Any], share: Share) -> Run:
        """Return what works on small images in OpenVINO's place, made ready when there is one."""

        @functools.cache
        def started() -> Run:
            return Torch(net.device, self._precision).start(Twin(net, None), kind, share)

        def run(images: Pixels) -> Sequence[Tensor]:
            return started()(images)

        return run


def _least_side(net: FCN) -> int:
    """Return the shortest side, in pixels, of the images that OpenVINO is asked for."""
    return SMALL * net.arguments.reduce


class Requests:
    """Infers images by a compiled graph, each by a request of its own.

    Where a layer fails OpenVINO may tell nobody, and leave what was worked out of the image before:
    small ones are not asked of it.

    Attributes:
        graph: compiled.
        count: how many images are worked on at once.
    """

    def __init__(self, graph: Any, of_small: Run, small: int) -> None:
        self.graph, self._of_small, self._small = graph, of_small, small
        self.count = int(graph.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.count):
            self._idle.put(graph.create_infer_request())

    def __call__(self, images: Pixels) -> Sequence[Tensor]:
        """Return the coarse scores of images N x H x W x C, of each head."""
        if min(images.shape[1:3]) < self._small:
            return self._of_small(images)
        given = import_openvino().Tensor(
            np.require(images, requirements=("C", "W")), shared_memory=True
        )
        request = self._idle.get()
        try:
            request.infer([given])
            return [torch.from_numpy(output.data.copy()) for output in request.output_tensors]
        finally:
            self._idle.put(request)
