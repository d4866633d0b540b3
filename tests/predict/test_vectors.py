"""Labels as polygons: rasterised again they are the labels, wherever the raster lies."""

from __future__ import annotations

import json
import math

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.warp import transform as transformed
from rasters import PLACE, SIZE, TILED, labels_of, noise, small, write

from fullconv.base.errors import FullconvError
from fullconv.predict.coordinates import WGS84, between, placed_by
from fullconv.predict.geotiff import CERTAIN, UNKNOWN, write_label_raster
from fullconv.predict.jobs import Results
from fullconv.predict.rasters import Place
from fullconv.predict.regions import regions_of
from fullconv.predict.room import Tiling
from fullconv.predict.settings import PredictSettings
from fullconv.predict.vector_files import features_of
from fullconv.predict.vectors import VectorSettings, predict_vectors, write_vectors

CLASSES = ("road", "tree", "sky", "water")
UTM = rasterio.CRS.from_epsg(32633)
ROTATED = Affine.translation(400_000, 5_500_000) @ Affine.rotation(31) @ Affine.scale(0.7, -0.4)


def blobs(size=(60, 80)):
    """Regions with holes, islands in them, single pixels, touching corners, and no data."""
    y, x = np.indices(size)
    labels = np.where(y + 0.3 * x > 50, 0, 2).astype(np.uint8)
    labels[np.hypot(y - 25, x - 30) < 20] = 3
    labels[np.hypot(y - 25, x - 30) < 12] = 255
    labels[np.hypot(y - 25, x - 32) < 6] = 1
    labels[5:15, 60:70] = (np.indices((10, 10)).sum(0) % 2) * 3  # a chessboard
    labels[-4:, :7] = 255
    labels[0, 0] = labels[40, 75] = 1
    return labels


MAPS = {
    "blobs": blobs(),
    "noise": np.random.default_rng(0).integers(0, 4, (23, 31)).astype(np.uint8),
    "noise with gaps": np.random.default_rng(1).choice([0, 1, 255], (40, 17)).astype(np.uint8),
    "one": np.zeros((5, 9), np.uint8),
    "a pixel": np.ones((1, 1), np.uint8),
    "nothing": np.full((4, 4), 255, np.uint8),
}


def painted(outlines, ids, size, transform=None):
    """Rasterise polygons, each pixel by its centre, and see that none is in two."""
    found = np.full(size, 255, np.uint8)
    if len(outlines):
        options = {} if transform is None else {"transform": transform}
        rasterize(zip(outlines, ids.tolist(), strict=True), out=found, **options)
        times = rasterize(zip(outlines, np.ones(len(ids)), strict=True), size, **options,
                          merge_alg=rasterio.enums.MergeAlg.add)  # fmt: skip
        assert times.max() <= 1
    return found


def label_raster(path, labels, place):
    palette = [(40 * at, 0, 0) for at in range(len(CLASSES))]
    write_label_raster(path, [labels], labels.shape, CLASSES, palette, place=place)
    return Results(path, path.with_suffix(".jpg"), None)


def read_vectors(path):
    about, _, outlines, columns = pyogrio.raw.read(path)
    columns = dict(zip(about["fields"].tolist(), columns, strict=True))
    return about["crs"], shapely.from_wkb(outlines), columns


@pytest.mark.parametrize("name", MAPS)
def test_regions_give_the_map_back(name):
    labels = MAPS[name]
    for regions in (regions_of(labels), regions_of(labels, simplify=1e-9)):
        assert all(map(shapely.is_valid, regions.outlines))
        assert (painted(regions.outlines, regions.labels, labels.shape) == labels).all()
        assert regions.pixels.sum() == (labels != 255).sum()
        np.testing.assert_allclose(shapely.area(regions.outlines), regions.pixels)
        assert np.isnan(regions.probabilities).all()


def test_regions_hang_together_over_sides_alone():
    labels = np.array([[0, 1, 255], [1, 0, 0], [1, 1, 0]], np.uint8)
    regions = regions_of(labels)
    assert sorted(zip(regions.labels, regions.pixels, strict=True)) == [
        (0, 1),
        (0, 3),
        (1, 1),
        (1, 3),
    ]


