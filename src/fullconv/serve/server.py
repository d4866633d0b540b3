"""uvicorn, which on SIGTERM first finishes the photos in hand."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from fullconv.serve.connections import patient

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fullconv.serve.service import Service


class Server(uvicorn.Server):
    """A server that drains: asked to end, it says that it isn't ready, and answers what it took."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        """Settle how to serve an application; nothing of a request is ever logged."""
        seconds = service.limits.timeout
        super().__init__(
            uvicorn.Config(
                app,
                http=patient(seconds),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=max(1, round(seconds)),
            )
        )
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal; end at once on the second."""
        if self._service.draining:
            super().handle_exit(sig, frame)
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Tell whether it is time to end."""
        end = await super().on_tick(counter)
        return end or (self._service.draining and not self._service.in_hand)
