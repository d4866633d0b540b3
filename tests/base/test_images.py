"""Reading images and masks: values against hand conversions, refusals by their messages."""

from __future__ import annotations

import io
import logging
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from image_bytes import UPRIGHT, announced, exif, png_chunk, refusal
from imagecodecs import jpeg8_encode
from PIL import Image

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.stored import ValueRange, scaled

READER = ImageReader()
read_image, read_input, read_mask = READER.image, READER.input, READER.mask
image_size, mask_size, input_channels = READER.image_size, READER.mask_size, READER.channels

NOISE = np.random.default_rng(0).integers(0, 256, (7, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_rgb_comes_back_unchanged(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(NOISE).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, NOISE)
    assert image_size(path) == (7, 12)
    assert read.flags.writeable and read.flags.c_contiguous


def test_the_suffix_does_not_matter_and_str_is_a_path(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.jpg")), NOISE)


@pytest.mark.parametrize(
    ("ink", "rgb"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((51, 102, 0, 51), (163, 122, 204)),  # (255-51)(255-51)/255, (255-102)(255-51)/255, 204
    ],
)
def test_cmyk_jpeg_by_its_inks(tmp_path, ink, rgb):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), ink).save(path, quality=100)
    assert b"Adobe" in path.read_bytes()[:200]  # that is: stored inverted
    np.testing.assert_allclose(read_image(path)[8, 8].astype(int), rgb, atol=2)


def test_cmyk_tiff_equals_the_hand_conversion(tmp_path):
    inks = np.random.default_rng(1).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    paper = 255.0 - inks
    expected = paper[..., :3] * paper[..., 3:] / 255
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), expected, atol=1)


EVERY_16_BIT_VALUE = np.arange(65536, dtype=np.uint16).reshape(256, 256)
EVERY_8_BIT_VALUE = np.rint(EVERY_16_BIT_VALUE / 257).astype(np.uint8)


def write_tiff(path: Path, data: bytes, bits: int, photometric: int = 1, order: str = "<") -> None:
    """A baseline grey TIFF of 256 x 256 pixels: directory first, one uncompressed strip."""
    tags = {256: 256, 257: 256, 258: bits, 259: 1, 262: photometric, 273: 134, 277: 1, 278: 256}
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.append(struct.pack(f"{order}HHII", 279, 4, 1, len(data)))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    path.write_bytes((head + b"".join(entries)).ljust(134, b"\0") + data)


def assert_grey(path: Path, expected: np.ndarray) -> None:
    read = read_image(path)
    for channel in range(3):
        np.testing.assert_array_equal(read[..., channel], expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_exactly(tmp_path, suffix):
    assert cv2.imwrite(str(tmp_path / f"a{suffix}"), EVERY_16_BIT_VALUE)
    assert_grey(tmp_path / f"a{suffix}", EVERY_8_BIT_VALUE)


@pytest.mark.parametrize("order", "<>")
def test_16_bit_tiff_of_either_byte_order(tmp_path, order):
    write_tiff(
        tmp_path / "a.tif", EVERY_16_BIT_VALUE.astype(f"{order}u2").tobytes(), 16, order=order
    )
    assert_grey(tmp_path / "a.tif", EVERY_8_BIT_VALUE)


def test_16_bit_values_in_32_bit_integers(tmp_path):
    Image.fromarray(EVERY_16_BIT_VALUE.astype(np.int32)).save(tmp_path / "a.tif")
    assert_grey(tmp_path / "a.tif", EVERY_8_BIT_VALUE)


def test_16_bit_tiff_where_white_is_zero(tmp_path):
    write_tiff(tmp_path / "a.tif", EVERY_16_BIT_VALUE.tobytes(), 16, photometric=0)
    assert_grey(tmp_path / "a.tif", 255 - EVERY_8_BIT_VALUE)


def test_12_bit_tiff_uses_the_whole_range(tmp_path):
    values = EVERY_16_BIT_VALUE % 4096
    left, right = values.reshape(-1, 2).T
    packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], 1)
    write_tiff(tmp_path / "a.tif", packed.astype(np.uint8).tobytes(), 12)
    assert_grey(tmp_path / "a.tif", np.rint(values / 4095 * 255))


