"""TIFFs of every layout: against the arrays written, with GDAL as a second writer and reader."""

from __future__ import annotations

import itertools
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
import tifffile
from image_bytes import UPRIGHT, refusal
from imagecodecs import jpeg8_encode, lerc_encode, webp_encode
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from tiff_tags import plain_tiff

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader, to_rgb

READER = ImageReader()
TYPES = ("uint8", "uint16", "uint32", "int16", "float16", "float32", "float64")
COMPRESSIONS = (None, "packbits", "lzw", "deflate", "zstd", "lzma", "lerc")
BANDS = (1, 2, 3, 4, 5, 8)  # the way of 6 and 7 is that of 5 and 8
SIZE = (37, 53)  # no multiple of a tile


class Case(NamedTuple):
    """A TIFF of the matrix."""

    dtype: str
    bands: int
    planar: bool
    tiled: bool
    compression: str | None
    predictor: bool
    order: str
    big: bool


def matrix() -> Iterator[Case]:
    """Yield all that the format and the writers allow."""
    switch = (False, True)
    for case in itertools.starmap(
        Case,
        itertools.product(TYPES, BANDS, switch, switch, COMPRESSIONS, switch, "<>", switch),
    ):
        if case.bands == 1 and case.planar:
            continue
        if case.predictor and case.compression not in ("lzw", "deflate", "zstd"):
            continue
        if case.compression == "lerc" and (case.dtype == "float16" or case.order == ">"):
            continue  # tifffile does not write it; GDAL does, below
        yield case


def drawn(case: Case) -> NDArray[Any]:
    """Return values that the type holds and `input` keeps: (height, width, bands), seeded."""
    random = np.random.default_rng(TYPES.index(case.dtype) * 8 + case.bands)
    shape = (*SIZE, case.bands)
    if case.dtype.startswith("float"):
        return random.normal(0, 1000, shape).astype("float16").astype(case.dtype)
    low, high = {"uint8": (0, 256), "int16": (-32768, 32768)}.get(case.dtype, (0, 65536))
    return random.integers(low, high, shape).astype(case.dtype)


def written(path: Path, case: Case, values: NDArray[Any]) -> Path:
    """Write values by tifffile."""
    one, rgb = case.bands == 1, case.bands in (3, 4) and case.dtype in ("uint8", "uint16")
    tifffile.imwrite(
        path,
        np.moveaxis(values, 2, 0) if case.planar else values.squeeze(2) if one else values,
        photometric="rgb" if rgb else "minisblack",
        planarconfig=("separate" if case.planar else "contig") if not one else None,
        extrasamples=["unspecified"] * (case.bands - (3 if rgb else 1)),
        tile=(16, 32) if case.tiled else None,
        rowsperstrip=None if case.tiled else 5,
        compression=case.compression,
        predictor=case.predictor,
        byteorder=case.order,
        bigtiff=case.big,
        metadata=None,
    )
    return path


def expected(values: NDArray[Any]) -> NDArray[Any]:
    """Return what `input` should read of values that are measurements, or colours."""
    bands = values.shape[2]
    if values.dtype == np.uint8:
        return values.repeat(3, 2) if bands == 1 else values
    if values.dtype == np.uint16 and bands == 3:
        return (values >> 8).astype(np.uint8)
    return values.astype(np.float32)


