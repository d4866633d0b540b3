"""The page that labels photos in the browser: by clicking through it, against the plain net."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from exports import photo, scored_net
from image_bytes import exif
from pages import chromium, label, opened, saved, served
from PIL import Image, ImageCms
from rasterio.features import rasterize

import fullconv
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.images import ImageReader
from fullconv.base.palette import palette_image
from fullconv.export import int8, web_runtime
from fullconv.export.formats import ONNX
from fullconv.export.metadata import ExportMetadata
from fullconv.export.run import ExportSettings, export
from fullconv.export.web import page_files, require_place, tile_of
from fullconv.export.web_runtime import runtime_files, runtime_here
from fullconv.export.whole import WholeNet

SHARED = os.environ.get("FULLCONV_SHARED")
PHONE = {"width": 375, "height": 740}
NONE_OF_PAGE = {"licences.txt", "sw.js", "index.html"}  # which the page never asks for by name


def jpeg(path: Path, size=(60, 80), seed=0, **options) -> Path:
    Image.fromarray(photo(size, seed)).save(path, quality=95, **options)
    return path


# ---- without a browser


@pytest.fixture
def no_runtime(monkeypatch):
    """Stand in for what runs nets in browsers, where no browser will."""
    files = dict.fromkeys(web_runtime.FILES, b"//")
    monkeypatch.setattr("fullconv.export.run.runtime_files", lambda *_: files)


def test_the_page_names_no_other_host():
    for name, content in page_files().items():
        hosts = set(re.findall(r"(?:https?:)?//([a-z0-9.-]+\.[a-z]{2,})", content.decode()))
        assert hosts <= {"www.w3.org"}, name  # the name of SVG, which nothing fetches


@pytest.mark.slow
@pytest.mark.usefixtures("no_runtime")
def test_all_that_the_page_asks_for_is_there(tmp_path):
    done = export(ExportSettings(scored_net(), "web", tmp_path / "site"))
    there = {
        str(path.relative_to(done.path).as_posix())
        for path in done.path.rglob("*")
        if path.is_file()
    }
    worker = (done.path / "sw.js").read_text()
    kept = {
        name
        for part in re.findall(r"(?:NOW|LATER) = \[(.*?)\]", worker, re.DOTALL)
        for name in re.findall('"([^"]+)"', part)
    }
    assert kept - {"./"} == there - NONE_OF_PAGE
    asked = {
        name
        for path in done.path.iterdir()
        if path.suffix in {".js", ".html"}
        for name in re.findall(r'(?:from|src=|href=) ?"(?:\./)?([\w./-]+)"', path.read_text())
    }
    assert asked <= there
    assert "default-src 'none'" in (done.path / "index.html").read_text()
    assert sum((done.path / name).stat().st_size for name in there) == done.size


@pytest.mark.slow
def test_the_command_writes_a_site_with_its_runtime(tmp_path, command_line, capsys, monkeypatch):
    contents = {name: name.encode() for name in web_runtime.FILES}
    package = tmp_path / "runtime.tgz"
    with tarfile.open(package, "w:gz") as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    scored_net(classes=4).save_pretrained(tmp_path / "model")
    words = ("export", tmp_path / "model", "--format", "web", "--out", tmp_path / "site")
    assert command_line(*words, "--runtime", package) == 2
    assert "is not that of onnxruntime-web" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
    own = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(web_runtime, "FILES", own)
    assert command_line(*words, "--runtime", package) == 0
    assert "site: labels, fp16" in capsys.readouterr().out
    for name, content in contents.items():
        beside = tmp_path / "site" / "ort" / name.replace(".mjs", ".js")
        assert beside.read_bytes() == content
        (tmp_path / name).write_bytes(content)
    assert runtime_files(tmp_path) == contents
    assert "web fp16 labels" in json.loads((tmp_path / "model" / "exports.json").read_text())


def test_without_npm_a_line_says_how_to_get_the_runtime(monkeypatch, tmp_path):
    monkeypatch.setattr(web_runtime, "VENDORED", tmp_path / "none")
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert runtime_here() is None
    with pytest.raises(FullconvError, match=r"npm pack onnxruntime-web@.*--runtime"):
        runtime_files()
    with pytest.raises(FullconvError, match="npm pack"):
        runtime_files(jpeg(tmp_path / "no.jpg"))


@pytest.mark.usefixtures("no_runtime")
def test_what_is_no_site_is_not_replaced(tmp_path):
    (tmp_path / "site").mkdir()
    require_place(tmp_path / "site")
    (tmp_path / "site" / "thesis.txt").write_text("")
    with pytest.raises(FullconvError, match="choose another folder"):
        export(ExportSettings(scored_net(), "web", tmp_path / "site"))
    assert [*(tmp_path / "site").iterdir()] == [tmp_path / "site" / "thesis.txt"]


@pytest.mark.parametrize(
    ("net", "options", "told"),
    [
        ({"inputs": {"color": 3, "depth": 1}}, {}, "color \\(3\\), depth \\(1\\)"),
        ({}, {"output": "scores"}, "labels, not of scores"),
    ],
)
@pytest.mark.usefixtures("no_runtime")
def test_what_no_page_can_show_is_refused(net, options, told, tmp_path):
    with pytest.raises(FullconvError, match=told):
        export(ExportSettings(scored_net(**net), "web", tmp_path / "site", **options))
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("no_runtime")
def test_a_site_whose_graph_is_another_net_is_not_written(tmp_path, monkeypatch):
    def disagrees(*_):
        raise FullconvError("labels differ")

    monkeypatch.setattr("fullconv.export.attempt.compare", disagrees)
    with pytest.raises(WorkFailedError) as caught:
        export(ExportSettings(scored_net(), "web", tmp_path / "site"))
    assert str(caught.value) == f"{tmp_path / 'site'}: was not written: labels differ"
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_net_that_looks_at_the_whole_image_has_no_tiles():
    assert tile_of(fullconv.FCN("mobilenet_v3_small", 16, 2, weights=None)) is None
    assert tile_of(scored_net())["align"] == 32


@pytest.mark.slow
@pytest.mark.usefixtures("no_runtime")
def test_the_default_net_is_small(tmp_path):
    net = scored_net("mobilenet_v2", classes=21, weights=None)
    export(ExportSettings(net, "web", tmp_path / "site", precision="fp16"))
    assert (tmp_path / "site" / "model.onnx").stat().st_size <= 4.8e6


@pytest.mark.slow
@pytest.mark.skipif(not int8.is_installed(), reason="needs nncf")
def test_the_default_net_is_smaller_in_int8(tmp_path):
    net = scored_net("mobilenet_v2", classes=21, weights=None)
    graph = ONNX.convert(WholeNet(net, "labels", ONNX.best))
    images = [{"image": photo((224, 224), seed)[None]} for seed in range(2)]
    small = int8.quantised(graph, ONNX.layers(graph), images)
    ONNX.save(small, ExportMetadata.of(net, "labels", "int8"), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size <= 2.7e6


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    if runtime_here() is None:
        pytest.skip("needs onnxruntime-web: make web-runtime")
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def net():
    made = scored_net()
    made.head.classes = ("Sky", "Road", "Tree & bush", "<b>Car</b>")
    return made


@pytest.fixture(scope="module")
def address(browser, net, tmp_path_factory):
    """Of a site that is served."""
    place = tmp_path_factory.mktemp("web") / "site"
    done = export(ExportSettings(net, "web", place, precision="fp32"))
    assert browser.is_connected()
    with served(done.path) as found:
        yield found


@pytest.fixture(scope="module")
def visit(browser, address):
    with opened(browser, address, viewport={"width": 1280, "height": 800}) as made:
        yield made


@pytest.fixture
def page(visit):
    """One page for many tests: it takes photo after photo, as a visitor's does."""
    visit.mouse.move(0, 0)
    visit.keyboard.press("Escape")
    yield visit
    assert not visit.complaints


