"""Labelling any number of images: reading, the net and writing overlap, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.images import MAX_PIXELS, read_image
from fullconv.errors import FullconvError
from fullconv.files import replacing
from fullconv.pipeline import ahead
from fullconv.predict.inputs import Job
from fullconv.predict.label_images import overlay, save_label_image
from fullconv.predict.labels import highest, image_scores, inference

if TYPE_CHECKING:
    from fullconv.fcn import FCN
    from fullconv.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

ALMOST_ALL = 0.999
WORKERS = min(4, os.cpu_count() or 1)  # threads that read, and as many that write
JPEG_SIDE = 65_500  # the longest that the format knows


@dataclass(frozen=True)
class Summary:
    """What came of a stream.

    Attributes:
        images: how many inputs there were.
        failed: how many of them failed.
        pixels: int64, how many pixels each class got.
    """

    images: int
    failed: int
    pixels: NDArray[np.int64]

    @property
    def dominant(self) -> int | None:
        """The class that more than 99.9% of all pixels got, if there is one."""
        most = int(self.pixels.argmax())
        return most if self.pixels[most] > ALMOST_ALL * self.pixels.sum() else None


class _Labelled(NamedTuple):
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float16] | None


class _Failure(NamedTuple):
    reason: str


def label_files(
    net: FCN,
    jobs: Sequence[Job],
    bar: Progress,
    *,
    bf16: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Summary:
    """Label the image of each job and write its outputs, on the net's own device.

    An input that can't be read, labelled or written is named in one line by ``bar.say``, and the
    others are done nevertheless. `bar` advances by one per input.
    """

    def read(job: Job, _: None) -> NDArray[np.uint8]:
        return read_image(job.source, max_pixels)

    def label(job: Job, image: NDArray[np.uint8]) -> _Labelled:
        return _label(net, image, with_probabilities=job.with_scores)

    def write(job: Job, labelled: _Labelled) -> NDArray[np.int64]:
        _write(job, labelled, net)
        return np.bincount(labelled.labels.ravel(), minlength=net.num_classes)

    pixels, failed = np.zeros(net.num_classes, np.int64), 0
    images = ahead(_stage(read), ((job, None) for job in jobs), WORKERS)
    with inference(net, bf16=bf16):
        for _, result in ahead(_stage(write), map(_stage(label), images), WORKERS):
            if isinstance(result, _Failure):
                failed += 1
                bar.say(" ".join(result.reason.split()))
            else:
                pixels += result
            bar.advance()
    return Summary(len(jobs), failed, pixels)


def _stage(
    work: Callable[[Job, T], R],
) -> Callable[[tuple[Job, T | _Failure]], tuple[Job, R | _Failure]]:
    """Make of `work` a stage that hands a failure on, its own or an earlier one's."""

    def stage(item: tuple[Job, T | _Failure]) -> tuple[Job, R | _Failure]:
        job, value = item
        if isinstance(value, _Failure):
            return job, value
        try:
            return job, work(job, value)
        except FullconvError as error:
            return job, _Failure(str(error))
        except OSError as error:
            return job, _Failure(f"{job.source}: can't write its results ({error.strerror})")
        except (MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            return job, _Failure(f"{job.source}: too large for the memory; make it smaller")

    return stage


def _is_lack_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out, which torch's CPU allocator reports as a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in str(error)


def _label(net: FCN, image: NDArray[np.uint8], *, with_probabilities: bool) -> _Labelled:
    scores = image_scores(net, image)
    probabilities = scores.float().softmax(0).half().cpu().numpy() if with_probabilities else None
    return _Labelled(image, highest(scores), probabilities)


def _write(job: Job, labelled: _Labelled, net: FCN) -> None:
    image, labels, probabilities = labelled
    save_label_image(job.labels, labels, net.palette, net.ignore_index)
    picture = Image.fromarray(overlay(image, labels, net.palette, net.ignore_index))
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
    with replacing(job.overlay) as temporary:
        picture.save(temporary, "JPEG", quality=90)
    if probabilities is not None:
        with replacing(job.scores) as temporary, temporary.open("wb") as file:
            np.save(file, probabilities)
