"""Images on disk for prediction, and what was said of them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from colour_net import ColourNet, FarColourNet
from PIL import Image

from fullconv.base.progress import Progress
from fullconv.export.verified import REFERENCE
from fullconv.predict.engines import build
from fullconv.predict.jobs import make_folders, plan
from fullconv.predict.labeller import Labeller
from fullconv.predict.memory import Memory
from fullconv.predict.stream import label_files


def picture(path, size=(6, 8), seed=0):
    """Write a random RGB image and return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def png_chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Heard(Progress):
    """Remembers what was said."""

    def __init__(self, total=0):
        super().__init__(total, "predict", "images")
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def by_torch(net):
    return Labeller(net, build(net, REFERENCE))


def predicted(inputs, out, **options):
    """Plan and run; return the summary and what was said."""
    net = options.pop("net", ColourNet)()
    planned = {key: options.pop(key) for key in ("scores", "heads", "further") if key in options}
    jobs = plan([str(text) for text in inputs], out, **planned)
    make_folders(jobs)
    bar = Heard(len(jobs))
    summary = label_files(by_torch(net), jobs, bar, **{"memory": Memory(net), **options})
    assert bar.done == len(jobs)
    return summary, bar.lines


def names(jobs, out):
    return [job.outputs[0].relative_to(out).as_posix() for job in jobs]


def odd_images():
    """Return images of every kind; all show green at the left and blue at the right, or grey."""
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:, :3, 1] = colours[:, 3:, 2] = 200
    rgb = Image.fromarray(colours)
    deep = Image.fromarray(np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(7)
    return {
        "cmyk.jpg": rgb.convert("CMYK"),
        "alpha.png": alpha,
        "palette.png": rgb.quantize(4),
        "grey.png": rgb.convert("L"),
        "greyalpha.png": rgb.convert("LA"),
        "deep.png": deep,
        "bits.png": rgb.convert("1"),
    }


def spoil(folder):
    """Write one good photograph and all kinds of bad ones."""
    picture(folder / "good.png")
    picture(folder / "truncated.jpg", (64, 64))
    data = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not a picture")
    size = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    (folder / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT")
    )
    picture(folder / "zgood.png", seed=1)


class Certain(ColourNet):
    """As sure of a pixel as its strongest channel is beyond 127; else it scores all alike."""

    def coarse(self, x):
        return 20 * (super().coarse(x) - 0.5).relu()


def depth_image(path, size=(6, 8), seed=0):
    """Write random millimetres as 16-bit grey and return them."""
    values = np.random.default_rng(seed).integers(0, 2000, size).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return values


FAR = {"net": FarColourNet, "heads": ("sem", "geo")}


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)
