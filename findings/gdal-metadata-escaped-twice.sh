#!/usr/bin/env bash
# GDAL, as rasterio 1.4.4's wheel has it, escapes twice what it writes into a TIFF's metadata.
#
# A band that is called "blue & green" is "blue &amp;amp; green" in tag 42112, which is XML: whoever
# parses it (tifffile 2026.3.3 gives the tag as it is) finds "blue &amp; green". GDAL itself unescapes
# twice and finds the name. So it is of every other item, too.
#
# Exits with 0 while that is so, and with 1 when the parsed name is the one that was written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    rasterio==1.4.4 tifffile==2026.3.3 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from xml.etree import ElementTree

import numpy as np
import rasterio
from tifffile import TiffFile

warnings.simplefilter("ignore")
name = "blue & green"
about = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "dtype": "uint8"}
with rasterio.open("a.tif", "w", **about) as file:
    file.write(np.zeros((1, 4, 4), np.uint8))
    file.update_tags(remark=name)
    file.set_band_description(1, name)
with TiffFile("a.tif") as file:
    items = ElementTree.fromstring(file.pages[0].tags[42112].value).iter("Item")
    parsed = {item.get("name"): item.text for item in items}
with rasterio.open("a.tif") as file:
    own = file.descriptions[0]
print(f"GDAL {rasterio.__gdal_version__} reads {own!r}; parsed are {parsed}")
as_seen = own == name and set(parsed.values()) == {"blue &amp; green"}
sys.exit(0 if as_seen else 1)
PYTHON
