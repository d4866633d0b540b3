#!/usr/bin/env bash
# Pillow 13.0.0 reads a TIFF of signed bytes as unsigned: -1 becomes 255.
#
# The file is valid: one band of 8 bits, SampleFormat 2 (signed), uncompressed. tifffile reads the
# values that were written; Pillow raises no error, gives mode "L", and -128..-1 as 128..255.
#
# Exits with 0 while that is so, and with 1 when Pillow reads the file otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

values = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
tifffile.imwrite("a.tif", values)
assert np.array_equal(tifffile.imread("a.tif"), values)
image = Image.open("a.tif")
pixels = np.asarray(image)
print(f"Pillow {PIL.__version__}: mode {image.mode}, {values[0, 0]} is read as {pixels[0, 0]}")
sys.exit(0 if image.mode == "L" and np.array_equal(pixels, values.view(np.uint8)) else 1)
PYTHON
