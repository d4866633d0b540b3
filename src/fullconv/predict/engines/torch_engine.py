"""torch itself, channels last, on whatever device the net is."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.base.runtime import inference
from fullconv.export.coarse import CoarseScores
from fullconv.export.verified import Precision
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN, as_tensor
from fullconv.net.rewrites.by_size import Twin, TwinBySize
from fullconv.net.rewrites.folding import fold_norms
from fullconv.net.surgery import inference_twin
from fullconv.predict.engines.engine import Run, Share


class Torch:
    """Runs nets by torch."""

    def __init__(
        self,
        device: torch.device,
        precision: Precision = "fp32",
        *,
        compiled: bool = False,
        side_by_side: bool = False,
    ) -> None:
        """Settle how to work.

        Args:
            device: where the nets are.
            precision: of convolutions; scores are summed in float32 in any case.
            compiled: whether to leave it to `torch.compile`, on the first image.
            side_by_side: whether threads of its own work on several images at once; else it is
                those that ask, one after the other, with the threads that torch has started there.
        """
        self._side_by_side = side_by_side
        self._device, self._bf16, self._compiled = device, precision == "bf16", compiled
        self._pool = functools.cache(_pool)
        self._turn = threading.Lock()

    def start(self, twin: Twin, kind: np.dtype[Any], share: Share) -> Run:  # noqa: ARG002
        """Return what works out coarse scores (see `Runtime`)."""
        module: nn.Module = CoarseScores(twin.net)
        if self._compiled:
            module = torch.compile(module)  # type: ignore[assignment]

        def coarse(images: Pixels) -> Sequence[Tensor]:
            pixels = as_tensor(images).to(self._device)
            with inference(self._device.type, bf16=self._bf16):
                return module(pixels)  # type: ignore[no-any-return]

        if self._side_by_side:
            pool = self._pool(share)
            return lambda images: pool.submit(coarse, images).result()

        def in_turn(images: Pixels) -> Sequence[Tensor]:
            with self._turn:
                return coarse(images)

        return in_turn


def twins_for_torch(net: FCN, *, bf16: bool = False) -> TwinBySize:
    """Return the twins of a net that torch is quickest with.

    Weights are laid out channels last, which changes no value; batch normalisations are folded into
    copies of them. With `bf16` convolutions hold them in that type, so that autocast need not
    convert them for each image.
    """
    if bf16 or net.device.type == "cpu":
        net.to(memory_format=torch.channels_last)
    folded = inference_twin(net)
    fold_norms(folded)
    return TwinBySize(folded, functools.cache(_half) if bf16 else None)


def _pool(share: Share) -> ThreadPoolExecutor:
    """Return threads that work on an image each, by the threads that torch has there.

    Torch would give as many to each thread that asks. Where there are more in all than cores, each
    step of a net waits for some of them to wake up.
    """
    before, started = torch.get_num_threads(), threading.Barrier(share.at_once)

    def start(_: int) -> None:
        torch.get_num_threads()  # a thread's first question sets its number anew
        torch.set_num_threads(share.threads)  # of this thread, and of those to come ...
        started.wait()

    pool = ThreadPoolExecutor(share.at_once)
    list(pool.map(start, range(share.at_once)))
    torch.set_num_threads(before)  # ... which is undone
    return pool


def _half(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
