#!/usr/bin/env bash
# rasterio 1.4.4: Env(GDAL_CACHEMAX=64) is a cache of 64 bytes, where GDAL_CACHEMAX=64 in the
# environment is one of 64 MB.
#
# GDAL takes values below 100,000 for megabytes, and its documents, whose name for the option this
# is, say so. rasterio hands the number of `Env` to GDAL as bytes instead, without a word. Nothing
# fails: every block is decoded anew each time that a window needs it.
#
# Exits with 0 while that is so, and with 1 when both mean the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$folder"
cat > read.py <<'PYTHON'
import os
import sys

import rasterio
from rasterio._env import get_gdal_config

options = {"GDAL_CACHEMAX": 64} if sys.argv[1] == "Env" else {}
with rasterio.Env(**options):
    print(get_gdal_config("GDAL_CACHEMAX"))
PYTHON
by_environment=$(GDAL_CACHEMAX=64 "$folder/venv/bin/python" read.py environment)
by_env=$("$folder/venv/bin/python" read.py Env)
echo "GDAL_CACHEMAX=64 in the environment: $by_environment bytes; rasterio.Env(GDAL_CACHEMAX=64): $by_env bytes"
test "$by_environment" = 67108864 && test "$by_env" = 64
