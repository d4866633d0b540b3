"""Prediction: inputs settled before anything starts, and a stream that survives bad images."""

from __future__ import annotations

import os
import struct
import tracemalloc
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from colour_net import ColourNet, FarColourNet
from PIL import Image

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.progress import Progress
from fullconv.net.preprocessing import Preprocessing
from fullconv.predict.engines import is_installed, ways
from fullconv.predict.engines.torch_engine import TorchEngine
from fullconv.predict.jobs import further_folders, make_folders, plan
from fullconv.predict.labeller import Labeller
from fullconv.predict.remembered import Measured, Memory
from fullconv.predict.scenes import photograph
from fullconv.predict.stream import Summary, first_images, label_files, write_unsure


def picture(path, size=(6, 8), seed=0):
    """Write a random RGB image and return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def png_chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Heard(Progress):
    """Remembers what was said."""

    def __init__(self, total=0):
        super().__init__(total, "predict", "images")
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def by_torch(net):
    return Labeller(net, TorchEngine(net))


def predicted(inputs, out, **options):
    """Plan and run; return the summary and what was said."""
    net = options.pop("net", ColourNet)()
    planned = {key: options.pop(key) for key in ("scores", "heads", "further") if key in options}
    jobs = plan([str(text) for text in inputs], out, **planned)
    make_folders(jobs)
    bar = Heard(len(jobs))
    summary = label_files(by_torch(net), jobs, bar, **options)
    assert bar.done == len(jobs)
    return summary, bar.lines


def names(jobs, out):
    return [job.outputs[0].relative_to(out).as_posix() for job in jobs]


# What the inputs mean


def test_folders_are_searched_and_keep_their_relative_paths(tmp_path):
    for name in ("a.jpg", "deep/er/b.PNG", "deep/c.tif", "notes.txt", ".hidden.png", ".d/e.png"):
        touch(tmp_path / "in" / name)
    out = tmp_path / "out"
    jobs = plan([str(tmp_path / "in")], out)
    assert names(jobs, out) == ["a.png", "deep/c.png", "deep/er/b.png"]
    assert jobs[2].outputs == (out / "deep/er/b.png", out / "overlay/deep/er/b.jpg")
    with_scores = plan([str(tmp_path / "in")], out, scores=True)[2]
    assert with_scores.outputs == (*jobs[2].outputs, out / "scores/deep/er/b.npy")


def test_globs_keep_what_lies_below_their_fixed_part(tmp_path):
    for name in ("in/a.jpg", "in/b/c.jpg", "in/b/d/e.jpg", "in/b/d/f.txt"):
        touch(tmp_path / name)
    out = tmp_path / "out"
    assert names(plan([f"{tmp_path}/in/*.jpg"], out), out) == ["a.png"]
    assert names(plan([f"{tmp_path}/in/**/*.jpg"], out), out) == ["a.png", "b/c.png", "b/d/e.png"]
    assert names(plan([f"{tmp_path}/in/b/*/*"], out), out) == ["d/e.png"]


@pytest.mark.parametrize("what", ["in", "in/**", "in/**/*.jpg"])
def test_links_that_lead_back_give_no_image_twice(tmp_path, capsys, what):
    for name in ("in/a.jpg", "in/b/c.jpg"):
        touch(tmp_path / name)
    for name in ("loop", "b/up", "b/twin"):  # with two of them, glob would not end
        (tmp_path / "in" / name).symlink_to(tmp_path / "in")
    out = tmp_path / "out"
    assert names(plan([f"{tmp_path}/{what}"], out), out) == ["a.png", "b/c.png"]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 3 and all("is searched already: passed over" in line for line in notes)


def test_relative_inputs(tmp_path, monkeypatch):
    picture(tmp_path / "in/b/c.jpg")
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    assert names(plan(["in"], out), out) == ["b/c.png"]
    assert names(plan(["*/*/*.jpg"], out), out) == ["in/b/c.png"]
    monkeypatch.chdir(tmp_path / "in")
    assert names(plan(["."], out), out) == ["b/c.png"]


def test_a_name_with_brackets_is_a_file_and_no_pattern(tmp_path):
    picture(tmp_path / "a[1].png")
    picture(tmp_path / "[x]/b.png")
    out = tmp_path / "out"
    assert names(plan([f"{tmp_path}/a[1].png", f"{tmp_path}/[x]"], out), out) == [
        "a[1].png",
        "b.png",
    ]


def test_an_input_named_twice_is_labelled_once(tmp_path):
    picture(tmp_path / "in/a.png")
    inputs = [f"{tmp_path}/in", f"{tmp_path}/in/a.png", f"{tmp_path}/in/*.png"]
    assert len(plan(inputs, tmp_path / "out")) == 1


def test_earlier_results_are_no_inputs(tmp_path):
    picture(tmp_path / "in/a.jpg")
    for _ in range(2):
        summary, _ = predicted([tmp_path / "in"], tmp_path / "in" / "labels")
        assert summary.images == 1


@pytest.mark.parametrize(
    ("files", "inputs"),
    [
        (("in/a.jpg", "in/a.png"), ("in",)),
        (("one/x/a.jpg", "two/x/a.jpg"), ("one", "two")),
        (("one/a.jpg", "two/a.bmp"), ("one/a.jpg", "two/*")),
    ],
)
def test_colliding_outputs_are_refused_naming_both(tmp_path, files, inputs):
    for name in files:
        picture(tmp_path / name)
    out = tmp_path / "out"
    with pytest.raises(FullconvError) as caught:
        plan([str(tmp_path / each) for each in inputs], out)
    assert all(str(tmp_path / name) in str(caught.value) for name in files)
    assert not out.exists()


def test_an_output_that_would_overwrite_an_input_is_refused(tmp_path):
    picture(tmp_path / "in/a.png")
    with pytest.raises(FullconvError, match=r"in/a\.png.* would overwrite an input"):
        plan([f"{tmp_path}/in"], tmp_path / "in")
    picture(tmp_path / "a/overlay/b.jpg")
    picture(tmp_path / "a/b.bmp")
    with pytest.raises(FullconvError, match=r"overlay/b\.jpg, a result of .*b\.bmp"):
        plan([f"{tmp_path}/a"], tmp_path / "a")
    picture(tmp_path / "b.jpg")  # none of its results is called so
    assert len(plan([f"{tmp_path}/b.jpg"], tmp_path)) == 1


def test_missing_inputs_and_folders_without_images_are_refused(tmp_path):
    with pytest.raises(FullconvError, match=r"nothing\.jpg: no such file"):
        plan([f"{tmp_path}/nothing.jpg"], tmp_path / "out")
    for empty in (tmp_path, f"{tmp_path}/*.jpg"):
        with pytest.raises(FullconvError, match="no images found"):
            plan([str(empty)], tmp_path / "out")


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere"])
def test_an_unwritable_out_is_refused(tmp_path, where):
    picture(tmp_path / "a.png")
    (tmp_path / "file").touch()
    jobs = plan([f"{tmp_path}/a.png"], tmp_path / where)
    with pytest.raises(FullconvError, match=r"can't write there .* choose another --out"):
        make_folders(jobs)


# The stream


def test_writes_labels_overlays_and_probabilities(tmp_path):
    pixels = picture(tmp_path / "in/b/a.png", (9, 5))
    out = tmp_path / "out"
    summary, said = predicted([tmp_path / "in"], out, scores=True)
    with Image.open(out / "b/a.png") as image:
        labels = np.asarray(image)
        assert image.mode == "P"
        assert image.getpalette()[:9] == [200, 0, 0, 0, 200, 0, 0, 0, 200]
    assert (labels == pixels.argmax(-1)).all()
    with Image.open(out / "overlay/b/a.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (5, 9))
    probabilities = np.load(out / "scores/b/a.npy")
    expected = np.exp(pixels / 255) / np.exp(pixels / 255).sum(-1, keepdims=True)
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (3, 9, 5))
    assert np.abs(probabilities.transpose(1, 2, 0) - expected).max() < 1e-3
    assert (summary.images, summary.failed, said) == (1, 0, [])
    assert summary.pixels["labels"].tolist() == np.bincount(labels.ravel(), minlength=3).tolist()


def test_no_probabilities_unless_asked(tmp_path):
    picture(tmp_path / "a.png")
    predicted([tmp_path / "a.png"], tmp_path / "out")
    written = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["a.jpg", "a.png"]


def test_labels_follow_the_exif_orientation(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :2, 0] = pixels[:, 2:, 1] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # stored lying on its side: to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    predicted([tmp_path / "a.png"], tmp_path / "out")
    with Image.open(tmp_path / "out/a.png") as labels:
        assert (np.asarray(labels) == np.rot90(pixels.argmax(-1), -1)).all()


def odd_images():
    """Return images of every kind; all show green at the left and blue at the right, or grey."""
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:, :3, 1] = colours[:, 3:, 2] = 200
    rgb = Image.fromarray(colours)
    deep = Image.fromarray(np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(7)
    return {
        "cmyk.jpg": rgb.convert("CMYK"),
        "alpha.png": alpha,
        "palette.png": rgb.quantize(4),
        "grey.png": rgb.convert("L"),
        "greyalpha.png": rgb.convert("LA"),
        "deep.png": deep,
        "bits.png": rgb.convert("1"),
    }


def test_every_kind_of_image_is_labelled(tmp_path):
    for name, image in odd_images().items():
        image.save(tmp_path / name)
    summary, said = predicted([tmp_path], tmp_path / "out")
    assert (summary.images, summary.failed, said) == (7, 0, [])
    expected = np.repeat([[1, 1, 1, 2, 2, 2]], 4, 0)
    for name in ("cmyk", "alpha", "palette"):
        with Image.open(tmp_path / f"out/{name}.png") as labels:
            assert (np.asarray(labels) == expected).all(), name


def spoil(folder):
    """Write one good photograph and all kinds of bad ones."""
    picture(folder / "good.png")
    picture(folder / "truncated.jpg", (64, 64))
    data = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not a picture")
    size = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    (folder / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT")
    )
    picture(folder / "zgood.png", seed=1)


def test_bad_images_are_named_and_the_others_done(tmp_path):
    spoil(tmp_path / "in")
    summary, said = predicted([tmp_path / "in"], tmp_path / "out")
    assert (summary.images, summary.failed) == (6, 4)
    assert summary.pixels["labels"].sum() == 2 * 48
    for name in ("truncated.jpg", "empty.png", "text.jpg", "huge.png"):
        (line,) = [line for line in said if name in line]
        assert "\n" not in line
        assert not (tmp_path / "out" / name).with_suffix(".png").exists()
    assert "--max-pixels" in next(line for line in said if "huge" in line)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["good.png", "zgood.png"]


def test_max_pixels_sets_the_bound(tmp_path):
    picture(tmp_path / "a.png", (6, 8))
    assert predicted([tmp_path / "a.png"], tmp_path / "out", reader=ImageReader(48))[0].failed == 0
    summary, said = predicted([tmp_path / "a.png"], tmp_path / "out", reader=ImageReader(47))
    assert summary.failed == 1
    assert "more than the 47 allowed" in said[0]


def test_a_result_that_can_t_be_written_is_named_and_the_others_done(tmp_path):
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/b.png")
    (tmp_path / "out/overlay/a.jpg").mkdir(parents=True)
    summary, said = predicted([tmp_path / "in"], tmp_path / "out")
    assert summary.failed == 1
    assert "in/a.png: can't write" in said[0]
    assert (tmp_path / "out/overlay/b.jpg").is_file()
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_lack_of_memory_fails_only_the_image_concerned(tmp_path):
    class Greedy(ColourNet):
        def coarse(self, x):
            if x.shape[-1] == 8:
                torch.empty(1 << 60)
            return super().coarse(x)

    picture(tmp_path / "in/a.png", (6, 8))
    picture(tmp_path / "in/b.png", (6, 7))
    jobs = plan([f"{tmp_path}/in"], tmp_path / "out")
    bar = Heard()
    assert label_files(by_torch(Greedy()), jobs, bar).failed == 1
    assert bar.lines == [f"{tmp_path}/in/a.png: too large for the memory; make it smaller"]


def test_a_defect_of_the_net_is_not_taken_for_a_bad_image(tmp_path):
    class Broken(ColourNet):
        def coarse(self, x):  # noqa: ARG002
            raise RuntimeError("shapes differ")

    picture(tmp_path / "a.png")
    jobs = plan([f"{tmp_path}/a.png"], tmp_path / "out")
    with pytest.raises(RuntimeError, match="shapes differ"):
        label_files(by_torch(Broken()), jobs, Heard())


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    one, count = 120 * 160 * 3, 160  # many more than are under way at a time
    for index in range(count):
        picture(tmp_path / "in" / f"{index}.bmp", (12, 16))
        with Image.open(tmp_path / f"in/{index}.bmp") as tiny:
            tiny.resize((160, 120), Image.Resampling.NEAREST).save(tiny.filename)
    predicted([tmp_path / "in/0.bmp"], tmp_path / "warm-up")
    tracemalloc.start()
    predicted([tmp_path / "in"], tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 3 * one < peak  # images are traced at all
    assert peak < count * one / 2  # with labels and overlays


def test_dominant_needs_more_than_999_in_1000():
    pixels = {"most": [0, 1000, 1], "not quite": [1, 999, 0], "nothing": [0, 0, 0]}
    summary = Summary(2, 1, {name: np.array(counts) for name, counts in pixels.items()})
    assert [summary.dominant(name) for name in pixels] == [1, None, None]


class Certain(ColourNet):
    """As sure of a pixel as its strongest channel is beyond 127; else it scores all alike."""

    def coarse(self, x):
        return 20 * (super().coarse(x) - 0.5).relu()


def test_each_image_s_unsure_share(tmp_path):
    for name, bright in (("a", 3), ("b/c", 12), ("d", 0)):
        pixels = np.zeros((3, 4, 3), np.uint8)
        pixels.reshape(-1, 3)[:bright, 1] = 255
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"in/{name}.png")
    (tmp_path / "in/bad.png").touch()
    out = tmp_path / "out"
    summary, _ = predicted([tmp_path / "in"], out, net=Certain)
    assert summary.failed == 1
    assert summary.unsure == {"labels": [("a", 0.75), ("b/c", 0.0), ("d", 1.0)]}
    assert summary.mean_unsure("labels") == pytest.approx(1.75 / 3)
    assert summary.most_unsure("labels") == [("d", 1.0), ("a", 0.75)]
    assert summary.most_unsure("labels", 1) == [("d", 1.0)]
    write_unsure(summary, out)
    assert (out / "unsure.csv").read_text() == "image,unsure\na,0.7500\nb/c,0.0000\nd,1.0000\n"


def test_unsure_shares_of_odd_names_and_several_heads(tmp_path):
    odd = [("\udcff, b", 0.5), ("é", 1 / 3)]
    heads = {"sem": odd, "geo": [("\udcff, b", 0.0), ("é", 1.0)]}
    write_unsure(Summary(2, 0, {}, heads), tmp_path)
    first = (tmp_path / "sem/unsure.csv").read_text(encoding="utf-8")
    assert first == 'image,unsure\n"\\udcff, b",0.5000\né,0.3333\n'
    assert (tmp_path / "geo/unsure.csv").read_text(encoding="utf-8").endswith("é,1.0000\n")
    assert not (tmp_path / "unsure.csv").exists()


# Several heads and inputs


def depth_image(path, size=(6, 8), seed=0):
    """Write random millimetres as 16-bit grey and return them."""
    values = np.random.default_rng(seed).integers(0, 2000, size).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return values


FAR = {"net": FarColourNet, "heads": ("sem", "geo")}


def test_each_head_has_its_own_results_from_all_inputs(tmp_path):
    pixels = picture(tmp_path / "in/b/a.png", (9, 5))
    depth = depth_image(tmp_path / "depth/b/a.tif", (9, 5))
    out = tmp_path / "out"
    summary, said = predicted(
        [tmp_path / "in"], out, further={"depth": tmp_path / "depth"}, scores=True, **FAR
    )
    assert (summary.images, summary.failed, said) == (1, 0, [])
    truths = {"sem": pixels.argmax(-1), "geo": depth > 1000}
    for head, truth in truths.items():
        with Image.open(out / head / "b/a.png") as image:
            assert (np.asarray(image) == truth).all()
            colours = [c for colour in FarColourNet().heads[head].palette for c in colour]
            assert image.getpalette()[: len(colours)] == colours
        with Image.open(out / head / "overlay/b/a.jpg") as image:
            assert image.size == (5, 9)
        probabilities = np.load(out / head / "scores/b/a.npy")
        assert (probabilities.argmax(0) == truth).all()
        assert summary.pixels[head].sum() == 45
    assert not (out / "overlay").exists()


def test_overlays_of_several_inputs_show_the_colours(tmp_path):
    pixels = picture(tmp_path / "a.png", (40, 40))
    pixels[:] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    depth_image(tmp_path / "depth/a.png", (40, 40))
    predicted([tmp_path / "a.png"], tmp_path / "out", further={"depth": tmp_path / "depth"}, **FAR)
    with Image.open(tmp_path / "out/sem/overlay/a.jpg") as image:
        expected = 0.55 * pixels[20, 20] + 0.45 * np.array([200, 0, 0])
        assert np.abs(np.asarray(image)[20, 20] - expected).max() < 8


def test_images_without_their_further_input_are_named_and_the_others_done(tmp_path):
    for index, name in enumerate(("a", "b", "c", "d", "e", "good")):
        picture(tmp_path / f"in/{name}.png", seed=index)
    depth_image(tmp_path / "depth/b.png", (6, 7))
    picture(tmp_path / "depth/c.png")
    for suffix in ("png", "tif"):
        depth_image(tmp_path / f"depth/d.{suffix}")
    (tmp_path / "depth/e.png").write_bytes(b"")
    depth_image(tmp_path / "depth/good.png")
    further = {"depth": tmp_path / "depth"}
    summary, said = predicted([tmp_path / "in"], tmp_path / "out", further=further, **FAR)
    assert (summary.images, summary.failed) == (6, 5)
    reasons = {
        "in/a.png": "its depth is missing",
        "in/b.png": "depth/b.png: is 7 x 6 but its image",
        "in/d.png": "may both be its depth",
        "depth/c.png": "is read as 3 channels of 8 bits, but the model's input 'depth' has 1",
        "depth/e.png": "is empty",
    }
    assert len(said) == len(reasons)
    for file, reason in reasons.items():
        assert [line for line in said if file in line and reason in line], said
    for head in ("sem", "geo"):
        assert [path.name for path in (tmp_path / "out" / head).glob("*.png")] == ["good.png"]


def test_results_never_overwrite_a_further_input(tmp_path):
    picture(tmp_path / "in/a.jpg")
    depth_image(tmp_path / "depth/a.png")
    with pytest.raises(FullconvError, match=r"depth/a\.png.* would overwrite an input"):
        plan([f"{tmp_path}/in"], tmp_path / "depth", further={"depth": tmp_path / "depth"})


def test_a_folder_for_each_further_input():
    names = ("color", "depth", "hha")
    found = further_folders(["hha=h=1", "depth=d"], names)
    assert list(found.items()) == [("depth", Path("d")), ("hha", Path("h=1"))]
    assert further_folders([], ["hha"]) == {}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "also needs the input depth: add --input depth=DIR"),
        (["depth"], "write NAME=DIR"),
        (["depth="], "write NAME=DIR"),
        (["color=c", "depth=d"], "color is the first input"),
        (["depht=d"], "did you mean depth"),
        (["depth=d", "depth=e"], "depth has a folder already"),
    ],
)
def test_what_is_no_folder_of_an_input_is_refused(given, reason):
    with pytest.raises(FullconvError, match=reason):
        further_folders(given, ("color", "depth"))


def test_what_a_person_is_shown():
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (4, 5, 3), np.uint8)
    depth = random.integers(500, 3000, (4, 5, 1)).astype(np.float32)
    depth[0, 0], depth[3, 4] = 500, 3000
    both = np.concatenate([depth, colour], 2)
    assert (photograph(colour, {"color": 3}) == colour).all()
    assert (photograph(both, {"depth": 1, "color": 3}) == colour).all()
    assert (photograph(colour, {"hha": 3}) == colour).all()
    grey = photograph(depth, {"depth": 1})
    assert (grey.dtype, grey.shape) == (np.uint8, (4, 5, 3))
    assert grey[0, 0].tolist() == [0, 0, 0]
    assert grey[3, 4].tolist() == [255, 255, 255]
    order = depth.ravel().argsort()
    assert (np.diff(grey[..., 0].ravel()[order].astype(int)) >= 0).all()
    assert (photograph(np.zeros((2, 2, 1), np.float32), {"depth": 1}) == 0).all()


def test_labels_of_several_heads_are_one_array_each():
    random = np.random.default_rng(0)
    image = np.concatenate(
        [random.integers(0, 256, (5, 7, 3)), random.integers(0, 2000, (5, 7, 1))], 2
    )
    labels = FarColourNet().train().label(image.astype(np.float32))
    assert list(labels) == ["sem", "geo"]
    assert (labels["sem"] == image[..., :3].argmax(-1)).all()
    assert (labels["geo"] == (image[..., 3] > 1000)).all()


# Samples


def test_samples_are_the_first_images_that_can_be_read(tmp_path):
    spoil(tmp_path)
    jobs = plan([str(tmp_path)], tmp_path / "out")
    names = [job.source.name for job in jobs]
    assert names.index("good.png") == 1 and len(jobs) == 6
    (image,) = first_images(jobs, {"color": 3}, 1)
    with Image.open(tmp_path / "good.png") as good:
        assert (image == np.asarray(good)).all()
    assert len(first_images(jobs, {"color": 3}, 3)) == 2
    assert len(first_images(jobs, {"color": 3}, 2)) == 1  # a few files are tried, not all
    assert first_images(jobs[:1], {"color": 3}, 3) == []
    assert first_images(jobs, {"color": 3}, 3, reader=ImageReader(47)) == []


def test_of_large_images_there_are_fewer_samples(tmp_path):
    for index in range(4):
        Image.new("RGB", (2048, 1100)).save(tmp_path / f"{index}.png")
    jobs = plan([str(tmp_path)], tmp_path / "out")
    assert len(first_images(jobs, {"color": 3}, 4)) == 2


# One image


def test_labelling_leaves_modes_and_no_graph():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    net = ColourNet().train()
    net.dropout.eval()
    (labels,) = net.label(pixels).values()
    assert (labels.dtype, labels.shape) == (np.uint8, (5, 7))
    assert (labels == pixels.argmax(-1)).all()
    assert (net.training, net.score.training, net.dropout.training) == (True, True, False)
    assert (net.label(pixels[:, ::-1])["labels"] == labels[:, ::-1]).all()
    pixels.setflags(write=False)  # as arrays of PIL images are; torch would warn
    with warnings.catch_warnings(action="error"):
        net.label(pixels)


# The command line, on a real net


def test_predict_agrees_with_python(tmp_path, capsys, command_line, random_model):
    picture(tmp_path / "in/b/a.png", (3, 4))
    with Image.open(tmp_path / "in/b/a.png") as tiny:
        tiny.resize((130, 97), Image.Resampling.NEAREST).save(tmp_path / "in/b/a.png")
    out = tmp_path / "out"
    assert command_line("predict", random_model, tmp_path / "in", "--out", out, "--scores") == 0
    said = capsys.readouterr().out
    assert f"1 label image in {out}" in said
    assert any(name in said for name in ("red", "green", "[blue]"))
    with Image.open(out / "b/a.png") as image:
        labels = np.asarray(image)
    net = fullconv.load(random_model)
    assert len(np.unique(labels)) > 1
    assert (labels == net.predict(tmp_path / "in/b/a.png")).all()
    with torch.no_grad(), Image.open(tmp_path / "in/b/a.png") as image:
        x = net.preprocessing(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
        expected = net(x).softmax(1)[0].numpy()
    assert np.abs(np.load(out / "scores/b/a.npy") - expected).max() < 1e-3
    assert (labels == expected.argmax(0)).all()


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def test_predict_with_mirrors_and_a_temperature(tmp_path, command_line, random_model):
    """The probabilities are averages of both; the labels are their classes."""
    net = fullconv.load(random_model)
    with torch.no_grad():
        for score in net.scores.values():
            score.weight.div_(10)  # else every label is sure
    net.head.temperature = 3.0
    net.save_pretrained(tmp_path / "model")
    pixels = picture(tmp_path / "a.png", (61, 83))
    words = ["predict", tmp_path / "model", tmp_path / "a.png", "--scores", "--quiet"]
    assert command_line(*words, "--out", tmp_path / "out") == 0
    assert command_line(*words, "--out", tmp_path / "both", "--tta") == 0
    shares = []
    for image in (pixels, pixels[:, ::-1].copy()):
        with torch.no_grad():
            x = net.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None])
            shares.append((net(x) / 3).softmax(1)[0])
    expected = (shares[0] + shares[1].flip(-1)) / 2
    assert (expected - shares[0]).abs().max() > 0.02
    for out, truth in (("out", shares[0]), ("both", expected)):
        found = np.load(tmp_path / out / "scores/a.npy")
        assert np.abs(found - truth.numpy()).max() < 1e-3
        labels = pixels_of(tmp_path / out / "a.png")
        assert (labels == truth.argmax(0).numpy()).mean() > 0.999
    assert (pixels_of(tmp_path / "out/a.png") != pixels_of(tmp_path / "both/a.png")).any()


def test_predict_names_the_most_unsure_images(tmp_path, capsys, command_line, random_model):
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out", "--quiet"]
    net = fullconv.load(random_model)
    picture(tmp_path / "in/0.png", (70, 90))
    net.head.temperature = 1000.0  # no label is sure
    net.save_pretrained(tmp_path / "model")
    words[1] = tmp_path / "model"
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "unsure (probability below 0.75): 100.0% of this image's labels\n" in said
    assert "  100.0%" not in said
    for index in range(1, 7):
        picture(tmp_path / f"in/{index}.png", (70, 90), seed=index)
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "100.0% of labels, on average of the images; most in:\n  100.0%  0\n" in said
    assert "  100.0%  4\n" in said and "  100.0%  5\n" not in said
    assert f"unsure shares in {tmp_path}/out/unsure.csv" in said
    assert len((tmp_path / "out/unsure.csv").read_text().splitlines()) == 8
    net.head.temperature = 0.001
    net.save_pretrained(tmp_path / "model")
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "0.0% of labels, on average of the images\n" in said


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_predict_by_another_engine(tmp_path, capsys, command_line, random_model, engine):
    if not is_installed(engine):
        pytest.skip(f"needs {engine}")
    for index in range(3):
        picture(tmp_path / f"in/{index}.png", (70 + index, 90), seed=index)
    words = ["predict", random_model, tmp_path / "in", "--engine", engine, "--quiet"]
    assert command_line(*words, "--out", tmp_path / "out", "--precision", "fp32", "--scores") == 0
    assert command_line(*words, "--out", tmp_path / "auto") == 0  # too few to measure anything
    assert capsys.readouterr().err == ""
    net = fullconv.load(random_model)
    for index in range(3):
        expected = net.predict(tmp_path / f"in/{index}.png")
        for out in ("out", "auto"):
            with Image.open(tmp_path / out / f"{index}.png") as labels:
                assert (np.asarray(labels) == expected).mean() >= 0.9999
        scores = np.load(tmp_path / f"out/scores/{index}.npy")
        assert (scores.argmax(0) == expected).mean() > 0.99
    assert len(np.unique(expected)) > 1
    assert command_line(*words, "--out", tmp_path / "both", "--precision", "fp32", "--tta") == 0
    both = net.label(pixels_of(tmp_path / "in/2.png"), tta=True)["labels"]
    assert (pixels_of(tmp_path / "both/2.png") == both).mean() >= 0.9999
    assert (both != expected).any()


def test_predict_tells_in_a_line_what_an_engine_can_t_do(
    tmp_path, capsys, command_line, random_model, monkeypatch
):
    if not is_installed("openvino"):
        pytest.skip("needs openvino")

    def trace(*_, **__):
        raise RuntimeError("no such layer:\n  strange::layer\nat line 5")

    monkeypatch.setattr(torch.jit, "trace", trace)
    picture(tmp_path / "in/a.png", (70, 90))
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out"]
    assert command_line(*words, "--engine", "openvino", "--precision", "fp32") == 2
    (line,) = capsys.readouterr().err.splitlines()
    reason = "engine openvino fp32 can't work out this net: no such layer: strange::layer at line 5"
    assert line == f"fullconv: {reason}"
    assert command_line(*words) == 0


def test_predict_tells_which_engine_it_chose(
    tmp_path, capsys, command_line, random_model, monkeypatch
):
    """Torch in bf16, because it is remembered as the quickest by far."""
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    picture(tmp_path / "in/a.png", (70, 90))
    (way,) = ways("torch", "bf16", torch.device("cpu"))[:1]
    measured = Measured(way=way, seconds=1e-6, agreement=0.9971)
    Memory(fullconv.load(random_model), (70, 90, 3), "uint8").keep([measured])
    words = ["predict", random_model, tmp_path / "in", "--out", tmp_path / "out"]
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    if way in ways("auto", "auto", torch.device("cpu")):  # CPUs without bf16 are left alone
        assert "engine torch bf16: on the images that it was measured on, 99.71%" in said
    assert command_line(*words, "--precision", "fp32") == 0
    assert "bf16" not in capsys.readouterr().out


def test_predict_does_the_good_ones_and_exits_1(tmp_path, capsys, command_line, random_model):
    spoil(tmp_path / "in")
    code = command_line(
        "predict", random_model, tmp_path / "in", "--out", tmp_path / "out", "--quiet"
    )
    lines = capsys.readouterr().err.splitlines()
    assert code == 1
    assert lines[-1] == "fullconv: 4 of 6 inputs failed"
    assert len(lines) == 5
    assert (tmp_path / "out/zgood.png").is_file()


def test_predict_of_bad_images_only(tmp_path, capsys, command_line, random_model):
    (tmp_path / "a.png").touch()
    code = command_line("predict", random_model, tmp_path / "a.png", "--out", tmp_path / "out")
    said = capsys.readouterr()
    assert code == 1
    assert "1 of 1 inputs failed" in said.err
    assert said.out == ""


def test_predict_obeys_max_pixels(tmp_path, capsys, command_line, random_model):
    picture(tmp_path / "a.png", (6, 8))
    words = ["predict", random_model, tmp_path / "a.png", "--out", tmp_path / "out", "--max-pixels"]
    assert command_line(*words, 47) == 1
    assert "more than the 47 allowed" in capsys.readouterr().err
    assert command_line(*words, 48) == 0


REFUSALS = {
    "engine": (["--engine", "opnvino"], "did you mean openvino"),
    "both": (["--engine", "onnxruntime", "--precision", "bf16"], "onnxruntime"),
    "precision": (["--precision", "int8"], "precision int8 is not supported yet"),
    "device": (["--device", "tpu"], "device 'tpu' is none of auto, cpu, cuda, mps"),
    "input": (["nothing.jpg"], "nothing.jpg: no such file or folder"),
    "out": (["--out", "/proc/x"], "/proc/x: can't write there"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_predict_refuses_before_starting(tmp_path, capsys, command_line, random_model, case):
    words, reason = REFUSALS[case]
    picture(tmp_path / "a.png")
    out = tmp_path / "out"
    code = command_line("predict", random_model, tmp_path / "a.png", "--out", out, *words)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert reason in line
    assert not out.exists()


def test_predict_refuses_a_spoilt_model(tmp_path, capsys, command_line, random_model):
    picture(tmp_path / "a.png")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_bytes((random_model / name).read_bytes())
    weights = bytearray((random_model / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    words = ["predict", tmp_path / "m", tmp_path / "a.png", "--out", tmp_path / "out"]
    for spoilt in (bytes(weights), bytes(weights[:-9]), None):
        path = tmp_path / "m/model.safetensors"
        path.write_bytes(spoilt) if spoilt is not None else path.unlink()
        assert command_line(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line
    assert not (tmp_path / "out").exists()


def test_predict_warns_when_one_class_takes_all(tmp_path, capsys, command_line, random_model):
    net = fullconv.load(random_model)
    with torch.no_grad():
        net.scores["16"].bias[1] = 1e6
    net.save_pretrained(tmp_path / "m")
    picture(tmp_path / "a.png")
    words = ["predict", tmp_path / "m", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    assert "Warning: green is more than 99.9%" in said
    assert "not found: red, [blue]" in said


def test_predict_with_a_further_input(tmp_path, capsys, command_line, two_headed_model):
    for index, name in enumerate(("a", "b")):
        picture(tmp_path / f"in/{name}.png", (40, 56), seed=index)
    depth_image(tmp_path / "depth/a.png", (40, 56))
    out = tmp_path / "out"
    words = ["predict", two_headed_model, tmp_path / "in", "--out", out]
    assert command_line(*words) == 2
    assert "add --input depth=DIR" in capsys.readouterr().err
    assert not out.exists()
    assert command_line(*words, "--input", f"depth={tmp_path}/nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert command_line(*words, "--input", f"depth={tmp_path}/depth", "--quiet") == 1
    said = capsys.readouterr()
    assert "in/b.png: its depth is missing" in said.err
    assert f"1 label image in {out}/{{sem,geo}}" in said.out
    net = fullconv.load(two_headed_model)
    with Image.open(tmp_path / "in/a.png") as image, Image.open(tmp_path / "depth/a.png") as depth:
        both = np.concatenate([np.asarray(image), np.asarray(depth)[..., None]], 2)
    expected = net.predict(both.astype(np.float32))
    for head in ("sem", "geo"):
        assert head in said.out
        with Image.open(out / head / "a.png") as labels:
            assert (np.asarray(labels) == expected[head]).all()
            assert len(np.unique(expected[head])) > 1


def test_predict_of_an_only_input_that_is_no_colour(tmp_path, capsys, command_line):
    torch.manual_seed(0)
    net = fullconv.FCN("squeezenet1_1", 16, 3, inputs={"hha": 3})
    for score in net.scores.values():
        torch.nn.init.normal_(score.weight)
    net.save_pretrained(tmp_path / "model")
    pixels = picture(tmp_path / "in/a.png", (33, 40))
    depth_image(tmp_path / "in/b.png", (33, 40))
    words = ["predict", tmp_path / "model", tmp_path / "in", "--out", tmp_path / "out", "--quiet"]
    assert command_line(*words) == 1
    err = capsys.readouterr().err
    assert "b.png: is read as 16-bit grey, one channel, but the model's input 'hha' has 3" in err
    with Image.open(tmp_path / "out/a.png") as labels:
        assert (np.asarray(labels) == net.predict(pixels)).all()


def test_bands_that_are_left_out_are_told_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    for name in ("a", "b"):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", pixels, photometric="rgb", extrasamples=["unspecified"]
        )
    summary, said = predicted([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "out")
    assert summary.failed == 0
    (line,) = said
    assert line.startswith(f"note: {tmp_path / 'a.tif'}: of red, green, blue, band 4 only red")


@pytest.mark.skipif(os.name != "posix", reason="of POSIX")
def test_a_pipe_named_like_an_image_is_not_opened(tmp_path):
    picture(tmp_path / "in/a.png")
    os.mkfifo(tmp_path / "in/b.png")
    assert predicted([tmp_path / "in"], tmp_path / "out")[0].images == 1
    with pytest.raises(FullconvError, match=r"b\.png: is a pipe, a socket or a device"):
        plan([str(tmp_path / "in/b.png")], tmp_path / "out")


# Images of more than 8 bits


def of_12_bits():
    """A net that was trained on images of 12 bits in files of 16."""
    seen = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, ranges={"color": (0.0, 4080.0)})
    return ColourNet(preprocessing=seen)


def test_images_of_many_bits_are_seen_as_in_training(tmp_path):
    pixels = picture(tmp_path / "8/a.png")
    (tmp_path / "12").mkdir()
    tifffile.imwrite(tmp_path / "12/a.tif", pixels.astype(np.uint16) * 16, photometric="rgb")
    for bits, net in (("8", ColourNet), ("12", of_12_bits), ("8", of_12_bits)):
        summary, lines = predicted([tmp_path / bits], tmp_path / "out", net=net)
        assert summary.failed == 0 and lines == []
        assert (np.asarray(Image.open(tmp_path / "out/a.png")) == pixels.argmax(2)).all()
    assert (of_12_bits().predict(tmp_path / "12/a.tif") == pixels.argmax(2)).all()
    with Image.open(tmp_path / "8/a.png") as image:
        assert (of_12_bits().predict(image) == pixels.argmax(2)).all()


@pytest.mark.parametrize("net", [ColourNet, of_12_bits])
@pytest.mark.parametrize("factor", [1, 257])
def test_images_far_from_those_of_training_get_a_warning(tmp_path, net, factor):
    """Of values 16 times too low or too high, the labels are given, and said to be doubtful."""
    pixels = picture(tmp_path / "8.png")
    for name in ("a.tif", "b.tif"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, pixels.astype(np.uint16) * factor, photometric="rgb")
    summary, lines = predicted([tmp_path / "in"], tmp_path / "out", net=net)
    assert summary.failed == 0
    if net is ColourNet and factor == 257:  # all 16 bits, which is what is taken for granted
        assert lines == []
    else:
        (line,) = lines  # of the first such image alone
        assert f"{tmp_path}/in/a.tif: its values (color) are far from 0.." in line


def test_distances_far_from_those_of_training_get_a_warning(tmp_path):
    picture(tmp_path / "in/a.png")
    for name, distance in (("metres", 3), ("millimetres", 3000)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((6, 8), distance, np.uint16)).save(tmp_path / name / "a.png")
    net = FarColourNet()
    net.preprocessing = replace(net.preprocessing, ranges={"depth": (500.0, 9000.0)})
    for name, warned in (("metres", 1), ("millimetres", 0)):
        further = {"depth": tmp_path / name}
        options = {**FAR, "net": lambda: net, "further": further}
        _, lines = predicted([tmp_path / "in"], tmp_path / "out", **options)
        assert len(lines) == warned
        assert all("its values (depth) are far from 500..9000" in line for line in lines)
