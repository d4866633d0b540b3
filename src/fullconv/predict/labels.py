"""One image through a net: scores, and the class of each pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.modes import evaluating

if TYPE_CHECKING:
    from fullconv.fcn import FCN


@contextmanager
def inference(net: FCN, *, bf16: bool = False) -> Iterator[None]:
    """Put `net` in eval mode without gradients, in bfloat16 if asked, while the body runs.

    Each of its modules gets back the mode it had, frozen ones among training ones included.
    """
    kind = next((p.device.type for p in net.parameters()), "cpu")
    with (
        evaluating(net),
        torch.inference_mode(),
        torch.autocast(kind, torch.bfloat16, enabled=bf16),
    ):
        yield


def image_scores(net: FCN, image: NDArray[np.uint8]) -> torch.Tensor:
    """Return the scores of an RGB image, HxWx3 uint8, as C x H x W on the net's device.

    To be called within `inference`.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    own = torch.from_numpy(image.copy())  # torch minds read-only arrays and negative strides
    pixels = own.to(device).permute(2, 0, 1)
    coarse = net.coarse(net.preprocessing(pixels[None]))
    height, width = image.shape[:2]
    scores: torch.Tensor = net.upsample(coarse, (height, width))[0]
    return scores


def highest(scores: torch.Tensor) -> NDArray[np.uint8]:
    """Return which of C x H x W scores is the highest at each pixel: HxW uint8, the first of ties.

    `max` is asked because `argmax` over the first dimension takes ten times as long on CPUs.
    """
    labels: NDArray[np.uint8] = scores.max(0).indices.byte().cpu().numpy()
    return labels


def label_image(net: FCN, image: NDArray[np.uint8], *, bf16: bool = False) -> NDArray[np.uint8]:
    """Return the class id of each pixel of an RGB image: HxWx3 uint8 to HxW uint8.

    Works on the net's own device, in eval mode; the net's mode is restored afterwards.
    """
    with inference(net, bf16=bf16):
        return highest(image_scores(net, image))