def test_32_bit_grey_of_no_known_range_is_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 70000, np.int32), "I").save(tmp_path / "a.tif")
    assert "outside 0..65535" in refusal(read_image, tmp_path / "a.tif")


def test_16_bit_colour_keeps_the_high_byte(tmp_path):
    values = np.random.default_rng(2).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), values >> 8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_grey_and_alpha_keep_their_colours(tmp_path, mode):
    image = Image.fromarray(NOISE).convert(mode)
    if mode != "L":
        image.putalpha(Image.fromarray(NOISE[..., 0]))  # transparent in places
    image.save(tmp_path / "a.png")
    stored = np.asarray(image)
    colours = stored[..., :3] if mode == "RGBA" else stored.reshape(7, 12, -1)[..., :1]
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png"), np.broadcast_to(colours, (7, 12, 3))
    )


@pytest.mark.parametrize("transparency", [None, 2, bytes([0, 128, 255, 3])])
def test_palette_images_give_their_colours_without_a_warning(tmp_path, transparency):
    palette = np.random.default_rng(3).integers(0, 256, (4, 3), dtype=np.uint8)
    ids = np.random.default_rng(4).integers(0, 4, (6, 5), dtype=np.uint8)
    image = Image.fromarray(ids, "P")
    image.putpalette(palette.tobytes())
    extra = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **extra)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), palette[ids])


