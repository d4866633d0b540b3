"""OpenVINO, on CPUs."""

from __future__ import annotations

import functools
import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.export.openvino import core, import_openvino, to_openvino
from fullconv.export.verification import Precision
from fullconv.net.fcn import FCN, Pixels
from fullconv.net.rewrites.by_size import Twin
from fullconv.predict.engines.engine import Run, Share
from fullconv.predict.engines.errors import EngineError
from fullconv.predict.engines.torch_engine import Torch

SMALL = 64  # pixels a side; OpenVINO errs on maps that are smaller than a pooling's window


class OpenVINO:
    """Runs nets by OpenVINO.

    One graph serves all image sizes: in OpenVINO that costs nothing, where a graph for each would
    have to be compiled anew.
    """

    def __init__(self, precision: Precision = "fp32") -> None:
        """Check that the CPU has the precision; raises EngineError where it hasn't."""
        if precision == "bf16" and "BF16" not in core().get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise EngineError("engine openvino has no bf16 on this CPU; use --precision fp32")
        self._hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        self._precision = precision
        self._graph = functools.cache(to_openvino)

    def start(self, twin: Twin, kind: np.dtype[Any], share: Share) -> Run:
        """Return what works out coarse scores (see `Runtime`)."""
        return Requests(self._compiled(twin, kind, share), self._of_small(twin.net, kind, share))

    def _compiled(self, twin: Twin, kind: np.dtype[Any], share: Share) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,  # without it bf16 is taken where it can be
            "INFERENCE_NUM_THREADS": share.all_threads,
            "NUM_STREAMS": share.at_once,
            "PERFORMANCE_HINT": "LATENCY" if share.at_once == 1 else "THROUGHPUT",
        }
        return core().compile_model(self._graph(twin.net, kind, twin.size), "CPU", settings)

    def _of_small(self, net: FCN, kind: np.dtype[Any], share: Share) -> Run:
        """Return what works on small images in OpenVINO's place, made ready when there is one."""

        @functools.cache
        def started() -> Run:
            return Torch(net.device, self._precision).start(Twin(net, None), kind, share)

        def run(image: Pixels) -> Sequence[Tensor]:
            return started()(image)

        return run


class Requests:
    """Infers images by a compiled graph, each by a request of its own.

    Attributes:
        graph: compiled.
        count: how many images are worked on at once.
    """

    def __init__(self, graph: Any, of_small: Run) -> None:
        self.graph, self._of_small = graph, of_small
        self.count = int(graph.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.count):
            self._idle.put(graph.create_infer_request())

    def __call__(self, image: Pixels) -> Sequence[Tensor]:
        """Return the coarse scores of an image, of each head."""
        if min(image.shape[:2]) < SMALL:
            return self._of_small(image)
        given = import_openvino().Tensor(
            np.require(image[None], requirements=("C", "W")), shared_memory=True
        )
        request = self._idle.get()
        try:
            request.infer([given])
            return [torch.from_numpy(output.data.copy()) for output in request.output_tensors]
        finally:
            self._idle.put(request)
