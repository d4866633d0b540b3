"""Pages in a headless Chromium, as a visitor meets them; skipped where there is none."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # which root has none of
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
SECONDS = 60_000.0  # milliseconds that a busy machine may take for anything


class _Handler(SimpleHTTPRequestHandler):
    """The plainest host: it knows no type that is younger than the web."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | dict.fromkeys(
        (".mjs", ".wasm", ".onnx", ".svg"), "application/octet-stream"
    )

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path, handler: type[SimpleHTTPRequestHandler] = _Handler) -> Iterator[str]:
    """Serve a folder on loopback, as any static host would, and yield its address."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the system's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """Open a page and wait for its net; in the end it must have complained of nothing."""
    with browser.new_context(permissions=["camera"], **options) as context:
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda told: told.type == "error" and page.complaints.append(told.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        yield page
        assert not page.complaints


def label(page: Any, *files: Any) -> None:
    """Choose a photo, and wait for its labels."""
    page.set_input_files("#file", *files)
    page.wait_for_selector("body[data-labelled]")


def saved(page: Any, button: str) -> Path:
    """Click a button that saves a file."""
    with page.expect_download() as download:
        page.click(button)
    path: Path = download.value.path()
    return path.rename(path.with_name(download.value.suggested_filename))
