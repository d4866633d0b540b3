"""torch itself, channels last, on whatever device the net is."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from fullconv.base.runtime import inference
from fullconv.net.fcn import FCN, Pixels, as_tensor
from fullconv.net.rewrites.folding import fold_norms
from fullconv.net.surgery import inference_twin
from fullconv.predict.engines import Precision
from fullconv.predict.engines.whole import Share, Size, SpecialSizes, Whole


class TorchEngine:
    """Works out coarse scores by torch.

    The net's weights are laid out channels last, which changes no value; its batch normalisations
    are folded into copies of them.
    """

    def __init__(
        self,
        net: FCN,
        precision: Precision = "fp32",
        *,
        compiled: bool = False,
        at_once: int = 1,
    ) -> None:
        """Take over a net.

        Args:
            net: on the device where it is to work.
            precision: of convolutions; scores are summed in float32 in any case.
            compiled: whether to leave it to `torch.compile`, on the first image.
            at_once: how many images to work on side by side, on CPUs.
        """
        self._net, self._compiled = net, compiled
        self._bf16 = precision == "bf16"
        self._device = next((each.device for each in net.parameters()), torch.device("cpu"))
        on_cpu = self._device.type == "cpu"
        if self._bf16 or on_cpu:
            net.to(memory_format=torch.channels_last)
        self.at_once = at_once if on_cpu else 1
        self._threads = torch.get_num_threads()
        self._special = SpecialSizes(net)
        self._folded = functools.cache(lambda: _with_folded_norms(net))
        self._module = functools.cache(self._made)
        self._half = functools.cache(_half)
        self._pool = functools.cache(_pool)
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def __call__(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of an image (see `Engine`)."""
        module, pool = self._ready(image)
        if pool is not None:
            return pool.submit(self._coarse, module, image).result()
        with self._turn:
            return self._coarse(module, image)

    def prepare(self, image: Pixels) -> None:
        """Make ready for images such as this one."""
        self._ready(image)

    def _ready(self, image: Pixels) -> tuple[nn.Module, ThreadPoolExecutor | None]:
        """Return what works on an image and, for several side by side, where."""
        share = Share.of(image, self.at_once, self._threads)
        with self._lock:
            module = self._module(self._special.of(image))
            return module, self._pool(share) if self.at_once > 1 else None

    def _coarse(self, module: nn.Module, image: Pixels) -> dict[str, Tensor]:
        pixels = as_tensor(image)
        with inference(self._device.type, bf16=self._bf16):
            coarse = module(pixels.to(self._device)[None])
        return dict(zip(self._net.heads, coarse, strict=True))

    def _made(self, size: Size | None) -> nn.Module:
        whole = inference_twin(Whole(self._folded(), size), self._half if self._bf16 else None)
        return torch.compile(whole) if self._compiled else whole  # type: ignore[return-value]


def _with_folded_norms(net: FCN) -> FCN:
    twin = inference_twin(net)
    fold_norms(twin)
    return twin


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
    """Return bfloat16 weights, which autocast need not convert for each image."""
    return nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
