"""Names, pretrained weights, weight files and the preprocessing that travels with them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from nets import classifier, random_scores
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fullconv import FCN, FullconvError, Preprocessing, convolutionalize
from fullconv.net.classifiers import build_classifier, default_preprocessing
from fullconv.net.fcn import load

SHARED = os.environ.get("FULLCONV_SHARED")
realdata = pytest.mark.skipif(not SHARED, reason="FULLCONV_SHARED names no folder of real data")


def refusal(*parts, name="squeezenet1_0", weights=None):
    with pytest.raises(FullconvError) as caught:
        build_classifier(name, weights)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet8", "unknown backbone 'resnet8'; did you mean resnet18 or"),
        ("ResNet18", "did you mean resnet18?"),
        ("mobilenetv2", "did you mean mobilenet_v2 or"),
        (
            "zzz",
            "unknown backbone 'zzz'; give a torchvision classifier's name, timm:NAME or caffe:",
        ),
        ("caffenet", "unknown backbone 'caffenet'; did you mean caffe:caffenet"),
        ("", "give a torchvision classifier's name, timm:NAME or caffe:"),
        ("caffenet", "unknown backbone 'caffenet'; did you mean caffe:caffenet"),
        ("fcn_resnet50", "unknown backbone 'fcn_resnet50'"),  # torchvision's, but no classifier
    ],
)
def test_unknown_names_get_the_nearest(name, reason):
    refusal(reason, name=name)


def test_unknown_timm_names_get_the_nearest():
    pytest.importorskip("timm")
    refusal(
        "unknown timm backbone 'regnetx_02'; did you mean ", "regnetx_002", name="timm:regnetx_02"
    )


def test_timm_that_is_not_installed(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "timm"] or ["timm"]:
        monkeypatch.setitem(sys.modules, module, None)
    refusal("need the extra: pip install fullconv[timm]", name="timm:regnetx_002")
    refusal("need the extra: pip install fullconv[timm]", name="timm:resnet18", weights="imagenet")


def test_without_weights_a_classifier_is_random():
    torch.manual_seed(0)
    first, _ = build_classifier("squeezenet1_0")
    second, _ = build_classifier("squeezenet1_0")
    assert first.features[0].weight.ne(second.features[0].weight).any()


# Preprocessing ------------------------------------------------------------------------------------


def test_bytes_to_input_by_the_formula():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    caffe = Preprocessing("BGR", 1.0, (104.0, 117.0, 123.0), (1.0, 2.0, 1.0))
    actual = caffe(torch.from_numpy(pixels)).numpy()
    assert actual.dtype == np.float32
    blue_first = pixels[:, ::-1].astype(np.float64)
    mean, std = np.array(caffe.mean).reshape(3, 1, 1), np.array(caffe.std).reshape(3, 1, 1)
    np.testing.assert_allclose(actual, (blue_first - mean) / std, rtol=1e-5, atol=1e-4)
    one = Preprocessing()(torch.from_numpy(pixels[0]))
    np.testing.assert_array_equal(one, Preprocessing()(torch.from_numpy(pixels))[0])


@pytest.mark.parametrize("name", ["mobilenet_v2", "convnext_tiny", "googlenet", "inception_v3"])
def test_defaults_are_those_of_torchvisions_weights(name):
    """On an image of the preset's own size, torchvision's transforms do the same."""
    expected = default_preprocessing(name)
    presets = torchvision.models.get_model_weights(name).DEFAULT.transforms(
        resize_size=expected.input_size
    )
    image = torch.randint(0, 256, (3, expected.input_size, expected.input_size), dtype=torch.uint8)
    torch.testing.assert_close(expected(image), presets(image))
    assert expected.input_size == (299 if name == "inception_v3" else 224)


@pytest.mark.parametrize("name", ["regnetx_002", "mobilenetv4_conv_small", "inception_next_atto"])
def test_defaults_are_those_of_timms_weights(name):
    timm = pytest.importorskip("timm")
    expected = timm.data.resolve_data_config(model=timm.create_model(name))
    actual = default_preprocessing(f"timm:{name}")
    assert (actual.mean, actual.std) == (expected["mean"], expected["std"])
    assert actual.input_size == expected["input_size"][-1]


def test_json_form_and_back():
    values = Preprocessing("BGR", 1.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 96)
    assert Preprocessing.from_dict(json.loads(json.dumps(values.to_dict()))) == values
    assert Preprocessing.from_dict({}) == Preprocessing()


# Weight files -------------------------------------------------------------------------------------


def write(path, state, **metadata):
    save_file({name: value.contiguous() for name, value in state.items()}, path, metadata or None)
    return path


@pytest.fixture(scope="module")
def squeezenet():
    return classifier("squeezenet1_0")


def test_a_weight_file_with_its_preprocessing(squeezenet, tmp_path):
    path = write(
        tmp_path / "w.safetensors",
        squeezenet.state_dict(),
        architecture="torchvision squeezenet1_0",
        channels="BGR",  # a bare word, as in the wild; or JSON, as below
        scale="1.0",
        mean="[104.0, 117.0, 123.0]",
        std="[1, 1, 1]",
        input_size="227",
        source="somewhere",
    )
    for weights in (path, str(path)):
        net, preprocessing = build_classifier("squeezenet1_0", weights)
        images = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            assert net.eval()(images).equal(squeezenet(images))
        assert preprocessing == Preprocessing(
            "BGR", 1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 227
        )


def test_a_weight_file_without_metadata_takes_the_defaults(squeezenet, tmp_path):
    path = write(tmp_path / "w.safetensors", squeezenet.state_dict())
    net, preprocessing = build_classifier("squeezenet1_0", path)
    assert preprocessing == default_preprocessing("squeezenet1_0")
    assert net.classifier[1].weight.equal(squeezenet.classifier[1].weight)


def test_batch_counters_may_be_missing(tmp_path):
    """Files made from other frameworks have statistics, but no count of batches."""
    state = classifier("resnet18").state_dict()
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    net, _ = build_classifier("resnet18", write(tmp_path / "w.safetensors", state))
    assert net.bn1.running_mean.equal(state["bn1.running_mean"])


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_files_with_and_without_auxiliary_heads(tmp_path, auxiliary):
    """torchvision's download has the heads that only training needs, its built model has not."""
    own = classifier("googlenet")
    state = own.state_dict()
    if not auxiliary:
        state = {name: value for name, value in state.items() if not name.startswith("aux")}
    net, _ = build_classifier("googlenet", write(tmp_path / "w.safetensors", state))
    assert net.fc.weight.equal(own.fc.weight)


