"""Conversion: every blob in its place and no other, every misfit told, whatever a file holds."""

from __future__ import annotations

import caffe_nets
import numpy as np
import pytest
from narrow_caffe import (
    ONES,
    VGG_LAYERS,
    assert_equal_states,
    drawn,
    load,
    narrow,
    random_net,
    refusal,
    snapshot,
    written,
)

# Where every layer goes, by hand ------------------------------------------------------------------

TRUNK = {name: f"trunk.layers.{name}" for name in VGG_LAYERS}
LABELS = "heads.labels"
VGG_32 = {"score_fr": f"{LABELS}.scores.32", "upscore": f"{LABELS}.upscores.32-1"}
VGG_16 = {
    "score_fr": f"{LABELS}.scores.32",
    "upscore2": f"{LABELS}.upscores.32-16",
    "score_pool4": f"{LABELS}.scores.16",
    "upscore16": f"{LABELS}.upscores.16-1",
}
VGG_8 = {
    "score_fr": f"{LABELS}.scores.32",
    "upscore2": f"{LABELS}.upscores.32-16",
    "score_pool4": f"{LABELS}.scores.16",
    "upscore_pool4": f"{LABELS}.upscores.16-8",
    "score_pool3": f"{LABELS}.scores.8",
    "upscore8": f"{LABELS}.upscores.8-1",
}


def two_heads(places: dict[str, str]) -> dict[str, str]:
    return {
        f"{name}_{head}": path.replace("labels", head)
        for head in ("sem", "geo")
        for name, path in places.items()
    }


def early(places: dict[str, str]) -> dict[str, str]:
    renamed = {"conv1_1_bgrd": places["conv1_1"], **places}
    del renamed["conv1_1"]
    return renamed


LATE = {
    f"{name}{each}": f"trunk.{each}.layers.{name}"
    for each in ("color", "hha")
    for name in VGG_LAYERS
} | {
    "score_frcolor": f"{LABELS}.scores.32.color",
    "score_frhha": f"{LABELS}.scores.32.hha",
    "upscore": f"{LABELS}.upscores.32-1",
}
ALEXNET = {
    f"{name}": f"trunk.layers.{name}"
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
} | VGG_32
PLACES = {
    "voc-fcn32s": TRUNK | VGG_32,
    "voc-fcn16s": TRUNK | VGG_16,
    "voc-fcn8s": TRUNK | VGG_8,
    "voc-fcn8s-atonce": TRUNK | VGG_8,
    "voc-fcn-alexnet": ALEXNET,
    "siftflow-fcn32s": TRUNK | two_heads(VGG_32),
    "siftflow-fcn16s": TRUNK | two_heads(VGG_16),
    "siftflow-fcn8s": TRUNK | two_heads(VGG_8),
    "pascalcontext-fcn32s": TRUNK | VGG_32,
    "pascalcontext-fcn16s": TRUNK | VGG_16,
    "pascalcontext-fcn8s": TRUNK | VGG_8,
    "nyud-fcn32s-color": TRUNK | VGG_32,
    "nyud-fcn32s-hha": TRUNK | VGG_32,
    "nyud-fcn32s-color-d": early(TRUNK) | VGG_32,
    "nyud-fcn32s-color-hha": LATE,
}


def diagonal(blob: np.ndarray) -> np.ndarray:
    return np.stack([blob[label, label] for label in range(len(blob))])[:, None]


@pytest.mark.parametrize("name", PLACES)
def test_every_blob_is_in_its_place(tmp_path, name):
    drawing = drawn(name)
    weights = {
        **caffe_nets.random_weights(drawing.layers, 3),
        **caffe_nets.random_diagonals(drawing, 4),
    }
    net = load(narrow(name), written(tmp_path, drawing, weights))
    state, expected = net.state_dict(), {}
    for layer, path in PLACES[name].items():
        blobs = weights[layer]
        if "upscores" in path:
            blobs = (diagonal(blobs[0]),)
        for parameter, blob in zip(("weight", "bias"), blobs, strict=False):
            expected[f"{path}.{parameter}"] = blob
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key].numpy(), value, err_msg=key)


def test_the_table_above_knows_every_net_that_caffe_defined():
    assert PLACES.keys() == set(caffe_nets.NAMES)


def test_v1_files_are_the_same_nets(tmp_path):
    new = snapshot(random_net(tmp_path)[2]())
    assert not any(value.isnan().any() for value in new.values())
    assert_equal_states(random_net(tmp_path, v1=True)[2](), new)


@pytest.mark.parametrize("v1", [False, True])
def test_dense_layers_become_convolutions_and_grouped_upscores_fit(tmp_path, v1):
    _, weights, loaded = random_net(tmp_path, v1=v1)
    whole = snapshot(loaded())
    for layer in ("fc6", "fc7"):
        weight, bias = weights[layer]
        weights[layer] = (weight.reshape(len(weight), -1), bias)
    weights["upscore8"] = (diagonal(weights["upscore8"][0]),)
    assert_equal_states(loaded(), whole)


