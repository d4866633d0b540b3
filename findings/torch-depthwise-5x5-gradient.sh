#!/usr/bin/env bash
# Torch 2.15.0 (oneDNN) has no depthwise kernel for the weight gradient of 5 x 5 depthwise convolutions.
#
# Of depthwise convolutions of 3 x 3, all of the backward pass runs on oneDNN's depthwise kernels
# (jit_dw). Of 5 x 5 and 7 x 7 the gradient to the weight runs on those for plain convolutions, a
# group at a time, in bfloat16 about five times as long as in float32: so nets with such layers
# (EfficientNet, MobileNetV3, ConvNeXt) may take longer to train under bfloat16 autocast than without.
#
# Exits with 0 while that is so, with 1 when it isn't, and with 77 on a processor without bfloat16.
set -euo pipefail
grep -qs avx512_bf16 /proc/cpuinfo || { echo "this processor has no bfloat16"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$folder"
cat > layer.py <<'PYTHON'
import sys
import time

import torch

kernel, kind = int(sys.argv[1]), getattr(torch, sys.argv[2])
layer = torch.nn.Conv2d(480, 480, kernel, padding=kernel // 2, groups=480, bias=False).to(kind)
features = torch.randn(4, 480, 22, 30).to(kind).contiguous(memory_format=torch.channels_last)
for _ in range(3):
    convolved = layer(features)  # no gradient to the features is asked for
    begun = time.perf_counter()
    convolved.sum().backward()
    spent = time.perf_counter() - begun
print(f"spent {spent * 1e3:.1f} ms")
PYTHON
found=""
for kernel in 3 5 7; do
    for kind in float32 bfloat16; do
        told=$(ONEDNN_VERBOSE=1 venv/bin/python layer.py "$kernel" "$kind")
        ran=$(grep -m1 "backward_weights" <<< "$told" | grep -oE "(jit|brgconv|ref|simple)[a-z0-9_]*:" | head -1)
        echo "$kernel x $kernel, $kind: ${ran%:}, $(grep spent <<< "$told")"
        found+="$kernel=${ran%:} "
    done
done
[[ $found == "3=jit_dw 3=jit_dw 5=jit 5=jit_bf16 7=jit 7=jit_bf16 " ]]
