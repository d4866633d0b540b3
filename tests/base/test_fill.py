"""Which pixels polygons cover, beside PIL, OpenCV, GDAL and exact arithmetic."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from rasterio.features import rasterize

from fullconv.base.fill import as_ring, covered

SIZE = (40, 50)
SQUARE = as_ring([[10, 10], [20, 10], [20, 20], [10, 20]])


def whole(found, size=SIZE):
    pixels = np.zeros(size, bool)
    pixels[found.y : found.y + found.pixels.shape[0], found.x : found.x + found.pixels.shape[1]] = (
        found.pixels
    )
    return pixels


def test_the_square_of_the_documentation():
    assert covered([SQUARE], SIZE).pixels.sum() == 100
    assert covered([SQUARE], SIZE, "outline").pixels.sum() == 121


def random_ring(random, corners):
    return as_ring(random.uniform(-8, 58, (corners, 2)))


@pytest.mark.parametrize("seed", range(20))
def test_centres_as_gdal(seed):
    ring = random_ring(np.random.default_rng(seed), 3 + seed % 7)
    shape = {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]}
    wanted = rasterize([shape], SIZE) > 0
    np.testing.assert_array_equal(whole(covered([ring], SIZE)), wanted)


def test_holes_are_not_covered():
    hole = as_ring([[12, 12], [15, 12], [15, 15], [12, 15]])
    for fill, area in (("centres", 91), ("outline", 121 - 4)):
        assert covered([SQUARE, hole], SIZE, fill).pixels.sum() == area


@pytest.mark.parametrize("seed", range(20))
def test_outlines_as_pil_and_about_as_opencv(seed):
    random = np.random.default_rng(seed)
    ring = as_ring(random.integers(1, 38, (3, 2)))
    canvas = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(canvas).polygon([*map(tuple, ring.tolist())], fill=1, outline=1)
    found = whole(covered([ring], SIZE, "outline"))
    np.testing.assert_array_equal(found, np.array(canvas, bool))
    by_opencv = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(by_opencv, [ring.astype(np.int32)], 1)
    # They round the pixels of a slanted side their own ways.
    border = cv2.morphologyEx(by_opencv, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    assert not ((found != by_opencv) & (border == 0)).any()


def test_opencv_has_121_pixels_too():
    by_opencv = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(by_opencv, [SQUARE.astype(np.int32)], 1)
    np.testing.assert_array_equal(whole(covered([SQUARE], SIZE, "outline")), by_opencv > 0)


def test_what_lies_outside_is_cut_off():
    assert covered([SQUARE + 100], SIZE).pixels.size == 0
    assert covered([SQUARE - 15], SIZE).pixels.sum() == 25


def test_neighbours_share_no_pixel_and_leave_none():
    random = np.random.default_rng(3)
    top = np.stack([np.linspace(0, 50, 12), random.uniform(5, 35, 12)], 1)
    upper = as_ring([[0, 0], *top.tolist(), [50, 0]])
    lower = as_ring([[0, 40], *top.tolist(), [50, 40]])
    both = whole(covered([upper], SIZE)).astype(int) + whole(covered([lower], SIZE))
    assert (both == 1).all()


def test_a_million_points():
    angle = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    ring = as_ring(np.stack([25 + 15 * np.cos(angle), 20 + 15 * np.sin(angle)], 1))
    assert abs(covered([ring], SIZE).pixels.sum() - np.pi * 15**2) < 12


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ([[0, 0], [1, 1]], "2 points"),
        ([[0, 0], [1, float("nan")], [2, 2]], "far from the image, or at none"),
        ([[0, 0], [1, 1e300], [2, 2]], "far from the image"),
        ([[0], [1, 2]], "no pairs"),
        ([["a", "b"]] * 3, "no pairs"),
        (None, "no pairs"),
    ],
)
def test_what_is_no_polygon(points, told):
    with pytest.raises(ValueError, match=told):
        as_ring(points)


def test_more_crossings_than_people_draw():
    ring = np.tile([[0.0, -10], [5, 30_000]], (50_000, 1))
    with pytest.raises(ValueError, match="100,000 points, all across"):
        covered([ring], (30_000, 20_000))
