"""One step of training: from a batch to changed weights, and what makes it fast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from fullconv.base.memory import LARGE, keep_freed_memory
from fullconv.base.precision import full_float32
from fullconv.data.loading import Batch
from fullconv.net.rewrites.quicker_layers import quicken
from fullconv.papers.patch_sampling import sampled_labels
from fullconv.train.losses import ClassWeights, image_losses, overlap_loss, valid_weights
from fullconv.train.recipe import Recipe

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN


def made_ready(net: FCN, device: torch.device) -> FCN:
    """Move a net to `device` and prepare it, and this process's memory, for fast steps."""
    quicken(net)
    # Casts, copies and gradients of large weights are made anew in each step; else large blocks
    # are but few early activations, which kept would raise the peak by a fifth.
    keep_freed_memory(large=any(weight.nbytes > LARGE for weight in net.parameters()))
    return net.to(device).to(memory_format=torch.channels_last)


def set_to_train(net: FCN, recipe: Recipe) -> FCN:
    """Put a net into training mode, but for what the recipe freezes; return it."""
    net.train()
    if recipe.batch_norm == "frozen":
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
    return net


def take_step(
    net: FCN,
    optimizer: Optimizer,
    batch: Batch,
    recipe: Recipe,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    class_weights: ClassWeights | None = None,
) -> float:
    """Make one step of the optimizer, which lowers the recipe's loss, of several heads their sum.

    The parts of the batch pass the net one after the other; their gradients add up to that of the
    whole.

    Returns:
        The mean cross entropy over the batch's valid pixels (of several heads the sum), whatever
        the recipe's loss, so that trainings can be compared; 0 where every label is ignored.

    Raises:
        FloatingPointError: the loss or the gradient is infinite or NaN; no weight was changed.
    """
    device = next(net.parameters()).device
    labels = [
        _counted(part.labels.to(device, non_blocking=True), net, recipe) for part in batch.parts
    ]
    weights = [valid_weights(each, net.ignore_index, class_weights) for each in labels]
    whole = torch.cat(weights).sum(0).clamp(min=1)
    total = torch.zeros((), device=device)
    optimizer.zero_grad()
    mixed = precision == "bf16"
    for part, truth, weight in zip(batch.parts, labels, weights, strict=True):
        values = net.preprocessing(part.images.to(device, non_blocking=True))
        with full_float32(enabled=not mixed):
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                coarse = net.coarse(values.contiguous(memory_format=torch.channels_last))
            losses = image_losses(net, coarse, truth, class_weights)
            loss = (losses / _divisor(recipe, weight, whole, len(batch.names))).sum()
            if recipe.lovasz or recipe.dice:
                share = len(truth) / len(batch.names)
                loss = loss + share * overlap_loss(net, coarse, truth, recipe)
            loss.backward()  # type: ignore[no-untyped-call]
        total += (losses.detach() / whole).sum()
    norm = clip_grad_norm_(net.parameters(), recipe.clip or math.inf)
    if not (total + norm).isfinite():
        raise FloatingPointError("loss" if not total.isfinite() else "gradient")
    optimizer.step()
    return float(total)


def _counted(labels: Tensor, net: FCN, recipe: Recipe) -> Tensor:
    """Ignore what patch sampling leaves out of labels N,K,H,W."""
    stride = net.vertical.grids[0].stride // net.vertical.pixels.stride
    return sampled_labels(labels, recipe.sampled_cells, stride, net.ignore_index)


def _divisor(recipe: Recipe, weights: Tensor, whole: Tensor, images: int) -> Tensor | int:
    """Return what the losses of a part's images are divided by.

    Args:
        recipe: names the loss.
        weights: of the part's images, N,K.
        whole: of all images of the step, K.
        images: how many those are.
    """
    if recipe.loss == "mean":
        return whole
    return images if recipe.loss == "sum" else weights.clamp(min=1) * images