def pixels_of(page, content: bytes) -> np.ndarray:
    """Return what the page's own decoder makes of a file."""
    width, height, coded = page.evaluate(
        """async (coded) => {
            const { pixelsOf } = await import("./pixels.js");
            const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
            const { pixels, width, height } = await pixelsOf(new Blob([bytes]));
            let text = "";
            for (const value of pixels) text += String.fromCharCode(value);
            return [width, height, btoa(text)];
        }""",
        base64.b64encode(content).decode(),
    )
    return np.frombuffer(base64.b64decode(coded), np.uint8).reshape(height, width, 3)


@pytest.mark.slow
def test_its_labels_are_those_of_predict(page, net, tmp_path):
    path = jpeg(tmp_path / "a street.jpg", (161, 230))
    label(page, path)
    expected = net.predict(path)
    file = saved(page, "#save-labels")
    assert file.name == "a street.png"
    with Image.open(file) as image:
        found = np.asarray(image)
        own = palette_image(expected, net.head.palette)
        assert (image.mode, image.size) == ("P", (230, 161))
        assert image.getpalette() == own.getpalette()
    assert (found == expected).mean() >= 0.999


@pytest.mark.slow
def test_classes_are_listed_before_any_photo(browser, address, net):
    with opened(browser, address) as page:
        assert page.locator("#legend .name").all_inner_texts() == list(net.head.classes)
        assert "4 classes" in page.inner_text("#about")


