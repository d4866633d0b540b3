"""``fullconv data next``: from files to the list and the page."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.net.certainty import UNSURE
from fullconv.predict.next import NextSettings, run
from fullconv.report.figures import WRONG


def noise(seed, size=(60, 80)):
    random = np.random.default_rng(seed)
    low = random.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(low).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six images, two of which are there twice."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(6):
        Image.fromarray(noise(index)).save(folder / f"{index}.png")
    for index in (0, 3):
        Image.fromarray(noise(index)).save(folder / f"{index}-again.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset of which image 2 is a part, and another one."""
    folder = tmp_path_factory.mktemp("data")
    classes = ["red", "green", "[blue]"]
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "noise", "classes": classes}))
    for split, seeds in (("train", (2, 9)), ("val", (8,))):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(noise(seed)).save(folder / f"images/{split}/s{seed}.png")
            mask = np.full((60, 80), seed % 3, np.uint8)
            Image.fromarray(mask).save(folder / f"masks/{split}/s{seed}.png")
    return folder


def names(found):
    return [each.job.name for each in found.chosen]


def test_no_image_is_chosen_twice_before_all_others(random_model, photos, tmp_path):
    found = run(NextSettings(str(random_model), (str(photos),), tmp_path))
    assert len(names(found)) == 8
    assert len({name[0] for name in names(found)[:6]}) == 6
    assert [each.choice.distance for each in found.chosen[6:]] == [0, 0]
    scores = [each.choice.score for each in found.chosen]
    assert scores == sorted(scores, reverse=True)
    assert (found.images, found.labelled, found.known) == (8, 0, 0)


def test_figures_are_those_of_the_net(random_model, photos, tmp_path):
    found = run(NextSettings(str(random_model), (str(photos),), tmp_path))
    net = fullconv.load(random_model)
    first = found.chosen[0]
    image = noise(int(first.job.name[0]))
    with torch.inference_mode():
        views = [net.coarse_of_image(image)]
        share = net.unsure_shares(views, image.shape[:2])["labels"]
    assert first.choice.unsure == pytest.approx(share, abs=1e-6)
    # The distance of the second, from what the trunk gives.
    pooled = []
    for each in found.chosen[:2]:
        pixels = torch.from_numpy(noise(int(each.job.name[0])).copy())
        with torch.inference_mode():
            values = net.preprocessing(pixels.permute(2, 0, 1)[None])
            features = net.trunk(net._seen(values))[0].mean((0, 2, 3))
        pooled.append(features / features.norm())
    distance = float((pooled[0] - pooled[1]).norm())
    assert found.chosen[1].choice.distance == pytest.approx(distance, abs=1e-5)


def test_what_is_labelled_already_is_left_out(random_model, photos, data, tmp_path):
    found = run(NextSettings(str(random_model), (str(photos),), tmp_path, data=data))
    assert (found.images, found.labelled, found.known) == (8, 2, 1)
    assert len(names(found)) == 7
    assert "2" not in names(found)
    assert found.chosen[0].choice.distance < 1


def test_a_run_knows_its_last_net_and_its_data(random_model, photos, data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "fcn16s").symlink_to(random_model)
    record = {"data": str(data), "nets": {"fcn32s": {}, "fcn16s": {}, "fcn8s": {}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(record))
    found = run(NextSettings(str(folder), (str(photos),), tmp_path / "out"))
    assert found.labelled == 2
    (folder / "fcn16s").unlink()
    with pytest.raises(FullconvError, match="has no model yet"):
        run(NextSettings(str(folder), (str(photos),), tmp_path / "out"))


def test_the_list_and_the_page(random_model, photos, tmp_path, command_line, capsys):
    out = tmp_path / "out"
    words = ("data", "next", random_model, photos, "--count", 3, "--out", out, "--quiet")
    assert command_line(*words) == 0
    told = capsys.readouterr().out
    rows = list(csv.DictReader((out / "next.csv").open()))
    assert f"3 of 8 images: {out / 'next.csv'}" in told
    assert list(rows[0]) == [
        "image",
        "score",
        "unsure",
        "rarest_class",
        "rarest_share",
        "distance",
    ]
    assert all(row["rarest_class"] in ("red", "green", "[blue]") for row in rows)
    source = (out / "next.html").read_text()
    assert "<script" not in source
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", source)
    assert "[blue]" in source
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(each)))
        for each in re.findall(r'src="data:[^,]*,([^"]*)"', source)
    ]
    assert [picture.format for picture in pictures] == ["JPEG", "PNG", "JPEG"] * 3
    alts = re.findall(r'alt="([^"]*)"', source)
    assert alts[::3] == [f"{Path(row['image']).stem}: photo" for row in rows]
    net = fullconv.load(random_model)
    for row, labels in zip(rows, pictures[1::3], strict=True):
        drafted = net.predict(row["image"])
        factor = labels.width // drafted.shape[1]
        np.testing.assert_array_equal(np.asarray(labels)[::factor, ::factor], drafted)


