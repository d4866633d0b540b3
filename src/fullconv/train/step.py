"""One step of training: from a batch to changed weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from fullconv.data.loading import Batch
from fullconv.train.recipe import Recipe

if TYPE_CHECKING:
    from fullconv.fcn import FCN


def take_step(
    net: FCN,
    optimizer: Optimizer,
    batch: Batch,
    recipe: Recipe,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    class_weights: Tensor | None = None,
) -> float:
    """Make one step of the optimizer and return the loss, the mean over the batch's valid pixels.

    The batch passes the net in its parts, whose gradients add up to that of the whole. Where every
    label is ignored the loss is 0.

    Raises:
        FloatingPointError: the loss or the gradient is infinite or NaN; no weight was changed.
    """
    device = next(net.parameters()).device
    labels = [part.labels[:, 0].to(device, non_blocking=True) for part in batch.parts]
    every = torch.cat([each.flatten() for each in labels])
    pixels = _weight(every, net.ignore_index, class_weights)
    total = torch.zeros((), device=device)
    optimizer.zero_grad()
    for (images, _), truth in zip(batch.parts, labels, strict=True):
        values = net.preprocessing(images.to(device, non_blocking=True))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            scores = net(values.contiguous(memory_format=torch.channels_last))
        loss = pixel_loss(scores, truth, net.ignore_index, class_weights) / pixels
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    norm = clip_grad_norm_(net.parameters(), recipe.clip or math.inf)
    if not (total + norm).isfinite():
        raise FloatingPointError("loss" if not total.isfinite() else "gradient")
    optimizer.step()
    return float(total)


def pixel_loss(
    scores: Tensor, labels: Tensor, ignore_index: int, class_weights: Tensor | None = None
) -> Tensor:
    """Return the summed cross entropy of scores N,C,H,W and labels N,H,W, without ignored pixels.

    It is worked out in float32; a pixel counts as much as the weight of its class.
    """
    return F.cross_entropy(
        scores.float(),
        labels.long(),
        class_weights,
        ignore_index=ignore_index,
        reduction="sum",
    )


def _weight(labels: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    """Return what the summed loss of `labels` is divided by to give a mean; at least 1."""
    valid = labels != ignore_index
    weight = valid.sum() if class_weights is None else class_weights[labels[valid].long()].sum()
    return weight.clamp(min=1)