@pytest.mark.slow
def test_the_legend_has_each_class_and_its_share(page, net, tmp_path):
    path = jpeg(tmp_path / "a.jpg", (90, 131))
    label(page, path)
    names = page.locator("#legend .name")
    shares = np.bincount(net.predict(path).ravel(), minlength=4) / (90 * 131)
    order = np.argsort(-shares, kind="stable")
    assert names.all_inner_texts() == [net.head.classes[at] for at in order]
    for told, share in zip(
        page.locator("#legend .share").all_inner_texts(), shares[order], strict=True
    ):
        if told != "–":
            assert float(told.strip("< %")) == pytest.approx(100 * share, abs=0.2)
    assert net.head.classes[order[0]] in page.inner_text("#spoken")


@pytest.mark.slow
def test_pointing_and_clicking_read_the_class(page, net, tmp_path):
    path = jpeg(tmp_path / "a.jpg", (96, 128))
    label(page, path)
    labels = net.predict(path)
    box = page.locator("#frame").bounding_box()
    for x, y in ((40, 20), (100, 70), (127, 95)):
        place = ((x + 0.5) / 128 * box["width"], (y + 0.5) / 96 * box["height"])
        page.hover("#frame", position={"x": place[0], "y": place[1]})
        name = net.head.classes[labels[y, x]]
        assert page.inner_text("#tip") == name
        assert page.locator("#legend .pointed .name").inner_text() == name
        page.click("#frame", position={"x": place[0], "y": place[1]})
        assert page.locator("#legend [aria-pressed=true] .name").inner_text() == name
        page.keyboard.press("Escape")
        assert page.locator("#legend [aria-pressed=true]").count() == 0


def test_a_class_is_marked_by_more_than_colour(page, tmp_path):
    label(page, jpeg(tmp_path / "a.jpg", (96, 128)))
    for act in (lambda row: row.hover(), lambda row: row.focus()):
        page.mouse.move(0, 0)
        assert page.locator("#mark.on").count() == 0
        act(page.locator("#legend button").first)
        assert page.locator("#mark.on").count() == 1
    values = page.evaluate(
        """() => {
            const mark = document.querySelector("#mark");
            const four = mark.getContext("2d").getImageData(0, 0, mark.width, mark.height).data;
            return new Set(new Uint32Array(four.buffer)).size;
        }"""
    )
    assert values >= 4  # lines, what is between them, the rim, all else


def test_polygons_draw_the_labels(page, net, tmp_path):
    """Holes and regions that touch at corners only included."""
    path = jpeg(tmp_path / "a.jpg", (97, 131))
    label(page, path)
    with Image.open(saved(page, "#save-labels")) as image:
        labels = np.asarray(image)
    found = json.loads(saved(page, "#save-polygons").read_text())
    assert found["type"] == "FeatureCollection"
    assert any(len(each["geometry"]["coordinates"]) > 1 for each in found["features"])
    drawn = np.full(labels.shape, 99, np.uint8)
    for each in found["features"]:
        id_ = each["properties"]["id"]
        assert each["properties"]["class"] == net.head.classes[id_]
        inside = rasterize([each["geometry"]], labels.shape).astype(bool)
        assert inside.sum() == each["properties"]["pixels"]
        assert (drawn[inside] == 99).all()
        drawn[inside] = id_
    assert (drawn == labels).all()


def test_polygons_of_noise(page):
    """Checkerboards have every kind of corner."""
    labels = np.random.default_rng(0).integers(0, 2, (23, 37), dtype=np.uint8)
    found = page.evaluate(
        """async ([values, width, height]) => {
            const { polygons } = await import("./labels.js");
            return polygons(Uint8Array.from(values), width, height, ["no", "yes"]);
        }""",
        [labels.ravel().tolist(), 37, 23],
    )
    shapes = [(each["geometry"], each["properties"]["id"]) for each in found["features"]]
    drawn = rasterize(shapes, labels.shape, fill=9)
    assert (drawn == labels).all()


