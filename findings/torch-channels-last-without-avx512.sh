#!/usr/bin/env bash
# Torch 2.15.0 trains dense convolutions slower in channels_last on processors without AVX-512.
#
# There oneDNN 3.13 has kernels of its own (brg_conv) for the result and for the gradient to the
# features where the channels are innermost, but finds the gradient to the weight by its older one
# (jit), which then strides over the channels: of 3 x 3 with 64 channels and 500 x 500 pixels in two
# to six times as long as of features in torch's default layout, which are laid out anew for it. So
# the layout that is recommended for CPUs makes a VGG16's step a half longer. ONEDNN_MAX_CPU_ISA
# makes other processors do as these do.
#
# Seen on an AMD EPYC without AVX-512: 478 ms for the backward pass in the default layout, 1,667 ms
# in channels_last.
#
# Exits with 0 while that is so, with 1 when it isn't, and with 77 on a processor without AVX2.
set -euo pipefail
grep -qsw avx2 /proc/cpuinfo || { echo "this processor has no AVX2"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$folder"
cat > layer.py <<'PYTHON'
import time
from statistics import median

import torch

layouts = {"default": torch.contiguous_format, "channels_last": torch.channels_last}
spent = {name: [] for name in layouts}
for _ in range(4):
    for name, layout in layouts.items():
        layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(memory_format=layout)
        features = torch.randn(1, 64, 500, 500).contiguous(memory_format=layout)
        convolved = layer(features)  # no gradient to the features is asked for
        gradient = torch.randn_like(convolved)
        print(f"layout {name}", flush=True)
        begun = time.perf_counter()
        convolved.backward(gradient)
        spent[name].append(time.perf_counter() - begun)
default, last = (median(times[1:]) for times in spent.values())
print(f"spent {default * 1e3:.0f} ms in the default layout, {last * 1e3:.0f} ms in channels_last")
print("slower" if last > 1.5 * default else "as fast")
PYTHON
told=$(ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_VERBOSE=1 venv/bin/python layer.py)
of() { grep ",$1," <<< "$told" | grep -oE "(jit|brg_?conv)[a-z0-9_]*:avx2" | sort | uniq -c; }
echo "results by"; of forward_training
echo "gradients to the weight by"; of backward_weights
grep spent <<< "$told"
[[ $(of forward_training) == *brg_conv_fwd:avx2* && $(of backward_weights) != *brg* ]]
grep -qx slower <<< "$told"
