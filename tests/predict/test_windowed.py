"""Rasters by windows: the labels of the whole image, wherever it is cut, and whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from nets import NarrowVGG, narrow_caffe_vgg, random_scores
from PIL import Image
from prediction import pixels_of
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.env import get_gdal_config
from rasterio.rpc import RPC
from rasterio.windows import Window
from rasters import PLACE, SIZE, TILED, labels_of, noise, small, write
from side_by_side import context

from fullconv import FCN
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.images import ImageReader
from fullconv.base.progress import Reporter
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.strips import Strips
from fullconv.predict import geotiff, windowed
from fullconv.predict.journal import Journal
from fullconv.predict.memory import Memory
from fullconv.predict.rasters import CACHE, RasterScene, block_cache, in_passes
from fullconv.predict.room import NoRoomError, Tiling
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings


@pytest.fixture(scope="module")
def net():
    return small()


def predicted(net, source, out, *, tile=None, **options):
    settings = PredictSettings(
        net, (str(source),), out, engine="torch", precision="fp32", tiling=Tiling(tile), **options
    )
    prediction = run(settings)
    assert not prediction.failures, prediction.failures
    return prediction


NETS = {
    "plain": {},
    "heads": {"heads": {"a": 3, "b": 5}},
    "twice": {"magnify": 2},
    "a half": {"stride": 8, "reduce": 2},
    "learnt": {"learn_last_upscore": True},
}


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_windows_give_the_labels_of_the_whole_image(tmp_path, name, tta):
    net = small(**NETS[name])
    source = write(tmp_path / "a.tif", noise(), **TILED)
    whole = predicted(net, source, tmp_path / "whole", tta=tta)
    parts = predicted(net, source, tmp_path / "parts", format="tif", tile=(97, 110), tta=tta)
    for head in net.heads:
        below = head if len(net.heads) > 1 else "."
        expected = pixels_of(tmp_path / "whole" / below / "a.png")
        found = labels_of(tmp_path / "parts" / below / "a.tif")
        assert (found != expected).mean() < 1e-4  # equals in all but rounding
        assert (np.unique(found).size, found.shape) == (np.unique(expected).size, SIZE)
        assert parts.summary.pixels[head].sum() == found.size
        assert np.abs(parts.summary.pixels[head] - whole.summary.pixels[head]).max() < 8
        (_, share), (_, truth) = (each.summary.unsure[head][0] for each in (parts, whole))
        assert share == pytest.approx(truth, abs=1e-3)
        shown = [tmp_path / each / below / "overlay/a.jpg" for each in ("whole", "parts")]
        assert np.abs(pixels_of(shown[0]).astype(int) - pixels_of(shown[1])).mean() < 0.5
    assert not list((tmp_path / "parts").rglob("*.partial"))


@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_windows_of_bands_give_the_labels_of_the_whole_raster(tmp_path, dtype, nodata):
    values = noise(bands=4, dtype=dtype)
    scale = 1 / np.iinfo(dtype).max
    own = Preprocessing(
        scale=scale, mean=(0.5, 0.4, 0.5, 0.6), std=(0.3,) * 4, show=(4, 2, 1),
        bands={"bands": ("blue", "green", "red", "nir")},
    )  # fmt: skip
    net = small(inputs={"bands": 4}, preprocessing=own)
    if nodata is not None:
        values[:, 40:90, 100:200] = nodata
    source = write(tmp_path / "a.tif", values, nodata=nodata, **PLACE, **TILED)
    predicted(net, source, tmp_path / "whole")
    predicted(net, source, tmp_path / "parts", format="tif", tile=(97, 110))
    expected, found = pixels_of(tmp_path / "whole/a.png"), labels_of(tmp_path / "parts/a.tif")
    assert (found != expected).mean() < 1e-4
    assert (found == 255).sum() == (0 if nodata is None else 5000)
    shown = [pixels_of(tmp_path / each / "overlay/a.jpg") for each in ("whole", "parts")]
    assert np.abs(shown[0].astype(int) - shown[1]).mean() < 0.5
    if nodata is None:
        assert (net.predict(source) == expected).all()


@pytest.fixture
def short_rows(monkeypatch):
    """Let rows of tiles by strips be short, in so many columns."""

    def settle(columns):
        need = Memory._need_of_strips

        def too_much(memory, tiles, *args, **options):
            few = len(tiles.columns) < columns
            return 1 << 62 if few else need(memory, tiles, *args, **options)

        monkeypatch.setattr("fullconv.predict.memory.ROW", 24)
        monkeypatch.setattr(Memory, "_need_of_strips", too_much)

    return settle


STRIPS = {name: options for name, options in NETS.items() if name != "twice"}


@pytest.mark.parametrize(("columns", "tta"), [(1, False), (2, True)])
@pytest.mark.parametrize("name", STRIPS)
def test_strips_give_the_labels_of_the_whole_image(tmp_path, short_rows, name, columns, tta):
    net = small(**STRIPS[name])
    short_rows(columns)
    work = Memory(net, 1 << 30).windowed(SIZE, strips=Strips.of(net))
    assert work.strip and len(work.tiles.rows) > 3 and len(work.tiles.columns) == columns
    source = write(tmp_path / "a.tif", noise(), **TILED)
    predicted(net, source, tmp_path / "whole", tta=tta)
    parts = predicted(net, source, tmp_path / "parts", format="tif", tta=tta)
    for head in net.heads:
        below = head if len(net.heads) > 1 else "."
        expected = pixels_of(tmp_path / "whole" / below / "a.png")
        found = labels_of(tmp_path / "parts" / below / "a.tif")
        assert (found != expected).mean() < 1e-4  # equals in all but rounding
        assert parts.summary.pixels[head].sum() == found.size
        shown = [tmp_path / each / below / "overlay/a.jpg" for each in ("whole", "parts")]
        assert np.abs(pixels_of(shown[0]).astype(int) - pixels_of(shown[1])).mean() < 0.5


@pytest.mark.slow
def test_strips_go_on_where_a_run_was_killed(tmp_path, net, short_rows, monkeypatch):
    short_rows(2)
    source = write(tmp_path / "a.tif", noise((400, 243)), **TILED)
    add = Journal.add

    def killed_after_five(journal, arrays):
        add(journal, arrays)
        if len(journal) == 5:
            raise Killed

    monkeypatch.setattr(Journal, "add", killed_after_five)
    with pytest.raises(Killed):
        predicted(net, source, tmp_path / "out", format="tif")
    monkeypatch.setattr(Journal, "add", add)
    read, seen = windowed.read, []

    def noted(scene, rows, *others):
        seen.append(rows.start)
        return read(scene, rows, *others)

    monkeypatch.setattr(windowed, "read", noted)
    predicted(net, source, tmp_path / "out", format="tif")
    rows = Memory(net, 1 << 30).windowed((400, 243), strips=Strips.of(net)).tiles.rows
    assert min(seen) == rows[5].pixels.start > 0
    predicted(net, source, tmp_path / "again", format="tif")
    for name in ("a.tif", "overlay/a.jpg"):
        assert (pixels_of(tmp_path / "out" / name) == pixels_of(tmp_path / "again" / name)).all()


@pytest.mark.slow
@pytest.mark.parametrize("padding", [None, 100])
def test_windows_of_vgg_with_and_without_the_paper_s_padding(tmp_path, padding):
    torch.manual_seed(0)
    trunk = NarrowVGG() if padding is None else narrow_caffe_vgg()
    net = random_scores(FCN(trunk, 8, 4, padding=padding)).eval()
    source = write(tmp_path / "a.tif", noise((1003, 733)), **TILED)
    predicted(net, source, tmp_path / "out")
    predicted(net, source, tmp_path / "out", format="tif", tile=(560, 620))
    found, expected = labels_of(tmp_path / "out/a.tif"), pixels_of(tmp_path / "out/a.png")
    assert (found != expected).mean() < 1e-4


def test_place_colours_classes_and_overviews_are_kept(tmp_path, net):
    source = write(tmp_path / "a.tif", noise((1100, 700)), **PLACE, **TILED)
    predicted(net, source, tmp_path / "out", format="tif", tile=(200, 400))
    with rasterio.open(tmp_path / "out/a.tif") as file:
        assert (file.crs.to_epsg(), file.transform) == (32633, PLACE["transform"])
        assert (file.nodata, file.dtypes, file.block_shapes) == (255, ("uint8",), [(512, 512)])
        assert file.compression.name == "deflate"
        colours = file.colormap(1)
        assert [colours[label][:3] for label in range(4)] == list(net.palette)
        assert json.loads(file.tags()["CLASSES"]) == list(net.classes)
        assert file.tags()["CLASS_2"] == net.classes[2]
        assert file.overviews(1) == [2, 4]
        smaller = file.read(1, out_shape=(275, 175))
        assert set(np.unique(smaller)) <= set(np.unique(file.read(1)))


def test_control_points_and_rational_coefficients_are_kept(tmp_path, net):
    points = [
        GroundControlPoint(r, c, 10 + c / 1e3, 50 - r / 1e3) for r in (0, 300) for c in (0, 240)
    ]
    write(tmp_path / "in/gcps.tif", noise(), gcps=points, crs="EPSG:4326")
    some = [1.0, *[0.0] * 19]
    ends = {f"{of}_off": 50.0 for of in ("height", "lat", "line", "long", "samp")}
    ends |= {f"{of}_scale": 100.0 for of in ("height", "lat", "line", "long", "samp")}
    rpc = RPC(
        **ends, line_num_coeff=some, line_den_coeff=some, samp_num_coeff=some, samp_den_coeff=some
    )
    write(tmp_path / "in/rpcs.tif", noise(), rpcs=rpc)
    predicted(net, tmp_path / "in", tmp_path / "out", format="tif")
    with rasterio.open(tmp_path / "out/gcps.tif") as file:
        found, system = file.gcps
        assert [(each.row, each.col, each.x, each.y) for each in found] == [
            (each.row, each.col, each.x, each.y) for each in points
        ]
        assert system.to_epsg() == 4326
    with rasterio.open(tmp_path / "out/rpcs.tif") as file:
        assert file.rpcs.line_scale == rpc.line_scale


def test_no_data_becomes_ignore(tmp_path, net):
    values = noise()
    values[:, 50:120, 30:200] = 7
    plain = write(tmp_path / "in/plain.tif", values, **TILED)
    write(tmp_path / "in/nodata.tif", values, nodata=7, **TILED)
    with rasterio.open(
        tmp_path / "in/alpha.tif", "w", driver="GTiff", count=4, height=SIZE[0], width=SIZE[1],
        dtype="uint8", photometric="RGB", alpha="YES", **TILED,
    ) as file:  # fmt: skip
        file.write(
            np.concatenate(
                [values, np.where((values == 7).all(0, keepdims=True), 0, 255).astype(np.uint8)]
            )
        )
        assert file.colorinterp[3] == ColorInterp.alpha
    predicted(net, tmp_path / "in", tmp_path / "out", format="tif", tile=(97, 110))
    labels = labels_of(tmp_path / "out" / plain.name)
    expected = np.where((values == 7).all(0), 255, labels)
    assert 255 not in labels
    assert (labels_of(tmp_path / "out/alpha.tif") == expected).all()
    assert (labels_of(tmp_path / "out/nodata.tif") == expected).all()


ASIDE = {
    "a.png": {"driver": "PNG"},
    "a.jpeg": {"driver": "JPEG"},
    "a.tif": {"profile": "BASELINE", **TILED},
}


def beside(path):
    """Let GDAL write a raster that tells its place, and no data, in NAME.aux.xml alone."""
    values = noise()
    values[:, 50:120, 30:200] = 7
    write(path, values, nodata=7, **ASIDE[path.name], **PLACE)
    assert path.with_name(f"{path.name}.aux.xml").exists()
    return path


@pytest.mark.parametrize("name", ASIDE)
def test_what_is_told_beside_a_raster_counts(tmp_path, net, name):
    source = beside(tmp_path / "in" / name)
    files = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    predicted(net, source, tmp_path / "out", format="tif", tile=(97, 110))
    with rasterio.open(tmp_path / "out/a.tif") as file, rasterio.open(source) as given:
        assert (file.crs.to_epsg(), file.transform) == (32633, PLACE["transform"])
        assert ((file.read(1) == 255) == (given.dataset_mask() == 0)).all()
        assert (file.read(1) == 255).sum() > 7000
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == files
    assert not list((tmp_path / "out").rglob("*.aux.xml"))


def test_bands_have_no_data_where_it_is_told_beside_them(tmp_path):
    reader = ImageReader(every_band=True)
    for name in ("a.png", "a.tif"):
        scene = RasterScene(beside(tmp_path / name), reader)
        found = scene.read(range(20, 120), range(240))
        with rasterio.open(scene.path) as file:
            expected = np.moveaxis(file.read()[:, 20:120, :240], 0, 2)
        assert (np.isnan(found) == (expected == 7)).all()
        assert (found[expected != 7] == expected[expected != 7]).all()
        scene.close()


KINDS = {
    "strips": (noise(), {}),
    "apart": (noise(), {"interleave": "band", **TILED}),
    "grey": (noise(bands=1), {"compress": "lzw", "predictor": 2}),
    "white is zero": (noise(bands=1), {"photometric": "MINISWHITE"}),
    "16 bits": (noise(dtype=np.uint16), TILED),
    "16 bits grey": (noise(bands=1, dtype=np.uint16), {"compress": "deflate"}),
    "many bands": (noise(bands=6), TILED),
    "a bit": (noise(bands=1) // 128, {"nbits": 1}),
    "zstd": (noise(), {"compress": "zstd", **TILED}),
    "JPEG": (noise(), {"compress": "jpeg", **TILED}),
    "JPEG in YCbCr": (noise(), {"compress": "jpeg", "photometric": "YCBCR", **TILED}),
}


@pytest.mark.parametrize("name", KINDS)
def test_windows_are_read_as_the_file_is_read_whole(tmp_path, name):
    values, options = KINDS[name]
    path = write(tmp_path / "a.tif", values, **options)
    whole, scene = ImageReader().image(path), RasterScene(path, ImageReader())
    assert scene.size == whole.shape[:2]
    found = scene.read(range(33, 200), range(61, 243))
    expected = whole[33:200, 61:243]
    if name == "JPEG in YCbCr":  # GDAL enlarges their colours by repeating them
        original = np.moveaxis(values, 0, 2)[33:200, 61:243].astype(int)
        errors = [np.abs(original - each).mean() for each in (found, expected)]
        assert errors[0] <= 1.3 * errors[1]
        assert "decoded by GDAL" in scene.remarks[-1]
    else:
        assert not scene.remarks or name in ("many bands", "JPEG")
        assert (found == expected).all()
    scene.close()


PHOTOGRAPHS = ("whole.jpg", "grey.jpg", "a.png", "grey.png", "palette.png", "alpha.png")


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_read_from_the_top_on_as_pillow_does(tmp_path, name):
    image = Image.fromarray(np.moveaxis(noise(), 0, 2))
    kinds = {"grey": "L", "palette": "P", "alpha": "RGBA"}
    image = image.convert(kinds.get(name.partition(".")[0], "RGB"))
    image.save(tmp_path / name, quality=90, subsampling=0)
    whole = ImageReader().image(tmp_path / name)
    scene = RasterScene(tmp_path / name, ImageReader())
    assert scene.from_the_top
    for rows in (range(100), range(64, 180), range(150, 301), range(10, 40)):
        found, expected = scene.read(rows, range(20, 243)), whole[rows.start : rows.stop, 20:]
        assert np.abs(found.astype(int) - expected).max() <= (name == "whole.jpg")
    scene.close()


def test_what_is_decoded_all_at_once_has_no_windows(tmp_path):
    image = Image.fromarray(np.moveaxis(noise(), 0, 2))
    image.save(tmp_path / "plain.jpg")
    image.save(tmp_path / "passes.jpg", progressive=True)
    RasterScene(tmp_path / "plain.jpg", ImageReader()).close()
    assert [in_passes(tmp_path / name) for name in ("plain.jpg", "passes.jpg")] == [False, True]
    with pytest.raises(FullconvError, match=r"by windows \(its pixels come in several passes\)"):
        RasterScene(tmp_path / "passes.jpg", ImageReader())


def test_gdal_keeps_the_blocks_of_a_row_of_pixels(tmp_path, net):
    one = write(tmp_path / "strip.tif", noise(), compress="deflate", blockysize=SIZE[0])
    scene = RasterScene(one, ImageReader())
    assert scene.cache == CACHE > 3 * SIZE[0] * SIZE[1]
    before = get_gdal_config("GDAL_CACHEMAX")
    with block_cache(scene.cache):
        scene.read(range(9), range(9))
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE
    assert get_gdal_config("GDAL_CACHEMAX") == before
    with pytest.raises(NoRoomError, match="raise --memory"):
        Memory(net, 1 << 30).windowed((20_000, 20_000), cache=3 * 20_000**2)


def test_what_has_no_windows_is_told(tmp_path, net):
    turned = Image.fromarray(np.moveaxis(noise(), 0, 2))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    with pytest.raises(FullconvError, match=r"turned.jpg: can't be read by windows"):
        RasterScene(tmp_path / "turned.jpg", ImageReader())
    settings = PredictSettings(net, (str(tmp_path),), tmp_path / "out", format="tif")
    (failure,) = run(settings).failures
    assert "turned.jpg: can't be read by windows" in failure.reason
    with pytest.raises(FullconvError, match="format 'gif' is none of png, tif"):
        run(PredictSettings(net, (str(tmp_path),), tmp_path / "out", format="gif"))


def test_a_damaged_raster_is_named_and_the_others_are_done(tmp_path, net):
    write(tmp_path / "in/a.tif", noise(), compress="deflate", **TILED)
    bad = write(tmp_path / "in/b.tif", noise(), compress="deflate", **TILED)
    data = bytearray(bad.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    bad.write_bytes(data)
    settings = PredictSettings(
        net, (str(tmp_path / "in"),), tmp_path / "out", engine="torch", format="tif"
    )
    prediction = run(settings)
    (failure,) = prediction.failures
    assert failure.reason.startswith(f"{bad}: is damaged or truncated (")
    assert prediction.done == 1 and (tmp_path / "out/a.tif").exists()


class Killed(BaseException):
    """As if the process had been killed."""


def test_a_row_of_tiles_that_is_done_is_not_labelled_again(tmp_path, net, monkeypatch, capsys):
    source = write(tmp_path / "a.tif", noise((400, 243)), **TILED)
    settings = PredictSettings(
        net, (str(source),), tmp_path / "out", engine="torch", precision="fp32", format="tif",
        tiling=Tiling((97, 110)), tta=True,
    )  # fmt: skip
    seen = []
    add = Journal.add

    def killed_after_two(journal, arrays):
        add(journal, arrays)
        if len(journal) == 2:
            with journal.path.open("ab") as file:
                file.write(b"half a record")
            raise Killed

    monkeypatch.setattr(Journal, "add", killed_after_two)
    with pytest.raises(Killed):
        run(settings)
    monkeypatch.setattr(Journal, "add", add)
    read = windowed.read

    def counted(scene, rows, *others):
        seen.append(rows.start)
        return read(scene, rows, *others)

    monkeypatch.setattr(windowed, "read", counted)
    (partial,) = (tmp_path / "out").glob(".a.tif.partial")
    kept = partial.read_bytes()
    run(settings, Reporter())
    rows = len(Memory(net, 1 << 30, tiling=settings.tiling).windowed((400, 243)).tiles.rows)
    assert f"goes on after 2 of {rows} rows of tiles" in capsys.readouterr().err
    assert len(set(seen)) == rows - 2
    assert not partial.exists()
    resumed = labels_of(tmp_path / "out/a.tif")
    monkeypatch.setattr(windowed, "read", read)
    predicted(net, source, tmp_path / "again", format="tif", tile=(97, 110), tta=True)
    assert (resumed == labels_of(tmp_path / "again/a.tif")).all()
    seen.clear()
    partial.write_bytes(kept)  # of an image that has changed since
    os.utime(source, (1, 1))
    monkeypatch.setattr(windowed, "read", counted)
    run(settings)
    assert len(set(seen)) == rows


# The run kills itself: from outside, nothing tells when a row is done and the run is not.
KILLED_AFTER_TWO_ROWS = """
import os, signal, sys
from fullconv.__main__ import main
from fullconv.predict.journal import Journal

