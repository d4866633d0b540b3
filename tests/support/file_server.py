"""A web server of this machine for tests: ranges, versions, transfers that break off, refusals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, and what was asked.

    `files` maps a path such as "/a.tar" to its bytes. A number in `breaks` ends the transfer after
    so many bytes, once each, in order. `statuses` are answered first, once each, instead of files.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"v1"'
    last_modified: str = ""
    ranges: bool = True
    lengths: bool = True
    chunked: bool = False
    content_type: str = "application/octet-stream"
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    sent: int = 0
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FileServer

    def do_GET(self) -> None:
        state, asked = self.state, self.headers.get("Range")
        state.requests.append((self.path, asked, self.headers.get("If-Range")))
        if state.statuses:
            self._refuse(state.statuses.pop(0))
        elif self.path not in state.files:
            self._refuse(404)
        else:
            self._send(state, state.files[self.path], asked)

    def _send(self, state: FileServer, body: bytes, asked: str | None) -> None:
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else len(body), len(body))
        condition = self.headers.get("If-Range")
        if not state.ranges or (condition and condition not in (state.etag, state.last_modified)):
            start, end, asked = 0, len(body), None
        if start >= len(body) > 0:
            self._refuse(416, f"bytes */{len(body)}")
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        if state.etag:
            self.send_header("ETag", state.etag)
        if state.last_modified:
            self.send_header("Last-Modified", state.last_modified)
        self.send_header("Content-Type", state.content_type)
        if state.lengths:
            self.send_header("Content-Length", str(end - start))
        elif state.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:  # the end of the connection is that of the file
            self.send_header("Connection", "close")
        self.end_headers()
        stop = start + state.breaks.pop(0) if state.breaks else end
        if state.chunked:
            self.wfile.write(f"{stop - start:x}\r\n".encode())
        self.wfile.write(body[start:stop])
        if state.chunked and stop == end:
            self.wfile.write(b"\r\n0\r\n\r\n")
        state.sent += len(body[start:stop])
        if stop < end:
            self.close_connection = True

    def _refuse(self, status: int, content_range: str = "") -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(**settings: object) -> Iterator[FileServer]:
    state = FileServer(**settings)
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
