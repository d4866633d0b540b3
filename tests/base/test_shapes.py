import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fullconv.base.shapes import mask_of_runs, polygons, run_lengths

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def drawn(text):
    """Return the mask that a text draws with #."""
    return np.array([[each == "#" for each in line] for line in text.split()])


def by_rasterio(mask):
    """Return rim and holes of each region, as sets of corners, by GDAL."""
    features = pytest.importorskip("rasterio.features")
    found = features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
    return sorted(normal(shape["coordinates"]) for shape, _ in found)


def normal(rings):
    """Return a region's rings such that the same ones are equal, wherever they begin."""
    corners = [[(int(x), int(y)) for x, y in ring] for ring in rings]
    corners = [ring[:-1] if ring[0] == ring[-1] else ring for ring in corners]
    return json.dumps([sides(corners[0]), sorted(map(sides, corners[1:]))])


def sides(ring):
    return sorted(map(sorted, zip(ring, ring[1:] + ring[:1], strict=True)))


def ours(mask):
    return sorted(normal([each.rim, *each.holes]) for each in polygons(mask))


def area(ring):
    """Return the shoelace's area, positive where the inside is to the right on a screen."""
    x, y = np.array(ring).T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def test_a_frame_has_a_rim_and_a_hole():
    (region,) = polygons(drawn("### #.# ###"))
    assert region.rim.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    assert [hole.tolist() for hole in region.holes] == [[[1, 1], [1, 2], [2, 2], [2, 1]]]


def test_pixels_that_touch_in_a_corner_are_two_regions():
    assert len(polygons(drawn("#. .#"))) == len(polygons(drawn(".# #."))) == 2


def test_holes_that_touch_in_a_corner_are_two():
    (region,) = polygons(drawn("#### #.## ##.# ####"))
    assert [area(hole) for hole in region.holes] == [-1, -1]


def test_a_hole_that_touches_the_rim_in_a_corner_is_no_part_of_it():
    (region,) = polygons(drawn(".## #.# ###"))
    assert area(region.rim) == 8
    assert [hole.tolist() for hole in region.holes] == [[[1, 1], [1, 2], [2, 2], [2, 1]]]


def test_an_island_in_a_hole_is_a_region_of_its_own():
    regions = polygons(drawn("##### #...# #.#.# #...# #####"))
    assert [len(region.holes) for region in regions] == [1, 0]
    assert area(regions[1].rim) == 1


def test_the_second_of_two_holes_in_a_row_belongs_to_the_same_rim():
    (region,) = polygons(drawn("##### #.#.# #####"))
    assert len(region.holes) == 2


@pytest.mark.slow
@given(MASKS)
@settings(max_examples=300, deadline=None)
def test_polygons_are_those_of_gdal(mask):
    assert ours(mask) == by_rasterio(mask)


@given(MASKS)
@settings(deadline=None)
def test_rings_have_their_region_to_the_right_and_enclose_its_pixels(mask):
    regions = polygons(mask)
    assert all(area(region.rim) > 0 for region in regions)
    assert all(area(hole) < 0 for region in regions for hole in region.holes)
    assert sum(area(ring) for each in regions for ring in (each.rim, *each.holes)) == mask.sum()


def test_nothing_has_no_polygons():
    assert polygons(np.zeros((3, 4), bool)) == []
    assert polygons(np.zeros((0, 0), bool)) == []


def test_run_lengths_go_down_the_columns_and_begin_outside():
    assert run_lengths(drawn("#.. ##.")) == [0, 2, 1, 1, 2]
    assert run_lengths(drawn("... ...")) == [6]
    assert run_lengths(drawn("..# ...")) == [4, 1, 1]


@given(MASKS)
@settings(deadline=None)
def test_run_lengths_give_the_mask_back(mask):
    lengths = run_lengths(mask)
    assert (mask_of_runs(lengths, mask.shape) == mask).all()
    assert all(length > 0 for length in lengths[1:])


@pytest.mark.parametrize("lengths", [[1, 2], [7], [8, -2]])
def test_run_lengths_of_another_size_are_refused(lengths):
    with pytest.raises(ValueError, match="run lengths"):
        mask_of_runs(lengths, (2, 3))
