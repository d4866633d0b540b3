"""What Prometheus is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16)
TOLD = ("/v1/segment", "/v1/model", "/health/live", "/health/ready", "/metrics")
OTHERS = "other"  # the page's files, and whatever a client makes up


class Metrics:
    """Counts of one service, in a registry of its own."""

    def __init__(self, in_hand: Callable[[], int]) -> None:
        """Begin at 0.

        Args:
            in_hand: tells how many photos are.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "fullconv_requests", "Answers, by status", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "fullconv_request_seconds",
            "From a request's head to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "fullconv_batch_images",
            "Photos that were worked out together",
            buckets=BATCHES,
            registry=self.registry,
        )
        self._pixels = Counter("fullconv_pixels", "Pixels labelled", registry=self.registry)
        gauge = Gauge(
            "fullconv_in_hand", "Photos received, waiting or worked on", registry=self.registry
        )
        gauge.set_function(in_hand)

    def batch(self, images: int) -> None:
        """Count photos that are worked out together."""
        self._batch.observe(images)

    def pixels(self, count: int) -> None:
        """Count pixels that were labelled."""
        self._pixels.inc(count)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        known = path if path in TOLD else OTHERS
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)


class Counting:
    """An application whose answers are counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.request(scope["path"], status, time.perf_counter() - begun)
