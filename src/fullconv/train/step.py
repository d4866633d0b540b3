"""One step of training: from a batch to changed weights, and what makes it fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from fullconv.base.processes import ALONE, Processes
from fullconv.base.runtime import full_float32, keep_freed_memory
from fullconv.data.loading import Batch, Share
from fullconv.net.rewrites.quicker_layers import lay_out, quicken
from fullconv.train.batch_norm import shared_statistics
from fullconv.train.losses import ClassWeights, image_losses, overlap_loss, valid_weights
from fullconv.train.recipe import Recipe

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN


class Sums(NamedTuple):
    """What an `Objective` finds of some images.

    Attributes:
        losses: each image's cross entropy for each head, summed over its valid pixels, as their
            classes weigh: float32 N,K.
        weights: what those pixels weigh together, likewise; without class weights their number.
        overlap: the losses of overlap of all the images (of several processes that share them, of
            theirs too), as the recipe weighs them, times their number: a scalar; 0 where it has
            none.
    """

    losses: Tensor
    weights: Tensor
    overlap: Tensor


class Objective(nn.Module):
    """A net and its losses as one module: images and labels to sums over valid pixels.

    What compiles or distributes a training wraps it, and sees one forward.

    Args:
        net: learns.
        recipe: names the losses, and whether normalisation is frozen.
        precision: of the net; losses are worked out in float32.
        class_weights: what a pixel counts by its class, of each head; None: all alike.
        processes: make the steps together.
    """

    def __init__(
        self,
        net: FCN,
        recipe: Recipe,
        precision: Literal["fp32", "bf16"] = "fp32",
        class_weights: ClassWeights | None = None,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.net, self.recipe, self.precision = net, recipe, precision
        self.class_weights, self.processes = class_weights, processes
        sliced = Share(recipe.batch_size, processes).sliced
        self.sharing = processes if sliced else ALONE  # those that have a part of each batch

    def forward(self, images: Tensor, labels: Tensor) -> Sums:
        """Sum the losses of images N,C,H,W as they are stored and labels N,K,H,W."""
        net, mixed = self.net, self.precision == "bf16"
        values = net.preprocessing(images).contiguous(memory_format=torch.channels_last)
        with (
            shared_statistics(self.sharing),
            torch.autocast(images.device.type, torch.bfloat16, enabled=mixed),
        ):
            coarse = net.coarse(values)
        losses = image_losses(net, coarse, labels, self.class_weights)
        if self.recipe.lovasz or self.recipe.dice:
            overlap = overlap_loss(net, coarse, labels, self.recipe, self.sharing)
            overlap = overlap * self.sharing.total(losses.new_tensor(len(labels)))
        else:
            overlap = losses.new_zeros(())
        return Sums(losses, self.weights(labels), overlap)

    def weights(self, labels: Tensor) -> Tensor:
        """Return what the valid pixels of labels N,K,H,W weigh together: float32 N,K."""
        return valid_weights(labels, self.net.ignore_index, self.class_weights)

    def train(self, mode: bool = True) -> Self:
        """Let the net learn, but for what the recipe freezes."""
        super().train(mode)
        if self.recipe.batch_norm == "frozen":
            for part in self.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        return self


def made_ready(net: FCN, device: torch.device) -> FCN:
    """Move a net to `device` and prepare it, and this process's memory, for fast steps."""
    quicken(net)
    keep_freed_memory()
    lay_out(net.to(device))
    return net


def take_step(
    objective: Objective, optimizer: Optimizer, batch: Batch, forward: nn.Module | None = None
) -> float:
    """Make one step of the optimizer, which lowers the recipe's loss, of several heads their sum.

    The parts of the batch pass the net one after the other, in each process its own; their
    gradients add up to that of the whole.

    Args:
        objective: of the net that learns.
        optimizer: of its parameters.
        batch: this process's images and labels.
        forward: what is called in place of `objective`: it, compiled or distributed.

    Returns:
        The mean cross entropy over the valid pixels of all processes' batches (of several heads the
        sum), whatever the recipe's loss, so that trainings can be compared; 0 where every label is
        ignored.

    Raises:
        FloatingPointError: the loss or the gradient is infinite or NaN; no weight was changed.
    """
    recipe, device = objective.recipe, next(objective.parameters()).device
    processes, called = objective.processes, objective if forward is None else forward
    parts = [
        [each.to(device, non_blocking=True) for each in (part.images, part.labels)]
        for part in batch.parts
    ]
    weights = torch.cat([objective.weights(labels) for _, labels in parts])
    sizes = torch.cat([weights.sum(0), weights.new_tensor([len(weights)])])
    whole, count = processes.total(sizes).clamp(min=1).tensor_split([-1])
    total = torch.zeros((), device=device)
    optimizer.zero_grad()
    with full_float32(enabled=objective.precision == "fp32"):
        for place, (images, labels) in enumerate(parts, start=1):
            with processes.summing(called, last=place == len(parts)):
                sums: Sums = called(images, labels)
                loss = (sums.losses / _divisor(recipe, sums.weights, whole, count)).sum()
                if recipe.lovasz or recipe.dice:
                    loss = loss + (sums.overlap / count).sum()
                loss.backward()  # type: ignore[no-untyped-call]
            total += (sums.losses.detach() / whole).sum()
    total = processes.total(total)
    norm = get_total_norm([p.grad for p in objective.parameters() if p.grad is not None])
    if not (total + norm).isfinite():
        raise FloatingPointError("loss" if not total.isfinite() else "gradient")
    if recipe.clip is not None and norm > recipe.clip:
        clip_grads_with_norm_(objective.parameters(), recipe.clip, norm)
    optimizer.step()
    return float(total)


def _divisor(recipe: Recipe, weights: Tensor, whole: Tensor, images: Tensor) -> Tensor:
    """Return what the losses of a part's images are divided by.

    Args:
        recipe: names the loss.
        weights: of the part's images, N,K.
        whole: of all images of the step, K.
        images: how many those are, a tensor of one.
    """
    if recipe.loss == "mean":
        return whole
    return images if recipe.loss == "sum" else weights.clamp(min=1) * images