@pytest.mark.slow
def test_the_overlay_is_the_photo_under_the_labels(page, net, tmp_path):
    path = jpeg(tmp_path / "a.jpg", (96, 128))
    label(page, path)
    page.locator("#opacity").fill("30")
    file = saved(page, "#save-overlay")
    assert file.name == "a-overlay.jpg"
    photo_ = ImageReader().image(path).astype(float)
    colours = np.array(net.head.palette)[net.predict(path)]
    with Image.open(file) as image:
        found = np.asarray(image).astype(float)
    assert np.abs(found - (0.7 * photo_ + 0.3 * colours)).mean() < 8  # JPEG's own loss


def image_bytes(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_pixels_are_those_that_predict_reads(page, tmp_path):
    rgb = Image.fromarray(photo((40, 61)))
    random = np.random.default_rng(1)
    rgba = Image.fromarray(random.integers(0, 256, (20, 31, 4), dtype=np.uint8))
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}  # what is red becomes blue, were it applied
    profile = re.sub(b"rXYZ|bXYZ", lambda found: names[found[0]], plain)
    kinds = {
        **{f"turned {n}": image_bytes(rgb, "JPEG", exif=exif(n)) for n in range(1, 9)},
        "jpeg 4:4:4": image_bytes(rgb, "JPEG", subsampling=0),
        "progressive": image_bytes(rgb, "JPEG", progressive=True),
        "png": image_bytes(rgb, "PNG"),
        "grey": image_bytes(rgb.convert("L"), "PNG"),
        "palette": image_bytes(rgb.quantize(16), "PNG"),
        "transparent": image_bytes(rgba, "PNG"),
        "profile": image_bytes(rgb, "PNG", icc_profile=profile),
        "jpeg with a profile": image_bytes(rgb, "JPEG", icc_profile=profile),
        "webp": image_bytes(rgb, "WEBP"),
        "lossless webp": image_bytes(rgb, "WEBP", lossless=True),
        "bmp": image_bytes(rgb, "BMP"),
    }
    for name, content in kinds.items():
        path = tmp_path / "file"
        path.write_bytes(content)
        found, expected = pixels_of(page, content), ImageReader().image(path)
        assert found.shape == expected.shape, name
        assert np.array_equal(found, expected), name


