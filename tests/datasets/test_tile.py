"""Rasters cut into dataset folders: which pixels and labels, and no neighbour in another split."""

from __future__ import annotations

import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import tifffile
from rasterio.transform import from_origin
from rasterio.warp import transform as transformed
from rasters import write

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder
from fullconv.datasets.tile import TileSettings, tile
from fullconv.datasets.tile_grid import beside_others, splits_of, tiles_of

ORIGIN = (500_000, 5_000_000)
PLACE = {"crs": "EPSG:32633", "transform": from_origin(*ORIGIN, 2, 2)}
CLASSES = ("field", "wood", "lake")
ALL_TRAIN = (1.0, 0.0, 0.0)


def values(size, bands=3, dtype=np.uint8):
    """Pixels no two of which are alike in a row or column."""
    y, x = np.indices(size)
    return np.stack([(7 * y + 13 * x + 50 * band) % 251 for band in range(bands)]).astype(dtype)


def masked(path, labels, **options):
    return write(path, labels[None], **{**PLACE, **options})


def tiles_in(folder):
    """Yield split, first row, first column, image and mask of each tile."""
    reader = ImageReader(every_band=True)
    for path in sorted((folder / "images").rglob("*.tif")):
        top, left = map(int, path.stem.split("_")[-2:])
        mask = folder / "masks" / path.parent.name / f"{path.stem}.png"
        yield path.parent.name, top, left, tifffile.imread(path), reader.mask(mask)


def polygons(path, shapes, names, crs="EPSG:32633", field="kind", driver=None):
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), [np.array(names, object)], [field],
        crs=crs, geometry_type="Polygon", driver=driver,
    )  # fmt: skip
    return path


def test_spans_are_worked_by_hand():
    def spans(*arguments, **options):
        found = tiles_of(0, *arguments, **options)
        return [(each.rows.start, each.rows.stop, each.block[1]) for each in found]

    assert spans((10, 4), 4) == [(0, 4, 0), (4, 8, 1), (6, 10, 2)]
    assert spans((8, 4), 4) == [(0, 4, 0), (4, 8, 1)]
    assert spans((3, 4), 4) == [(0, 3, 0)]
    assert spans((10, 4), 4, 2) == [(0, 4, 0), (2, 6, 1), (4, 8, 2), (6, 10, 3)]
    assert spans((20, 4), 4, block=2) == [
        (0, 4, 0),
        (4, 8, 0),
        (8, 12, 1),
        (12, 16, 1),
        (16, 20, 1),
    ]


def test_a_raster_and_its_mask_are_cut_pixel_for_pixel(tmp_path):
    image = values((20, 30))
    image[:, 15:, 22:] = 0
    labels = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    labels[:3] = 255
    write(tmp_path / "a.tif", image, nodata=0, photometric="RGB", **PLACE)
    mask = masked(tmp_path / "m.tif", labels)
    settings = TileSettings(
        (tmp_path / "a.tif",), (mask,), classes=CLASSES, side=8, shares=ALL_TRAIN
    )
    done = tile(settings, tmp_path / "out")
    expected = np.where((image == 0).all(0), 255, labels)
    seen = np.zeros((20, 30), bool)
    for split, top, left, pixels, own in tiles_in(tmp_path / "out"):
        assert split == "train" and own.shape == (8, 8)
        box = slice(top, top + 8), slice(left, left + 8)
        assert (np.moveaxis(pixels, 2, 0) == image[:, *box]).all()
        assert (own == expected[box]).all()
        seen[box] = True
    assert seen.all() and done.counts == {"train": 12}
    assert done.guarded == 0 and not list(tmp_path.glob(".*"))
    report = check_folder(tmp_path / "out")
    assert not report.errors
    (path, *_) = (tmp_path / "out/images/train").glob("a_000008_000016.tif")
    with rasterio.open(path) as raster:
        assert raster.transform == from_origin(ORIGIN[0] + 32, ORIGIN[1] - 16, 2, 2)
        assert (raster.crs.to_epsg(), raster.nodata) == (32633, 0)


def test_the_place_that_is_told_beside_a_raster_is_kept(tmp_path):
    image = values((16, 16))
    write(tmp_path / "a.png", image, driver="PNG", nodata=int(image[0, 0, 0]), **PLACE)
    mask = masked(tmp_path / "m.tif", np.zeros((16, 16), np.uint8))
    files = sorted(tmp_path.iterdir())
    assert tmp_path / "a.png.aux.xml" in files
    settings = TileSettings(
        (tmp_path / "a.png",), (mask,), classes=CLASSES, side=16, shares=ALL_TRAIN
    )
    tile(settings, tmp_path / "out")
    with rasterio.open(tmp_path / "out/images/train/a_000000_000000.tif") as raster:
        assert (raster.crs.to_epsg(), raster.transform) == (32633, PLACE["transform"])
        assert raster.nodata == image[0, 0, 0]
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "out"])
    assert not list((tmp_path / "out").rglob("*.aux.xml"))