add = Journal.add

def killing(journal, arrays):
    add(journal, arrays)
    if len(journal) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = killing
sys.argv[0] = "fullconv"
sys.exit(main())
"""


@pytest.mark.slow
def test_a_run_that_was_killed_is_gone_on_with(tmp_path, net):
    source = write(tmp_path / "a.tif", noise((500, 400)), **TILED)
    net.save_pretrained(tmp_path / "model")
    command = [
        "predict", str(tmp_path / "model"), str(source), "--out", str(tmp_path / "out"),
        "--format", "tif", "--tile", "200", "--engine", "torch", "--precision", "fp32",
    ]  # fmt: skip
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_TWO_ROWS, *command], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out/a.tif").exists()
    done = subprocess.run(
        [sys.executable, "-m", "fullconv", *command], check=True, capture_output=True, text=True
    )
    assert "goes on after 2 of" in done.stderr
    assert "Warning" not in done.stderr  # rasterio's, of a photograph that lies nowhere on earth
    predicted(net, source, tmp_path / "again", format="tif", tile=(200, 200))
    assert (labels_of(tmp_path / "out/a.tif") == labels_of(tmp_path / "again/a.tif")).all()


@pytest.mark.slow
def test_what_memory_can_t_hold_becomes_a_raster_by_itself(tmp_path, net, capsys):
    write(tmp_path / "in/large.tif", noise((2200, 1500)), **PLACE, **TILED)
    write(tmp_path / "in/small.tif", noise(), **PLACE, **TILED)
    settings = PredictSettings(net, (str(tmp_path / "in"),), tmp_path / "out", engine="torch")
    reader = ImageReader(max_pixels=2_000_000)
    prediction = run(PredictSettings(**{**vars(settings), "reader": reader}))
    assert not prediction.failures
    assert (tmp_path / "out/large.tif").exists() and (tmp_path / "out/small.png").exists()
    assert "small.tif: its georeference is not kept in a PNG: --format tif keeps it" in (
        capsys.readouterr().err
    )
    few = Memory(net, 200 << 20)
    assert not few.holds((9000, 9000))
    inputs = {"color": 3}
    assert windowed.needs_windows(tmp_path / "in/large.tif", inputs, few, reader)
    assert not windowed.needs_windows(tmp_path / "in/small.tif", inputs, few, reader)
    assert not windowed.needs_windows(tmp_path / "in/nothing.tif", inputs, few, reader)
    assert not windowed.needs_windows(tmp_path / "in/large.tif", {"depth": 1}, few, reader)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells no highest memory")
def test_12_000_x_12_000_pixels_take_the_memory_that_was_estimated(tmp_path, net):
    side, block = 12_000, noise((512, 512))
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=3, height=side, width=side, dtype="uint8",
        tiled=True, blockxsize=512, blockysize=512, **PLACE,
    ) as file:  # fmt: skip
        for top in range(0, side, 512):
            for left in range(0, side, 512):
                rows, columns = min(512, side - top), min(512, side - left)
                part = np.roll(block, (top + left) // 512, 2)[:, :rows, :columns]
                file.write(part, window=Window(left, top, columns, rows))
    write(tmp_path / "small.tif", noise())
    budget = 300 << 20
    # In a process of its own: what earlier tests have freed is neither given back nor used here.
    with context.Pool(1) as process:
        assert process.apply(memory_of_prediction, (tmp_path, budget)) <= budget
    with rasterio.open(tmp_path / "a.tif") as file, rasterio.open(tmp_path / "out/a.tif") as out:
        assert (out.crs.to_epsg(), out.transform) == (32633, PLACE["transform"])
        for top, left in ((0, 0), (5984, 11_200), (11_200, 6016)):  # multiples of the stride
            window = Window(left, top, 800, 800)
            expected = net.predict(np.moveaxis(file.read(window=window), 0, 2).copy())
            inner = slice(100 if top else 0, 700), slice(100 if left else 0, 700)
            assert (out.read(1, window=window)[inner] != expected[inner]).mean() < 1e-4


def memory_of_prediction(folder, budget):
    """Label a.tif in this process after small.tif; return the bytes that a.tif took besides."""
    net, out = small(), folder / "out"
    predicted(net, folder / "small.tif", out, format="tif")
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted anew
    before = highest_memory()
    predicted(net, folder / "a.tif", out, format="tif", memory=budget)
    return highest_memory() - before


def highest_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(net):
    memory = Memory(net, 400 << 20)
    needs = [memory.windowed((height, 5000)).need for height in (5000, 50_000)]
    assert max(needs) <= 400 << 20
    assert needs[1] <= 1.05 * needs[0]
    assert memory.windowed((40_000, 40_000)).need <= 400 << 20
    with pytest.raises(NoRoomError, match="raise --memory, or give a --tile"):
        Memory(net, 110 << 20).windowed((40_000, 40_000))


def test_what_was_written_is_read_back(tmp_path, monkeypatch):
    labels = np.random.default_rng(0).integers(0, 3, (1300, 700), np.uint8)
    parts = [labels[:100], labels[100:1200], labels[1200:]]
    geotiff.write_label_raster(
        tmp_path / "a.tif", parts, labels.shape, ("x", "y", "z"), [(1, 2, 3)]
    )
    assert (labels_of(tmp_path / "a.tif") == labels).all()
    before = (tmp_path / "a.tif").read_bytes()
    counter = iter(range(100))
    monkeypatch.setattr(geotiff, "zlib", type("Z", (), {"crc32": lambda _: next(counter)}))
    with pytest.raises(WorkFailedError, match="are not what was written"):
        geotiff.write_label_raster(tmp_path / "a.tif", parts, labels.shape, ("x",), [(1, 2, 3)])
    assert (tmp_path / "a.tif").read_bytes() == before


@pytest.fixture
def full_disk():
    """Let no file of this process grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["labels", "probabilities"])
