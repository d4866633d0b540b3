"""Exported files in place of model folders: the same labels from `predict` and `evaluate`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from exports import FORMATS, exported, photo, scored_net
from PIL import Image
from prediction import depth_image, pixels_of

from fullconv.predict.room import ExportMemory, NoRoomError


@pytest.fixture
def images(tmp_path):
    for index, size in enumerate([(96, 130), (70, 90), (1, 1), (161, 97)] * 2):
        (tmp_path / "in/sub").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(size, index)).save(tmp_path / f"in/sub/{index}.png")
    return tmp_path / "in"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_batch_is_labelled_as_by_the_model_folder(form, images, tmp_path, command_line, capsys):
    net = scored_net()
    path = exported(net, tmp_path / "e", form).path
    assert command_line("predict", path, images, "--out", tmp_path / "out", "--quiet") == 0
    said = capsys.readouterr()
    assert said.err == "" and "unsure" not in said.out and "8 label images in" in said.out
    same = []
    for index in range(8):
        labels = pixels_of(tmp_path / f"out/sub/{index}.png")
        same.append((labels == net.predict(images / f"sub/{index}.png")).ravel())
        assert (tmp_path / f"out/overlay/sub/{index}.jpg").is_file()
    assert np.concatenate(same).mean() >= 0.9999
    assert not (tmp_path / "out/unsure.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["scores", "probabilities"])
@pytest.mark.parametrize("form", FORMATS)
def test_probabilities_of_an_export(form, output, images, tmp_path, command_line, capsys):
    net = scored_net()
    net.head.temperature = 0.5
    net.save_pretrained(tmp_path / "model")
    path = exported(net, tmp_path / "e", form, output=output).path
    words = [images, "--scores", "--quiet", "--engine", "torch"]
    assert command_line("predict", path, *words[:-2], "--out", tmp_path / "out") == 0
    assert "unsure (probability below 0.75)" in capsys.readouterr().out
    assert command_line("predict", tmp_path / "model", *words, "--out", tmp_path / "ref") == 0
    for index in range(4):
        own, theirs = (np.load(tmp_path / f"{d}/scores/sub/{index}.npy") for d in ("out", "ref"))
        assert np.abs(own.astype(float) - theirs).max() < 2e-3
        labels = pixels_of(tmp_path / f"out/sub/{index}.png")
        assert (labels == net.predict(images / f"sub/{index}.png")).mean() >= 0.9999
    assert len((tmp_path / "out/unsure.csv").read_text().splitlines()) == 9


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_several_heads_and_inputs_of_an_export(form, tmp_path, command_line):
    net = scored_net(stride=16, heads={"sem": 3, "geo": 2}, inputs={"color": 3, "depth": 1})
    path = exported(net, tmp_path / "e", form).path
    Image.fromarray(photo((70, 90))).save(tmp_path / "a.png")
    depth = depth_image(tmp_path / "depth/a.png", (70, 90))
    words = ["predict", path, tmp_path / "a.png", "--input", f"depth={tmp_path}/depth"]
    assert command_line(*words, "--out", tmp_path / "out") == 0
    joined = np.concatenate([photo((70, 90)), depth[..., None]], 2).astype(np.float32)
    for name, labels in net.label(joined).items():
        assert (pixels_of(tmp_path / f"out/{name}/a.png") == labels).mean() >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "torch"], "is run by onnxruntime; leave out --engine torch"),
        (["--precision", "bf16"], "is of precision fp32; leave out --precision bf16"),
        (["--tta"], "an export knows no --tta"),
        (["--device", "cuda"], "exports work on the CPU here"),
        (["--scores"], "gives labels only; for --scores export the model with --output prob"),
    ],
)
def test_what_an_export_can_t_do_is_refused(words, said, images, tmp_path, command_line, capsys):
    pytest.importorskip("onnxruntime")
    path = exported(scored_net(), tmp_path / "e", "onnx").path
    assert command_line("predict", path, images, "--out", tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_images_too_large_for_the_memory_are_refused_with_what_they_take(tmp_path):
    pytest.importorskip("onnxruntime")
    about = exported(scored_net(), tmp_path, "onnx").about
    assert about.bytes_a_pixel > 30
    with pytest.raises(NoRoomError, match=r"12000 x 9000 pixels take about .* GB"):
        ExportMemory(about, 1 << 30).work((9000, 12000))
    work = ExportMemory(about, 1 << 30).work((600, 800))
    assert work.tiles is None and work.need > 600 * 800 * about.bytes_a_pixel
    assert ExportMemory(about, 64 << 30).has_room((9000, 12000))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_an_export_is_evaluated_as_its_model_folder(form, tmp_path, command_line, capsys):
    net = scored_net(classes=None, heads={"labels": ["a", "b", "c", "d"]})
    net.save_pretrained(tmp_path / "model")
    path = exported(net, tmp_path / "e", form).path
    for index in range(3):
        image = photo((70, 90 + index), index)
        mask = (net.label(image)["labels"] + (photo((70, 90 + index), 9)[..., 0] > 150)) % 4
        for kind, pixels, suffix in (("images", image, "png"), ("masks", mask, "png")):
            (tmp_path / f"data/{kind}/test").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / f"data/{kind}/test/{index}.{suffix}"
            )
    (tmp_path / "data/dataset.yaml").write_text("name: four\nclasses: [a, b, c, d]\n")
    found = {}
    for name, model in (("model", tmp_path / "model"), ("export", path)):
        words = ["evaluate", model, "--data", tmp_path / "data", "--out", tmp_path / f"{name}.json"]
        assert command_line(*words, "--quiet") == 0
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert 0.1 < found["model"]["mean_iu"] < 0.95
    assert found["export"]["mean_iu"] == pytest.approx(found["model"]["mean_iu"], abs=1e-4)
    assert found["export"]["images"] == 3
    done = exported(net, tmp_path / "f", form, data=tmp_path / "data")
    verified = done.about.verification
    assert (verified.source, verified.images) == ("data", 9)
    assert verified.mean_iu == pytest.approx(found["model"]["mean_iu"], abs=1e-4)
    assert verified.mean_iu_of_net == pytest.approx(found["model"]["mean_iu"], abs=1e-9)
    capsys.readouterr()
    assert command_line(*words[:2], "--tta", "--data", tmp_path / "data") == 2
    assert "knows no --tta" in capsys.readouterr().err
