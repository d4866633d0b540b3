#!/usr/bin/env python3
"""The page of a web export, as a visitor sees it with a photo labelled.

    python docs/web_picture.py runs/street/fcn8s docs/web.png

The photo is a street that the demo draws. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from benchmarks.speed.web import chromium, label, served
from PIL import Image

from fullconv.base.files import replacing
from fullconv.demo.streets import draw_scene
from fullconv.export.run import ExportSettings, export

SIZE = (360, 480)  # of the photo
WINDOW = {"width": 1200, "height": 700}
COLOURS = 256  # of the picture, small ones such as the legend's among them


def main() -> None:
    """Export, open, label, and save what is seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1000, help="another one, another street")
    given = parser.parse_args()
    picture = Image.open(io.BytesIO(taken(given.model, given.seed))).convert("RGB")
    with replacing(given.out) as temporary:
        picture.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(temporary, "PNG", optimize=True)


def taken(model: str, seed: int) -> bytes:
    """Return a picture of the page, as PNG."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "street.png"
        Image.fromarray(draw_scene(seed, "test", 0, SIZE)[0]).save(photo)
        site = export(ExportSettings(model, "web", folder / "site")).path
        with (
            served(site) as address,
            chromium() as browser,
            browser.new_context(viewport=WINDOW, color_scheme="light") as context,
        ):
            page = context.new_page()
            page.goto(address)
            label(page, photo)
            page.wait_for_timeout(500)  # what moves on the page has come to rest
            shot: bytes = page.screenshot()
            return shot


if __name__ == "__main__":
    main()
