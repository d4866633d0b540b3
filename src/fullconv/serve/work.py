"""From the bytes of a photo to the answer, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO

import torch

from fullconv.base.errors import FullconvError
from fullconv.base.images import Encoded, ImageReader
from fullconv.base.stored import require_picture
from fullconv.net.described import Pixels, Size
from fullconv.predict.labelling import Views, workers
from fullconv.predict.room import Work
from fullconv.predict.scenes import photograph, read_input
from fullconv.predict.stream import is_lack_of_memory
from fullconv.serve.answers import Kind, Labelled
from fullconv.serve.batching import Together
from fullconv.serve.model import Model

NAME = "the image"  # what messages call it


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        content: the image file.
        head: name of a head.
        kind: of the answer.
        abandoned: is set when nobody waits for it any more.
    """

    content: IO[bytes]
    head: str
    kind: Kind
    abandoned: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Answer:
    """The body of an answer.

    Attributes:
        body: its bytes.
        size: height and width of the photo.
    """

    body: bytes
    size: Size


class Workers:
    """Threads that answer, by one model: each takes a photo from its bytes to its answer."""

    def __init__(
        self,
        model: Model,
        reader: ImageReader,
        batch: int = 1,
        tell: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Start.

        Args:
            model: labels.
            reader: reads the images.
            batch: how many of one size are worked out together at most.
            tell: is told how many each time.
        """
        self._model, self._reader = model, model.label.net.preprocessing.reader(reader)
        self._threads = torch.get_num_threads()
        at_once = min(model.label.engine.at_once, self._threads)
        self._views: Together[Pixels, Views] = Together(
            model.label.views_of_batch,
            lambda image: (image.shape, image.dtype),
            batch,
            max(at_once, 1),
            tell,
        )
        self._pool = ThreadPoolExecutor(workers(), "answer")
        if model.label.engine.at_once > 1:  # lest there be more threads than cores (`label_all`)
            torch.set_num_threads(1)

    def close(self) -> None:
        """End, when what is being worked on is done."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def submit(self, asked: Asked) -> Future[Answer]:
        """Begin to answer.

        The future raises FullconvError where the image is none, or is too large, and
        AbandonedError where nobody waits any more.
        """
        return self._pool.submit(self._answer, asked)

    def _answer(self, asked: Asked) -> Answer:
        _require_wanted(asked)
        label, name = self._model.label, next(iter(self._model.label.net.inputs))
        image = Encoded(NAME, asked.content)
        header = self._reader.header(image)
        if not header.stored.every_band:
            require_picture(image, header.stored, self._reader.span)
        try:
            work = self._model.room.work(header.stored.size)
            with self._model.room.taken(work.need):
                _require_wanted(asked)
                pixels = read_input(image, name, label.net.inputs[name], self._reader)
                return Answer(
                    asked.kind.write(self._labelled(asked, pixels, work)), size_of(pixels)
                )
        except (MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
            raise FullconvError(f"{NAME}: too large for the memory; make it smaller") from error

    def _labelled(self, asked: Asked, pixels: Pixels, work: Work) -> Labelled:
        label = self._model.label
        views = self._views(pixels) if work.tiles is None else label.views(pixels, work.tiles)
        head = dict(label.net.heads.items())[asked.head]
        labels = label.labels(views, size_of(pixels))[asked.head]
        photo = photograph(pixels, label.net.inputs, label.net.preprocessing)
        return Labelled(asked.head, head, labels, photo, label.net.ignore_index)


def size_of(pixels: Pixels) -> Size:
    """Return height and width."""
    return pixels.shape[0], pixels.shape[1]


def _require_wanted(asked: Asked) -> None:
    if asked.abandoned.is_set():
        raise AbandonedError
