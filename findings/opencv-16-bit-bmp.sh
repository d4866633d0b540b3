#!/usr/bin/env bash
# OpenCV 4.14.0 reads the white of a 16-bit BMP as 248, not as 255.
#
# The file is valid: 5 bits each of red, green and blue, uncompressed. The greatest value of 5 bits,
# 31, is full intensity. OpenCV shifts it by 3 bits and leaves the lower ones 0, so that no colour
# is brighter than 248; Pillow scales it to 255.
#
# Exits with 0 while that is so, and with 1 when OpenCV reads white as white.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    opencv-python-headless==4.14.0.94 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import struct
import sys

import cv2
import numpy as np
from PIL import Image

white = np.full((4, 4), 0x7FFF, "<u2")
header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 0, 0, 0, 0, 0, 0)
with open("a.bmp", "wb") as file:
    file.write(struct.pack("<2sIHHI", b"BM", 54 + white.nbytes, 0, 0, 54) + header)
    file.write(white.tobytes())
opencv, pillow = cv2.imread("a.bmp"), np.asarray(Image.open("a.bmp"))
print(f"OpenCV {cv2.__version__}: white is read as {opencv[0, 0].tolist()}; Pillow: {pillow[0, 0].tolist()}")
assert (pillow == 255).all()
sys.exit(0 if (opencv == 248).all() else 1)
PYTHON
