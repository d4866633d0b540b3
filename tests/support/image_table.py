"""The tables of docs/images-and-masks.md, of what is found by reading files of each kind.

``python tests/support/image_table.py`` writes them into the page anew.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from image_bytes import png_chunk
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from PIL import Image
from tiff_tags import plain_tiff

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader

PAGE = Path(__file__).parents[2] / "docs" / "images-and-masks.md"
SHAPE = (16, 24)
Pixels = NDArray[Any]
READER = ImageReader()


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is called, what is in it, and how one is written.

    `palette` holds the colours that `values` stand for; `opaque` counts the bands but alpha.
    """

    name: str
    suffix: str
    values: Pixels
    write: Callable[[Path], Any]
    opaque: int = 0
    palette: Pixels = field(default_factory=lambda: np.zeros((0, 3), np.uint8))


# Files of each kind -----------------------------------------------------------------------------


def noise(bands: int, dtype: str = "uint8", most: int | None = None) -> Pixels:
    random = np.random.default_rng(bands)
    if dtype.startswith("float"):
        return random.normal(0, 100, (*SHAPE, bands)).astype("float16").astype(dtype)
    info = np.iinfo(dtype)
    high = info.max if most is None else most
    return random.integers(info.min, high, (*SHAPE, bands), endpoint=True).astype(dtype)