def test_weights_of_another_architecture(squeezenet, tmp_path):
    state = squeezenet.state_dict()
    path = write(tmp_path / "w.safetensors", state, architecture="torchvision squeezenet1_0")
    refusal(
        f"{path}: weights of torchvision squeezenet1_0, not of torchvision resnet18",
        "--backbone squeezenet1_0",
        name="resnet18",
        weights=path,
    )
    path = write(tmp_path / "t.safetensors", state, architecture="timm regnetx_002")
    refusal("weights of timm regnetx_002", "--backbone timm:regnetx_002", weights=path)


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: without(s, "features.0.bias"), "it lacks features.0.bias"),
        (lambda s: {**s, "extra.weight": torch.ones(1)}, "it has unknown extra.weight"),
        (
            lambda s: {**s, "classifier.1.bias": torch.ones(10), "features.0.bias": torch.ones(1)},
            "it misshapes classifier.1.bias and 1 more",
        ),
        (lambda _: classifier("resnet18").state_dict(), "it lacks classifier.1.bias and 51 more"),
    ],
    ids=["lacking", "surplus", "misshapen", "another net"],
)
def test_wrong_keys_without_metadata(squeezenet, tmp_path, change, reason):
    path = write(tmp_path / "w.safetensors", change(squeezenet.state_dict()))
    refusal(f"{path}: not weights of squeezenet1_0: {reason}", weights=path)


def test_damaged_missing_and_foreign_files(squeezenet, tmp_path):
    path = write(tmp_path / "w.safetensors", squeezenet.state_dict())
    whole = path.read_bytes()
    for data in (b"", whole[:4], whole[:100], whole[:-1], b"<!DOCTYPE html>" * 9):
        path.write_bytes(data)
        refusal(f"{path}: not a whole safetensors file", weights=path)
    torch.save(squeezenet.state_dict(), path)
    refusal(f"{path}: not a whole", "must be converted to safetensors first", weights=path)
    refusal("nowhere: no such weights file", weights=tmp_path / "nowhere")
    refusal(f"{tmp_path}: no such weights file", weights=tmp_path)


# What torch.save wrote ----------------------------------------------------------------------------


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


CHECKPOINTS = {
    "a state dict": (lambda s: s, ""),
    "of DataParallel": (lambda s: prefixed(s, "module."), "module."),
    "a trainer's": (lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {}}}, ""),
    "Lightning's": (lambda s: {"state_dict": prefixed(s, "model.")}, "model."),
    "with its arguments": (lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)}, ""),
    "pytorch-fcn's": (lambda s: {"model_state_dict": s, "best": np.float64(0.5)}, ""),
    "twice wrapped": (
        lambda s: {"model": {"state_dict": prefixed(s, "net.module.")}},
        "net.module.",
    ),
    "a backbone's": (lambda s: {"model": prefixed(s, "backbone.")}, "backbone."),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_weights_that_torch_saved(squeezenet, tmp_path, capsys, case, zipped):
    wrapped, prefix = CHECKPOINTS[case]
    path = tmp_path / "w.pth"
    torch.save(wrapped(squeezenet.state_dict()), path, _use_new_zipfile_serialization=zipped)
    net, preprocessing = build_classifier("squeezenet1_0", path)
    assert_same(net.state_dict(), squeezenet.state_dict())
    assert preprocessing == default_preprocessing("squeezenet1_0")
    told = capsys.readouterr().err
    line = f"{path}: its names begin with {prefix!r}, which is left out"
    assert " ".join(told.split()) == (line if prefix else "")


