"""Feeding a training: which images in which order, decoded once, transformed, in batches.

Order and augmentation are pure functions of the seed and the step, so a training continues at any
step exactly as it would have gone on, whatever the number of workers.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from fullconv.base.errors import FullconvError
from fullconv.base.processes import ALONE, Processes
from fullconv.data.fingerprint import Fingerprint, Size
from fullconv.data.folder import Input, LabelledImage, Split
from fullconv.data.info import HeadInfo
from fullconv.data.listing import Sample

UNKNOWN_MEMORY = 4 << 30  # assumed where the system does not tell
LITTLE_SHARED_MEMORY = 512 << 20

_KINDS = ("u1", "u2", "f4")  # each holds the values of those before it
_KEPT = dict(zip(_KINDS, (torch.uint8, torch.uint16, torch.float32), strict=True))

Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[Tensor, Tensor]]


class CachedSplit:
    """A split that keeps its decoded images in memory, where they fit.

    Images are decoded when first asked for, by whichever process asks. Distances are kept in the
    16 bits that they have in their files; an image that does not fit its input's type is not kept.

    Args:
        split: where images and masks come from.
        budget_bytes: nothing is kept if the decoded images would take more than this.
        sizes: the (height, width) of each image by its sample's name; None: headers are read.
        shared: whether workers are to see what another process decoded.
    """

    def __init__(
        self,
        split: Split,
        budget_bytes: int,
        *,
        sizes: Mapping[str, Size] | None = None,
        shared: bool = False,
    ) -> None:
        self.split, self.name = split, split.name
        channels = [each.channels for each in split.inputs.values()]
        kind = _KEPT[max((each.kind for each in split.inputs.values()), key=_KINDS.index)]
        self._bytes_per_pixel = sum(channels) * kind.itemsize + len(split.heads)
        self._sizes = _sizes_if_they_fit(split, sizes or {}, budget_bytes // self._bytes_per_pixel)
        if self._sizes is not None:
            self._ends = np.cumsum([height * width for height, width in self._sizes]).tolist()
            self._images = _zeros(self._ends[-1], sum(channels), kind=kind, shared=shared)
            self._labels = _zeros(len(split.heads) * self._ends[-1], shared=shared)
            self._filled = _zeros(len(split), shared=shared)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Names and paths of the images and masks."""
        return self.split.samples

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What is read of each scene, by name, in the order of the image's channels."""
        return self.split.inputs

    @property
    def heads(self) -> Mapping[str, HeadInfo]:
        """Whose labels are read, by name, in the order of the labels' layers."""
        return self.split.heads

    @property
    def kept_bytes(self) -> int:
        """How much memory the decoded images take, or will."""
        return 0 if self._sizes is None else self._ends[-1] * self._bytes_per_pixel

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> LabelledImage:
        """Return image `index`, decoded now or earlier; its arrays must not be changed."""
        if self._sizes is None:
            return self.split[index]
        size, layers = self._sizes[index], len(self.heads)
        end, area = self._ends[index], math.prod(size)
        image = self._images[end - area : end].numpy().reshape(*size, -1)
        labels = self._labels[layers * (end - area) : layers * end].numpy().reshape(-1, *size)
        if not self._filled[index]:  # two workers may both do it, with the same result
            sample = self.split[index]
            with np.errstate(invalid="ignore"):
                image[:], labels[:] = sample.image, sample.labels
            if sample.image.dtype != image.dtype and not np.array_equal(sample.image, image):
                return sample  # of another type than the first file of its input
            self._filled[index] = 1
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
        return LabelledImage(self.samples[index].name, image, labels)


def cached_splits(
    train: Split, val: Split, workers: int, found: Iterable[Fingerprint] = (), sharing: int = 1
) -> tuple[CachedSplit, CachedSplit]:
    """Return both splits with their images kept where they fit, those of `train` first.

    Args:
        train: of which `workers` processes are to share what is decoded, if there are any.
        val: read by this process.
        workers: how many there are.
        found: what is known of some splits, whose headers are not read again.
        sharing: how many processes train on this machine, each of which keeps its own.
    """
    sizes = {each.name: each.size_of for each in found}
    shared = workers > 0
    budget = cache_budget(shared=shared) // sharing
    training = CachedSplit(train, budget, sizes=sizes.get(train.name), shared=shared)
    budget = cache_budget(shared=False) // sharing - training.kept_bytes
    return training, CachedSplit(val, budget, sizes=sizes.get(val.name))


