#!/usr/bin/env bash
# tifffile 2026.3.3 can't write LERC into a big-endian TIFF: "data type not supported by LERC".
#
# imwrite(..., byteorder=">", compression="lerc") raises a ValueError for every type of more than a
# byte, while byteorder="<" works. LERC's blobs have a byte order of their own, and GDAL writes such
# files with ENDIANNESS=BIG, which tifffile reads.
#
# Exits with 0 while that is so, and with 1 when the file is written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import tifffile

values = np.random.default_rng(0).integers(0, 65536, (40, 60), dtype=np.uint16)
tifffile.imwrite("little.tif", values, byteorder="<", compression="lerc")
assert np.array_equal(tifffile.imread("little.tif"), values)
try:
    tifffile.imwrite("big.tif", values, byteorder=">", compression="lerc")
except ValueError as error:
    print(f"tifffile {tifffile.__version__}: byteorder '>' with LERC: {error}")
    sys.exit(0 if "not supported by LERC" in str(error) else 1)
sys.exit(1)
PYTHON
