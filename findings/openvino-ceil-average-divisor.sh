#!/usr/bin/env bash
# OpenVINO 2026.4.1 counts padding that there is not in averages that round up as torch's do.
#
# An nn.AvgPool2d with ceil_mode, padding and count_include_pad (the default) divides a window by the
# pixels and the padding under it, torch's documentation says; what reaches beyond both counts for
# nothing. OpenVINO's converter makes of it an AvgPool with rounding "ceil_torch", which divides by
# the whole window there: the last row and column are too small, and no error is raised.
#
# Seen, of 6 x 6 ones, a window of 3, steps of 2 and a padding of 1: the last row is 1/3, 1/2, 1/2,
# 1/4 in torch 2.15.0, and 2/9, 1/3, 1/3, 1/9 in OpenVINO. With count_include_pad=False both are 1.
#
# Exits with 0 while that is so, and with 1 when it isn't.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    openvino==2026.4.1 torch==2.15.0 numpy==2.4.6
cd "$folder"
cat > averages.py <<'PYTHON'
import sys

import numpy as np
import openvino
import torch

ones = torch.ones(1, 1, 6, 6)
last = {}
for counted in (True, False):
    pool = torch.nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=counted)
    graph = openvino.convert_model(pool, example_input=ones)
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    run = openvino.Core().compile_model(graph, "CPU", hint)
    last[counted] = pool(ones)[0, 0, -1].numpy(), run(ones.numpy())[0][0, 0, -1]
    print(f"count_include_pad={counted}: torch {last[counted][0]}, OpenVINO {last[counted][1]}")
expected = [1 / 3, 1 / 2, 1 / 2, 1 / 4], [2 / 9, 1 / 3, 1 / 3, 1 / 9]
same = np.allclose(last[True], expected) and np.allclose(last[False], 1)
sys.exit(0 if same else 1)
PYTHON
venv/bin/python averages.py