def test_1_bit_images_are_black_and_white(tmp_path):
    bits = NOISE[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    expected = np.broadcast_to(np.where(bits, 255, 0)[..., None], (7, 12, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_floating_point_is_refused_before_decoding(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32), "F").save(tmp_path / "a.tif")
    for read in (read_image, image_size):
        message = refusal(read, tmp_path / "a.tif")
        assert "a.tif" in message and "floating-point" in message


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_orientation_is_honoured(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    extra = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(NOISE).save(path, exif=exif(orientation), **extra)
    expected = UPRIGHT[orientation](NOISE)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    assert READER.is_turned(path) == (orientation != 1)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_of_jpegs_is_that_of_opencv(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    smooth = cv2.resize(NOISE, (64, 40), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(smooth).save(path, exif=exif(orientation), quality=95)
    theirs = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    ours = read_image(path)
    assert ours.shape == theirs.shape and image_size(path) == theirs.shape[:2]
    assert np.abs(ours.astype(int) - theirs).mean() < 2


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation_after_the_pixels_of_a_png(tmp_path, orientation):
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "PNG")
    head, end = stream.getvalue()[:-12], stream.getvalue()[-12:]
    tiff = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "a.png"
    path.write_bytes(head + png_chunk(b"eXIf", tiff) + end)
    expected = UPRIGHT[orientation](NOISE)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    assert READER.is_turned(path)


def test_exif_orientation_of_16_bit_grey_and_of_masks(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257).save(path, exif=exif(6))
    np.testing.assert_array_equal(read_image(path)[..., 1], np.rot90(NOISE[..., 0], -1))
    Image.fromarray(NOISE[..., 0]).save(path, exif=exif(6))
    np.testing.assert_array_equal(read_mask(path), np.rot90(NOISE[..., 0], -1))
    assert mask_size(path) == (12, 7)


def test_malformed_exif_harms_no_pixel(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), NOISE)


def test_30000_x_30000_is_refused_by_its_header(tmp_path):
    path = announced(tmp_path / "bomb.png", 30_000, 30_000)
    assert path.stat().st_size < 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (read_image, read_mask, image_size, mask_size):
            message = refusal(read, path)
            assert "bomb.png" in message
            assert "30000 x 30000" in message and "--max-pixels" in message


def test_max_pixels_sets_the_bound_whatever_pil_thinks(tmp_path):
    path = announced(tmp_path / "a.png", 19_000, 10_000)  # PIL's own bound is 178,956,970
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(path) == (10_000, 19_000)
        assert ImageReader(190_000_000).image_size(path) == (10_000, 19_000)
        refusal(ImageReader(189_999_999).image_size, path)
        Image.fromarray(NOISE).save(tmp_path / "b.png")
        refusal(ImageReader(83).image, tmp_path / "b.png")
        assert ImageReader(84).image(tmp_path / "b.png").shape == (7, 12, 3)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_a_header_that_lies_is_a_damaged_file(tmp_path):
    path = announced(tmp_path / "a.png", 100, 100)
    assert image_size(path) == (100, 100)
    assert "damaged or truncated" in refusal(read_image, path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, on truncated TIFF
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_truncated_files_are_refused(tmp_path, suffix):
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        message = refusal(read_image, path)
        assert path.name in message
        assert "damaged or truncated" in message or (
            suffix == ".tif" and "no readable" in message  # its directory is at the end
        )


def test_files_that_are_no_image(tmp_path):
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("not a picture at all")
    for read in (read_image, read_mask, image_size, mask_size):
        assert "is empty (0 bytes)" in refusal(read, empty)
        assert "text.jpg: is no readable JPEG, PNG" in refusal(read, text)
        assert "is a folder" in refusal(read, tmp_path)
        assert "gone.jpg: no such file" in refusal(read, tmp_path / "gone.jpg")
    Image.fromarray(NOISE).save(tmp_path / "a.gif")
    assert "is no readable JPEG" in refusal(read_image, tmp_path / "a.gif")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    path.chmod(0)
    assert "permissions" in refusal(read_image, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_damage_anywhere_gives_pixels_or_one_line(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(NOISE).save(path, **({} if suffix == ".bmp" else {"exif": exif(6)}))
    whole = bytearray(path.read_bytes())
    random = np.random.default_rng(6)
    refused = 0
    for _ in range(150):
        damaged = whole.copy()
        for place in random.integers(0, len(whole), 4):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert ImageReader(100_000).image(path).dtype == np.uint8
        except FullconvError as error:
            refused += 1
            assert path.name in str(error)
    assert refused > 0


def test_masks_are_label_ids_and_palette_indices(tmp_path):
    ids = np.random.default_rng(7).integers(0, 256, (8, 9), dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    palette = Image.fromarray(ids, "P")
    palette.putpalette(bytes(reversed(range(256))) * 3)
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), ids)
        assert mask_size(tmp_path / name) == (8, 9)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_with_a_small_palette_keep_their_indices(tmp_path, bits):
    ids = np.random.default_rng(8).integers(0, 2**bits, (8, 9), dtype=np.uint8)
    image = Image.fromarray(ids, "P")
    image.putpalette(bytes(range(3 * 2**bits)))
    image.save(tmp_path / "a.png", bits=bits)
    assert (tmp_path / "a.png").read_bytes()[24] == bits
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)


def test_1_bit_masks_give_0_and_1(tmp_path):
    bits = NOISE[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    read = read_mask(tmp_path / "a.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, bits.astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "advice"),
    [("RGB", "is RGB: store one label id"), ("RGBA", "is RGBA"), ("LA", "alpha")],
)
def test_masks_of_colours_are_refused_with_advice(tmp_path, mode, advice):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    for read in (read_mask, mask_size):
        message = refusal(read, tmp_path / "a.png")
        assert "a.png: the mask" in message and advice in message


def test_16_bit_and_jpeg_masks_are_refused_with_advice(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.ones((3, 3), np.uint16))
    assert "is 16-bit: save the label ids as 8-bit" in refusal(read_mask, tmp_path / "a.png")
    Image.new("L", (8, 8), 3).save(tmp_path / "b.png", "JPEG")
    assert "alters label ids" in refusal(read_mask, tmp_path / "b.png")


# Inputs: 16-bit grey keeps its values ---------------------------------------------------------


def assert_values(path: Path, expected: np.ndarray) -> None:
    read = read_input(path)
    assert read.dtype == np.float32 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, expected[..., None])
    assert input_channels(path) == 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_inputs_keep_every_value(tmp_path, suffix):
    assert cv2.imwrite(str(tmp_path / f"a{suffix}"), EVERY_16_BIT_VALUE)
    assert_values(tmp_path / f"a{suffix}", EVERY_16_BIT_VALUE)


@pytest.mark.parametrize(("order", "photometric"), [("<", 0), ("<", 1), (">", 1)])
def test_16_bit_inputs_are_as_stored_whatever_a_tiff_calls_white(tmp_path, order, photometric):
    data = EVERY_16_BIT_VALUE.astype(f"{order}u2").tobytes()
    write_tiff(tmp_path / "a.tif", data, 16, photometric, order)
    assert_values(tmp_path / "a.tif", EVERY_16_BIT_VALUE)


def test_16_bit_inputs_in_32_bit_integers(tmp_path):
    Image.fromarray(EVERY_16_BIT_VALUE.astype(np.int32)).save(tmp_path / "a.tif")
    assert_values(tmp_path / "a.tif", EVERY_16_BIT_VALUE)
    Image.fromarray(np.full((2, 2), 65536, np.int32)).save(tmp_path / "a.tif")
    assert "outside 0..65535" in refusal(read_input, tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_inputs_stand_upright(tmp_path, suffix, orientation):
    values = NOISE[..., 0].astype(np.uint16) * 200 + 1
    Image.fromarray(values).save(tmp_path / f"a{suffix}", exif=exif(orientation))
    assert_values(tmp_path / f"a{suffix}", UPRIGHT[orientation](values))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1"])
def test_all_other_inputs_are_read_as_images(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).convert(mode).save(path)
    read = read_input(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, read_image(path))
    assert input_channels(path) == 3


def test_16_bit_colours_are_an_image_as_ever(tmp_path):
    values = np.random.default_rng(2).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    np.testing.assert_array_equal(read_input(tmp_path / "a.png"), values >> 8)
    assert input_channels(tmp_path / "a.png") == 3


def test_inputs_are_refused_as_images_are(tmp_path):
    bomb = announced(tmp_path / "bomb.png", 30_000, 30_000)
    (tmp_path / "text.png").write_text("no image")
    for read in (read_input, input_channels):
        assert "--max-pixels" in refusal(read, bomb)
        assert "is no readable" in refusal(read, tmp_path / "text.png")
        assert "gone.png: no such file" in refusal(read, tmp_path / "gone.png")
    lying = announced(tmp_path / "a.png", 100, 100)  # a header and no pixels
    assert input_channels(lying) == 3
    cv2.imwrite(str(tmp_path / "b.png"), EVERY_16_BIT_VALUE)
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    assert input_channels(tmp_path / "b.png") == 1
    assert "damaged or truncated" in refusal(read_input, tmp_path / "b.png")


# Bits and bands that PIL does not tell ---------------------------------------------------------


def wide_png(path: Path, values: np.ndarray, extra: bytes = b"") -> None:
    """A 16-bit PNG made by hand: grey, grey with alpha, RGB or RGBA."""
    height, width, bands = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + extra
    chunks += png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


WIDE = np.random.default_rng(12).integers(0, 65536, (5, 6, 4), dtype=np.uint16)


@pytest.mark.parametrize("extra", [b"", png_chunk(b"gAMA", struct.pack(">I", 45455))], ids=len)
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_16_bit_pngs_of_any_bands_keep_their_values(tmp_path, bands, extra):
    path = tmp_path / "a.png"
    wide_png(path, WIDE[..., :bands], extra)
    opaque = WIDE[..., : {1: 1, 2: 1, 3: 3, 4: 3}[bands]]
    read = READER.values(path)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, opaque)
    if bands > 2:
        np.testing.assert_array_equal(read_image(path), opaque >> 8)
    else:
        np.testing.assert_array_equal(read_image(path)[..., :1], np.rint(opaque / 257))
        np.testing.assert_array_equal(read_input(path), opaque.astype(np.float32))
        assert input_channels(path) == 1


def test_16_bit_colours_with_one_that_is_transparent(tmp_path):
    extra = png_chunk(b"tRNS", WIDE[0, 0, :3].astype(">u2").tobytes())
    wide_png(tmp_path / "a.png", WIDE[..., :3], extra)
    np.testing.assert_array_equal(READER.values(tmp_path / "a.png"), WIDE[..., :3])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), WIDE[..., :3] >> 8)


def test_16_bit_colours_that_end_early_are_refused(tmp_path):
    wide_png(tmp_path / "a.png", WIDE)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert "damaged or truncated" in refusal(read_image, tmp_path / "a.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_a_few_bits_is_spread_in_images_but_not_in_masks(tmp_path, bits):
    ids = np.random.default_rng(13).integers(0, 2**bits, (8, 16), dtype=np.uint8)
    rows = [np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1) for row in ids]
    header = struct.pack(">IIBBBBB", 16, 8, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)
    spread = np.broadcast_to(ids[..., None] * (255 // (2**bits - 1)), (8, 16, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), spread)


@pytest.mark.parametrize("masks", [(0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)])
def test_16_bit_bmps_are_spread_over_a_byte(tmp_path, masks):
    values = np.random.default_rng(14).integers(0, 65536, (3, 4), dtype=np.uint16)
    header = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, 16, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<III", *masks)
    head = struct.pack("<2sIHHI", b"BM", 66 + values.nbytes, 0, 0, 66)
    (tmp_path / "a.bmp").write_bytes(head + header + values[::-1].tobytes())
    shares = [(values & mask) / mask * 255 for mask in masks]
    assert np.abs(read_image(tmp_path / "a.bmp") - np.stack(shares, 2)).max() <= 1


def test_transparent_colours_of_a_webp_stay(tmp_path):
    pixels = np.concatenate([NOISE, NOISE[..., :1] * np.uint8(NOISE[..., 1:2] > 99)], 2)
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True, exact=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), NOISE)


@pytest.mark.parametrize("stored", ["RGB", "YCbCr", "CMYK", "YCCK"])
def test_jpegs_of_any_colour_model(tmp_path, stored):
    smooth = np.add.outer(np.arange(64), 2 * np.arange(80)).astype(np.uint8)
    rgb = np.stack([smooth, smooth // 2, 255 - smooth], 2)
    if len(stored) == 4:  # as Adobe writes them: the inks inverted; here without black
        pixels = np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], 2)
        data = jpeg8_encode(pixels, 98, colorspace="CMYK", outcolorspace=stored)
    else:
        data = jpeg8_encode(rgb, 98, colorspace="RGB", outcolorspace=stored)
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - rgb).max() <= 8


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".webp", "WEBP"), (".jpg", "MPO")])
def test_of_several_frames_the_first_is_read(tmp_path, suffix, kind):
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if kind == "WEBP" else {}
    first = Image.new("RGB", (16, 8), (10, 200, 30))
    first.save(path, kind, save_all=True, append_images=[Image.new("RGB", (16, 8))], **options)
    assert np.abs(read_image(path).astype(int) - (10, 200, 30)).max() <= 2


