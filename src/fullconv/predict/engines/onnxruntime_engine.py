"""ONNX Runtime, on CPUs, in float32."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from fullconv.export.metadata import IMAGE
from fullconv.export.onnx import write_onnx
from fullconv.net.described import Pixels
from fullconv.net.rewrites.by_size import Twin
from fullconv.predict.engines.engine import Run, Share


class ONNXRuntime:
    """Runs nets by ONNX Runtime."""

    def start(self, twin: Twin, kind: np.dtype[Any], share: Share) -> Run:
        """Return what works out coarse scores (see `Runtime`)."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = share.threads
        if share.at_once > 1:  # idle threads that spin would be in the way of the other images
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            write_onnx(twin.net, path, kind, twin.size)
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        turn = threading.Semaphore(share.at_once)

        def run(images: Pixels) -> list[Tensor]:
            with turn:
                coarse = session.run(None, {IMAGE: images})
            return [torch.from_numpy(each) for each in coarse]

        return run