@pytest.mark.slow
def test_a_large_photo_is_labelled_by_tiles_that_change_nothing(page, net, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(photo((1700, 1800))).save(path)
    page.set_input_files("#file", path)
    page.wait_for_selector("body[data-look]:not([data-labelled])")
    assert page.is_hidden("#save-labels")
    page.wait_for_selector("body[data-labelled]")
    with Image.open(saved(page, "#save-labels")) as image:
        assert (np.asarray(image) == net.predict(path)).mean() > 0.99999


@pytest.mark.slow
def test_another_photo_ends_the_work_on_a_large_one(page, net, tmp_path):
    large, small = tmp_path / "large.png", jpeg(tmp_path / "small.jpg")
    Image.fromarray(photo((1700, 1800))).save(large)
    page.set_input_files("#file", large)
    page.wait_for_selector("body[data-look]:not([data-labelled])")
    label(page, small)
    with Image.open(saved(page, "#save-labels")) as image:
        assert (np.asarray(image) == net.predict(small)).mean() >= 0.999


@pytest.mark.slow
def test_a_net_without_tiles_labels_large_photos_made_smaller(browser, net, tmp_path):
    site = export(ExportSettings(net, "web", tmp_path / "site")).path
    model = json.loads((site / "model.json").read_text())
    (site / "model.json").write_text(json.dumps({**model, "tile": None}))
    Image.fromarray(photo((1700, 1800))).save(tmp_path / "large.png")
    with served(site) as address, opened(browser, address) as page:
        label(page, tmp_path / "large.png")
        assert "600 × 566 pixels, made smaller" in page.inner_text("#status")


@pytest.mark.slow
def test_with_the_network_off_it_works_as_before(browser, address, net, tmp_path):
    path = jpeg(tmp_path / "a.jpg")
    with opened(browser, address) as page:
        page.context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert "works offline" in page.inner_text("#about")
        assert page.evaluate("crossOriginIsolated")
        label(page, path)
        with Image.open(saved(page, "#save-labels")) as image:
            assert (np.asarray(image) == net.predict(path)).mean() >= 0.999


@pytest.mark.slow
def test_a_site_exported_anew_shows_at_once(browser, tmp_path):
    net = scored_net()
    for name in ("old", "new"):
        net.head.classes = (name, "b", "c", "d")
        export(ExportSettings(net, "web", tmp_path / name))
    for path in (tmp_path / "new").rglob("*"):
        os.utime(path, (path.stat().st_mtime + 60,) * 2)
    with served(tmp_path / "old") as address, opened(browser, address) as page:
        assert page.locator("#legend .name").first.inner_text() == "old"
        shutil.rmtree(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "old")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.locator("#legend .name").first.inner_text() == "new"


def test_everything_can_be_done_by_keyboard(page, net, tmp_path):
    path = jpeg(tmp_path / "a.jpg", (96, 128))
    labels = net.predict(path)
    label(page, path)
    page.focus("body")
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    assert {"frame", "choose", "camera", "opacity", "save-labels", "save-polygons"} <= set(reached)
    page.focus("#frame")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#spoken") == f"{net.head.classes[labels[48, 64]]}, at 64, 48"
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#spoken") == f"{net.head.classes[labels[35, 63]]}, at 63, 35"
    page.keyboard.press("Enter")
    marked = page.locator("#legend [aria-pressed=true] .name").inner_text()
    assert marked == net.head.classes[labels[35, 63]]


def test_all_controls_have_names(page, tmp_path):
    label(page, jpeg(tmp_path / "a.jpg"))
    names = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=application]")]
            .filter((element) => element.checkVisibility())
            .map((element) => element.ariaLabel || element.textContent.trim()
                || element.labels?.[0]?.textContent.trim() || "")"""
    )
    assert len(names) >= 9
    assert all(names)


def test_photos_are_dropped_and_pasted(page, net, tmp_path):
    for seed, act in enumerate(("drop", "paste")):
        path = jpeg(tmp_path / f"{act}.jpg", (60, 80), seed)
        page.evaluate(
            """([act, coded]) => {
                const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], `${act}.jpg`, { type: "image/jpeg" }));
                const event = act === "drop"
                    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
                document.querySelector("main").dispatchEvent(event);
            }""",
            [act, base64.b64encode(path.read_bytes()).decode()],
        )
        page.wait_for_selector(f"#frame[aria-label^='{act}.jpg']")
        page.wait_for_selector("body[data-labelled]")
        with Image.open(saved(page, "#save-labels")) as image:
            assert (np.asarray(image) == net.predict(path)).mean() >= 0.999


@pytest.mark.slow
def test_live_video_and_a_photo_from_it(page):
    page.click("#camera")
    page.wait_for_selector("body[data-live]")
    assert "a second" in page.inner_text("#status")
    page.click("#shoot")
    page.wait_for_selector("body[data-labelled]")
    assert page.is_hidden("#stop")
    with Image.open(saved(page, "#save-labels")) as image:
        assert image.size == (1280, 720)
    page.click("#camera")
    page.wait_for_selector("body[data-live]")
    page.click("#stop")
    assert page.is_visible("#choose")


@pytest.mark.slow
def test_what_is_no_image_is_told(page, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no image")
    page.set_input_files("#file", path)
    page.wait_for_selector("#status.error")
    assert "notes.jpg" in page.inner_text("#status")
    page.complaints.clear()  # it is in the console, too
    label(page, jpeg(tmp_path / "a.jpg"))
    assert "error" not in page.locator("#status").get_attribute("class")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out(browser, address, scheme, tmp_path):
    options = {"viewport": PHONE, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    with opened(browser, address, **options) as page:
        for step in ("empty", "labelled"):
            if step == "labelled":
                label(page, jpeg(tmp_path / "a.jpg", (120, 80)))
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            assert page.locator("#choose").bounding_box()["height"] >= 40
        assert page.locator("#frame").bounding_box()["width"] > 200


@pytest.mark.slow
def test_several_heads(browser, tmp_path):
    net = scored_net(heads={"sem": ("red", "green", "blue"), "geo": ("near", "far")})
    done = export(ExportSettings(net, "web", tmp_path / "site"))
    path = jpeg(tmp_path / "a.jpg")
    with served(done.path) as address, opened(browser, address) as page:
        label(page, path)
        for name, expected in net.predict(path).items():
            page.select_option("#head", name)
            with Image.open(saved(page, "#save-labels")) as image:
                assert (np.asarray(image) == expected).mean() >= 0.999


class Serving(SimpleHTTPRequestHandler):
    """A server that labels by halves, as a server's answers are documented."""

    palette = ((0, 90, 160), (230, 160, 0))
    refusals: ClassVar[list[int]] = []
    tokens: ClassVar[list[str | None]] = []

    def do_POST(self):
        self.tokens.append(self.headers["Authorization"])
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/segment"
        assert self.headers["Accept"] == "image/png"
        if self.refusals:
            self.send_response(self.refusals.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with Image.open(io.BytesIO(content)) as image:
            ids = np.zeros((image.height, image.width), np.uint8)
            ids[:, image.width // 3 :] = 1
        answer = image_bytes(palette_image(ids, self.palette), "PNG")
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def served_page(folder: Path) -> Path:
    for name, content in page_files().items():
        (folder / name).write_bytes(content)
    head = {"name": "labels", "output": "labels", "classes": ["left", "right"], "ignore_index": 255}
    model = {"format": 1, "backend": "server", "endpoint": "v1/segment", "title": "FCN-8s"}
    model["heads"] = [{**head, "palette": Serving.palette}]
    (folder / "model.json").write_text(json.dumps(model))
    return folder


@pytest.mark.slow
def test_the_same_page_with_the_net_on_a_server(browser, tmp_path):
    with served(served_page(tmp_path), Serving) as address, opened(browser, address) as page:
        assert "sent to this server" in page.inner_text("#about")
        label(page, jpeg(tmp_path / "a.jpg", (60, 90)))
        assert page.locator("#legend .share").all_inner_texts() == ["66.7 %", "33.3 %"]
        page.click("#camera")
        page.wait_for_selector("body[data-live]")
        page.click("#stop")


@pytest.mark.slow
def test_a_busy_server_is_asked_again_and_a_guarded_one_by_token(browser, tmp_path):
    path = jpeg(tmp_path / "a.jpg", (60, 90))
    with served(served_page(tmp_path), Serving) as address, opened(browser, address) as page:
        page.on("dialog", lambda dialog: dialog.accept(" secret "))
        Serving.tokens.clear()
        Serving.refusals[:] = [503, 401]
        label(page, path)
        label(page, path)
        assert Serving.tokens == [None, None, "Bearer secret", "Bearer secret"]
        Serving.refusals[:] = [413]
        page.set_input_files("#file", path)
        page.wait_for_selector("#status.error")
        assert page.inner_text("#status") == "The server answered 413."
        page.complaints.clear()  # the console has refusals, too


@pytest.mark.slow
def test_the_example_labels_with_nothing_of_the_page(browser, net, tmp_path):
    folder = export(ExportSettings(net, "web", tmp_path / "site")).path
    example = Path(__file__).parents[2] / "docs" / "examples" / "onnxruntime_web.html"
    assert len(example.read_text().splitlines()) <= 28
    shutil.copy(example, folder)
    for name, content in (runtime_here() or {}).items():  # as they lie in the package
        (folder / "ort" / name).write_bytes(content)
    path = jpeg(tmp_path / "a.jpg", (60, 80))
    types = {"extensions_map": {".mjs": "text/javascript", ".html": "text/html"}}
    with (
        served(folder, type("Host", (SimpleHTTPRequestHandler,), types)) as address,
        browser.new_page() as page,
    ):
        page.goto(f"{address}{example.name}")
        page.wait_for_selector("input:enabled")
        page.set_input_files("input", path)
        page.wait_for_function("document.querySelector('pre').textContent")
        told = [line.split(",") for line in page.inner_text("pre").splitlines()]
    expected = np.bincount(net.predict(path).ravel(), minlength=4)
    found = np.zeros(4, int)
    for id_, count in told:
        found[int(id_)] = int(count)
    assert np.abs(found - expected).sum() <= 10


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="FULLCONV_SHARED names no folder of real data")
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999), ("fp16", 0.995)])
def test_labels_of_six_photographs(precision, least, browser, tmp_path):
    """By random scores, of which many are nearly equal: harder than any net that is trained."""
    weights = Path(SHARED or "") / "weights" / "mobilenet_v2.safetensors"
    net = scored_net("mobilenet_v2", classes=21, weights=weights)
    done = export(ExportSettings(net, "web", tmp_path / "site", precision=precision))
    paths = sorted((Path(SHARED or "") / "data" / "photos").glob("*.jpg"))
    assert len(paths) == 6
    with served(done.path) as address, opened(browser, address) as page:
        for path in paths:
            assert np.array_equal(pixels_of(page, path.read_bytes()), ImageReader().image(path))
            label(page, path)
            with Image.open(saved(page, "#save-labels")) as image:
                assert (np.asarray(image) == net.predict(path)).mean() >= least, path.name