def by_gdal(path: Path) -> NDArray[Any]:
    """Read by GDAL: (height, width, bands)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return np.moveaxis(file.read(), 0, 2)


def assert_read(path: Path, values: NDArray[Any]) -> None:
    read = READER.input(path)
    wanted = expected(values)
    assert read.dtype == wanted.dtype and read.flags.c_contiguous
    np.testing.assert_array_equal(read, wanted, str(READER.describe(path)))
    assert READER.channels(path) == wanted.shape[2]


def sample(count: int) -> list[Case]:
    """Return some of the matrix, chosen at random but always the same."""
    cases = list(matrix())
    chosen = np.random.default_rng(0).permutation(len(cases))[:count]
    return [cases[at] for at in chosen]


def of_types(*quick: str) -> list[Any]:
    """Return test parameters: all types, slow but for some."""
    return [pytest.param(each, marks=() if each in quick else pytest.mark.slow) for each in TYPES]


@pytest.mark.parametrize("dtype", of_types("uint8", "float32"))
def test_values_are_those_written_and_those_that_gdal_reads(tmp_path, dtype):
    for case in (case for case in sample(700) if case.dtype == dtype):
        values = drawn(case)
        path = written(tmp_path / "a.tif", case, values)
        assert_read(path, values)
        np.testing.assert_array_equal(by_gdal(path), values, str(case))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_all_of_the_matrix(tmp_path, dtype):
    for case in (case for case in matrix() if case.dtype == dtype):
        values = drawn(case)
        assert_read(written(tmp_path / "a.tif", case, values), values)


GDAL_OPTIONS = (
    {},
    {"compress": "lzw", "predictor": 2},
    {"compress": "deflate", "predictor": 2, "tiled": True, "blockxsize": 16, "blockysize": 16},
    {"compress": "zstd", "bigtiff": "yes"},
    {"compress": "packbits", "endianness": "big"},
    {"compress": "lzw", "predictor": 2, "endianness": "big"},
    {"compress": "lerc"},
    {"compress": "lerc_deflate"},
    {"compress": "lerc", "endianness": "big"},
    {"compress": "lzma", "tiled": True, "blockxsize": 32, "blockysize": 16},
)


@pytest.mark.parametrize(
    "dtype", [each for each in of_types("uint16") if "float16" not in each.values]
)
def test_values_that_gdal_wrote(tmp_path, dtype):
    for bands, options, interleave in itertools.product(
        (1, 2, 3, 4, 8), GDAL_OPTIONS, ("pixel", "band")
    ):
        case = Case(dtype, bands, interleave == "band", False, None, False, "<", False)
        values = drawn(case)
        predictor = 3 if dtype.startswith("float") and "predictor" in options else None
        settings = {**options, **({"predictor": predictor} if predictor else {})}
        if bands == 4:
            settings["alpha"] = "no"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                tmp_path / "a.tif",
                "w",
                driver="GTiff",
                height=SIZE[0],
                width=SIZE[1],
                count=bands,
                dtype=dtype,
                interleave=interleave,
                photometric="rgb" if bands in (3, 4) and dtype.startswith("uint") else "minisblack",
                **settings,
            ) as file:
                file.write(np.moveaxis(values, 2, 0))
        if dtype == "uint32" and bands in (3, 4):
            np.testing.assert_array_equal(READER.input(tmp_path / "a.tif"), values)
        else:
            assert_read(tmp_path / "a.tif", values)


# What is not only a matter of layout -----------------------------------------------------------

COLOURS = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
WIDE = np.random.default_rng(4).integers(0, 65536, (9, 12, 8), dtype=np.uint16)


def without_tag(path: Path, code: int) -> None:
    """Take a tag away from a little-endian classic TIFF: move the others up."""
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [bytes(data[start + 2 + 12 * at : start + 14 + 12 * at]) for at in range(count)]
    kept = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != code]
    assert len(kept) == count - 1
    after = data[start + 2 + 12 * count : start + 6 + 12 * count]
    block = struct.pack("<H", len(kept)) + b"".join(kept) + after
    data[start : start + len(block)] = block
    path.write_bytes(data)


def test_16_bit_colours_stored_band_by_band(tmp_path):
    path, values = tmp_path / "a.tif", WIDE[..., :3]
    tifffile.imwrite(path, np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(by_gdal(path), values)
    np.testing.assert_array_equal(READER.image(path), values >> 8)
    with Image.open(path) as image:  # which PIL would decode as noise
        np.testing.assert_array_equal(to_rgb(image), values >> 8)


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
@pytest.mark.parametrize("planar", [False, True])
def test_alpha_does_not_change_colours(tmp_path, kind, planar):
    path = tmp_path / "a.tif"
    alpha = np.random.default_rng(5).integers(0, 256, (9, 12, 1), dtype=np.uint8)
    values = np.concatenate([COLOURS, alpha], 2)
    tifffile.imwrite(
        path,
        np.moveaxis(values, 2, 0) if planar else values,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        extrasamples=[kind],
    )
    np.testing.assert_array_equal(READER.image(path), COLOURS)
    np.testing.assert_array_equal(READER.input(path), COLOURS)
    assert READER.remarks(path) == ()


def test_bands_beyond_colours_are_named_where_they_are_left_out(tmp_path):
    path = tmp_path / "a.tif"
    values = np.concatenate([COLOURS, COLOURS[..., :1] // 2], 2)
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(READER.image(path), COLOURS)
    assert READER.describe(path).bands == ("red", "green", "blue", "band 4")
    (remark,) = READER.remarks(path)
    assert remark == "of red, green, blue, band 4 only red, green, blue are shown as colours"
    np.testing.assert_array_equal(READER.input(path), values)
    assert READER.channels(path) == 4


@pytest.mark.parametrize(
    ("bands", "remarks"),
    [
        (3, ()),
        (4, ("of 4 bands only the first 3 are shown as colours",)),
        (8, ("of 8 bands only the first 3 are shown as colours",)),
    ],
)
def test_bands_without_a_photometric_tag(tmp_path, bands, remarks):
    path, values = tmp_path / "a.tif", WIDE[..., :bands]
    tifffile.imwrite(
        path,
        values,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unspecified"] * (bands - 1),
        metadata=None,
    )
    without_tag(path, 262)
    np.testing.assert_array_equal(READER.image(path), values[..., :3] >> 8)
    np.testing.assert_array_equal(READER.input(path), values.astype(np.float32))
    assert READER.remarks(path) == remarks
    without_tag(path, 338)  # ExtraSamples
    np.testing.assert_array_equal(READER.input(path), values.astype(np.float32))


def test_grey_without_a_photometric_tag_is_not_inverted(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOURS[..., 0], metadata=None)
    without_tag(path, 262)
    np.testing.assert_array_equal(by_gdal(path)[..., 0], COLOURS[..., 0])
    np.testing.assert_array_equal(READER.image(path)[..., 0], COLOURS[..., 0])
    np.testing.assert_array_equal(READER.mask(path), COLOURS[..., 0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floating_point_is_read_as_measurements_not_as_colours(tmp_path, dtype):
    path = tmp_path / "a.tif"
    values = np.random.default_rng(6).normal(0, 1e4, (9, 12)).astype("float16").astype(dtype)
    tifffile.imwrite(path, values)
    read = READER.input(path)
    assert read.dtype == np.float32 and READER.channels(path) == 1
    np.testing.assert_array_equal(read[..., 0], values.astype(np.float32))
    message = refusal(READER.image, path)
    assert f"grey, {values.itemsize * 8}-bit floating-point, uncompressed" in message
    assert "save it as 8 or 16 bits" in message


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_values_that_are_no_numbers_are_refused(tmp_path, wrong):
    values = np.zeros((9, 12))
    values[3, 4:6] = wrong
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert "2 of its values are no numbers" in refusal(READER.input, tmp_path / "a.tif")


def test_signed_bytes_are_not_taken_for_unsigned(tmp_path):
    path, values = tmp_path / "a.tif", np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    tifffile.imwrite(path, values)
    np.testing.assert_array_equal(READER.input(path)[..., 0], values)
    assert "8-bit signed" in refusal(READER.image, path)
    assert "is 8-bit signed: save the label ids" in refusal(READER.mask, path)


@pytest.mark.parametrize("shift", [0, 8])
def test_palettes_of_16_bits_and_those_wrongly_of_8(tmp_path, shift):
    path = tmp_path / "a.tif"
    ids = np.random.default_rng(7).integers(0, 256, (9, 12), dtype=np.uint8)
    palette = np.random.default_rng(8).integers(0, 256, (3, 256), dtype=np.uint16)
    tifffile.imwrite(path, ids, photometric="palette", colormap=palette << shift)
    np.testing.assert_array_equal(READER.image(path), palette.T[ids])
    np.testing.assert_array_equal(READER.mask(path), ids)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
@pytest.mark.parametrize("white", [0, 1])
def test_values_of_a_few_bits(tmp_path, bits, white):
    ids = np.random.default_rng(9).integers(0, 2**bits, (9, 16), dtype=np.uint16)
    most = 2**bits - 1
    stored = most - ids if white == 0 else ids
    rows = [np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1) for row in stored]
    data = b"".join(row.tobytes() for row in rows)
    tags = {
        256: 16,
        257: 9,
        258: bits,
        259: 1,
        262: white,
        273: 134,
        277: 1,
        278: 9,
        279: len(data),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "a.tif"
    path.write_bytes((b"II*\0\x08\0\0\0\x09\0" + entries).ljust(134, b"\0") + data)
    np.testing.assert_array_equal(READER.image(path)[..., 1], np.rint(ids * 255.0 / most))
    if bits > 8:
        np.testing.assert_array_equal(READER.input(path)[..., 0], stored)
        assert f"is {bits}-bit: save the label ids" in refusal(READER.mask, path)
    else:
        np.testing.assert_array_equal(READER.mask(path), ids)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_faxed_masks(tmp_path, compression):
    bits = COLOURS[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(READER.mask(tmp_path / "a.tif"), bits)
    np.testing.assert_array_equal(READER.image(tmp_path / "a.tif")[..., 0], bits * 255)


def test_jpeg_within_a_tiff(tmp_path):
    path = tmp_path / "a.tif"
    smooth = np.add.outer(np.arange(64), 2 * np.arange(80)).astype(np.uint8)
    image = Image.fromarray(np.stack([smooth, smooth // 2, 255 - smooth], 2))
    image.save(path, compression="jpeg", quality=95)
    theirs = by_gdal(path)  # in YCbCr, subsampled
    assert np.abs(READER.image(path).astype(int) - theirs).max() <= 2
    Image.fromarray(smooth).save(path, compression="jpeg")
    assert "alters label ids" in refusal(READER.mask, path)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("dtype", "bands"), [("uint16", 8), ("float32", 1), ("uint8", 3)])
def test_tiffs_stand_upright(tmp_path, orientation, dtype, bands):
    path = tmp_path / "a.tif"
    values = np.random.default_rng(10).integers(0, 200, (5, 7, bands)).astype(dtype)
    tifffile.imwrite(
        path,
        values if bands > 1 else values[..., 0],
        photometric="rgb" if bands == 3 else "minisblack",
        planarconfig="contig" if bands > 1 else None,
        extratags=[(274, 3, 1, orientation, True)],
    )
    upright = UPRIGHT[orientation](values)
    np.testing.assert_array_equal(READER.input(path), upright)
    assert READER.describe(path).size == upright.shape[:2]
    assert READER.is_turned(path) == (orientation != 1)


def test_further_pages_are_told_but_not_thumbnails(tmp_path):
    path = tmp_path / "a.tif"
    for subfile, remarks in ((0, ("of several pages only the first is used",)), (1, ()), (4, ())):
        second = COLOURS[..., 0] > 99 if subfile == 4 else COLOURS[::2, ::2]
        with tifffile.TiffWriter(path) as file:
            file.write(COLOURS, photometric="rgb", metadata=None)
            file.write(second, subfiletype=subfile, metadata=None)
        np.testing.assert_array_equal(READER.image(path), COLOURS)
        assert READER.remarks(path) == remarks
    tifffile.imwrite(path, np.stack([COLOURS[..., 0]] * 4), imagej=True)
    assert READER.remarks(path) == ("of several pages only the first is used",)


def test_tiles_that_were_never_stored_are_told(tmp_path):
    path = tmp_path / "a.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint16", nodata=7,
            tiled=True, blockxsize=32, blockysize=32, sparse_ok=True,
        ) as file:  # fmt: skip
            window = rasterio.windows.Window(0, 0, 32, 32)
            file.write(np.full((1, 32, 32), 500, np.uint16), window=window)
    assert READER.remarks(path) == ("3 of 4 tiles are not stored: read as no data",)
    np.testing.assert_array_equal(READER.input(path), by_gdal(path))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({259: (6,)}, "compression"),
        ({259: (34712,)}, "JPEG2000"),
        ({262: (8,)}, "colours (CIELAB) are not read; save it as grey or RGB"),
        ({262: (6,), 258: (8, 8, 8), 277: (3,)}, "YCbCr colours outside JPEG"),
        ({258: (8, 16), 277: (2,)}, "different types"),
        ({258: (24,)}, "24 bits"),
        ({339: (6,), 258: (64,)}, "format 6"),
        ({32997: (3,)}, "a volume of 3 slices"),
        ({262: (3,)}, "its palette is missing"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, tags, said):
    for read in (READER.image, READER.input, READER.mask, READER.image_size):
        message = refusal(read, plain_tiff(tmp_path / "a.tif", tags))
        assert said in message and "a.tif" in message


def test_a_plain_file_of_that_kind_is_read(tmp_path):
    assert READER.image(plain_tiff(tmp_path / "a.tif", {})).shape == (4, 4, 3)


def test_many_bands_count_as_many_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", WIDE, photometric="minisblack", planarconfig="contig")
    assert ImageReader(216).input(tmp_path / "a.tif").shape == (9, 12, 8)
    message = refusal(ImageReader(215).input, tmp_path / "a.tif")
    assert "12 x 9 pixels of 8 bands are more than the 215 allowed" in message


@pytest.mark.parametrize("compression", ["lerc", "jpeg", "webp"])
def test_parts_that_are_larger_than_their_place_are_not_decoded(tmp_path, monkeypatch, compression):
    """Some codecs make room for what a part says of itself, whatever the TIFF's own header does."""
    encode = {"lerc": lerc_encode, "jpeg": jpeg8_encode, "webp": webp_encode}[compression]
    part = encode(np.zeros((3000, 4000, 3), np.uint8))
    path = tmp_path / "a.tif"
    values = np.zeros((16, 16, 3), np.uint8)
    tifffile.imwrite(path, values, compression=compression, photometric="rgb", metadata=None)
    np.testing.assert_array_equal(READER.image(path), values)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages.first
        (place,) = page.dataoffsets
        page.tags[279].overwrite(len(part))
    path.write_bytes(path.read_bytes()[:place] + part)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", None)
    assert "says that it has 4000 x 3000 pixels" in refusal(READER.image, path)