def test_a_disk_that_is_full_is_told_wherever_it_ends(tmp_path, full_disk, name):
    values = np.random.default_rng(0).integers(0, 9, (1100, 1100), np.uint8)
    path = tmp_path / "a.tif"

    def written():
        if name == "labels":
            geotiff.write_label_raster(path, [values], values.shape, ("x",) * 9, [(1, 2, 3)])
        else:
            geotiff.write_probability_raster(path, [values], values.shape)

    written()
    whole = path.read_bytes()
    for short in (1, 500, 20_000, len(whole) // 20, len(whole) // 5, len(whole) - 1000):
        full_disk(len(whole) - short)
        with pytest.raises(OSError, match="is the disk full"):
            written()
    full_disk(len(whole))
    written()
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_the_bar_counts_tiles(tmp_path, net):
    heard = []

    class Told(Reporter):
        def bar(self, total, what, *, unit="images", done=0):
            heard.append((total, unit))
            return super().bar(total, what, unit=unit, done=done)

    source, tiling = write(tmp_path / "a.tif", noise(), **TILED), Tiling((97, 110))
    settings = PredictSettings(net, (str(source),), tmp_path / "out", format="tif", tiling=tiling)
    run(settings, Told(quiet=True))
    tiles = Memory(net, 1 << 30, tiling=Tiling((97, 110))).windowed(SIZE).tiles
    assert (len(tiles), "tiles") in heard
