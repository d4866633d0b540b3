"""Labelling any number of images: reading, the net and writing overlap, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.images import MAX_PIXELS
from fullconv.errors import FullconvError
from fullconv.files import replacing
from fullconv.pipeline import ahead
from fullconv.predict.inputs import Job, Results
from fullconv.predict.label_images import overlay, save_label_image
from fullconv.predict.labels import Labels, Pixels, coarse_scores, inference
from fullconv.predict.reading import photograph, read_inputs

if TYPE_CHECKING:
    from fullconv.fcn import FCN
    from fullconv.head import Head
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
        pixels: int64 by the name of each head, how many pixels each class got.
    """

    images: int
    failed: int
    pixels: Mapping[str, NDArray[np.int64]]

    def dominant(self, head: str) -> int | None:
        """Return the class that more than 99.9% of all pixels got, if there is one."""
        pixels = self.pixels[head]
        most = int(pixels.argmax())
        return most if pixels[most] > ALMOST_ALL * pixels.sum() else None


class _Labelled(NamedTuple):
    image: Pixels
    labels: dict[str, Labels]
    probabilities: dict[str, NDArray[np.float16]]


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

    def read(job: Job, _: None) -> Pixels:
        return read_inputs(job, net.inputs, max_pixels)

    def label(job: Job, image: Pixels) -> _Labelled:
        return _label(net, image, with_probabilities=job.with_scores)

    def write(job: Job, labelled: _Labelled) -> dict[str, NDArray[np.int64]]:
        _write(job, labelled, net)
        return {
            name: np.bincount(labels.ravel(), minlength=len(pixels[name]))
            for name, labels in labelled.labels.items()
        }

    pixels = {name: np.zeros(head.num_classes, np.int64) for name, head in net.labelled()}
    failed = 0
    images = ahead(_stage(read), ((job, None) for job in jobs), WORKERS)
    with inference(net, bf16=bf16):
        for _, result in ahead(_stage(write), map(_stage(label), images), WORKERS):
            if isinstance(result, _Failure):
                failed += 1
                bar.say(" ".join(result.reason.split()))
            else:
                for name, counts in result.items():
                    pixels[name] += counts
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


def _label(net: FCN, image: Pixels, *, with_probabilities: bool) -> _Labelled:
    coarse, size = coarse_scores(net, image), (image.shape[0], image.shape[1])
    labels, probabilities = {}, {}
    for name, head in net.labelled():
        labels[name] = head.labels(coarse[name], size)[0].cpu().numpy()
        if with_probabilities:
            scores = head.upsample(coarse[name], size)[0]
            probabilities[name] = scores.float().softmax(0).half().cpu().numpy()
    return _Labelled(image, labels, probabilities)


def _write(job: Job, labelled: _Labelled, net: FCN) -> None:
    image = photograph(labelled.image, net.inputs)
    for (name, head), results in zip(net.labelled(), job.results, strict=True):
        _write_head(results, image, labelled.labels[name], head, net.ignore_index)
        if results.scores is not None:
            with replacing(results.scores) as temporary, temporary.open("wb") as file:
                np.save(file, labelled.probabilities[name])


def _write_head(
    results: Results, image: NDArray[np.uint8], labels: Labels, head: Head, ignore_index: int
) -> None:
    save_label_image(results.labels, labels, head.palette, ignore_index)
    picture = Image.fromarray(overlay(image, labels, head.palette, ignore_index))
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
    with replacing(results.overlay) as temporary:
        picture.save(temporary, "JPEG", quality=90)
