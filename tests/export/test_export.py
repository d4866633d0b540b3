"""Exported files, run by their own runtimes, against the plain net."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from exports import FORMATS, SIZES, SUFFIX, by_hand, exported, photo, scored_net
from nets import NarrowVGG, narrow_caffe_vgg

from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.export import formats, run
from fullconv.export.metadata import ExportMetadata
from fullconv.export.opened import OpenedExport, is_export
from fullconv.export.run import ExportSettings, export
from fullconv.export.whole import WholeNet
from fullconv.net.fcn import FCN
from fullconv.net.preprocessing import Preprocessing


def spread(scores):
    return max(float(scores.abs().max()), 1.0)


def check(net, opened, sizes=SIZES):
    """Compare outputs at many sizes, two images at a time, with the plain net's."""
    wide = 1 in list(net.inputs.values())
    for seed, size in enumerate(sizes):
        channels = sum(net.inputs.values())
        images = np.stack([photo(size, seed, channels), photo(size, seed + 50, channels)])
        if wide:
            images = images.astype(np.float32) * np.float32(1.5)
            images[..., :-1] = np.rint(images[..., :-1] / 1.5)
        truth, found = by_hand(net, images), opened.outputs(images)
        assert list(found) == list(net.heads)
        for name, scores in truth.items():
            own = found[name]
            if opened.about.output == "labels":
                best = scores.topk(2, 1).values if scores.shape[1] > 1 else None
                clear = (best[:, 0] - best[:, 1]).numpy() > 1e-4 * spread(scores)
                assert (own.dtype, own.shape) == (np.uint8, (2, *size))
                assert (own == scores.argmax(1).numpy())[clear].all(), size
                continue
            expected = scores
            if opened.about.output == "probabilities":
                expected = (scores / net.heads[name].temperature).softmax(1)
            assert (own.dtype, own.shape) == (np.float32, tuple(scores.shape))
            assert np.abs(own - expected.numpy()).max() < 1e-4 * spread(scores), size


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("output", ["labels", "scores", "probabilities"])
def test_any_size_and_number_of_images(form, output, tmp_path):
    net = scored_net()
    net.head.temperature = 1.75
    done = exported(net, tmp_path, form, output=output)
    check(net, OpenedExport(done.path))
    counts = np.bincount(net.predict(photo((96, 130))).ravel(), minlength=4)
    assert counts.min() > 50  # every class wins somewhere: agreement means something


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_what_a_file_says_of_itself(form, tmp_path):
    net = scored_net(classes=None, heads={"labels": ["road", 'say "é"', "<sky> & sea"]})
    done = exported(net, tmp_path, form, output="scores")
    opened = OpenedExport(done.path)
    about = opened.about
    assert about == done.about
    assert about.heads["labels"].classes == ("road", 'say "é"', "<sky> & sea")
    assert about.heads["labels"].palette == net.palette
    assert (about.ignore_index, about.stride, about.scale) == (255, 8, 1)
    assert (about.output, about.precision, about.inputs) == ("scores", "fp32", {"color": 3})
    assert opened.preprocessing == net.preprocessing
    found = about.verification
    assert found is not None and found.source == "generated" and found.images == 6
    assert found.labels == 1 and 0 < found.scores < 1e-4 and not found.random_scores
    assert done.size == sum(each.stat().st_size for each in (done.path, *done.beside))
    expected = {"net" + SUFFIX[form], *(["net.bin"] if form == "openvino" else [])}
    assert {each.name for each in tmp_path.iterdir()} == expected


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_names_are_the_contract_s(form, tmp_path):
    """Read by the runtimes alone."""
    net = scored_net(classes=None, heads={"sem": 3, "geo": 2}, inputs={"color": 3, "depth": 1})
    path = exported(net, tmp_path, form).path
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        inputs = {each.name: (each.type, each.shape[3]) for each in session.get_inputs()}
        assert inputs == {"color": ("tensor(uint8)", 3), "depth": ("tensor(float)", 1)}
        outputs = {each.name: each.type for each in session.get_outputs()}
        assert outputs == {"sem": "tensor(uint8)", "geo": "tensor(uint8)"}
        text = session.get_modelmeta().custom_metadata_map["fullconv"]
    else:
        from fullconv.export.openvino_core import core

        graph = core().read_model(path)
        inputs = {each.any_name: str(each.element_type) for each in graph.inputs}
        assert set(inputs) == {"color", "depth"} and "uint8" in inputs["color"]
        assert [each.any_name for each in graph.outputs] == ["sem", "geo"]
        text = graph.get_rt_info(["fullconv"]).value
    assert json.loads(text)["heads"]["geo"]["classes"] == ["class 0", "class 1"]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_several_heads_and_inputs(form, fusion, tmp_path):
    """Distances in float32, their logarithm included; colours in another order."""
    net = scored_net(
        stride=16,
        heads={"sem": 3, "geo": 2},
        inputs={"color": 3, "depth": 1},
        fusion=fusion,
        preprocessing=Preprocessing(
            "BGR", 1.0, (104.0, 117.0, 123.0, 6.0), (60.0, 50.0, 40.0, 2.0), 224, (3,)
        ),
    )
    check(net, OpenedExport(exported(net, tmp_path, form).path))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seen", ["magnify", "reduce"])
