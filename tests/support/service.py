"""A service in this process: asked through ASGI, or on a port of the loopback address."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import numpy as np
from colour_net import ColourNet
from PIL import Image
from prediction import by_torch

from fullconv.base.images import ImageReader
from fullconv.export.metadata import ExportedHead, ExportMetadata
from fullconv.predict.labeller import Labeller
from fullconv.predict.memory import Memory
from fullconv.serve.app import application
from fullconv.serve.model import Model
from fullconv.serve.run import listener
from fullconv.serve.server import Server
from fullconv.serve.service import Service
from fullconv.serve.settings import Limits

PATIENCE = 30.0  # seconds; nothing waits for so long unless it hangs


class Gated(Labeller):
    """Labels only while its gate is open; counts what was worked out together."""

    def __init__(self, net) -> None:
        super().__init__(net, by_torch(net).engine)
        self.gate, self.entered, self.groups = threading.Event(), threading.Semaphore(0), []
        self.gate.set()

    def views_of_batch(self, images):
        self.groups.append([image.shape[:2] for image in images])
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        return super().views_of_batch(images)


def colour_model(net=None) -> Model:
    """Return a model that labels each pixel with its strongest channel."""
    net = net or ColourNet()
    heads = {
        name: ExportedHead(classes=head.classes, palette=head.palette, ignore_index=255)
        for name, head in net.heads.items()
    }
    about = ExportMetadata(
        output="labels",
        precision="fp32",
        heads=heads,
        inputs=net.inputs,
        preprocessing=net.preprocessing.to_dict(),
        stride=2,
    )
    return Model(Gated(net), Memory(net), about, "torch fp32")


@dataclass
class Local:
    """A service that is asked through ASGI, without a network."""

    app: object
    service: Service

    def ask(self, method, path, **words):
        return self.ask_all([(method, path, words)])[0]

    def ask_all(self, requests):
        """Ask all at the same time."""

        async def asked():
            transport = httpx2.ASGITransport(app=self.app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
                return await asyncio.gather(
                    *(client.request(method, path, **words) for method, path, words in requests)
                )

        return asyncio.run(asked())

    def segment(self, image=None, accept="image/png", **words):
        headers = {"Accept": accept, **words.pop("headers", {})}
        content = encoded() if image is None else image
        path = words.pop("path", "/v1/segment")
        return self.ask("POST", path, content=content, headers=headers, **words)


@contextmanager
def local(model=None, limits=None, reader=ImageReader(), token=None, cors=()) -> Iterator[Local]:
    service = Service(model or colour_model(), limits or Limits(), reader)
    service.start()
    try:
        yield Local(application(service, token, cors), service)
    finally:
        service.close()


class Listening:
    """A service on a port of its own."""

    def __init__(self, model, limits, reader, token) -> None:
        self.service = Service(model, limits, reader)
        self.label = model.label
        self._socket = listener("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.server = Server(application(self.service, token), self.service)
        self.thread = threading.Thread(target=self.server.run, args=([self._socket],), daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def send(self, *, body=None, head="", method="POST /v1/segment", length=None):
        """Open a connection and send a request, or the part of it that is given."""
        own = self.connect()
        content = b"" if body is None else body
        length = len(content) if length is None else length
        lines = f"{method} HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n{head}\r\n"
        own.sendall(lines.encode() + content)
        return own

    def stop(self):
        if hasattr(self.label, "gate"):
            self.label.gate.set()
        self.server.handle_exit(15, None)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@contextmanager
def listening(model=None, limits=None, reader=ImageReader(), token=None) -> Iterator[Listening]:
    served = Listening(model or colour_model(), limits or Limits(), reader, token)
    try:
        yield served
    finally:
        served.stop()


def answer_of(connection) -> tuple[int, bytes]:
    """Read an answer to its end; close the connection. (0, b"") where it closes without one."""
    with connection, connection.makefile("rb") as file:
        line = file.readline()
        if not line:
            return 0, b""
        length = 0
        while (header := file.readline().strip()) != b"":
            found = re.match(rb"content-length: (\d+)", header, re.IGNORECASE)
            length = int(found[1]) if found else length
        return int(line.split()[1]), file.read(length)


def until(condition) -> None:
    """Wait until something is so; fail if that takes unreasonably long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def encoded(size=(6, 8), seed=0, kind="PNG", mode="RGB") -> bytes:
    """Return the file of a random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def pixels_in(body) -> np.ndarray:
    with Image.open(io.BytesIO(body)) as image:
        return np.array(image)
