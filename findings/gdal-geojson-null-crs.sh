#!/usr/bin/env bash
# GDAL, as pyogrio 0.13.0's wheel has it, takes a GeoJSON that says "crs": null for degrees.
#
# The GeoJSON of 2008 has a way to say that coordinates lie nowhere known: "If the value of CRS is
# null, no CRS can be assumed". RFC 7946 of 2016 removed the member, and GDAL reads every file
# without one as WGS84, also one with null: outlines in pixels lie in the Gulf of Guinea, and beyond
# the poles. A GeoPackage that says nothing of its system is read as one without.
#
# Exits with 0 while that is so, and with 1 when null means unknown.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pyogrio==0.13.0 shapely==2.1.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys
import warnings

import numpy as np
import pyogrio
import shapely

warnings.simplefilter("ignore")
point = {"type": "Point", "coordinates": [1200, 800]}
feature = {"type": "Feature", "properties": {}, "geometry": point}
with open("a.geojson", "w") as file:
    json.dump({"type": "FeatureCollection", "crs": None, "features": [feature]}, file)
outlines = np.array([shapely.Point(1200, 800).wkb], dtype=object)
pyogrio.raw.write("a.gpkg", outlines, [], [], geometry_type="Point", crs=None)
found = {name: pyogrio.read_info(name)["crs"] for name in ("a.geojson", "a.gpkg")}
print(f"GDAL {'.'.join(map(str, pyogrio.__gdal_version__))}: {found}")
sys.exit(0 if found["a.geojson"] == "EPSG:4326" and found["a.gpkg"] != "EPSG:4326" else 1)
PYTHON
