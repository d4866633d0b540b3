"""The page in a browser: from its address to the labels of a photo, all that is loaded included.

    python -m benchmarks.speed.web [--rounds 5] [--precision fp32 fp16]
        [--model MODEL] [--data DIR] [--photos FILE ...]

The default net (FCN-8s on MobileNetV2, 21 classes, random scores), or a model, is exported as a web
folder, served on loopback, and opened in headless Chromium with an empty profile, time after time:
no cache knows it. The photo has 640 x 480 pixels and is chosen as soon as the page lets it be. Then
the page is loaded again, as on a second visit, and labels the photo several times. Medians. Of
`--photos` the labels that the page saves are compared with those of `predict`; the least share that
is equal of any is told. int8 needs a model and its data.

Expected: first labels in under 4 s on two cores; files of at most 4.8 MB in fp16, 2.7 MB in int8.
Needs playwright and Chromium. Results: benchmarks/results/web.csv and web-machine.json.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import fullconv
from benchmarks.frame import Results, Row, arguments
from fullconv.export.run import ExportSettings, export
from fullconv.export.web import GRAPH

SIZE = (480, 640)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
AGAIN = 5  # labels of the same photo on a page that is open


class Times(NamedTuple):
    """Seconds of one visit: to the first labels, on a second visit, and of labels after that."""

    first: float
    second: float
    later: float


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--model", help="a model folder in place of the default net")
    parser.add_argument("--data", type=Path, help="the model's dataset folder")
    parser.add_argument("--photos", nargs="*", type=Path, default=[], help="to compare labels of")
    given = parser.parse_args()
    results = Results("web")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "photo.jpg"
        pixels = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(photo)
        for precision in given.precision:
            model = fullconv.load(given.model) if given.model else default_net()
            out = folder / precision
            site = export(
                ExportSettings(model, "web", out, precision=precision, data=given.data)
            ).path
            with served(site) as address, chromium() as browser:
                visits = [visit(browser, address, photo) for _ in range(given.rounds)]
                equal = [*agreement(browser, address, given.photos, model)]
            identity = {"model": Path(given.model or "default").name, "precision": precision}
            measured = {"least labels equal": f"{min(equal):.2%}" if equal else ""}
            results.add(identity, row(site, visits) | measured)


def default_net() -> fullconv.FCN:
    """Return the default net, with random scores."""
    torch.manual_seed(0)
    made = fullconv.FCN("mobilenet_v2", 8, 21, weights=None).eval()
    for score in made.head.scores.values():
        for layer in score.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
    return made


def row(site: Path, visits: list[Times]) -> Row:
    """Return what was measured of a site."""
    first, second, later = (median(each) for each in zip(*visits, strict=True))
    whole = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    return {
        "model MB": f"{(site / GRAPH).stat().st_size / 1e6:.2f}",
        "site MB": f"{whole / 1e6:.1f}",
        "first labels s": f"{first:.2f}",
        "on a second visit s": f"{second:.2f}",
        "later labels ms": f"{1e3 * later:.0f}",
    }


def visit(browser: Any, address: str, photo: Path) -> Times:
    """Open the page with an empty profile, label a photo, and do so again."""
    with browser.new_context() as context:
        page = context.new_page()
        begun = time.perf_counter()
        page.goto(address)
        label(page, photo)
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        page.reload()
        label(page, photo)
        second = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(AGAIN):
            label(page, photo)
        return Times(first, second, (time.perf_counter() - begun) / AGAIN)


def agreement(
    browser: Any, address: str, photos: list[Path], model: fullconv.FCN
) -> Iterator[float]:
    """Yield the share of labels that the page saves of each photo and that are `predict`'s."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        for photo in photos:
            label(page, photo)
            with page.expect_download() as download:
                page.click("#save-labels")
            with Image.open(download.value.path()) as image:
                yield float((np.asarray(image) == model.predict(photo)).mean())


def label(page: Any, photo: Path) -> None:
    """Choose a photo as soon as that can be, and wait for its labels."""
    page.wait_for_selector("#choose:not([disabled])")
    page.set_input_files("#file", photo)
    page.wait_for_selector("body[data-labelled]")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback as any static host would."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the system's Chromium."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    main()
