#!/usr/bin/env bash
# GDAL, as rasterio 1.4.4's wheel has it, reads other colours of a JPEG than Pillow and OpenCV do.
#
# The file is an ordinary baseline JPEG, its chroma subsampled 4:2:0. Pillow 13.0.0 and OpenCV
# 4.14.0 agree (both interpolate chroma); GDAL differs by several levels at the edges of colours.
# Without subsampling it differs by hardly anything. A net that is trained on photographs read by
# the one, and applied to the same files through the other, sees other pixels.
#
# Exits with 0 while that is so, and with 1 when GDAL agrees with the others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    rasterio==1.4.4 pillow==13.0.0 opencv-python-headless==4.14.0.94 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import cv2
import numpy as np
import rasterio
from PIL import Image

warnings.simplefilter("ignore")
rows, columns = np.mgrid[:64, :64]
disc = (rows - 32) ** 2 + (columns - 32) ** 2 < 400
pixels = np.where(disc[..., None], (200, 60, 60), (60, 120, 200)).astype(np.uint8)
apart = {}
for name, sampling in (("4:2:0", 2), ("4:4:4", 0)):
    Image.fromarray(pixels).save("a.jpg", quality=95, subsampling=sampling)
    pillow = np.asarray(Image.open("a.jpg")).astype(int)
    opencv = cv2.cvtColor(cv2.imread("a.jpg"), cv2.COLOR_BGR2RGB).astype(int)
    with rasterio.open("a.jpg") as file:
        gdal = file.read().transpose(1, 2, 0).astype(int)
    apart[name] = abs(gdal - pillow).max()
    print(f"{name}: Pillow and OpenCV differ by {abs(opencv - pillow).max()} at most, "
          f"GDAL {rasterio.__gdal_version__} and Pillow by {apart[name]}")
sys.exit(0 if apart["4:2:0"] > 8 and apart["4:4:4"] <= 4 else 1)
PYTHON