# What is no regular file, and what others say --------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="of POSIX")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch, kind):
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("a.png")
    for read in (read_image, read_input, read_mask, image_size, mask_size, input_channels):
        assert "is a pipe, a socket or a device, not a file" in refusal(read, path)


def noisy_jpeg(path: Path, *, whole: bool) -> Path:
    """A JPEG whose EXIF data are cut short, and maybe its pixels, too."""
    entries = struct.pack("<HHII", 274, 3, 1, 6) + struct.pack("<HHII", 271, 2, 40, 4000)
    tiff = b"II*\0" + struct.pack("<IH", 8, 2) + entries
    stream = io.BytesIO()
    smooth = cv2.resize(NOISE, (640, 400), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(smooth).save(stream, "JPEG", exif=b"Exif\0\0" + tiff)
    path.write_bytes(stream.getvalue()[: None if whole else 4000])
    return path


def test_what_other_libraries_say_is_part_of_the_line(tmp_path, capfd):
    logging.captureWarnings(False)  # as another test may have left it, without effect by now
    logging.captureWarnings(True)
    try:
        warnings.simplefilter("always")
        assert read_image(noisy_jpeg(tmp_path / "a.jpg", whole=True)).shape == (640, 400, 3)
        message = refusal(read_image, noisy_jpeg(tmp_path / "a.jpg", whole=False))
    finally:
        logging.captureWarnings(False)
    said = ("Corrupt EXIF data", "Tag data larger than file", "Truncated File Read")  # by version
    assert any(each in message for each in said)
    assert "truncated" in message and str(tmp_path / "a.jpg") in message
    assert capfd.readouterr() == ("", "")


# A measured range ------------------------------------------------------------------------------


def test_few_of_16_bits_by_a_measured_range(tmp_path):
    values = np.random.default_rng(15).integers(0, 1021, (9, 12), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), values)
    assert read_image(tmp_path / "a.png").max() <= 4  # as though all 16 bits were used
    seen = ImageReader(span=ValueRange(0, 1020)).image(tmp_path / "a.png")
    np.testing.assert_array_equal(seen, np.rint(values / 4)[..., None].repeat(3, 2))


