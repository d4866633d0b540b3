"""torch itself, channels last, on whatever device the net is."""

from __future__ import annotations

import functools
import threading

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.fcn import FCN
from fullconv.predict.engines import Precision
from fullconv.predict.engines.whole import Size, SpecialSizes, Whole
from fullconv.predict.labels import Pixels


class TorchEngine:
    """Works out coarse scores by torch, an image at a time.

    The net's weights are laid out channels last, which changes no value.
    """

    def __init__(self, net: FCN, precision: Precision = "fp32", *, compiled: bool = False) -> None:
        """Take over a net; `compiled` leaves it to `torch.compile`, on the first image."""
        self._net, self._compiled = net, compiled
        self._bf16 = precision == "bf16"
        self._device = next((each.device for each in net.parameters()), torch.device("cpu"))
        if self._bf16 or self._device.type == "cpu":
            net.to(memory_format=torch.channels_last)
        self._special = SpecialSizes(net)
        self._module = functools.cache(self._made)
        self._half = functools.cache(_half)
        self._lock = threading.Lock()  # two images at once would only take turns on all cores

    def __call__(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of an image (see `Engine`)."""
        own = torch.from_numpy(np.require(image, requirements=("C", "W")))
        with (
            self._lock,
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16),
        ):
            coarse = self._module(self._special.of(image))(own.to(self._device)[None])
        return dict(zip(self._net.heads, coarse, strict=True))

    def prepare(self, image: Pixels) -> None:
        """Make ready for images such as this one."""
        with self._lock:
            self._module(self._special.of(image))

    def _made(self, size: Size | None) -> nn.Module:
        whole = Whole(self._net, size).for_inference(self._half if self._bf16 else None)
        return torch.compile(whole) if self._compiled else whole  # type: ignore[return-value]


def _half(parameter: nn.Parameter) -> nn.Parameter:
    """Return bfloat16 weights, which autocast need not convert for each image."""
    return nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
