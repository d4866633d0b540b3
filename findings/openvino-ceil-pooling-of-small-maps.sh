#!/usr/bin/env bash
# OpenVINO 2026.4.1 refuses to pool a map of 2 x 2 by a window of 3 x 3, rounding up as torch does.
#
# MaxPool's rounding "ceil_torch" stands for torch's ceil_mode, where the last window may reach
# beyond the map: torch 2.15.0 gives 1 x 1, the maximum of all four. OpenVINO asks that the window
# be no larger than the map, and raises an error: of fixed sizes when the graph is built, of
# dynamic ones only when such a map comes. A SqueezeNet meets it at small photographs.
#
# Exits with 0 while that is so, and with 1 when OpenVINO pools the map.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import openvino
from openvino import opset14 as op

image = op.parameter([1, 1, -1, -1], np.float32)
pooled = op.max_pool(
    image, strides=[2, 2], dilations=[1, 1], pads_begin=[0, 0], pads_end=[0, 0],
    kernel_shape=[3, 3], rounding_type="ceil_torch",
)
pool = openvino.Core().compile_model(openvino.Model([pooled.output(0)], [image], "pool"), "CPU")
for side in (4, 3):
    print(f"{side} x {side} becomes {pool(np.ones((1, 1, side, side), np.float32))[0].shape[2:]}")
try:
    shape = pool(np.ones((1, 1, 2, 2), np.float32))[0].shape
except RuntimeError as error:
    reason = [line.strip() for line in str(error).splitlines() if "Kernel" in line]
    print("2 x 2 is refused:", *reason[:1])
    sys.exit(0 if reason else 1)
print("2 x 2 becomes", shape[2:])
sys.exit(1)
PYTHON