def test_a_range_of_the_whole_type_is_what_is_read_without_one(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), EVERY_16_BIT_VALUE)
    seen = ImageReader(span=ValueRange(0, 65535)).image(tmp_path / "a.png")
    np.testing.assert_array_equal(seen, read_image(tmp_path / "a.png"))


def test_8_bit_images_have_a_range_of_their_own(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        ImageReader(span=ValueRange(0, 9)).image(tmp_path / "a.png"), NOISE
    )


def test_floating_point_and_negative_values_by_a_range(tmp_path):
    for dtype in (np.float32, np.int16, np.int32):
        values = np.linspace(-300, 300, 24).reshape(4, 6).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", values)
        refusal(read_image, tmp_path / "a.tif")
        reader = ImageReader(span=ValueRange(-200, 200))
        assert reader.image_size(tmp_path / "a.tif") == (4, 6)
        wanted = np.clip((values.astype(float) + 200) / 400 * 255, 0, 255).round()
        np.testing.assert_array_equal(reader.image(tmp_path / "a.tif")[..., 2], wanted)


def test_scaled_values_rise_from_0_to_255_and_stay_there():
    found = scaled(np.array([0, 100, 150, 200, 65535], np.uint16), ValueRange(100, 200))
    np.testing.assert_array_equal(found, np.array([0, 0, 127.5, 255, 255], np.float32))
    assert found.dtype == np.float32


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_range_is_finite_and_rises(ends):
    with pytest.raises(ValueError, match="must be finite and rise"):
        ValueRange(*ends)


