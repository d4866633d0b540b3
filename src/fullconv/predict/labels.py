"""One image through a net: scores, and the class of each pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.modes import evaluating
from fullconv.precision import full_float32

if TYPE_CHECKING:
    from fullconv.fcn import FCN

Pixels = NDArray[np.uint8 | np.float32]
Labels = NDArray[np.uint8]


@contextmanager
def inference(net: FCN, *, bf16: bool = False) -> Iterator[None]:
    """Put `net` in eval mode without gradients, in bfloat16 or true float32, in the body.

    Each of its modules gets back the mode it had, frozen ones among training ones included.
    """
    kind = next((p.device.type for p in net.parameters()), "cpu")
    with (
        evaluating(net),
        torch.inference_mode(),
        full_float32(enabled=not bf16),
        torch.autocast(kind, torch.bfloat16, enabled=bf16),
    ):
        yield


def coarse_scores(net: FCN, image: Pixels) -> dict[str, Tensor]:
    """Return the coarse scores of an image, 1 x C x h x w on the net's device, by head.

    To be called within `inference`.

    Args:
        net: the net.
        image: H x W x channels of all its inputs, uint8 or float32; colours are RGB in 0..255.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    own = torch.from_numpy(image.copy())  # torch minds read-only arrays and negative strides
    return net.by_head(net.coarse(net.preprocessing(own.to(device).permute(2, 0, 1)[None])))


def head_labels(net: FCN, image: Pixels, *, bf16: bool = False) -> dict[str, Labels]:
    """Return what `label_image` does by the name of its head, also where there is only one."""
    with inference(net, bf16=bf16):
        coarse, size = coarse_scores(net, image), (image.shape[0], image.shape[1])
        return {
            name: head.labels(coarse[name], size)[0].cpu().numpy() for name, head in net.labelled()
        }


def label_image(net: FCN, image: Pixels, *, bf16: bool = False) -> Labels | dict[str, Labels]:
    """Return the class id of each pixel of an image.

    Works on the net's own device, in eval mode; the net's mode is restored afterwards.

    Args:
        net: the net.
        image: H x W x channels of all its inputs, uint8 or float32; colours are RGB in 0..255.
        bf16: whether to work in bfloat16.

    Returns:
        HxW uint8; of several heads, one such array by the name of each.
    """
    labels = head_labels(net, image, bf16=bf16)
    return labels if len(labels) > 1 else next(iter(labels.values()))
