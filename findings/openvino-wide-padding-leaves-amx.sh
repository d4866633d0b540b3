#!/usr/bin/env bash
# OpenVINO 2026.4.1 leaves a processor's matrix tiles (AMX) idle where padding is as wide as windows.
#
# A convolution of 3 x 3 in bfloat16 runs on AMX if it pads by 2 pixels, and on plain AVX-512 if it
# pads by 3, in two to five times as long: oneDNN's kernel takes no window that lies in padding
# alone. A Pad of zeros before the convolution changes nothing, since OpenVINO makes it the
# convolution's own padding; a Pad of 1e-30, which changes no sum, stays and leaves AMX in use.
#
# Exits with 0 while that is so, with 1 when it isn't, and with 77 on a processor without AMX.
set -euo pipefail
grep -qs amx_bf16 /proc/cpuinfo || { echo "this processor has no AMX"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import openvino
from openvino import opset1


def kernel(own, apart, value=0.0):
    """Return what OpenVINO runs a convolution by that pads by `own`, after `apart` of a value."""
    weights = np.random.default_rng(0).normal(size=(64, 64, 3, 3)).astype(np.float32)
    features = image = opset1.parameter([1, 64, 128, 128], np.float32)
    features = opset1.relu(features)
    if apart:
        margins = [0, 0, apart, apart]
        features = opset1.pad(features, margins, margins, "constant", np.float32(value))
    made = opset1.convolution(features, weights, [1, 1], [own, own], [own, own], [1, 1])
    made.set_friendly_name("convolution")
    graph = openvino.Model([opset1.relu(made).output(0)], [image], "padded")
    run = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    layers = [op.get_rt_info() for op in run.get_runtime_model().get_ops()]
    (found,) = [info for info in layers if info["layerType"].value == "Convolution"]
    return found["primitiveType"].value


found = {
    "2 of its own": kernel(2, 0),
    "3 of its own": kernel(3, 0),
    "2 of its own and 1 of zeros": kernel(2, 1),
    "2 of its own and 1 of 1e-30": kernel(2, 1, 1e-30),
}
for padding, name in found.items():
    print(f"padding by {padding}: {name}")
sys.exit(0 if ["amx" in name for name in found.values()] == [True, False, False, True] else 1)
PYTHON