def test_layers_without_blobs_are_of_no_account(tmp_path):
    drawing, _, loaded = random_net(tmp_path)
    whole = snapshot(loaded())
    extra = [caffe_nets.Layer(name, "Python", (), name) for name in ("data", "loss", "fc8")]
    drawing.layers[:0] = extra
    assert_equal_states(loaded(), whole)


# Misfits ------------------------------------------------------------------------------------------


def test_mixing_upscores_are_refused(tmp_path):
    _, weights, loaded = random_net(tmp_path)
    (kernel,) = weights["upscore_pool4"]
    kernel[3, 5, 1, 2], kernel[20, 0, 0, 0] = 1e-30, -1
    assert "upscore_pool4 mixes classes (2 weights off its diagonal" in refusal(loaded)


def test_missing_surplus_and_misshapen_layers_are_named_and_counted(tmp_path):
    drawing, weights, loaded = random_net(tmp_path)
    for name in VGG_LAYERS[:5]:
        del weights[name]
    weights["score_fr"] = (weights["score_fr"][0][:7], weights["score_fr"][1][:7])
    weights["fc7"] = (weights["fc7"][0],)
    drawing.layers.append(caffe_nets.Layer("fc9", "Convolution", (), "fc9"))
    weights["fc9"] = (np.ones((1, 2), np.float32),)
    assert refusal(loaded) == (
        f"{tmp_path / 'net.caffemodel'}: not the net: it lacks conv1_1, conv1_2, conv2_1 and 2 "
        "more; it also has fc9; it does not fit: fc7 has 1 blobs, not 2, score_fr is 7 x 10 x 1 x "
        "1, the net's 21 x 10 x 1 x 1"
    )


def test_equal_numbers_of_values_do_not_make_a_fit(tmp_path):
    _, weights, loaded = random_net(tmp_path)
    weight, bias = weights["conv2_1"]
    weights["conv2_1"] = (np.ascontiguousarray(weight.reshape(4, 4, 9, 1)), bias)
    assert "conv2_1 is 4 x 4 x 9 x 1, the net's 4 x 4 x 3 x 3" in refusal(loaded)
    weights["conv2_1"] = (weight.reshape(2, -1), bias)
    assert "conv2_1 is 2 x 72, the net's" in refusal(loaded)


def test_a_layer_that_stands_there_twice(tmp_path):
    drawing, _, loaded = random_net(tmp_path)
    drawing.layers.append(drawing.layers[0])
    assert "conv1_1 stands there twice" in refusal(loaded)


def test_hostile_names_are_shown_tamely(tmp_path):
    drawing, weights, loaded = random_net(tmp_path)
    for name in ("\x1b[2J\nlayer", "long" * 1000):
        drawing.layers.append(caffe_nets.Layer(name, "Convolution", (), name))
        weights[name] = (ONES,)
    told = refusal(loaded)
    assert r"'\x1b[2J\nlayer'" in told and told.isprintable() and len(told) < 400


def test_nets_are_not_taken_for_each_other(tmp_path):
    for given, asked in (
        ("voc-fcn8s", "voc-fcn16s"),
        ("voc-fcn8s", "voc-fcn8s-atonce"),
        ("voc-fcn8s-atonce", "voc-fcn8s"),
        ("voc-fcn32s", "pascalcontext-fcn32s"),
        ("voc-fcn32s", "siftflow-fcn32s"),
        ("nyud-fcn32s-color", "nyud-fcn32s-color-d"),
        ("nyud-fcn32s-color", "nyud-fcn32s-color-hha"),
    ):
        drawing = drawn(given)
        path = written(tmp_path, drawing, caffe_nets.random_weights(drawing.layers, 0))
        assert f"not {asked}" in refusal(lambda n, p: load(narrow(n), p, model=n), asked, path)


@pytest.mark.parametrize(
    ("factors", "reason"),
    [
        (np.full(6, 0.0101), "scale_pool4 is 0.0101 to 0.0101, the net's 0.01 throughout"),
        (np.array([0.01] * 5 + [0.02]), "0.01 to 0.02"),
        (np.array([0.01] * 5 + [np.nan]), "scale_pool4 is nan"),
        (np.full(5, 0.01), "scale_pool4 is not 6 factors"),
    ],
)
def test_scales_must_be_the_nets(tmp_path, factors, reason):
    _, weights, loaded = random_net(tmp_path, "voc-fcn8s-atonce")
    loaded()
    weights["scale_pool4"] = (np.full(6, 0.01 * (1 + 1e-7), np.float32),)  # another rounding
    loaded()
    weights["scale_pool4"] = (factors.astype(np.float32),)
    assert reason in refusal(loaded)


def test_scales_must_be_there(tmp_path):
    _, weights, loaded = random_net(tmp_path, "voc-fcn8s-atonce")
    del weights["scale_pool3"]
    assert "it lacks scale_pool3" in refusal(loaded)
