"""ONNX Runtime, on CPUs, in float32."""

from __future__ import annotations

import functools
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from fullconv.net.fcn import FCN, Pixels
from fullconv.net.surgery import inference_twin
from fullconv.predict.engines.whole import Share, Size, SpecialSizes, Whole


class ONNXRuntimeEngine:
    """Works out coarse scores by ONNX Runtime, with as many threads as torch would use."""

    def __init__(self, net: FCN, *, at_once: int = 1) -> None:
        """Take over a net, which is exported when it is made ready.

        Args:
            net: the net.
            at_once: how many images to work on side by side.
        """
        self._net = net
        self.at_once, self._threads = at_once, torch.get_num_threads()
        self._special = SpecialSizes(net)
        self._session = functools.cache(self._exported)
        self._turn = functools.cache(lambda share: threading.Semaphore(share.at_once))
        self._lock = threading.Lock()

    def __call__(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of an image (see `Engine`)."""
        session, turn = self._ready(image)
        with turn:
            coarse = session.run(None, {"image": image[None]})
        return {
            name: torch.from_numpy(each) for name, each in zip(self._net.heads, coarse, strict=True)
        }

    def prepare(self, image: Pixels) -> None:
        """Make ready for images such as this one."""
        self._ready(image)

    def _ready(self, image: Pixels) -> tuple[onnxruntime.InferenceSession, threading.Semaphore]:
        share = Share.of(image, self.at_once, self._threads)
        with self._lock:
            session = self._session(self._special.of(image), image.dtype, share)
            return session, self._turn(share)

    def _exported(
        self, size: Size | None, kind: np.dtype[Any], share: Share
    ) -> onnxruntime.InferenceSession:
        """Return a session of the net, for images of `size` or of any."""
        whole = inference_twin(Whole(self._net, size))
        example = np.zeros((1, *(size or (97, 131)), sum(self._net.inputs.values())), kind)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = share.threads
        if share.at_once > 1:  # idle threads that spin would be in the way of the other images
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):
                # Deprecated, but its successor takes twenty times as long.
                torch.onnx.export(
                    whole,
                    (torch.from_numpy(example),),
                    path,
                    dynamo=False,
                    input_names=["image"],
                    dynamic_axes=None if size else {"image": {1: "height", 2: "width"}},
                )
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
