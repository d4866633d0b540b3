#!/usr/bin/env bash
# NNCF 3.4.0 can't correct the biases of an ONNX graph in which two convolutions read one activation.
#
# quantize(..., fast_bias_correction=False) raises "Duplicate definition-site" from ONNX Runtime: the
# part of the graph that it cuts out to run has the activation's output twice. SqueezeNet's fire
# modules are such. With fast_bias_correction=True, or by OpenVINO's graph of the net, it works.
#
# Exits with 0 while that is so, and with 1 when the graph is quantised.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  nncf==3.4.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import sys

import nncf
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
tensors = []


def convolution(name, source, channels, side):
    weights = random.normal(size=(8, channels, side, side)).astype(np.float32)
    tensors.append(numpy_helper.from_array(weights, f"{name}.weight"))
    tensors.append(numpy_helper.from_array(random.normal(size=8).astype(np.float32), f"{name}.bias"))
    inputs, margins = [source, f"{name}.weight", f"{name}.bias"], [side // 2] * 4
    return [
        helper.make_node("Conv", inputs, [f"{name}.conv"], f"{name}.conv", pads=margins),
        helper.make_node("Relu", [f"{name}.conv"], [name], name),
    ]


nodes = [
    *convolution("stem", "image", 3, 3),
    *convolution("squeeze", "stem", 8, 1),
    *convolution("one", "squeeze", 8, 1),
    *convolution("three", "squeeze", 8, 3),
    helper.make_node("Concat", ["one", "three"], ["joined"], "joined", axis=1),
]
nodes += convolution("last", "joined", 16, 1)
ends = [
    helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 32])
    for name, channels in (("image", 3), ("last", 8))
]
graph = helper.make_graph(nodes, "fire", ends[:1], ends[1:], tensors)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
images = [{"image": random.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(4)]
found = {}
for fast in (True, False):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        made = nncf.quantize(copy, nncf.Dataset(images), subset_size=4, fast_bias_correction=fast)
        onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        found[fast] = "quantised"
    except Exception as error:
        found[fast] = str(error).strip().splitlines()[-1]
    print(f"fast_bias_correction={fast}:", found[fast])
sys.exit(0 if found[True] == "quantised" and "Duplicate definition" in found[False] else 1)
PYTHON
