#!/usr/bin/env bash
# Torch 2.15.0 on a CPU adds up in bfloat16 what gradients many results pass to one value: 1000 ones make 256.
#
# A bfloat16 has 8 significant bits: 256 + 1 is 256 again. Where many results come from one value (a
# maximum that many windows of a pooling share, a pixel sampled again and again, a border that padding
# repeats, a row looked up many times), its gradient is the sum of theirs. max_pool2d, grid_sample,
# pad(mode="replicate"), index_select and embedding keep that sum in bfloat16, where it stops growing,
# without a warning. interpolate and gather add up in more precision and round once.
#
# Autocast runs grid_sample and replicate in float32; poolings run in what convolutions gave: bfloat16.
# Each sum below is of ones, grid_sample's of a thousand quarters: float32 tells what is right.
#
# Exits with 0 while that is so, with 1 when it isn't.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$folder"
cat > sums.py <<'PYTHON'
import torch
from torch.nn import functional as F

times = torch.zeros(1000, dtype=torch.long)
centre = torch.zeros(1, 250, 4, 2)  # where four pixels meet: each has a quarter of every sample
layers = {
    "max_pool2d": lambda x: F.max_pool2d(x, 17, 1, 8),
    "grid_sample": lambda x: F.grid_sample(x, centre.to(x), align_corners=False),
    "pad replicate": lambda x: F.pad(x, (0, 999, 0, 0), mode="replicate"),
    "index_select": lambda x: x.flatten().index_select(0, times),
    "embedding": lambda x: F.embedding(times, x.reshape(-1, 1)),
    "gather": lambda x: x.flatten().gather(0, times),
    "interpolate": lambda x: F.interpolate(x, scale_factor=32, mode="bilinear"),
}


def largest(layer, kind):
    features = torch.zeros(1, 1, 32, 32, dtype=kind)
    features[0, 0, 16, 16] = 1
    features.requires_grad_()
    layer(features).sum().backward()
    return f"{features.grad.max().item():g}"


for name, layer in layers.items():
    found = [largest(layer, kind) for kind in (torch.float32, torch.bfloat16)]
    print(f"{name}: float32 {found[0]}, bfloat16 {found[1]}")
PYTHON
venv/bin/python sums.py | tee found
diff found - <<'TEXT'
max_pool2d: float32 289, bfloat16 256
grid_sample: float32 250, bfloat16 64
pad replicate: float32 1000, bfloat16 256
index_select: float32 1000, bfloat16 256
embedding: float32 1000, bfloat16 256
gather: float32 1000, bfloat16 1000
interpolate: float32 1024, bfloat16 1024
TEXT