@pytest.mark.parametrize("name", ["blobs", "noise"])
def test_simplified_they_leave_no_gap_and_do_not_overlap(name):
    labels = MAPS[name].copy()
    exact, simple = regions_of(labels), regions_of(labels, simplify=1.5)
    count = shapely.get_num_coordinates
    if name == "blobs":
        assert count(simple.outlines).sum() < 0.8 * count(exact.outlines).sum()
    assert shapely.coverage_is_valid(simple.outlines)
    assert sorted(simple.pixels) == sorted(exact.pixels)
    if (labels != 255).all():
        assert shapely.area(simple.outlines).sum() == pytest.approx(labels.size)
        assert shapely.union_all(simple.outlines).equals(shapely.box(0, 0, *labels.shape[::-1]))


def test_small_regions_become_part_of_what_is_beside_them():
    labels = np.zeros((6, 8), np.uint8)
    labels[:, 4:] = 1
    labels[2, 2] = labels[2, 6] = 2
    labels[4, 5] = 255
    found = regions_of(labels, least=2)
    expected = np.where(labels == 2, np.arange(8) // 4, labels)
    assert (painted(found.outlines, found.labels, labels.shape) == expected).all()
    assert sorted(regions_of(labels, least=1).pixels) == [1, 1, 22, 23]


def test_probabilities_are_means_over_the_pixels_that_have_one():
    labels = np.array([[0, 0, 1], [0, 2, 1]], np.uint8)
    sure = np.array([[100, 200, 250], [UNKNOWN, 50, 0]], np.uint8)
    found = regions_of(labels, sure=sure)
    means = dict(zip(found.labels.tolist(), found.probabilities.tolist(), strict=True))
    assert means == pytest.approx({0: 150 / CERTAIN, 1: 125 / CERTAIN, 2: 50 / CERTAIN})
    merged = regions_of(labels, sure=sure, least=2)  # the last pixel has another label's
    assert set(np.round(CERTAIN * merged.probabilities)) == {125, 150}


PLACES = {
    "UTM": Place(UTM, from_origin(500_000, 5_000_000, 0.5, 0.5)),
    "rotated": Place(UTM, ROTATED),
    "degrees": Place(rasterio.CRS.from_epsg(4326), from_origin(11.5, -33.2, 2e-5, 1e-5)),
    "Web Mercator": Place(
        rasterio.CRS.from_epsg(3857), from_origin(1_480_000, 6_890_000, 0.3, 0.3)
    ),
    "no system": Place(None, from_origin(100, 200, 2, 3)),
    "nowhere": Place(),
}


@pytest.mark.parametrize("format_", ["geojson", "gpkg"])
@pytest.mark.parametrize("place", PLACES)
def test_files_rasterise_to_the_labels(tmp_path, place, format_):
    labels, place = blobs(), PLACES[place]
    results = label_raster(tmp_path / "a.tif", labels, place)
    path = tmp_path / f"a.{format_}"
    count = write_vectors(results, path, CLASSES, VectorSettings(format_))
    crs, outlines, columns = read_vectors(path)
    assert len(outlines) == count and not list(tmp_path.glob(".*"))
    assert [CLASSES[label] for label in columns["label"]] == columns["class"].tolist()
    if place.crs is None:
        if format_ == "geojson":  # GDAL takes it for degrees nevertheless
            assert json.loads(path.read_text())["crs"] is None
        else:
            assert crs is None
        assert np.isnan(columns["area"].astype(float)).all()
    elif format_ == "geojson":
        assert rasterio.CRS.from_user_input(crs).to_epsg() == 4326

        def back(points):
            return np.array(transformed("EPSG:4326", place.crs, *points.T.tolist())).T

        outlines = shapely.transform(outlines, back)
    else:
        assert rasterio.CRS.from_user_input(crs) == place.crs
    assert (painted(outlines, columns["label"], labels.shape, place.transform) == labels).all()


def authalic(latitude):
    """The area of WGS84 between the equator and a latitude, a radian wide, by the closed form."""
    a, f = 6378137.0, 1 / 298.257223563
    e, s = math.sqrt(f * (2 - f)), math.sin(math.radians(latitude))
    return a * a * (1 - e * e) / 2 * (s / (1 - (e * s) ** 2) + math.atanh(e * s) / e)


def test_areas_are_those_on_the_earth():
    labels = np.zeros((10, 20), np.uint8)
    degrees = Place(rasterio.CRS.from_epsg(4326), from_origin(170, 61, 0.5, 0.1))
    (area,) = features_of(regions_of(labels), CLASSES, degrees).columns["area"]
    assert area == pytest.approx((authalic(61) - authalic(60)) * math.radians(10), rel=1e-9)
    for epsg, east, north, scale in (
        (32633, 500_000, 5_500_000, 0.9996),  # on the central meridian
        (3857, 1_000_000, 6_446_275.84, 1 / math.cos(math.radians(50.0))),
    ):
        place = Place(rasterio.CRS.from_epsg(epsg), from_origin(east - 10, north + 5, 1, 1))
        (area,) = features_of(regions_of(labels), CLASSES, place).columns["area"]
        assert area == pytest.approx(200 / scale**2, rel=5e-3 if epsg == 3857 else 1e-5)


@pytest.fixture(scope="module")
def net():
    return small()


@pytest.mark.parametrize("tta", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_predict_writes_polygons_and_how_sure_they_are(tmp_path, net, tta):
    values = noise()
    values[:, 50:120, 30:200] = 7
    source = write(tmp_path / "a.tif", values, nodata=7, **PLACE, **TILED)
    settings = PredictSettings(
        net, (str(source),), tmp_path / "out", engine="torch", precision="fp32",
        tiling=Tiling((97, 110)), tta=tta,
    )  # fmt: skip
    found = predict_vectors(settings, VectorSettings("gpkg"))
    assert not found.prediction.failures and not found.failures
    labels = labels_of(tmp_path / "out/a.tif")
    _, outlines, columns = read_vectors(tmp_path / "out/vectors/a.gpkg")
    assert (painted(outlines, columns["label"], SIZE, PLACE["transform"]) == labels).all()
    assert len(outlines) == found.polygons
    whole = PredictSettings(
        net, (str(source),), tmp_path / "whole", engine="torch", precision="fp32", scores=True,
        tta=tta,
    )  # fmt: skip
    from fullconv.predict.run import run

    run(whole)
    expected = np.load(tmp_path / "whole/scores/a.npy").max(0).astype(float)
    with rasterio.open(tmp_path / "out/scores/a.tif") as file:
        sure = file.read(1)
        assert file.scales == (1 / CERTAIN,) and file.nodata == UNKNOWN
    assert ((sure == UNKNOWN) == (labels == 255)).all()
    assert np.abs(sure / CERTAIN - expected)[labels != 255].max() < 0.5 / CERTAIN + 1e-3
    largest = columns["pixels"].argmax()
    inside = rasterize([outlines[largest]], SIZE, transform=PLACE["transform"]) == 1
    assert inside.sum() == columns["pixels"][largest]
    assert columns["probability"][largest] == pytest.approx(expected[inside].mean(), abs=2e-3)


def test_photographs_and_several_heads(tmp_path):
    net = small(heads={"a": 3, "b": 5})
    Image.fromarray(np.moveaxis(noise((70, 90)), 0, 2)).save(tmp_path / "photo.png")
    settings = PredictSettings(
        net, (str(tmp_path / "photo.png"),), tmp_path / "out", engine="torch"
    )
    found = predict_vectors(settings, VectorSettings("geojson", least=4, simplify=1))
    assert found.folders == (tmp_path / "out/a/vectors", tmp_path / "out/b/vectors")
    content = json.loads((tmp_path / "out/a/vectors/photo.geojson").read_text())
    assert content["crs"] is None and content["type"] == "FeatureCollection"
    points = np.concatenate([each["geometry"]["coordinates"][0] for each in content["features"]])
    assert (points.min(0) >= 0).all() and (points.max(0) <= (90, 70)).all()
    (about, *_) = (each["properties"] for each in content["features"])
    assert about["area"] is None and 0 < about["probability"] <= 1 and about["pixels"] >= 4


def coast(size=(200, 200)):
    """Three regions: a line goes from left to right, a corner is another one's."""
    rng = np.random.default_rng(0)
    edge = size[0] // 2 + np.cumsum(rng.integers(-1, 2, size[1]))
    labels = (np.indices(size)[0] >= edge).astype(np.uint8)
    labels[: size[0] // 4, size[1] // 2 :] = 2
    return labels


def rings(size=(200, 200)):
    """Discs and rings about the middle, and a bar across it."""
    y, x = np.indices(size)
    away = np.hypot(y - (size[0] - 1) / 2, x - (size[1] - 1) / 2) / size[0]
    labels = np.digitize(away, [0.2, 0.4]).astype(np.uint8)
    labels[size[0] // 2 - 3 :, size[1] // 2 : size[1] // 2 + 20] = 3
    return labels


WIDE = {  # system, upper left corner, side of a pixel, map
    "UTM, 50 degrees": (32633, (500_000, 5_500_000), 500, coast()),
    "UTM, 70 degrees": (32633, (500_000, 7_800_000), 500, coast()),
    "Europe": (3035, (4_000_000, 3_200_000), 2000, coast()),
    "sea ice": (3413, (400_000, -1_000_000), 2000, coast()),
    "about the pole": (3413, (-502_000, 503_000), 5000, rings()),
    "a corner at the pole": (3413, (-500_000, 500_000), 5000, rings()),
    "about the South pole": (3031, (-502_000, 503_000), 5000, rings()),
    "Fiji": (32760, (811_000, 8_010_000), 200, coast((100, 100))),
    "0 to 360": (4326, (150, 20), 0.25, coast()),
    "everywhere": (4326, (-180, 90), 1, coast((180, 360))),
    "everywhere, in Mercator": (3857, (-20_037_508.34, 20_000_000), 100_000, coast((400, 400))),
}


@pytest.mark.parametrize("name", WIDE)
def test_wide_polygons_are_true_on_the_earth(tmp_path, name):
    epsg, corner, pixel, labels = WIDE[name]
    place = Place(rasterio.CRS.from_epsg(epsg), from_origin(*corner, pixel, pixel))
    results = label_raster(tmp_path / "a.tif", labels, place)
    path = tmp_path / "a.geojson"
    write_vectors(results, path, CLASSES, VectorSettings("geojson"))
    features = json.loads(path.read_text())["features"]
    outlines = [shapely.geometry.shape(each["geometry"]) for each in features]
    bounds = shapely.bounds(outlines)
    assert all(map(shapely.is_valid, outlines))
    assert (bounds[:, :2] >= (-180, -90)).all() and (bounds[:, 2:] <= (180, 90)).all()
    rows, columns = np.indices(labels.shape).reshape(2, -1) + 0.5
    x, y = place.transform @ (columns, rows)
    longitude, latitude = map(np.array, transformed(place.crs, "EPSG:4326", x, y))
    longitude = (longitude + 180) % 360 - 180
    inside = np.abs(longitude) < 180 - 1e-9  # others lie where polygons are cut
    times, found = np.zeros(labels.size, int), np.full(labels.size, 255)
    for outline, each in zip(outlines, features, strict=True):
        within = shapely.contains_xy(outline, longitude, latitude)
        times += within
        found[within] = each["properties"]["label"]
    assert (times[inside] == 1).all() and (found == labels.ravel())[inside].all()
    areas = [each["properties"]["area"] for each in features]
    if epsg == 4326:
        (west, north), (east, south) = corner, place.transform @ labels.shape[::-1]
        total = (authalic(north) - authalic(south)) * math.radians(east - west)
        assert sum(areas) == pytest.approx(total, rel=1e-12)
    elif epsg != 3857:
        np.testing.assert_allclose(areas, areas_in_a_plane(place, labels), rtol=1e-4)


def areas_in_a_plane(place, labels):
    """Measure regions, whose sides have a point each quarter of a pixel, about their middle."""
    y, x = labels.shape
    (longitude,), (latitude,) = transformed(
        place.crs, "EPSG:4326", *([each] for each in place.transform @ (x / 2, y / 2))
    )
    plane = f"+proj=laea +lon_0={longitude} +lat_0={latitude} +datum=WGS84"
    outlines = shapely.transform(
        shapely.segmentize(regions_of(labels).outlines, 0.25), placed_by(place.transform)
    )
    return shapely.area(shapely.transform(outlines, between(place.crs, plane)))


def test_small_polygons_are_written_without_further_points(tmp_path):
    for place in (PLACES["UTM"], PLACES["rotated"], PLACES["degrees"], PLACES["Web Mercator"]):
        results = label_raster(tmp_path / "a.tif", blobs(), place)
        path = tmp_path / "a.geojson"
        write_vectors(results, path, CLASSES, VectorSettings("geojson"))
        found = [
            shapely.geometry.shape(each["geometry"])
            for each in json.loads(path.read_text())["features"]
        ]
        expected = shapely.transform(regions_of(blobs()).outlines, placed_by(place.transform))
        expected = shapely.transform(expected, between(place.crs, WGS84, 9))
        assert shapely.equals_exact(shapely.normalize(found), shapely.normalize(expected)).all()


OFF_THE_EARTH = {
    "another planet": rasterio.CRS.from_string("+proj=eqc +R=3396190 +units=m"),
    "a site": rasterio.CRS.from_wkt(
        'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    ),
}


@pytest.mark.parametrize("where", OFF_THE_EARTH)
def test_off_the_earth_there_are_polygons_without_areas(tmp_path, where):
    place = Place(OFF_THE_EARTH[where], from_origin(1000, 2000, 5, 5))
    results = label_raster(tmp_path / "a.tif", blobs(), place)
    path, said = tmp_path / "a.gpkg", []
    write_vectors(results, path, CLASSES, VectorSettings("gpkg"), say=said.append)
    _, outlines, columns = read_vectors(path)
    assert (painted(outlines, columns["label"], (60, 80), place.transform) == blobs()).all()
    assert np.isnan(columns["area"].astype(float)).all()
    (line,) = said
    assert line.startswith(f"note: {path}: area is null (its coordinates can't be brought")
    with pytest.raises(FullconvError, match="ask for --format gpkg, which keeps them"):
        write_vectors(results, tmp_path / "a.geojson", CLASSES, VectorSettings("geojson"))
    assert not (tmp_path / "a.geojson").exists()


def test_a_raster_off_the_earth_does_not_stop_the_others(tmp_path, net):
    mars = {**PLACE, "crs": OFF_THE_EARTH["another planet"]}
    write(tmp_path / "in/a.tif", noise((70, 90)), **mars)
    write(tmp_path / "in/b.tif", noise((70, 90)), **PLACE)
    settings = PredictSettings(net, (str(tmp_path / "in"),), tmp_path / "out", engine="torch")
    found = predict_vectors(settings, VectorSettings("geojson"))
    (failure,) = found.failures
    assert failure.source == tmp_path / "in/a.tif"
    assert failure.reason.startswith(f"{tmp_path / 'out/vectors/a.geojson'}: its coordinates")
    assert "\n" not in failure.reason
    assert [path.name for path in (tmp_path / "out/vectors").iterdir()] == ["b.geojson"]


def test_what_takes_more_memory_is_refused_in_a_line(tmp_path):
    results = label_raster(tmp_path / "a.tif", blobs(), Place())
    with pytest.raises(FullconvError, match=r"a\.tif: its polygons take about .* raise --memory"):
        write_vectors(results, tmp_path / "a.gpkg", CLASSES, VectorSettings("gpkg"), 10_000)
    assert not (tmp_path / "a.gpkg").exists()


def test_the_command(command_line, random_model, tmp_path, capsys):
    write(tmp_path / "a.tif", noise((70, 90)), **PLACE)
    words = ("--out", tmp_path / "out", "--engine", "torch", "--quiet")
    asked = ("--format", "geojson", "--min-area", 9, "--simplify", 1)
    assert command_line("predict", random_model, tmp_path / "a.tif", *words, *asked) == 0
    assert f"polygons in {tmp_path / 'out/vectors'}" in capsys.readouterr().out
    content = json.loads((tmp_path / "out/vectors/a.geojson").read_text())
    assert all(each["properties"]["pixels"] >= 9 for each in content["features"])
    assert command_line("predict", random_model, tmp_path / "a.tif", *words, "--simplify", 1) == 2
    assert "--simplify is for --format geojson" in capsys.readouterr().err
