"""The examples that use exports with nothing of fullconv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exports import exported, photo, scored_net
from PIL import Image

from fullconv.predict.engines import is_installed

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "python"),
    [
        pytest.param(
            "onnxruntime",
            "onnx",
            sys.executable,
            marks=pytest.mark.skipif(not is_installed("onnxruntime"), reason="needs onnxruntime"),
        ),
        pytest.param(
            "openvino",
            "openvino",
            sys.executable,
            marks=pytest.mark.skipif(not is_installed("openvino"), reason="needs openvino"),
        ),
        pytest.param(
            "opencv",
            "onnx",
            os.environ.get("FULLCONV_OPENCV5", ""),
            marks=pytest.mark.skipif(
                "FULLCONV_OPENCV5" not in os.environ,
                reason="FULLCONV_OPENCV5 names no Python that has OpenCV 5 (ours has 4)",
            ),
        ),
    ],
)
def test_an_example_labels_a_photo_as_the_net_does(name, form, python, tmp_path):
    script = EXAMPLES / f"label_{name}.py"
    assert "fullconv." not in script.read_text() and len(script.read_text().splitlines()) <= 26
    net = scored_net()
    model = exported(net, tmp_path, form).path
    Image.fromarray(photo((97, 131))).save(tmp_path / "photo.png")
    words = [python, script, model, tmp_path / "photo.png", tmp_path / "out.png"]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as labelled:
        labels = np.asarray(labelled)
    assert (labels == net.predict(tmp_path / "photo.png")).mean() >= 0.9999
    assert "class 1: " in done.stdout and "%" in done.stdout
