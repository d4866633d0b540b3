"""The life of a request: a slot, its body, its turn, its answer; each within bounds."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from starlette.requests import ClientDisconnect

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.serve.metrics import Metrics
from fullconv.serve.slots import NoSlotError, Slots
from fullconv.serve.work import Answer, Asked, Workers

if TYPE_CHECKING:
    from starlette.requests import Request

    from fullconv.serve.answers import Kind
    from fullconv.serve.model import Model
    from fullconv.serve.settings import Limits

IN_MEMORY = 1 << 20  # bytes of an image file; the rest of a larger one lies on the disk
AGAIN = {"Retry-After": "1"}  # seconds


class Service:
    """Answers requests by a model, within limits.

    Attributes:
        model: labels.
        limits: of requests.
        metrics: counts.
        draining: no more photos are taken; those in hand are finished.
    """

    def __init__(self, model: Model, limits: Limits, reader: ImageReader = ImageReader()) -> None:
        self.model, self.limits, self._reader = model, limits, reader
        self._slots = Slots(limits.queue)
        self.metrics = Metrics(lambda: self._slots.taken)
        self.draining = False
        self._workers: Workers | None = None

    @property
    def reader(self) -> ImageReader:
        """What reads the images."""
        return self._reader

    @property
    def in_hand(self) -> int:
        """How many photos are being received, wait or are worked on."""
        return self._slots.taken

    @property
    def is_ready(self) -> bool:
        """Whether photos are taken."""
        return self._workers is not None and not self.draining

    def start(self) -> None:
        """Start the threads that work."""
        self._workers = Workers(
            self.model, self._reader, self.limits.batch, tell=self.metrics.batch
        )

    def close(self) -> None:
        """End them."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    async def answer(self, request: Request, head: str, kind: Kind) -> Answer:
        """Label the photo in a request's body.

        A slot is taken until the work is done, even if nobody waits for it any longer: what a
        thread does can't be stopped.

        Raises:
            HTTPException: the status and a line that say why there is no answer.
            ClientDisconnect: nobody is there to hear it.
        """
        if not self.is_ready:
            raise HTTPException(503, "shutting down", {**AGAIN, "Connection": "close"})
        try:
            self._slots.take()
        except NoSlotError:
            raise HTTPException(503, "all slots are taken; try again", AGAIN) from None
        end = asyncio.get_running_loop().time() + self.limits.timeout
        content = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (the work's own to close)
        asked = Asked(content, head, kind)
        try:
            async with asyncio.timeout_at(end):
                await self._receive(request, asked)
            assert self._workers is not None
            future = self._workers.submit(asked)
        except BaseException as error:
            content.close()
            self._slots.free()
            if isinstance(error, TimeoutError):
                raise HTTPException(408, "the image took too long to arrive") from None
            raise
        future.add_done_callback(lambda _: self._done(asked))
        return await self._result(request, asked, future, end)

    async def _receive(self, request: Request, asked: Asked) -> None:
        """Take the body in, and refuse it as soon as it is known to be too large."""
        most, size = self.limits.max_bytes, 0
        declared = request.headers.get("content-length", "")
        too_large = HTTPException(413, f"the image has more than the {most:,} bytes allowed")
        if declared.isdecimal() and int(declared) > most:
            raise too_large
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise too_large
            asked.content.write(chunk)
        if not size:
            raise HTTPException(422, "no image: send the bytes of its file as the body")

    async def _result(
        self, request: Request, asked: Asked, future: Future[Answer], end: float
    ) -> Answer:
        """Wait for the answer as long as there is time, and somebody who waits for it."""
        result = asyncio.wrap_future(future)
        gone = asyncio.create_task(_disconnected(request))
        try:
            async with asyncio.timeout_at(end):
                first: set[asyncio.Future[Any]] = {result, gone}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise HTTPException(503, "too busy to answer in time; try again", AGAIN) from None
        finally:
            gone.cancel()
            if not result.done():
                asked.abandoned.set()
                result.cancel()
        if result.cancelled():
            raise ClientDisconnect
        try:
            answer = result.result()
        except FullconvError as error:
            raise HTTPException(422, str(error)) from error
        self.metrics.pixels(answer.size[0] * answer.size[1])
        return answer

    def _done(self, asked: Asked) -> None:
        asked.content.close()
        self._slots.free()


async def _disconnected(request: Request) -> None:
    """Return when the client has left; its body was received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