def test_nets_that_see_images_larger_or_smaller(form, seen, tmp_path):
    net = scored_net(stride=8, **{seen: 2})
    done = exported(net, tmp_path, form)
    assert done.about.scale == net.scale != 1
    check(net, OpenedExport(done.path))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_net_of_the_paper_s_padding(form, tmp_path):
    net = scored_net(narrow_caffe_vgg(), padding=100, skip_scales={16: 0.01, 8: 0.0001})
    check(net, OpenedExport(exported(net, tmp_path, form).path), SIZES[:4])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_learnt_last_upscore(form, tmp_path):
    net = scored_net(learn_last_upscore=True)
    with torch.no_grad():
        net.head.last_upscore.weight.mul_(torch.rand(net.head.last_upscore.weight.shape) + 0.5)
    check(net, OpenedExport(exported(net, tmp_path, form).path))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_half_the_size_in_float16(form, tmp_path):
    net = scored_net(NarrowVGG(24))
    whole = exported(net, tmp_path / "whole", form)
    half = exported(net, tmp_path / "half", form, precision="fp16")
    saved = (whole.size - half.size) / 2 / sum(each.numel() for each in net.parameters())
    assert 0.8 < saved <= 1  # of two bytes a weight; what is no weight stays
    opened = OpenedExport(half.path)
    assert opened.about.precision == "fp16"
    image = photo((96, 130))
    assert (opened.label(image)["labels"] == net.predict(image)).mean() > 0.99


@pytest.mark.slow
def test_float16_is_stored_and_float32_computed(tmp_path):
    onnx = pytest.importorskip("onnx")
    net = scored_net()
    with torch.no_grad():  # beyond float16, which would make it infinite
        net.head.scores["8"].weight.view(-1)[0] = 1e5
    path = exported(net, tmp_path, "onnx", precision="fp16", output="scores").path
    graph = onnx.load(path).graph
    halves = [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) > 10
    casts = {node.input[0]: node for node in graph.node if node.op_type == "Cast"}
    assert all(casts[each.name].attribute[0].i == onnx.TensorProto.FLOAT for each in halves)
    assert np.isfinite(OpenedExport(path).outputs(photo((40, 40))[None])["labels"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_an_untrained_net_is_verified_with_random_scores(form, tmp_path):
    torch.manual_seed(0)
    net = FCN(NarrowVGG(), 8, 4).eval()
    done = exported(net, tmp_path, form, output="scores")
    assert done.about.verification.random_scores and done.about.verification.scores > 0
    assert not OpenedExport(done.path).outputs(photo((40, 40))[None])["labels"].any()  # as it is
    assert not net.scores["8"].weight.any()  # and stays


# Files that are not the same net


def perturbed(part):
    """Return what converts a net, but with one of its layers altered."""

    def convert(module):
        net = module.net
        layer = net.get_submodule(part(net))
        layer.weight = torch.nn.Parameter(layer.weight * 1.5 + 0.02, requires_grad=False)
        return formats.to_onnx(module)

    return convert


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (lambda _: "trunk.layers.features.0", "the trunk up to features.16 (stride 8)"),
        *(
            pytest.param(lambda _, part=part: part, said, marks=pytest.mark.slow)
            for part, said in (
                ("trunk.layers.features.19", "the trunk up to features.23 (stride 16)"),
                ("heads.labels.scores.16", "the scores and fuses of labels"),
                ("heads.labels.upscores.8-1", "the last upscore of labels"),
            )
        ),
    ],
)
def test_a_disagreement_is_told_with_its_image_and_stage(part, said, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    # Without a resize, in which the last upscore's weights would have no part.
    form = replace(formats.ONNX, convert=perturbed(part), resizes=False)
    monkeypatch.setitem(run.FORMATS, "onnx", form)
    net = scored_net(learn_last_upscore=True)
    (tmp_path / "net.onnx").write_bytes(b"as it was")
    with pytest.raises(WorkFailedError) as failed:
        exported(net, tmp_path, "onnx", output="scores")
    assert said in str(failed.value) and "generated image of" in str(failed.value)
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == b"as it was"


def test_what_can_t_be_converted_is_told_in_a_line(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")

    def fail(*_):
        raise RuntimeError("no\nsuch operator")

    monkeypatch.setattr(WholeNet, "forward", fail)
    torch.manual_seed(0)
    with pytest.raises(WorkFailedError, match="as onnx: no such operator"):
        exported(FCN(NarrowVGG(), 8, 4).eval(), tmp_path, "onnx")
    assert not list(tmp_path.iterdir())


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "onx"}, "did you mean onnx"),
        ({"precision": "half"}, "none of fp32, fp16, int8"),
        ({"output": "label"}, "did you mean labels"),
        ({"out": "net.xml"}, "is called .onnx; write it to net.onnx"),
    ],
)
def test_what_there_isn_t_is_refused(options, said, tmp_path):
    from pathlib import Path

    asked = {"format": "onnx", "out": tmp_path / "a.onnx", **options}
    with pytest.raises(FullconvError, match=said):
        export(ExportSettings(FCN(NarrowVGG(), 32, 2), **{**asked, "out": Path(asked["out"])}))


