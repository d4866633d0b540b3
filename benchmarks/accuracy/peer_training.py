"""Training a net of segmentation-models-pytorch as its own examples do, within given minutes.

The nets are those of segmentation-models-pytorch 0.6.0. The practice followed (no code is copied)
is that of the examples at https://github.com/qubvel-org/segmentation_models.pytorch:

- examples/camvid_segmentation_multiclass.ipynb (commit 00bbcca8): its augmentations by
  albumentations, crops of 320x320, the multiclass Dice loss, images padded to multiples of 32;
- examples/binary_segmentation_intro_cpu.py (commit 1f1a4659): batches of 8, Adam at 2e-4, a cosine
  down to 1e-5 over all the steps.

The examples were written for albumentations 1; noise, whose default is more than ten times as
strong in albumentations 2, is as it was then. What lies outside the image is ignored, not labelled
0. Everything else is as in a fullconv training of limited time: decoded images kept in memory, as
many workers, a few steps timed first, channels_last, bfloat16 if that is faster, the schedule
fitted to the minutes again and again, validations as rare, the best weights on val.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.pipeline import ahead
from fullconv.base.progress import Reporter
from fullconv.base.runtime import evaluating
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder, Split
from fullconv.data.loading import (
    Batch,
    Batches,
    CachedSplit,
    TrainingDataset,
    Transform,
    cached_splits,
    default_workers,
    training_batches,
)
from fullconv.data.transforms import training_transform
from fullconv.measure.metrics import ConfusionMatrix, Metrics
from fullconv.net.classifiers import build_classifier
from fullconv.net.described import Labels, Pixels
from fullconv.train.plan import Pace, Plan, learning_rate, make_plan
from fullconv.train.recipe import Recipe
from fullconv.train.state import TrainingState
from fullconv.train.timing import MOST_STEPS, WORTH_BF16, label_seconds, step_seconds

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

ARCHITECTURES = ("Unet", "FPN", "DeepLabV3Plus")
TO_INSTALL = (
    "pip install -c constraints.txt segmentation-models-pytorch==0.6.0 albumentations==2.0.8"
)
CPU = torch.device("cpu")
COARSEST = 32  # what the sides of the peers' images must be whole multiples of

Loss = Callable[[Tensor, Tensor], Tensor]


def package(name: str) -> Any:
    """Import a package that only the peers need.

    Raises:
        FullconvError: it isn't installed; the message tells how to.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for news
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise FullconvError(f"{error.name} is not installed: {TO_INSTALL}") from None