def test_unsure_pixels_are_orange(random_model, photos, tmp_path):
    out = tmp_path / "out"
    run(NextSettings(str(random_model), (str(photos / "4.png"),), out, count=1))
    encoded = re.findall(r'src="data:[^,]*,([^"]*)"', (out / "next.html").read_text())[2]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
    net = fullconv.load(random_model)
    with torch.inference_mode():
        scores = net.upsample(net.coarse_of_image(noise(4))["labels"], (60, 80))[0]
    wanted = (scores.softmax(0).max(0).values < UNSURE).numpy()
    orange = shown[..., 0] - shown[..., 2] > (WRONG[0] - WRONG[2]) / 3
    assert orange.shape == wanted.shape
    assert (orange == wanted).mean() > 0.95


def test_images_may_share_a_name(random_model, tmp_path, command_line):
    """Of two cameras, and of two suffixes; no result takes the place of one that lies in --out."""
    paths = [tmp_path / name for name in ("camA/1.png", "camB/1.png", "x.jpg", "x.png")]
    for seed, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(seed)).save(path)
    words, out = [tmp_path / name for name in ("camA", "camB", "x.jpg", "x.png")], tmp_path / "out"
    assert command_line("data", "next", random_model, *words, "--out", out) == 0
    rows = list(csv.DictReader((out / "next.csv").open()))
    assert sorted(row["image"] for row in rows) == sorted(map(str, paths))
    page = (out / "next.html").read_text()
    assert all(f'alt="{path}: photo"' in page for path in paths)
    assert command_line("data", "next", random_model, paths[3], "--out", tmp_path) == 0


def test_images_do_not_share_further_inputs(two_headed_model, tmp_path, command_line, capsys):
    for folder in ("a", "b", "depth"):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise(1)).save(tmp_path / folder / "1.png")
    words = ("--input", f"depth={tmp_path / 'depth'}", "--out", tmp_path / "out")
    inputs = (tmp_path / "a", tmp_path / "b")
    assert command_line("data", "next", two_headed_model, *inputs, *words) == 2
    assert "would both have 1 of --input depth; rank them" in capsys.readouterr().err


def test_several_inputs_and_heads(two_headed_model, tmp_path, command_line):
    for kind in ("photos", "depth"):
        (tmp_path / kind).mkdir()
    for index in range(3):
        Image.fromarray(noise(index)).save(tmp_path / "photos" / f"{index}.png")
        depth = np.full((60, 80), 1000 * (index + 1), np.uint16)
        Image.fromarray(depth).save(tmp_path / "depth" / f"{index}.png")
    words = ("--input", f"depth={tmp_path / 'depth'}", "--out", tmp_path / "out", "--quiet")
    assert command_line("data", "next", two_headed_model, tmp_path / "photos", *words) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "next.csv").open()))
    assert len(rows) == 3
    assert all(row["rarest_class"].startswith(("sem: ", "geo: ")) for row in rows)
    source = (tmp_path / "out" / "next.html").read_text()
    assert source.count("<img") == 3 * 5
    assert "unsure of geo" in source


def test_what_can_not_be_read_is_told(random_model, tmp_path, command_line, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    words = ("--out", tmp_path / "out", "--quiet")
    assert command_line("data", "next", random_model, folder, *words) == 2
    assert "broken.png" in capsys.readouterr().err
    Image.fromarray(noise(1)).save(folder / "whole.png")
    assert command_line("data", "next", random_model, folder, *words) == 1
    told = capsys.readouterr()
    assert "1 of 2 images failed" in told.err
    assert "1 of 1 images" in told.out


@pytest.mark.parametrize(
    ("model", "problem"),
    [("nothing", "no such model folder"), ("net.onnx", "an export, which gives no features")],
)
def test_models_that_are_none(model, problem, photos, tmp_path, command_line, capsys):
    (tmp_path / "net.onnx").write_bytes(b"")
    words = ("data", "next", tmp_path / model, photos, "--out", tmp_path / "out")
    assert command_line(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert problem in line
