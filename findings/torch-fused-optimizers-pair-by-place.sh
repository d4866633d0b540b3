#!/usr/bin/env bash
# Torch 2.15.0's fused optimizers on CPUs go silently wrong where moments lie otherwise than weights.
#
# AdamW, Adam and SGD with momentum, with fused=True, walk through weights and moments by their places
# in memory. Where a weight is in channels_last and its moments are in the default layout, as after a
# load_state_dict of a training that went without channels_last, or after a net's
# .to(memory_format=torch.channels_last) in mid-training, each value is changed by another's moments,
# without a word; the same step with foreach=True, or with neither, is right.
#
# Seen, as the largest difference of a weight of about 1 after one such step of 0.1 (to be 0):
# AdamW 0.16, Adam 0.16, SGD 0.47. On CUDA such a step is refused instead (pytorch issue 106951).
#
# Exits with 0 while that is so, and with 1 when it isn't.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$folder"
cat > steps.py <<'PYTHON'
import sys
from functools import partial

import torch

KINDS = {
    "AdamW": partial(torch.optim.AdamW, lr=0.1),
    "Adam": partial(torch.optim.Adam, lr=0.1),
    "SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
}


def two_steps(kind, second, **how):
    """Return a weight after two steps, the second of which it makes in another layout."""
    drawn = torch.Generator().manual_seed(0)
    weight, *gradients = (torch.randn(4, 3, 5, 5, generator=drawn) for _ in range(3))
    first = torch.nn.Parameter(weight)
    optimizer = KINDS[kind]([first], **how)
    first.grad = gradients[0]
    optimizer.step()
    again = torch.nn.Parameter(first.detach().clone().contiguous(memory_format=second))
    resumed = KINDS[kind]([again], **how)
    resumed.load_state_dict(optimizer.state_dict())
    again.grad = gradients[1].contiguous(memory_format=second)
    resumed.step()
    return again.detach().contiguous()


wrong = {}
for kind in KINDS:
    for how in ({"fused": True}, {"foreach": True}, {"foreach": False}):
        same, other = (
            two_steps(kind, layout, **how)
            for layout in (torch.contiguous_format, torch.channels_last)
        )
        off = float((same - other).abs().max())
        wrong[kind, *how.items()] = off > 1e-5
        print(f"{kind}, {how}: {off:.2g}")
expected = [True, False, False] * len(KINDS)
sys.exit(0 if list(wrong.values()) == expected else 1)
PYTHON
venv/bin/python steps.py
