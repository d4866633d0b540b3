#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.2.6: `safetensors.numpy.save_file` stores a transposed array's memory
# as it lies, under the shape that the array has. It comes back with other values at their places,
# without an error or a warning. The same array made contiguous comes back as it was.
#
# Seen: [[0, 3], [1, 4], [2, 5]] comes back as [[0, 1], [2, 3], [4, 5]].
# Exits with 0 while that is so, and with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
"$work/venv/bin/python" - "$work/weights.safetensors" <<'PYTHON'
import sys

import numpy
from safetensors.numpy import load_file, save_file

path = sys.argv[1]
kernel = numpy.arange(6, dtype=numpy.float32).reshape(2, 3).T
save_file({"as it lies": kernel, "contiguous": numpy.ascontiguousarray(kernel)}, path)
stored = load_file(path)
print("saved:     ", kernel.tolist())
print("came back: ", stored["as it lies"].tolist())
print("contiguous:", stored["contiguous"].tolist())
right = numpy.array_equal(stored["contiguous"], kernel)
wrong = not numpy.array_equal(stored["as it lies"], kernel)
sys.exit(0 if right and wrong else 1)
PYTHON