def _zeros(*shape: int, kind: torch.dtype = torch.uint8, shared: bool) -> Tensor:
    """Return zeros, which if `shared` every process begun from here sees and may write."""
    zeros = torch.zeros(shape, dtype=kind)
    return zeros.share_memory_() if shared else zeros  # type: ignore[no-untyped-call]


def _sizes_if_they_fit(
    split: Split, known: Mapping[str, Size], most_pixels: int
) -> list[Size] | None:
    """Return every image's height and width, or None as soon as they exceed `most_pixels`."""
    sizes: list[Size] = []
    for index, sample in enumerate(split.samples):
        height, width = known.get(sample.name) or split.size(index)
        most_pixels -= height * width
        if most_pixels < 0:
            return None
        sizes.append((height, width))
    return sizes


def cache_budget(*, shared: bool) -> int:
    """Return how many bytes of decoded images to keep: a quarter of the memory that is free.

    Of memory that processes share, at most half of what Linux has set aside for it.
    """
    budget = _available_memory() // 4
    return min(budget, _free_shared_memory() // 2) if shared else budget


def _free_shared_memory() -> int:
    """Return the free bytes of Linux's shared memory, of which some containers have little."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else UNKNOWN_MEMORY


def _available_memory() -> int:
    """Return the bytes of memory that a program may still take, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return UNKNOWN_MEMORY
    available = int(kilobytes) * 1024
    group = Path("/sys/fs/cgroup")  # a container's own limit
    with suppress(OSError, ValueError):  # "max" where there is none
        limit = int((group / "memory.max").read_text("ascii"))
        used = int((group / "memory.current").read_text("ascii"))
        available = min(available, max(limit - used, 0))
    return available


class Draw(NamedTuple):
    """One sample to prepare: which image, and the seed of its augmentation."""

    image: int
    seed: int


@dataclass(frozen=True)
class Share:
    """Which of the samples of each step are this process's, of several that make it together.

    Batches that hold a sample for each process are cut into slices: each process has its slice of
    every batch. Smaller ones are dealt out whole.

    Attributes:
        batch: samples that would pass the net at once in a single process.
        processes: make the steps.
    """

    batch: int
    processes: Processes = ALONE

    @property
    def sliced(self) -> bool:
        """Whether all processes have a part of each batch."""
        return self.batch >= self.processes.count

    @property
    def part(self) -> int:
        """How many samples pass the net at once in this process."""
        return len(self.processes.block(self.batch)) if self.sliced else self.batch

    def of(self, draws: list[Draw]) -> list[Draw]:
        """Return those draws of a step that are this process's."""
        batches = [draws[first : first + self.batch] for first in range(0, len(draws), self.batch)]
        if self.sliced:
            own = self.processes.block(self.batch)
            batches = [batch[own.start : own.stop] for batch in batches]
        else:
            batches = batches[self.processes.rank :: self.processes.count]
        return [draw for batch in batches for draw in batch]


class Batches(Sampler[list[Draw]]):
    """The draws of every step of a training, from step `start` on, without end.

    Each epoch shuffles anew. What does not fill a whole batch is left out of its epoch; of fewer
    images than a batch needs, some come again (with other augmentation), so that batch
    normalisation never meets a small batch. Or each draw is one of all images, whatever was drawn
    before, as the paper's nets were trained.

    Args:
        images: how many there are.
        size: samples a step.
        seed: of everything random.
        start: the first step to yield.
        replacement: whether every draw is from all images.
        share: which of them this process has; None: all.
    """

    def __init__(
        self,
        images: int,
        size: int,
        seed: int,
        start: int = 0,
        *,
        replacement: bool = False,
        share: Share | None = None,
    ) -> None:
        self.images, self.size, self.seed, self.start = images, size, seed, start
        self.replacement, self.share = replacement, share or Share(size)

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.share.of, self._independent() if self.replacement else self._shuffled())

    def _independent(self) -> Iterator[list[Draw]]:
        for step in count(self.start):
            random = np.random.default_rng((self.seed, step))
            yield [
                Draw(int(image), mixed_seed(self.seed, step, place))
                for place, image in enumerate(random.integers(self.images, size=self.size))
            ]

    def _shuffled(self) -> Iterator[list[Draw]]:
        per_epoch = steps_per_epoch(self.images, self.size)
        epoch, order = -1, np.empty(0, np.int64)
        for step in count(self.start):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = self._order(epoch)
            first = step % per_epoch * self.size
            yield [
                Draw(int(order[place]), mixed_seed(self.seed, epoch, place))
                for place in range(first, first + self.size)
            ]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        random = np.random.default_rng((self.seed, epoch))
        rounds = -(-self.size // self.images)
        return np.concatenate([random.permutation(self.images) for _ in range(rounds)])


def steps_per_epoch(images: int, size: int) -> int:
    """Return how many whole batches of `size` an epoch of `images` has; at least one."""
    return max(images // size, 1)


def mixed_seed(*parts: int) -> int:
    """Return a 64-bit seed made of several numbers, none of which shines through."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


class Part(NamedTuple):
    """What passes the net at once.

    Attributes:
        images: N,C,H,W: uint8, or float32 if an input holds distances.
        labels: uint8 N,K,H,W, one layer a head.
    """

    images: Tensor
    labels: Tensor


class Batch(NamedTuple):
    """This process's images of one step of the optimizer, in parts, and the names of them."""

    parts: list[Part]
    names: list[str]


class TrainingDataset(Dataset[tuple[Tensor, Tensor, str]]):
    """The transformed image CxHxW, labels KxHxW and name for a `Draw`."""

    def __init__(self, split: Split | CachedSplit, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor, str]:
        sample = self.split[draw.image]
        image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(sample.labels))
        with torch.random.fork_rng(devices=[]):  # dropout's random numbers stay as they were
            torch.manual_seed(draw.seed)
            moved, moved_mask = self.transform(image, mask)
        return moved.as_subclass(Tensor), moved_mask.as_subclass(Tensor), sample.name

    def __getitems__(self, draws: list[Draw]) -> list[tuple[Tensor, Tensor, str]] | FullconvError:
        """Return the samples of a batch, or the error that a bad file caused.

        An error that a worker raises would arrive with a traceback in its message.
        """
        try:
            return [self[draw] for draw in draws]
        except FullconvError as error:
            return error


def training_batches(
    dataset: TrainingDataset, batches: Batches, *, part: int, workers: int, device: torch.device
) -> Generator[Batch]:
    """Yield a `Batch` for each step, without end.

    Args:
        dataset: prepares the images.
        batches: says which ones.
        part: images that pass the net at once; only they need be of one size.
        workers: processes that prepare them; 0: this one does.
        device: where they are going.

    Raises:
        FullconvError: a file can't be read, or images of a part differ in size; the message names
            them.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(_collate, part=part),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else starting a loader would advance dropout's
    )
    for batch in loader:
        if isinstance(batch, FullconvError):
            raise batch
        yield batch


def _collate(
    samples: list[tuple[Tensor, Tensor, str]] | FullconvError, part: int
) -> Batch | FullconvError:
    if isinstance(samples, FullconvError):
        return samples
    images, labels, names = zip(*samples, strict=True)
    parts = []
    for first in range(0, len(names), part):
        of_part = slice(first, first + part)
        sizes = {images[i].shape[-2:]: names[i] for i in range(len(names))[of_part]}
        if len(sizes) > 1:
            one, other, *_ = sizes.values()
            return FullconvError(
                f"{one} and {other} differ in size and can't pass the net at once: set batch_size=1"
                ", or a crop"
            )
        parts.append(Part(torch.stack(images[of_part]), torch.stack(labels[of_part])))
    return Batch(parts, list(names))


def default_workers(device: torch.device, sharing: int = 1) -> int:
    """Return how many processes should prepare images for a training on `device`.

    Args:
        device: of the training.
        sharing: how many processes train on this machine, each of which has its own.
    """
    if _free_shared_memory() < LITTLE_SHARED_MEMORY:  # batches come by it: a crash if it is full
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    own = max((cores or 1) // sharing, 1)
    return min(own, 8) if device.type == "cuda" else min(own // 2, 2)
