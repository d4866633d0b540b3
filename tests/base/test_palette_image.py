"""Label ids as a palette image: the one way to it, for masks, results, reports and datasets."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from fullconv.base.palette import IGNORED, palette_image

COLOURS = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]


def test_the_values_stay_ids_and_what_has_no_colour_is_white() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = palette_image(ids, COLOURS, ignore_index=1)
    assert image.mode == "P" and (np.asarray(image) == ids).all()
    shown = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert [tuple(each) for each in shown[:3].tolist()] == [COLOURS[0], IGNORED, COLOURS[2]]
    assert (shown[3:] == IGNORED).all()


def test_a_png_has_8_bits_a_pixel_unless_only_the_colours_are_asked_for() -> None:
    ids = np.array([[0, 1, 2, 1]], np.uint8)
    depths = {}
    for ignore_index in (255, None):
        buffer = io.BytesIO()
        palette_image(ids, COLOURS, ignore_index).save(buffer, "PNG")
        depths[ignore_index] = buffer.getvalue()[24]  # of the IHDR chunk
        assert (np.asarray(Image.open(buffer)) == ids).all()
    assert depths == {255: 8, None: 2}