def test_a_prefix_in_safetensors(squeezenet, tmp_path, capsys):
    path = write(tmp_path / "w.safetensors", prefixed(squeezenet.state_dict(), "module."))
    net, _ = build_classifier("squeezenet1_0", path)
    assert_same(net.state_dict(), squeezenet.state_dict())
    assert "begin with 'module.'" in " ".join(capsys.readouterr().err.split())


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('was run')",))


@pytest.mark.parametrize(
    ("whole", "reason"),
    [
        (lambda s: {**s, "extra.weight": torch.ones(1)}, "it has unknown extra.weight; save the"),
        (
            lambda s: without(s, "features.0.bias"),
            "torch.save(classifier.state_dict(), 'FILE.pth')",
        ),
        (lambda s: {"state_dict": s, "hook": Harmful()}, "what else it holds is not run"),
        (lambda _: nn.Linear(2, 2), "what else it holds is not run: save the net's state_dict"),
        (lambda _: [torch.ones(1)], "holds a list, not a net's state dict"),
        (lambda s: {**s, "lr": 0.1}, "'lr' is a float, not a tensor"),
        (lambda s: {**s, "features.0.bias": torch.full((96,), torch.nan)}, "are not finite"),
    ],
)
def test_what_torch_saved_of_other_things(squeezenet, tmp_path, whole, reason):
    path = tmp_path / "w.pt"
    torch.save(whole(squeezenet.state_dict()), path)
    assert refusal(f"{path}: ", reason, weights=path).startswith(f"{path}: ")


def test_torch_files_by_their_beginning(squeezenet, tmp_path):
    """A file of the Hub may have any name; one called .pth may be a web page."""
    path = tmp_path / "weights"
    torch.save(squeezenet.state_dict(), path)
    net, _ = build_classifier("squeezenet1_0", path)
    assert_same(net.state_dict(), squeezenet.state_dict())
    page = tmp_path / "w.pth"
    page.write_bytes(b"<!DOCTYPE html>")
    refusal(f"{page}: not a whole file of plain tensors", weights=page)
    refusal("nowhere.pth: no such", weights=tmp_path / "nowhere.pth")


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(value.equal(expected[name]) for name, value in actual.items())


@pytest.mark.parametrize(
    "metadata",
    [
        {"channels": "XYZ"},
        {"mean": "[1, 2]"},
        {"scale": "big"},
        {"input_size": "[2]"},
        {"input_size": "4097"},
    ],
)
def test_wrong_preprocessing_in_metadata(squeezenet, tmp_path, metadata):
    path = write(tmp_path / "w.safetensors", squeezenet.state_dict(), **metadata)
    refusal(f"{path}: its metadata's preprocessing is wrong: ", weights=path)


def test_a_nets_preprocessing_is_its_weights(squeezenet, tmp_path):
    path = write(tmp_path / "w.safetensors", squeezenet.state_dict(), mean="[0.5, 0.5, 0.5]")
    net = FCN("squeezenet1_0", 16, 2, weights=path)
    assert net.preprocessing.mean == (0.5, 0.5, 0.5)
    assert net.trunk.layers.features.get_submodule("0").weight.equal(squeezenet.features[0].weight)


# ImageNet weights, offline ------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, and a network behind a proxy that does not answer."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    return tmp_path / "torch"


def cache_path(message):
    """Return the path that a message says to save a file as."""
    return Path(message.split("save it as ")[1].split(", or pass")[0])


def test_offline_the_error_says_which_file_to_get_and_where_to_put_it(offline):
    """And that is true: a state dict put there is what is loaded."""
    message = refusal(
        "pretrained weights of squeezenet1_0 can't be downloaded",
        "fetch https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth on another machine",
        "or pass --weights FILE.safetensors, or --weights none",
        weights="imagenet",
    )
    path = cache_path(message)
    assert path == offline / "hub" / "checkpoints" / "squeezenet1_0-b66bff10.pth"
    own = classifier("squeezenet1_0")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(own.state_dict(), path)
    net, preprocessing = build_classifier("squeezenet1_0", "imagenet")
    assert net.features[0].weight.equal(own.features[0].weight)
    assert preprocessing == default_preprocessing("squeezenet1_0")


