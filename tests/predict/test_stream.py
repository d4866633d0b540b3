"""A stream of images that survives bad ones, in bounded memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from colour_net import ColourNet, FarColourNet
from PIL import Image
from prediction import (
    FAR,
    Certain,
    Heard,
    by_torch,
    depth_image,
    odd_images,
    picture,
    predicted,
    spoil,
)

from fullconv.base.images import ImageReader
from fullconv.net.preprocessing import Preprocessing
from fullconv.predict.jobs import plan
from fullconv.predict.memory import Memory
from fullconv.predict.stream import Summary, first_images, label_files, write_unsure


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


def test_every_kind_of_image_is_labelled(tmp_path):
    for name, image in odd_images().items():
        image.save(tmp_path / name)
    summary, said = predicted([tmp_path], tmp_path / "out")
    assert (summary.images, summary.failed, said) == (7, 0, [])
    expected = np.repeat([[1, 1, 1, 2, 2, 2]], 4, 0)
    for name in ("cmyk", "alpha", "palette"):
        with Image.open(tmp_path / f"out/{name}.png") as labels:
            assert (np.asarray(labels) == expected).all(), name


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
    net = Greedy()
    assert label_files(by_torch(net), jobs, bar, memory=Memory(net)).failed == 1
    assert bar.lines == [f"{tmp_path}/in/a.png: too large for the memory; make it smaller"]


def test_a_defect_of_the_net_is_not_taken_for_a_bad_image(tmp_path):
    class Broken(ColourNet):
        def coarse(self, x):  # noqa: ARG002
            raise RuntimeError("shapes differ")

    picture(tmp_path / "a.png")
    jobs = plan([f"{tmp_path}/a.png"], tmp_path / "out")
    net = Broken()
    with pytest.raises(RuntimeError, match="shapes differ"):
        label_files(by_torch(net), jobs, Heard(), memory=Memory(net))


@pytest.mark.slow
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
