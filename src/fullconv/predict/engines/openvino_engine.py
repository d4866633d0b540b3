"""OpenVINO, on CPUs."""

from __future__ import annotations

import functools
import queue
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.net.fcn import FCN, Pixels
from fullconv.net.surgery import inference_twin
from fullconv.predict.engines import EngineError, Precision
from fullconv.predict.engines.torch_engine import TorchEngine
from fullconv.predict.engines.whole import Share, Size, SpecialSizes, Whole

SMALL = 64  # pixels a side; OpenVINO errs on maps that are smaller than a pooling's window


class OpenVINOEngine:
    """Works out coarse scores by OpenVINO, with as many threads as torch would use.

    One graph serves all image sizes: in OpenVINO that costs nothing, where a graph for each would
    have to be compiled anew.
    """

    def __init__(self, net: FCN, precision: Precision = "fp32", *, at_once: int = 1) -> None:
        """Take over a net, which is converted when it is made ready.

        Args:
            net: the net.
            precision: EngineError where the CPU doesn't have it.
            at_once: how many images to work on side by side.
        """
        self._net = net
        self.at_once, self._threads = at_once, torch.get_num_threads()
        self._openvino = _openvino()
        self._core = _core()
        if precision == "bf16" and "BF16" not in self._core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise EngineError("engine openvino has no bf16 on this CPU; use --precision fp32")
        self._hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        self._of_small = TorchEngine(net, precision)
        self._special = SpecialSizes(net)
        self._requests = functools.cache(self._compiled)
        self._graph = functools.cache(self._converted)
        self._lock = threading.Lock()

    def __call__(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of an image (see `Engine`)."""
        if min(image.shape[:2]) < SMALL:
            return self._of_small(image)
        requests = self._requests_for(image)
        given = self._openvino.Tensor(
            np.require(image[None], requirements=("C", "W")), shared_memory=True
        )
        request = requests.get()
        try:
            request.infer([given])
            coarse = [torch.from_numpy(output.data.copy()) for output in request.output_tensors]
        finally:
            requests.put(request)
        return dict(zip(self._net.heads, coarse, strict=True))

    def prepare(self, image: Pixels) -> None:
        """Make ready for images such as this one."""
        self._requests_for(image)

    def _requests_for(self, image: Pixels) -> queue.SimpleQueue[Any]:
        share = Share.of(image, self.at_once, self._threads)
        with self._lock:
            return self._requests(self._special.of(image), image.dtype, share)

    def _compiled(
        self, size: Size | None, kind: np.dtype[Any], share: Share
    ) -> queue.SimpleQueue[Any]:
        """Return requests of a graph, each of which works on one image at a time."""
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,  # without it bf16 is taken where it can be
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": share.at_once,
            "PERFORMANCE_HINT": "LATENCY" if share.at_once == 1 else "THROUGHPUT",
        }
        compiled = self._core.compile_model(self._graph(size, kind), "CPU", settings)
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
            requests.put(compiled.create_infer_request())
        return requests

    def _converted(self, size: Size | None, kind: np.dtype[Any]) -> Any:
        """Return OpenVINO's graph of the net, for images of `size` or of any."""
        whole = inference_twin(Whole(self._net, size))
        example = np.zeros((1, *(size or (97, 131)), sum(self._net.inputs.values())), kind)
        images = torch.from_numpy(example)

        def coarse(images: Tensor) -> tuple[Tensor, ...]:
            return whole(images)  # type: ignore[no-any-return]

        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            # Tracing is deprecated, but its successor takes five times as long; and of modules it
            # asks for attributes that not every net has, of functions it doesn't.
            traced = torch.jit.trace(coarse, images, check_trace=False)  # type: ignore[no-untyped-call]
            graph = self._openvino.convert_model(traced, example_input=images)
        if size is not None:
            graph.reshape(list(example.shape))
        return graph


def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report each import to its maker."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@functools.cache
def _core() -> Any:
    """Return the process's one OpenVINO core, never to be dropped.

    Its first use sets aside a stack for signals on the thread at hand. Dropped by another thread,
    it would free that stack and leave it in use: the next signal, Ctrl-C say, would crash Python.
    """
    return _openvino().Core()