def test_16_bit_colours_of_a_further_input_are_told_to_lose_their_low_bytes(tmp_path):
    deep = NOISE.astype(np.uint16) * 257 + 1
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    Image.fromarray(NOISE).save(tmp_path / "plain.png")
    Image.fromarray(deep[..., 0]).save(tmp_path / "distances.png")
    assert READER.remarks(tmp_path / "deep.tif", as_image=False) == (
        "of its 16-bit colours only the high bytes are read",
    )
    assert (read_input(tmp_path / "deep.tif") == deep >> 8).all()
    assert READER.remarks(tmp_path / "deep.tif") == ()  # of color the range is measured
    for name in ("plain.png", "distances.png"):
        assert READER.remarks(tmp_path / name, as_image=False) == ()


@pytest.mark.parametrize(("mode", "frames"), [("RGB", 1), ("RGBA", 1), ("RGBA", 2)])
def test_animations_with_alpha_are_told_to_lose_hidden_colours(tmp_path, mode, frames):
    alpha = np.where(np.arange(12) < 4, 0, 200)[None, :, None].repeat(7, 0).astype(np.uint8)
    pixels = np.dstack([NOISE, alpha])
    first, second = (Image.fromarray(each, "RGBA").convert(mode) for each in (pixels, pixels[::-1]))
    more = {"save_all": True, "append_images": [second]} if frames == 2 else {}
    first.save(tmp_path / "a.webp", lossless=True, exact=True, **more)
    read, hidden = read_image(tmp_path / "a.webp"), pixels[..., 3] == 0
    assert (read[~hidden] == NOISE[~hidden]).all()
    lost = frames == 2
    assert (read[hidden] == (0 if lost else NOISE[hidden])).all()
    assert ("are read as black" in str(READER.remarks(tmp_path / "a.webp"))) == lost