def test_lerc_within_deflate(tmp_path):
    values = WIDE[..., 0]
    for further, name in (("deflate", "deflate"), ("zstd", "zstd")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                tmp_path / f"{name}.tif", "w", driver="GTiff", height=9, width=12, count=1,
                dtype="uint16", compress=f"lerc_{further}",
            ) as file:  # fmt: skip
                file.write(values[None])
    np.testing.assert_array_equal(READER.input(tmp_path / "deflate.tif")[..., 0], values)
    assert "LERC within Zstandard is not read" in refusal(READER.input, tmp_path / "zstd.tif")


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [*COMPRESSIONS, "jpeg", "webp"])
def test_a_tiff_that_ends_early_is_refused(tmp_path, capfd, compression, tile):
    path = tmp_path / "a.tif"
    values = np.random.default_rng(11).integers(0, 30, (40, 50, 3), dtype=np.uint8)
    tifffile.imwrite(path, values, compression=compression, tile=tile, rowsperstrip=7, metadata={})
    whole, sound = path.read_bytes(), READER.image(path)
    for end in np.linspace(1, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:end])
        try:
            np.testing.assert_array_equal(READER.image(path), sound)
        except FullconvError as error:
            assert "a.tif" in str(error) and "\n" not in str(error)
        else:
            assert end > len(whole) - 8  # padding
    assert capfd.readouterr() == ("", "")  # what tifffile logs is in the line


def test_what_tifffile_says_is_part_of_the_line(tmp_path):
    path = plain_tiff(tmp_path / "a.tif", {})
    path.write_bytes(path.read_bytes().replace(b"\x11\x01\x03\0", b"\x11\x01\x63\0"))  # no type
    message = refusal(READER.image, path)
    assert "missing data offset" in message and "invalid data type 99" in message
