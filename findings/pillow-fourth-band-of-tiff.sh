#!/usr/bin/env bash
# Pillow 13.0.0 drops the fourth band of a TIFF of red, green, blue and near infrared, silently.
#
# The file is valid: four uint8 bands, PhotometricInterpretation 2 (RGB), ExtraSamples 0
# (unspecified). tifffile reads four bands; Pillow gives mode "RGB" and tells of no other band.
#
# Exits with 0 while that is so, and with 1 when Pillow keeps the band, warns, or refuses the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import PIL
import tifffile
from PIL import Image

values = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
tifffile.imwrite("a.tif", values, photometric="rgb", extrasamples=["unspecified"])
assert np.array_equal(tifffile.imread("a.tif"), values)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    image = Image.open("a.tif")
    image.load()
print(f"Pillow {PIL.__version__}: {values.shape[2]} bands are read as mode {image.mode}")
sys.exit(0 if image.mode == "RGB" else 1)
PYTHON