def test_an_input_and_a_head_of_one_name_are_refused(tmp_path):
    net = FCN(NarrowVGG(), 32, heads={"depth": 2, "sem": 2}, inputs={"color": 3, "depth": 1})
    with pytest.raises(FullconvError, match="both called 'depth'"):
        exported(net, tmp_path, "onnx")


# Files that are none of ours


def test_exports_are_known_by_their_suffix():
    assert is_export("a/net.onnx") and is_export("net.XML")
    assert not is_export("a/net") and not is_export(FCN(NarrowVGG(), 32, 2))


@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_damaged_and_missing_files_are_refused(name, tmp_path):
    with pytest.raises(FullconvError, match="no such file"):
        OpenedExport(tmp_path / name)
    (tmp_path / name).write_bytes(b"<nothing>")
    if name == "net.xml":
        with pytest.raises(FullconvError, match=r"net.bin: missing; it belongs to"):
            OpenedExport(tmp_path / name)
        (tmp_path / "net.bin").write_bytes(b"")
    with pytest.raises(FullconvError, match="can't read it"):
        OpenedExport(tmp_path / name)


@pytest.mark.slow
def test_a_strange_graph_says_nothing_of_its_classes(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = exported(scored_net(), tmp_path, "onnx").path
    graph = onnx.load(path)
    graph.metadata_props[0].value = graph.metadata_props[0].value.replace(
        '"format":1', '"format":9'
    )
    onnx.save(graph, path)
    with pytest.raises(FullconvError, match="newer fullconv"):
        OpenedExport(path)
    del graph.metadata_props[:]
    onnx.save(graph, path)
    with pytest.raises(FullconvError, match="was it written by fullconv export"):
        OpenedExport(path)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_images_of_other_channels_are_refused(form, tmp_path):
    opened = OpenedExport(exported(scored_net(), tmp_path, form).path)
    for wrong in (photo((4, 5), channels=4)[None], photo((4, 5)), photo((4, 5))[None, :0]):
        with pytest.raises(FullconvError, match="images must be N x H x W x 3"):
            opened.outputs(wrong)


def test_metadata_survives_json():
    about = ExportMetadata.of(scored_net(stride=8, reduce=2), "labels", "fp16")
    assert ExportMetadata.model_validate_json(about.to_json()) == about


# The command


@pytest.mark.slow
def test_the_command_says_what_it_wrote_and_notes_it_in_the_model_folder(tmp_path):
    pytest.importorskip("onnxruntime")
    scored_net().save_pretrained(tmp_path / "model")
    words = ["export", str(tmp_path / "model"), "--format", "onnx", "--out"]
    done = run_fullconv(*words, str(tmp_path / "a" / "net.onnx"), "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.endswith("MB") and "net.onnx: labels, fp16, " in first
    assert second.startswith("verified by onnxruntime") and "on 6 generated images: 100" in second
    noted = json.loads((tmp_path / "model" / "exports.json").read_text())
    assert noted["onnx fp16 labels"]["file"] == "net.onnx"
    assert noted["onnx fp16 labels"]["verification"]["images"] == 6
    refused = run_fullconv(*words, str(tmp_path / "net.xml"))
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1


def run_fullconv(*words):
    return subprocess.run(
        [sys.executable, "-m", "fullconv", *words], capture_output=True, text=True, check=False
    )