@dataclass(frozen=True)
class Practice:
    """How a peer is trained.

    Attributes:
        loss: dice, as in the examples, dice+ce: cross entropy is added, or ce: that alone.
        lr: the learning rate at the start.
        lowest_lr: at the end of the cosine.
        batch_size: crops a step.
        crop: height and width of the crops in pixels, where the images are that large.
        recipe: of fullconv, whose optimizer, learning rates and views take the place of the
            examples'; None: those.
    """

    loss: Literal["dice", "dice+ce", "ce"] = "dice"
    lr: float = 2e-4
    lowest_lr: float = 1e-5
    batch_size: int = 8
    crop: int = 320
    recipe: Recipe | None = None

    @classmethod
    def tuned(cls) -> Practice:
        """Return what serves them better: AdamW, one cycle, cross entropy and plain views."""
        recipe = Recipe()
        return cls(loss="ce", lr=recipe.lr, recipe=recipe)

    def learning_rate(self, done: float) -> float:
        """Return the learning rate when a share `done` of the steps is done, 0 to 1."""
        if self.recipe:
            return self.lr * learning_rate(self.recipe.schedule, done, self.recipe.warmup)
        return self.lowest_lr + (self.lr - self.lowest_lr) * (1 + math.cos(math.pi * done)) / 2

    def crop_of(self, height: float, width: float) -> tuple[int, int]:
        """Return the crop's height and width for images of a typical size: multiples of 32."""
        rows, columns = (
            max(min(self.crop, int(side)) // COARSEST, 1) * COARSEST for side in (height, width)
        )
        return rows, columns

    def loss_function(self, ignore_index: int) -> Loss:
        """Return the loss of scores N,C,H,W and labels N,H,W (int64)."""
        entropy = nn.CrossEntropyLoss(ignore_index=ignore_index)
        if self.loss == "ce":
            return entropy
        losses = package("segmentation_models_pytorch").losses
        dice: Loss = losses.DiceLoss("multiclass", from_logits=True, ignore_index=ignore_index)
        if self.loss == "dice":
            return dice
        return lambda scores, truth: dice(scores, truth) + entropy(scores, truth)

    def views(self, crop: tuple[int, int], ignore_index: int) -> Transform:
        """Return what makes a random view of an image and its labels."""
        if self.recipe is None:
            return Augmentation(crop, ignore_index)
        settings = self.recipe.scale_jitter, self.recipe.flip, self.recipe.color
        view: Transform = training_transform(crop, *settings, ignore_index=ignore_index)
        return view

    def optimizer(self, peer: Peer) -> Optimizer:
        """Return the optimizer of a peer; `TrainingState` asks each group for its factor."""
        group = {"params": list(peer.parameters()), "factor": 1.0}
        if self.recipe is None:
            return Adam([group], lr=self.lr)
        return AdamW([group], lr=self.lr, weight_decay=self.recipe.weight_decay)


class Peer(nn.Module):
    """A net of segmentation-models-pytorch whose encoder is a pretrained MobileNetV2.

    Args:
        architecture: Unet, FPN or DeepLabV3Plus; their settings are the package's defaults.
        num_classes: how many classes it scores.
        weights: the safetensors file of the classifier, or None: random ones.

    Attributes:
        preprocessing: what the weights expect.

    Raises:
        FullconvError: the weights are not wholly those of torchvision's mobilenet_v2.
    """

    def __init__(self, architecture: str, num_classes: int, weights: Path | None) -> None:
        super().__init__()
        classifier, self.preprocessing = build_classifier("mobilenet_v2", weights)
        build = getattr(package("segmentation_models_pytorch"), architecture)
        self.net = build(encoder_name="mobilenet_v2", encoder_weights=None, classes=num_classes)
        self.net.encoder.load_state_dict(classifier.state_dict(), strict=True)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores N,C,H,W of images N,3,H,W in bytes; sides are multiples of 32."""
        values = self.preprocessing(images).contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.net(values)
        return scores

    @torch.inference_mode()
    def label(self, image: Pixels) -> Labels:
        """Return the labels HxW of an RGB image HxWx3 of any size, both uint8.

        The image is mirrored at its borders up to multiples of 32, evenly on both sides. To be
        called in evaluation mode.
        """
        height, width = image.shape[:2]
        (above, _), (left, _) = padding = margins(height), margins(width)
        padded = torch.from_numpy(np.pad(image, (*padding, (0, 0)), mode="reflect"))
        scores = self(padded.permute(2, 0, 1)[None])
        own = scores[0, :, above : above + height, left : left + width]
        labels: Labels = own.argmax(0).to(torch.uint8).numpy()
        return labels


def margins(length: int) -> tuple[int, int]:
    """Return by how many pixels a side is padded at its start and end, to a multiple of 32."""
    return -length % COARSEST // 2, -length % COARSEST - -length % COARSEST // 2


class Augmentation:
    """The examples' random views of an image and its labels; a draw of torch's decides on each.

    Args:
        crop: height and width of the result in pixels.
        ignore_index: the label of what lies outside the image.
    """

    def __init__(self, crop: tuple[int, int], ignore_index: int) -> None:
        package("cv2").setNumThreads(0)  # the cores are busy with the net
        a = package("albumentations")
        outside = {"border_mode": 0, "fill": 0, "fill_mask": ignore_index}
        shift = {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}
        noise = (math.sqrt(10) / 255, math.sqrt(50) / 255)
        self.compose = a.Compose(
            [
                a.HorizontalFlip(p=0.5),
                a.Affine(
                    scale=(0.5, 1.5), translate_percent=shift, keep_ratio=True, p=1, **outside
                ),
                a.PadIfNeeded(*crop, **outside),
                a.RandomCrop(*crop),
                a.GaussNoise(std_range=noise, p=0.2),
                a.Perspective(p=0.5, **outside),
                a.OneOf([a.CLAHE(p=1), a.RandomBrightnessContrast(p=1), a.RandomGamma(p=1)], p=0.9),
                a.OneOf(
                    [a.Sharpen(p=1), a.Blur(blur_limit=3, p=1), a.MotionBlur(blur_limit=3, p=1)],
                    p=0.9,
                ),
                a.OneOf([a.RandomBrightnessContrast(p=1), a.HueSaturationValue(p=1)], p=0.9),
            ]
        )

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a view of an image 3,H,W and of its mask 1,H,W, all uint8."""
        self.compose.set_random_seed(int(torch.randint(1 << 31, ())))
        pixels, labels = image.permute(1, 2, 0).numpy(), mask[0].numpy()
        view = self.compose(image=pixels, mask=labels)
        moved, moved_mask = (np.ascontiguousarray(view[key]) for key in ("image", "mask"))
        return torch.from_numpy(moved).permute(2, 0, 1), torch.from_numpy(moved_mask)[None]


@dataclass(frozen=True)
class Task:
    """What a peer is trained on, and how.

    Attributes:
        train, val: the data.
        practice: the settings.
        ignore_index: the label that counts nowhere.
        workers: processes that prepare images.
        seed: of everything random.
    """

    train: CachedSplit
    val: CachedSplit
    practice: Practice
    ignore_index: int
    workers: int
    seed: int

    @classmethod
    def of(cls, folder: DatasetFolder, practice: Practice, seed: int) -> Task:
        """Prepare to read a dataset folder of one head."""
        workers = default_workers(CPU)
        train, val = cached_splits(folder.split("train"), folder.split("val"), workers)
        return cls(train, val, practice, folder.info.ignore_index, workers, seed)

    def plan(self, seconds: float) -> Plan:
        """Return the plan that the data call for, before any clock is consulted."""
        found = Fingerprint.of(self.train.split)
        crop = self.practice.crop_of(*found.median_size)
        recipe = Recipe(batch_size=self.practice.batch_size, crop=crop)
        return make_plan(recipe, found, len(self.val), workers=self.workers, seconds=seconds)

    def batches(self, plan: Plan) -> Generator[Batch]:
        """Yield the batches of every step, without end."""
        assert plan.crop != "whole"
        size = self.practice.batch_size
        return training_batches(
            TrainingDataset(self.train, self.practice.views(plan.crop, self.ignore_index)),
            Batches(len(self.train), size, self.seed),
            part=size,
            workers=self.workers,
            device=CPU,
        )


@dataclass(frozen=True)
class TrainedPeer:
    """What became of a training.

    Attributes:
        peer: with its best weights on val.
        minutes: that it took, validations and all.
        epochs: passes over the training images.
        val_mean_iu: the best.
    """

    peer: Peer
    minutes: float
    epochs: float
    val_mean_iu: float


def train(
    architecture: str,
    weights: Path | None,
    folder: DatasetFolder,
    practice: Practice,
    *,
    minutes: float,
    seed: int = 0,
) -> TrainedPeer:
    """Train a peer on the CPU for so many minutes, timed by the clock of fullconv's trainings.

    Raises:
        FullconvError: the weights or the data are wrong, or a package is missing.
        WorkFailedError: the loss became infinite or NaN.
    """
    begun = time.monotonic()
    torch.manual_seed(seed)
    peer = Peer(architecture, len(folder.info.classes), weights).train()
    task = Task.of(folder, practice, seed)
    plan, pace = timed(task, peer, task.plan(minutes * 60), begun)
    optimizer = practice.optimizer(peer)
    state = TrainingState(cast("FCN", peer), optimizer, plan, pace=pace, ticked=begun)
    state.tick()
    best = _train(task, peer, state, architecture)
    peer.load_state_dict(best)
    assert state.best is not None
    epochs = state.step / state.plan.steps_per_epoch
    return TrainedPeer(peer.eval(), state.seconds / 60, epochs, state.best)


def _train(task: Task, peer: Peer, state: TrainingState, name: str) -> dict[str, Tensor]:
    """Train from the first step to the last; return the weights that were best on val."""
    loss_function = task.practice.loss_function(task.ignore_index)
    size, best = task.practice.batch_size, peer.state_dict()
    with (
        Reporter().bar(state.plan.steps * size, name) as bar,
        closing(task.batches(state.plan)) as feed,
    ):
        while state.step < state.plan.steps:
            state.set_learning_rate(task.practice.learning_rate(state.plan.done(state.step)))
            loss = take_step(
                peer, state.optimizer, next(feed), loss_function, precision=state.plan.precision
            )
            state.advance(loss)
            if not math.isfinite(loss):
                raise WorkFailedError(f"{name}: the loss of step {state.step} is not finite")
            bar.advance(size, f"loss {loss:.3f}")
            if state.plan.validates(state.step):
                score = float(np.nan_to_num(measure(peer, task.val).mean_iu))
                bar.say(f"{name}: step {state.step}: val mean IU {score:.3f}")
                if state.best is None or score > state.best:
                    state.best, best = score, deepcopy(peer.state_dict())
                state.pace = replace(state.pace, validation=state.tick())
            state.keep_in_time()
            bar.total = state.plan.steps * size
    return best


def take_step(
    peer: Peer,
    optimizer: Optimizer,
    batch: Batch,
    loss_function: Loss,
    *,
    precision: Literal["fp32", "bf16"],
) -> float:
    """Make one step of the optimizer; return the loss."""
    ((images, labels),) = batch.parts
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        scores = peer(images)
    loss = loss_function(scores.float(), labels[:, 0].long())
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


def measure(peer: Peer, split: Split | CachedSplit) -> Metrics:
    """Label every image of a split of one head at native resolution; measure the labels."""
    (head,) = split.heads.values()
    unscored = [head.classes.index(name) for name in head.unscored]
    counter = ConfusionMatrix(len(head.classes), unscored)
    with evaluating(peer):
        for _, image, (truth,) in ahead(split.__getitem__, range(len(split))):
            counter.update(truth, peer.label(image))
    return counter.metrics()


def timed(task: Task, peer: Peer, plan: Plan, begun: float) -> tuple[Plan, Pace]:
    """Time a few steps and labels; choose the precision and fit the steps to the time left.

    Args:
        task: the training to come.
        peer: is not changed, nor are torch's generators.
        plan: what the data call for.
        begun: when the training's time began, by `time.monotonic`.
    """
    mixed_plan = replace(plan, precision="bf16")
    with torch.random.fork_rng(devices=[]):
        times, mixed = _step_times(task, peer, plan), _step_times(task, peer, mixed_plan)
    if min(mixed) * WORTH_BF16 <= min(times):
        plan, times = mixed_plan, mixed
    image = task.val[0].image
    with evaluating(peer):
        validation = label_seconds(partial(peer.label, image)) * len(task.val)
    pace = Pace(sum(times) / len(times), validation)
    return plan.fitted(pace, spent=time.monotonic() - begun), pace


def _step_times(task: Task, peer: Peer, plan: Plan) -> list[float]:
    """Return the seconds of a few steps on a copy, loading included; the first one warms up."""
    trial, loss_function = deepcopy(peer), task.practice.loss_function(task.ignore_index)
    optimizer = task.practice.optimizer(trial)

    def step(batch: Batch) -> None:
        take_step(trial, optimizer, batch, loss_function, precision=plan.precision)

    return step_seconds(task.batches(plan), step, plan, MOST_STEPS)
