"""The page of `fullconv serve`, clicked through in a browser: its labels are the server's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from colour_net import CLASSES, PALETTE
from pages import chromium, label, opened, saved
from PIL import Image
from rasterio.features import rasterize
from service import encoded, listening

from fullconv.base.images import ImageReader

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 780}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def served():
    with listening(reader=ImageReader(1_000_000)) as started:
        yield started


@pytest.fixture
def page(browser, served):
    with opened(browser, address_of(served), viewport=PHONE) as made:
        yield made


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a street.png"
    path.write_bytes(encoded((61, 90)))
    return path


def address_of(served) -> str:
    return f"http://127.0.0.1:{served.port}/"


def expected(path) -> np.ndarray:
    return ImageReader().image(path).argmax(2)  # what the model of these tests does


def test_it_says_where_photos_go_and_lists_the_classes(page):
    assert "sent to this server" in page.inner_text("#about")
    assert page.locator("#legend .name").all_inner_texts() == list(CLASSES)


def test_its_files_are_those_of_the_service(page, photo):
    label(page, photo)
    labels = expected(photo)
    file = saved(page, "#save-labels")
    assert file.name == "a street.png"
    with Image.open(file) as image:
        assert (np.asarray(image) == labels).all()
        assert image.getpalette()[:9] == [value for colour in PALETTE for value in colour]
    shapes = json.loads(saved(page, "#save-polygons").read_text())["features"]
    drawn = rasterize(
        [(each["geometry"], each["properties"]["id"]) for each in shapes], labels.shape, fill=9
    )
    assert (drawn == labels).all()
    with Image.open(saved(page, "#save-overlay")) as image:
        assert image.size == (90, 61)


def test_shares_and_classes_are_read(page, photo):
    label(page, photo)
    labels = expected(photo)
    shares = np.bincount(labels.ravel(), minlength=3) / labels.size
    order = np.argsort(-shares, kind="stable")
    assert page.locator("#legend .name").all_inner_texts() == [CLASSES[at] for at in order]
    told = [float(each[:-1]) for each in page.locator("#legend .share").all_inner_texts()]
    assert told == pytest.approx(100 * shares[order], abs=0.1)
    page.locator("#frame").scroll_into_view_if_needed()
    box = page.locator("#frame").bounding_box()
    place = {"x": 20.5 / 90 * box["width"], "y": 30.5 / 61 * box["height"]}
    page.click("#frame", position=place)
    assert page.locator("#legend [aria-pressed=true] .name").inner_text() == CLASSES[labels[30, 20]]


def test_live_video_is_labelled_on_the_server(page):
    with page.expect_response("**/v1/segment") as answer:
        page.click("#camera")
        page.wait_for_selector("body[data-live]")
    assert answer.value.status == 200
    page.click("#stop")


def test_what_the_server_refuses_is_told_in_its_words(page, tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (1001, 1000)).save(path)
    page.set_input_files("#file", path)
    page.wait_for_selector("#status.error")
    assert "1001 x 1000 pixels" in page.inner_text("#status")
    page.complaints.clear()  # the console has refusals, too


def test_a_guarded_server_asks_for_its_token_once(browser, photo):
    with listening(token="s3cret") as guarded, opened(browser, address_of(guarded)) as page:
        given = iter(["wrong-one", "s3cret"])
        page.on("dialog", lambda dialog: dialog.accept(next(given)))
        label(page, photo)
        label(page, photo)
        assert next(given, None) is None
        with Image.open(saved(page, "#save-labels")) as image:
            assert (np.asarray(image) == expected(photo)).all()
        page.complaints.clear()


def test_it_fits_a_phone(page, photo):
    label(page, photo)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]
