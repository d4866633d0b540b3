import io
import json

import numpy as np
import pytest
from colour_net import PixelHead
from PIL import Image

from fullconv.base.shapes import mask_of_runs
from fullconv.serve.answers import Labelled, geojson, jpeg, negotiated, png, runs

LABELS = np.array([[0, 0, 2, 2], [0, 255, 2, 0], [0, 0, 0, 0]], np.uint8)
PHOTO = np.full((3, 4, 3), 200, np.uint8)


@pytest.fixture
def labelled():
    return Labelled("labels", PixelHead(), LABELS, PHOTO)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("Application/JSON", "application/json"),
        ("application/geo+json; charset=utf-8", "application/geo+json"),
        ("text/html, application/json;q=0.9, */*;q=0.1", "application/json"),
        ("image/png;q=0.2, image/jpeg;q=0.5", "image/jpeg"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("image/png;q=0, */*;q=0.5", "image/jpeg"),
        ("image/jpeg;q=none, application/json", "application/json"),
    ],
)
def test_what_is_wanted_most_is_given(accept, media):
    assert negotiated(accept).media == media


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "png", "image/webp"])
def test_what_there_is_not_is_refused(accept):
    assert negotiated(accept) is None


def test_png_holds_the_ids(labelled):
    with Image.open(io.BytesIO(png(labelled))) as image:
        assert image.mode == "P"
        assert (np.array(image) == LABELS).all()


def test_jpeg_has_the_size(labelled):
    with Image.open(io.BytesIO(jpeg(labelled))) as image:
        assert (image.format, image.size) == ("JPEG", (4, 3))


def test_runs_give_the_labels_back(labelled):
    told = json.loads(runs(labelled))
    assert (told["width"], told["height"], told["head"]) == (4, 3, "labels")
    assert [(each["id"], each["name"], each["pixels"]) for each in told["classes"]] == [
        (0, "red", 8),
        (2, "blue", 3),
        (255, "", 1),
    ]
    assert sum(each["share"] for each in told["classes"]) == pytest.approx(1)
    labels = np.zeros((3, 4), np.uint8)
    for each in told["classes"]:
        segmentation = each["segmentation"]
        labels[mask_of_runs(segmentation["counts"], segmentation["size"])] = each["id"]
    assert (labels == LABELS).all()


def test_polygons_are_closed_and_count_their_pixels(labelled):
    told = json.loads(geojson(labelled))
    assert told["type"] == "FeatureCollection" and told["bbox"] == [0, 0, 4, 3]
    found = [(each["properties"]["id"], each["properties"]["pixels"]) for each in told["features"]]
    assert found == [(0, 8), (2, 3), (255, 1)]
    red = told["features"][0]["geometry"]
    assert red["type"] == "Polygon"
    assert all(ring[0] == ring[-1] for ring in red["coordinates"])
    assert red["coordinates"][0] == [
        [0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [3, 2], [3, 1], [4, 1], [4, 3], [0, 3], [0, 0],
    ]  # fmt: skip