def test_tiles_without_labels_are_left_out_and_counted(tmp_path):
    labels = np.full((16, 16), 255, np.uint8)
    labels[2, 3] = 1
    write(tmp_path / "a.tif", values((16, 16)), **PLACE)
    mask = masked(tmp_path / "m.tif", labels)
    settings = TileSettings(
        (tmp_path / "a.tif",), (mask,), classes=CLASSES, side=8, shares=ALL_TRAIN
    )
    done = tile(settings, tmp_path / "out")
    assert (done.counts, done.empty) == ({"train": 1}, 3)


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_no_split_has_a_neighbour_in_another(tmp_path, overlap, seed):
    size = (90, 120)
    write(tmp_path / "a.tif", values(size), **PLACE)
    mask = masked(tmp_path / "m.tif", np.zeros(size, np.uint8) + (np.arange(120) % 3).astype("u1"))
    settings = TileSettings(
        (tmp_path / "a.tif",), (mask,), classes=CLASSES, side=10, overlap=overlap, block=3,
        shares=(0.6, 0.2, 0.2), seed=seed,
    )  # fmt: skip
    done = tile(settings, tmp_path / "out")
    assert set(done.counts) == {"train", "val", "test"} and done.guarded
    owner = np.zeros(size, int)
    numbers = {"train": 1, "val": 2, "test": 3}
    for split, top, left, _, _ in tiles_in(tmp_path / "out"):
        owner[top : top + 10, left : left + 10] = numbers[split]
    for split, top, left, _, _ in tiles_in(tmp_path / "out"):  # nor beside one, by corners either
        around = owner[max(top - 1, 0) : top + 11, max(left - 1, 0) : left + 11]
        assert set(np.unique(around)) <= {0, numbers[split]}
    whole = sum(done.counts.values()) + done.guarded
    assert whole == len(tiles_of(0, size, 10, overlap))
    again = tile(settings, tmp_path / "again")
    names = [
        sorted(path.relative_to(tmp_path / folder) for path in (tmp_path / folder).rglob("*.*"))
        for folder in ("out", "again")
    ]
    assert done == again and names[0] == names[1]


def test_rasters_that_lie_beside_each_other_are_neighbours(tmp_path):
    for at in range(6):
        place = {**PLACE, "transform": from_origin(ORIGIN[0] + at * 40, ORIGIN[1], 2, 2)}
        write(tmp_path / f"r{at}.tif", values((20, 20)), **place)
        masked(tmp_path / f"m{at}.tif", np.full((20, 20), at % 2, np.uint8), **place)
    rasters = tuple(sorted(tmp_path.glob("r*.tif")))
    masks = tuple(sorted(tmp_path.glob("m*.tif")))
    settings = TileSettings(
        rasters, masks, classes=CLASSES, side=10, block=2, shares=(0.5, 0.5, 0.0), seed=1
    )
    done = tile(settings, tmp_path / "out")
    assert done.guarded  # though each raster is a block of its own
    columns = {"train": set(), "val": set()}
    for path in (tmp_path / "out/images").rglob("*.tif"):
        with rasterio.open(path) as raster:
            columns[path.parent.name].add(round((raster.bounds.left - ORIGIN[0]) / 20))
    assert not any({at - 1, at, at + 1} & columns["val"] for at in columns["train"])
    for path in (*rasters, *masks):  # which lie nowhere are none
        with rasterio.open(path) as raster:
            pixels = raster.read()
        write(path, pixels, transform=PLACE["transform"])
    assert tile(settings, tmp_path / "nowhere").guarded == 0


def test_larger_blocks_lose_fewer_tiles():
    lost = []
    for block in (4, 8):
        tiles = {each: {0} for each in tiles_of(0, (40, 40), 1, block=block)}
        splits = splits_of(tiles, (0.7, 0.15, 0.15))
        boxes = [
            shapely.box(t.columns.start, t.rows.start, t.columns.stop, t.rows.stop) for t in splits
        ]
        lost.append(len(beside_others(list(splits.values()), boxes, 0.9)) / len(boxes))
    assert 0.15 < lost[0] < 0.3 and lost[1] < 0.15  # as docs/rasters.md says


def test_of_two_neighbours_train_goes():
    boxes = [shapely.box(x, 0, x + 1, 1) for x in range(5)]
    assert beside_others(["train", "train", "val", "test", "test"], boxes, 0.9) == {1, 2}
    assert beside_others(["train"] * 5, boxes, 0.9) == set()
    assert beside_others(["train", "train", "val", "val", "val"], boxes, 1.1) == {0, 1}