@pytest.mark.parametrize("data", [b"", b"<html>Not found</html>", b"PK\x03\x04 truncated"])
def test_a_damaged_file_in_the_cache_is_named(offline, data):
    path = offline / "hub" / "checkpoints" / "squeezenet1_0-b66bff10.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    message = refusal("can't be downloaded or read", weights="imagenet")
    assert cache_path(message) == path


@pytest.mark.usefixtures("offline")
def test_offline_timm_weights_say_where_they_belong(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refusal(
        "fetch timm/regnetx_002.pycls_in1k",
        f"to {tmp_path / 'models--timm--regnetx_002.pycls_in1k'}",
        name="timm:regnetx_002",
        weights="imagenet",
    )


@pytest.mark.slow
def test_pretrained_googlenet_comes_back_from_its_folder(offline, tmp_path):
    """Its pretrained form normalises its input anew; the one rebuilt without weights must too."""
    path = offline / "hub" / "checkpoints" / "googlenet-1378be20.pth"
    path.parent.mkdir(parents=True)
    own = classifier("googlenet")
    torch.save(own.state_dict(), path)
    net = random_scores(FCN("googlenet", 32, 2, weights="imagenet")).eval()
    net.save_pretrained(tmp_path / "model")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert load(tmp_path / "model")(images).equal(net(images))
        pretrained, _ = build_classifier("googlenet", "imagenet")
        rebuilt, _ = build_classifier("googlenet")
        rebuilt.load_state_dict(pretrained.state_dict())
        images = torch.randn(1, 3, 224, 224)
        assert rebuilt.eval()(images).equal(pretrained.eval()(images))
        assert pretrained(images).ne(own(images)).any()


# Real weights on real photographs -----------------------------------------------------------------

# ImageNet's indices: 88 macaw, 281-285 cats, 319 dragonfly, 934 hotdog. The burrowing owl and the
# sunflower among the photographs have no class of their own.
PHOTOS = {"parrot": {88}, "cat": {281, 282, 283, 284, 285}, "dragonfly": {319}, "hot_dog": {934}}


def photo(name, side):
    """Return the photo's central square, resized so that the square is its middle 7/8."""
    with Image.open(Path(SHARED) / "data" / "photos" / f"{name}.jpg") as file:
        whole = file.convert("RGB")
    scale = side * 8 / 7 / min(whole.size)
    scaled = whole.resize([round(n * scale) for n in whole.size], Image.Resampling.BILINEAR)
    left, top = (scaled.width - side) // 2, (scaled.height - side) // 2
    pixels = np.array(scaled.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@realdata
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_0", "timm:tf_efficientnet_lite0"])
def test_real_weights_know_what_is_in_real_photographs(name):
    path = Path(SHARED) / "weights" / f"{name.removeprefix('timm:')}.safetensors"
    net, preprocessing = build_classifier(name, path)
    dense = convolutionalize(net.eval(), preprocessing.input_size)
    images = preprocessing(torch.stack([photo(n, preprocessing.input_size) for n in PHOTOS]))
    with torch.no_grad():
        scores = dense(images)[:, :, 0, 0]
        torch.testing.assert_close(scores, net(images), rtol=1e-4, atol=1e-4)
    best = dict(zip(PHOTOS, scores.argmax(1).tolist(), strict=True))
    assert all(best[subject] in classes for subject, classes in PHOTOS.items()), best


@realdata
@pytest.mark.realdata
def test_a_dense_classifier_finds_the_subject_where_it_is():
    """On a wide plain ground with the parrot at its right end, the macaw scores there."""
    path = Path(SHARED) / "weights" / "mobilenet_v2.safetensors"
    net, preprocessing = build_classifier("mobilenet_v2", path)
    dense = convolutionalize(net.eval(), preprocessing.input_size)
    wide = torch.full((3, 224, 672), 127, dtype=torch.uint8)
    wide[:, :, 448:] = photo("parrot", 224)
    with torch.no_grad():
        macaw = dense(preprocessing(wide[None])).softmax(1)[0, 88, 0]
    assert macaw.shape == (15,)
    assert macaw.argmax() >= 12 and macaw.max() > 0.5 and macaw[:5].max() < 0.1


@realdata
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_0"])
def test_real_weights_say_their_own_preprocessing_and_architecture(name):
    path = Path(SHARED) / "weights" / f"{name}.safetensors"
    other = {"mobilenet_v2": "squeezenet1_0", "squeezenet1_0": "mobilenet_v2"}[name]
    refusal(f"weights of torchvision {name}", f"--backbone {name}", name=other, weights=path)
    _, preprocessing = build_classifier(name, path)
    if name == "mobilenet_v2":
        assert preprocessing == Preprocessing("RGB", 1 / 255, (0.5,) * 3, (0.5,) * 3, 224)
    else:
        assert preprocessing != default_preprocessing(name)