def smooth(bands: int) -> Pixels:
    grey = np.add.outer(5 * np.arange(SHAPE[0]), 3 * np.arange(SHAPE[1])).astype(np.uint8)
    return np.stack([grey // (at + 1) + 10 for at in range(bands)], 2)


def png(path: Path, values: Pixels, bits: int, colour: int, extra: bytes = b"") -> None:
    """Write a PNG by hand, of any bits and colour type."""
    height, width, bands = values.shape
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        flat = values.reshape(height, width * bands, 1)
        rows = [np.packbits((row >> np.arange(bits - 1, -1, -1)) & 1).tobytes() for row in flat]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def pngs() -> Iterator[Kind]:
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    plte = png_chunk(b"PLTE", palette.tobytes())
    clear = plte + png_chunk(b"tRNS", bytes(range(16)))
    for bits in (1, 2, 4, 8, 16):
        values = noise(1, "uint16" if bits > 8 else "uint8", 2**bits - 1)
        yield Kind(
            f"grey, {bits}-bit", ".png", values, partial(png, values=values, bits=bits, colour=0)
        )
    ids = noise(1, most=15)
    for name, extra in (("palette", plte), ("palette, some transparent", clear)):
        write = partial(png, values=ids, bits=8, colour=3, extra=extra)
        yield Kind(name, ".png", ids, write, palette=palette)
    for name, bands, colour, opaque in (
        ("grey and alpha", 2, 4, 1),
        ("RGB", 3, 2, 3),
        ("RGB and alpha", 4, 6, 3),
    ):
        for bits, dtype in ((8, "uint8"), (16, "uint16")):
            values = noise(bands, dtype)
            write = partial(png, values=values, bits=bits, colour=colour)
            yield Kind(f"{name}, {bits}-bit", ".png", values, write, opaque)


def by_pil(path: Path, values: Pixels, mode: str | None = None, **options: Any) -> None:
    image = Image.fromarray(values.squeeze(2) if values.shape[2] == 1 else values)
    if mode == "P":
        image = Image.fromarray(values.squeeze(2), "P")
        image.putpalette(options.pop("palette").tobytes())
    image.save(path, **options)


def bmp16(path: Path, values: Pixels) -> None:
    """Write a BMP of 5, 6 and 5 bits."""
    red, green, blue = (values[..., at].astype("<u2") for at in range(3))
    packed = red >> 3 << 11 | green >> 2 << 5 | blue >> 3
    header = struct.pack("<IiiHHIIiiII", 40, SHAPE[1], SHAPE[0], 1, 16, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    head = struct.pack("<2sIHHI", b"BM", 66 + packed.nbytes, 0, 0, 66)
    path.write_bytes(head + header + packed[::-1].tobytes())


def others() -> Iterator[Kind]:
    for name, bands in (("grey, lossy", 1), ("RGB as YCbCr, lossy", 3)):
        values = smooth(bands)
        yield Kind(name, ".jpg", values, partial(by_pil, values=values, quality=98, subsampling=0))
    inks = np.concatenate([smooth(3), np.full((*SHAPE, 1), 255, np.uint8)], 2)
    data = jpeg8_encode(inks, 98, colorspace="CMYK", outcolorspace="YCCK")
    yield Kind(
        "CMYK or YCCK of Adobe, lossy", ".jpg", inks[..., :3], lambda path: path.write_bytes(data)
    )
    palette = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
    ids = noise(1, most=15)
    write = partial(by_pil, values=ids, mode="P", palette=palette)
    yield Kind("palette", ".bmp", ids, write, palette=palette)
    yield Kind("RGB, 24-bit", ".bmp", noise(3), partial(by_pil, values=noise(3)))
    yield Kind("RGB, 16-bit (5, 6, 5)", ".bmp", noise(3), partial(bmp16, values=noise(3)))
    for name, bands in (("RGB", 3), ("RGB and alpha", 4)):
        exact = partial(by_pil, values=noise(bands), lossless=True, exact=True)
        yield Kind(f"{name}, lossless", ".webp", noise(bands), exact, 3)
    yield Kind("RGB, lossy", ".webp", smooth(3), partial(by_pil, values=smooth(3), quality=100))


def tiff(path: Path, values: Pixels, *, planar: bool = False, **options: Any) -> None:
    one = values.shape[2] == 1
    options = {"photometric": "minisblack", "metadata": None, **options}
    if not one:
        options["planarconfig"] = "separate" if planar else "contig"
    stored = values.squeeze(2) if one else np.moveaxis(values, 2, 0) if planar else values
    tifffile.imwrite(path, stored, **options)


def tiffs() -> Iterator[Kind]:
    def kind(name: str, values: Pixels, opaque: int = 0, **options: Any) -> Kind:
        return Kind(name, ".tif", values, partial(tiff, values=values, **options), opaque)

    yield kind("grey, 8-bit", noise(1))
    yield kind("grey, 16-bit", noise(1, "uint16"))
    yield kind("grey, 16-bit signed, some negative", noise(1, "int16"))
    yield kind("grey, 8-bit signed", noise(1, "int8"))
    yield kind("grey, 32-bit, all in 0..65535", noise(1, "uint32", 65535))
    yield kind("grey, 32-bit, others", noise(1, "uint32"))
    for bits in (16, 32, 64):
        yield kind(f"grey, {bits}-bit floating-point", noise(1, f"float{bits}"))
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint16)
    write = partial(tiff, values=noise(1), photometric="palette", colormap=palette.T << 8)
    yield Kind("palette", ".tif", noise(1), write, palette=palette.astype(np.uint8))
    for bits, dtype in ((8, "uint8"), (16, "uint16")):
        for layout, planar in (("", False), (", band by band", True)):
            rgb = {"photometric": "rgb", "planar": planar}
            yield kind(f"RGB, {bits}-bit{layout}", noise(3, dtype), **rgb)
        for name, extra in (("alpha", "unassalpha"), ("associated alpha", "assocalpha")):
            options = {"photometric": "rgb", "extrasamples": [extra]}
            yield kind(f"RGB and {name}, {bits}-bit", noise(4, dtype), 3, **options)
        options = {"photometric": "rgb", "extrasamples": ["unspecified"]}
        yield kind(f"RGB and a further band, {bits}-bit", noise(4, dtype), **options)
        yield kind(f"8 bands, {bits}-bit", noise(8, dtype))
    yield kind("8 bands, 32-bit floating-point", noise(8, "float32"))
    inks = noise(4)
    write = partial(tiff, values=inks, photometric="separated")
    yield Kind("CMYK", ".tif", inks, write)
    for name, tags in (
        ("YCbCr outside JPEG", {262: (6,), 258: (8, 8, 8), 277: (3,)}),
        ("CIELAB", {262: (8,)}),
        ("JPEG 2000", {259: (34712,)}),
        ("JPEG of before 1995", {259: (6,)}),
        ("bands of different types", {258: (8, 16), 277: (2,)}),
        ("a volume", {32997: (3,)}),
    ):
        yield Kind(name, ".tif", noise(1), partial(plain_tiff, tags=tags))
    yield Kind("several pages", ".tif", noise(1), partial(pages, values=noise(1)))


def pages(path: Path, values: Pixels) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(values.squeeze(2), metadata=None)
        file.write(values.squeeze(2), metadata=None)


def strange() -> Iterator[Kind]:
    yield Kind("GIF, HEIC, and all else", ".gif", noise(1), partial(by_pil, values=noise(1)))
    yield Kind("an empty file", ".png", noise(1), lambda path: path.touch())
    yield Kind("a pipe, a device", ".png", noise(1), os.mkfifo)


# What is read of them ---------------------------------------------------------------------------


def conversions(kind: Kind) -> dict[str, Pixels]:
    """Return what might be read of a file, by the words for it; exact ones first."""
    stored = kind.values[..., : kind.opaque or None]
    if len(kind.palette):
        return {"its colours": kind.palette[stored[..., 0]], "exactly": stored}
    shown = stored[..., :1].repeat(3, 2) if stored.shape[2] < 3 else stored[..., :3]
    if "lossy" in kind.name:
        return {"decoded": shown}
    found = {"exactly": stored, "exactly ": shown}  # grey as RGB, or a part of the bands
    most = float(np.iinfo(stored.dtype).max) if stored.dtype.kind == "u" else 0.0
    bits = {1: 1, 3: 2, 15: 4}.get(int(stored.max()), 0) if kind.suffix == ".png" else 0
    if bits:
        found[f"times {255 // (2**bits - 1)}"] = shown * (255 // (2**bits - 1))
    if most > 255:
        found["divided by 257"] = np.rint(shown / 257)
        found["the high byte"] = shown // 256
    if kind.name == "CMYK":
        paper = 255.0 - stored
        found["inks to RGB"] = paper[..., :3] * paper[..., 3:] / 255
    if "5, 6, 5" in kind.name:
        kept = np.array([0xF8, 0xFC, 0xF8])
        found["spread over a byte"] = (shown & kept) / kept * 255
    return found


TOLERANCE = {"inks to RGB": 1, "spread over a byte": 1, "decoded": 8}


def told(read: Callable[[], Pixels], kind: Kind) -> str:
    """Say what is read of a file: as which conversion of its values, or why it is refused."""
    try:
        pixels = read()
    except FullconvError as error:
        reason = str(error).partition(": ")[2]
        reason = re.sub(r" \(.*?\)", "", reason).removeprefix("the mask ")
        return f"refused: {re.split('[;:]', reason)[0]}"
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    for words, values in conversions(kind).items():
        most = TOLERANCE.get(words, 0)
        if values.shape == pixels.shape and np.abs(pixels - values.astype(float)).max() <= most:
            return words.strip() + f", {pixels.dtype}" * (pixels.dtype != np.uint8)
    return "NOT AS STORED"


def rows(title: str, kinds: Iterator[Kind], folder: Path) -> Iterator[str]:
    for kind in kinds:
        path = folder / f"a{kind.suffix}"
        path.unlink(missing_ok=True)
        kind.write(path)
        image = told(partial(READER.image, path), kind)
        if not image.startswith("refused"):
            image += "".join(f"; told: {remark}" for remark in READER.remarks(path))
        further, mask = (told(partial(read, path), kind) for read in (READER.input, READER.mask))
        yield f"| {title} | {kind.name} | {image} | {further} | {mask} |"


COMPRESSIONS = {
    None: "none",
    "packbits": "PackBits",
    "lzw": "LZW",
    "deflate": "Deflate",
    "zstd": "Zstandard",
    "lzma": "LZMA",
    "lerc": "LERC",
    "jpeg": "JPEG",
    "webp": "WebP",
    "jpeg2000": "JPEG 2000",
    "jpegxl": "JPEG XL",
}


def compressions(folder: Path) -> Iterator[str]:
    """Yield a row for each compression: whether values of some types come back exactly."""
    columns = {
        "RGB, 8-bit": ({"photometric": "rgb"}, noise(3)),
        "grey, 16-bit": ({}, noise(1, "uint16")),
        "grey, 32-bit floating-point": ({}, noise(1, "float32")),
        "8 bands, 16-bit, band by band": ({"planar": True}, noise(8, "uint16")),
        "8 bands, 16-bit, tiled, predictor": ({"tile": (16, 16)}, noise(8, "uint16")),
    }
    yield "| compression | " + " | ".join(columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    path = folder / "a.tif"
    for compression, name in COMPRESSIONS.items():
        cells = []
        for options, values in columns.values():
            predicted = compression in ("lzw", "deflate", "zstd") and "tile" in options
            if compression in ("jpeg", "webp", "jpegxl") and values.dtype != np.uint8:
                cells.append("")
                continue
            try:
                tiff(path, values, compression=compression, predictor=predicted, **options)
            except ValueError:  # not defined
                cells.append("")
                continue
            kind = Kind("", ".tif", values, tiff)
            if compression in ("jpeg", "webp"):
                kind = Kind("lossy", ".tif", smooth(3), tiff)
                tiff(path, smooth(3), compression=compression, **options)
            cells.append(told(partial(READER.input, path), kind).partition(",")[0])
        yield f"| {name} | " + " | ".join(cells) + " |"


def tables() -> dict[str, str]:
    """Return the tables of the page by their names."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lines = ["| format | holds | as an image | as a further input | as a mask |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += rows("PNG", pngs(), folder)
        for kind in others():
            name = {".jpg": "JPEG", ".bmp": "BMP", ".webp": "WebP"}[kind.suffix]
            lines += rows(name, iter([kind]), folder)
        lines += rows("TIFF", tiffs(), folder)
        lines += rows("other", strange(), folder)
        return {"formats": "\n".join(lines), "compressions": "\n".join(compressions(folder))}


def with_tables(page: str) -> str:
    """Put the tables between the page's comments that name them."""
    for name, table in tables().items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",
            page,
            flags=re.DOTALL,
        )
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