def test_blocks_stay_together_and_each_split_gets_each_class():
    tiles = {each: {each.block[2] % 2} for each in tiles_of(0, (40, 400), 10, block=2)}
    splits = splits_of(tiles, (0.5, 0.25, 0.25))
    by_block = {}
    for each, split in splits.items():
        assert by_block.setdefault(each.block, split) == split
    for split in ("train", "val", "test"):
        assert {label for each, own in tiles.items() if splits[each] == split for label in own} == {
            0,
            1,
        }


SHAPES = [
    shapely.box(*ORIGIN, ORIGIN[0] + 20, ORIGIN[1] - 20),  # 10 x 10 pixels, worked by hand
    shapely.box(ORIGIN[0] + 13.4, ORIGIN[1] - 13.4, ORIGIN[0] + 31.1, ORIGIN[1] - 24.9),
    shapely.Point(ORIGIN[0] + 40, ORIGIN[1] - 40).buffer(9),
]


def expected_labels(size=(30, 30)):
    """Of later shapes above earlier ones, by the centres of pixels."""
    labels = np.zeros(size, np.uint8)
    y, x = np.indices(size) + 0.5
    points = shapely.points(ORIGIN[0] + 2 * x, ORIGIN[1] - 2 * y)
    for shape, label in zip(SHAPES, (3, 1, 2), strict=True):
        labels[shapely.contains(shape, points)] = label
    return labels


@pytest.mark.parametrize("kind", ["geojson in degrees", "gpkg", "gpkg in another system"])
def test_polygons_are_filled_by_the_centres_of_pixels(tmp_path, kind):
    crs = {"gpkg": "EPSG:32633", "gpkg in another system": "EPSG:3857"}.get(kind, "EPSG:4326")

    def moved(points):
        return np.array(transformed("EPSG:32633", crs, *points.T.tolist())).T

    shapes = [shapely.transform(each, moved) for each in SHAPES]
    path = polygons(tmp_path / f"a.{kind.split()[0]}", shapes, ["wood", "field", "lake"], crs)
    write(tmp_path / "a.tif", values((30, 30)), **PLACE)
    settings = TileSettings(
        (tmp_path / "a.tif",), (path,), class_field="kind", side=7, shares=ALL_TRAIN
    )
    done = tile(settings, tmp_path / "out")
    assert done.classes == ("background", "field", "lake", "wood")
    expected = expected_labels()
    assert (expected[:7, :10] == 3).all() and (expected[7:12, 7:15] == 1).all()
    for _, top, left, _, own in tiles_in(tmp_path / "out"):
        assert (own == expected[top : top + 7, left : left + 7]).all()
    bare = TileSettings(
        (tmp_path / "a.tif",), (path,), class_field="kind", side=30, shares=ALL_TRAIN,
        classes=("lake", "wood", "field"), background="ignore",
    )  # fmt: skip
    tile(bare, tmp_path / "bare")
    (_, _, _, _, own), *_ = tiles_in(tmp_path / "bare")
    assert (own == np.array([255, 2, 0, 1])[expected]).all()


def test_bands_are_kept_with_their_names_and_gaps(tmp_path):
    image = values((24, 24), 5, np.float32) / 7
    image[:, :4, :5] = -9999
    image[2, 10, 10] = -9999
    path = write(tmp_path / "a.tif", image, nodata=-9999, **PLACE)
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = ("blue", "green", "red", "edge", "nir")
    labels = np.ones((24, 24), np.uint8)
    settings = TileSettings(
        (path,), (masked(tmp_path / "m.tif", labels),), classes=CLASSES, side=12,
        shares=ALL_TRAIN, show=(5, 3, 2),
    )  # fmt: skip
    tile(settings, tmp_path / "out")
    folder = DatasetFolder(tmp_path / "out")
    assert folder.info.bands == ("blue", "green", "red", "edge", "nir")
    assert folder.info.show == (5, 3, 2)
    splits = [folder.split(name, ("bands",)) for name in ("train", "val")]  # one is held out
    (sample,) = (one for each in splits for one in each if one.name == "a_000000_000000")
    assert sample.image.shape == (12, 12, 5) and sample.image.dtype == np.float32
    expected = np.moveaxis(image, 0, 2)[:12, :12]
    np.testing.assert_array_equal(sample.image, np.where(expected == -9999, np.nan, expected))
    assert (
        (sample.labels[0] == 255) == (np.indices((12, 12)) < np.array([[[4]], [[5]]])).all(0)
    ).all()


