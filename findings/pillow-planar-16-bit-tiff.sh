#!/usr/bin/env bash
# Pillow 13.0.0 reads a 16-bit RGB TIFF whose bands are stored one after the other as noise.
#
# The file is valid: three uint16 bands, PlanarConfiguration 2, uncompressed, as GDAL writes it with
# INTERLEAVE=BAND. tifffile and GDAL read the values that were written; Pillow raises no error and
# gives other pixels, wrong by up to 200 of 255 (it keeps the high byte of values, as a rule).
#
# Exits with 0 while that is so, and with 1 when Pillow reads the file rightly or refuses it.
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

values = np.random.default_rng(0).integers(0, 65536, (3, 40, 60), dtype=np.uint16)
tifffile.imwrite("a.tif", values, photometric="rgb", planarconfig="separate")
assert np.array_equal(tifffile.imread("a.tif"), values)
expected = (values >> 8).astype(np.uint8).transpose(1, 2, 0)
pixels = np.asarray(Image.open("a.tif"))
worst = int(np.abs(pixels.astype(int) - expected).max())
print(f"Pillow {PIL.__version__}: mode RGB, {np.mean(pixels != expected):.0%} of values wrong, by up to {worst}")
sys.exit(0 if worst > 100 else 1)
PYTHON
