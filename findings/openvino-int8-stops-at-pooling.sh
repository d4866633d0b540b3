#!/usr/bin/env bash
# OpenVINO 2026.4.1 computes a convolution in float32, though int8 was asked, after a pooling.
#
# convert_model makes of torch's max_pool2d with ceil_mode a MaxPool whose rounding is "ceil_torch".
# NNCF 3.4.0 quantises the convolutions on both sides of it, but OpenVINO's int8 doesn't pass such
# a pooling: the convolution after it runs in float32, and no message says so. With opset 1's "ceil",
# which gives the same maxima where there is no padding, it runs in int8. A VGG16 with five such
# poolings took 900 ms an image, and 110 to 140 ms with those replaced, on two cores of an Intel Xeon.
#
# Exits with 0 while that is so, and with 1 when the convolution after "ceil_torch" runs in int8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  openvino==2026.4.1 nncf==3.4.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import sys

import nncf
import numpy as np
import openvino
from openvino import opset1, opset14


def graph(pooling):
    random = np.random.default_rng(0)
    image = opset1.parameter([1, 3, 64, 64], np.float32, name="image")
    features = image
    for place, channels in enumerate((3, 16)):
        weights = random.normal(size=(16, channels, 3, 3)).astype(np.float32)
        features = opset1.convolution(features, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        features.set_friendly_name(f"convolution {place + 1}")
        features = opset1.relu(features)
        if place == 0:
            features = pooling(features)
    return openvino.Model([features.output(0)], [image], "two convolutions")


def plain(features):
    return opset1.max_pool(features, [2, 2], [0, 0], [0, 0], [2, 2], "ceil")


def as_torch(features):
    pool = opset14.max_pool(features, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2], "ceil_torch")
    return pool.output(0)


random = np.random.default_rng(1)
images = [{"image": random.normal(size=(1, 3, 64, 64)).astype(np.float32)} for _ in range(4)]
found = {}
for name, pooling in (("ceil", plain), ("ceil_torch", as_torch)):
    quantised = nncf.quantize(graph(pooling), nncf.Dataset(images), subset_size=4)
    run = openvino.Core().compile_model(quantised, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = run.get_runtime_model().get_ops()
    found[name] = {
        layer.get_friendly_name(): layer.get_rt_info()["runtimePrecision"].value
        for layer in layers
        if layer.get_friendly_name().startswith("convolution") and "_" not in layer.get_friendly_name()
    }
    print(f"after a pooling that rounds by {name}:", found[name])
after = {name: types["convolution 2"] for name, types in found.items()}
sys.exit(0 if after["ceil"] != "f32" and after["ceil_torch"] == "f32" else 1)
PYTHON
