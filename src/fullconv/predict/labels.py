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

if TYPE_CHECKING:
    from fullconv.fcn import FCN

Pixels = NDArray[np.uint8 | np.float32]
Labels = NDArray[np.uint8]


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


def image_scores(net: FCN, image: Pixels) -> Tensor | dict[str, Tensor]:
    """Return the scores of an image, C x H x W on the net's device; of several heads, by name.

    To be called within `inference`.

    Args:
        net: the net.
        image: H x W x channels of all its inputs, uint8 or float32; colours are RGB in 0..255.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    own = torch.from_numpy(image.copy())  # torch minds read-only arrays and negative strides
    pixels = own.to(device).permute(2, 0, 1)
    coarse = net.coarse(net.preprocessing(pixels[None]))
    height, width = image.shape[:2]
    scores = net.upsample(coarse, (height, width))
    if isinstance(scores, Tensor):
        return scores[0]
    return {name: of_head[0] for name, of_head in scores.items()}


def head_scores(net: FCN, image: Pixels) -> dict[str, Tensor]:
    """Return what `image_scores` does by the name of its head, also where there is only one."""
    scores = image_scores(net, image)
    return scores if isinstance(scores, dict) else dict.fromkeys(net.heads, scores)


def highest(scores: Tensor) -> Labels:
    """Return which of C x H x W scores is the highest at each pixel: HxW uint8, the first of ties.

    `max` is asked because `argmax` over the first dimension takes ten times as long on CPUs.
    """
    labels: Labels = scores.max(0).indices.byte().cpu().numpy()
    return labels


def head_labels(net: FCN, image: Pixels, *, bf16: bool = False) -> dict[str, Labels]:
    """Return what `label_image` does by the name of its head, also where there is only one."""
    with inference(net, bf16=bf16):
        return {name: highest(scores) for name, scores in head_scores(net, image).items()}


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