def test_mistakes_are_told_in_a_line(tmp_path):
    raster = write(tmp_path / "a.tif", values((16, 16)), **PLACE)
    mask = masked(tmp_path / "m.tif", np.full((16, 16), 7, np.uint8))
    small = masked(tmp_path / "small.tif", np.zeros((8, 16), np.uint8))
    other = masked(tmp_path / "other.tif", np.zeros((16, 16), np.uint8),
                   transform=from_origin(0, 0, 2, 2))  # fmt: skip
    far = polygons(tmp_path / "far.geojson", [shapely.box(0, 0, 1, 1)], ["x"], "EPSG:4326")
    points = tmp_path / "points.geojson"
    points.write_text(json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {"kind": "x"},
         "geometry": {"type": "Point", "coordinates": [1, 2]}}]}))  # fmt: skip
    (tmp_path / "broken.gpkg").write_bytes(b"nothing")
    bands = write(tmp_path / "bands.tif", values((16, 16), 4), **PLACE)
    named = {"classes": CLASSES, "side": 8}
    for rasters, masks, options, told in (
        ([raster], [mask], named, r"m\.tif: has value 7, but there are 3 classes"),
        ([raster], [mask], {}, r"m\.tif: doesn't name its classes; give --classes"),
        ([raster], [small], named, r"small\.tif: the mask is 16 x 8 but .*a\.tif 16 x 16 pixels"),
        ([raster], [other], named, r"other\.tif: the mask doesn't lie where"),
        ([raster], [mask, mask], named, "--masks names 2 rasters for 1"),
        ([raster, bands], [mask, mask], named, r"bands\.tif: has 4 bands of uint8"),
        ([raster], [far], {}, r"far\.geojson: holds polygons; say by --class-field"),
        ([raster], [far, mask], {}, "either rasters or files of polygons"),
        ([raster], [far], {"class_field": "knd"}, "has no field 'knd'; it has kind; did you mean"),
        ([raster], [far], {"class_field": "kind", "classes": CLASSES}, "has x, none of --classes"),
        ([raster], [far], {"class_field": "kind", "background": "ignore"}, "labels no pixel of"),
        ([raster], [points], {"class_field": "kind"}, r"points\.geojson: holds no polygons"),
        ([raster], [tmp_path / "broken.gpkg"], {"class_field": "kind"}, "holds no features"),
        ([raster], [tmp_path / "none.gpkg"], {"class_field": "kind"}, "no such file"),
        ([raster], [far], {"class_field": "kind", "overlap": 512}, "--overlap 512"),
        ([raster], [far], {"class_field": "kind", "side": 8}, "no tile is left for"),
        ([tmp_path / "none.tif"], [mask], named, r"none\.tif: is no raster"),
        ([raster], [mask], {**named, "bands": ("a", "b")}, "--bands names 2, but"),
    ):
        with pytest.raises(FullconvError, match=told):
            tile(TileSettings(tuple(rasters), tuple(masks), **options), tmp_path / "out")
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_the_command(command_line, tmp_path, capsys):
    write(tmp_path / "a.tif", values((64, 64)), photometric="RGB", **PLACE)
    shapes = [shapely.box(*ORIGIN, ORIGIN[0] + 64, ORIGIN[1] - 128)]
    masks = polygons(tmp_path / "a.gpkg", shapes, ["wood"])
    words = ("--masks", masks, "--class-field", "kind", "--out", tmp_path / "out", "--size", 8)
    more = ("--block", 2, "--split", "0.6,0.4,0", "--quiet")
    assert command_line("data", "tile", tmp_path / "a.tif", *words, *more) == 0
    told = capsys.readouterr().out
    assert "tiles of 8 pixels, 2 classes" in told and "beside tiles of another split" in told
    assert command_line("data", "check", tmp_path / "out", "--quiet") == 0


def test_polygons_of_unknown_class_count_nowhere_and_lines_are_told(tmp_path):
    write(tmp_path / "a.tif", values((10, 10)), photometric="RGB", **PLACE)
    left, top = ORIGIN
    shapes = [
        shapely.box(left, top - 20, left + 10, top),
        shapely.box(left + 10, top - 20, left + 14, top),
        shapely.LineString([(left, top), (left + 20, top - 20)]),
    ]
    path = tmp_path / "a.geojson"
    features = [
        {
            "type": "Feature",
            "properties": {"kind": kind},
            "geometry": shapely.geometry.mapping(each),
        }
        for kind, each in zip(("wood", None, "road"), shapes, strict=True)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    settings = TileSettings(
        (tmp_path / "a.tif",), (path,), class_field="kind", side=10, shares=ALL_TRAIN
    )
    done = tile(settings, tmp_path / "out")
    assert done.classes == ("background", "wood")
    assert done.notes == (
        "left out: 1 features that are no polygons (a.geojson)",
        "ignored: 1 polygons without a 'kind' (a.geojson)",
    )
    ((_, _, _, _, mask),) = tiles_in(tmp_path / "out")
    np.testing.assert_array_equal(mask, [[1] * 5 + [255] * 2 + [0] * 3] * 10)
