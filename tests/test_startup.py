"""What commands import before they work: each only what it needs, so that they start at once."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fullconv.cli import VERBS
from fullconv.export.run import ExportSettings, export
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings

# What takes long to import and labelling has no need of; the last ones are torch's own compilers.
HEAVY = "torchvision timm matplotlib tensorboard huggingface_hub scipy.ndimage sympy torch._dynamo"
COMMAND = """
import sys
from fullconv.cli import main
try:
    main()
finally:
    print("imported:", *sys.modules)
"""


def imported(*words, program=COMMAND, **variables):
    """Return the names of all modules that a command of its own process imports."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTORCH_ENABLE_MPS_FALLBACK": "1",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.partition("imported: ")[2].split())


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.jpg")
    return tmp_path / "photograph.jpg"


@pytest.mark.slow
def test_predict_imports_no_torchvision(random_model, photograph, tmp_path):
    words = ["predict", random_model, photograph, "--out", tmp_path / "out"]
    modules = imported(*words, "--memory", "4GB")  # for which no graph is kept
    assert (tmp_path / "out" / "photograph.png").exists()
    assert "torch" in modules
    assert not modules & set(HEAVY.split())
    verbs = {f"fullconv.cli.{verb}" for verb in VERBS}
    assert modules & verbs == {"fullconv.cli.predict"}


@pytest.mark.slow
def test_nets_of_several_heads_and_inputs_need_no_torchvision_either(
    two_headed_model, photograph, tmp_path
):
    (tmp_path / "depth").mkdir()
    Image.fromarray(np.full((40, 50), 1000, np.uint16)).save(tmp_path / "depth" / "photograph.png")
    words = [two_headed_model, photograph, "--input", f"depth={tmp_path / 'depth'}"]
    out = ["--out", tmp_path / "out", "--engine", "torch", "--precision", "fp32"]
    assert not imported("predict", *words, *out) & set(HEAVY.split())


@pytest.mark.parametrize("verb", ["", "predict", "train", "data"])
def test_help_imports_next_to_nothing(verb):
    modules = imported(*verb.split(), "--help")
    assert not modules & {"torch", "numpy", "PIL", "yaml", "numba", "rich", *HEAVY.split()}


def test_the_package_imports_no_torch():
    program = 'import sys, fullconv; fullconv.FullconvError; print("imported:", *sys.modules)'
    assert not imported(program=program) & {"torch", "numpy", "pydantic"}


def test_help_comes_at_once():
    """By what it imports, which any machine does at the same cost: Python's own, typer, little."""
    bare = imported(program='import sys, typer; print("imported:", *sys.modules)')
    further = imported("--help") - bare
    assert {name for name in further if name.startswith("fullconv.")}
    assert len({name.partition(".")[0] for name in further}) < 60


@pytest.mark.slow
@pytest.mark.parametrize(("form", "file"), [("onnx", "net.onnx"), ("openvino", "net.xml")])
def test_an_export_labels_without_torch(random_model, photograph, tmp_path, form, file):
    """Nor what else only nets need: numba, and the films', rasters' and polygons' libraries."""
    export(ExportSettings(random_model, form, tmp_path / file))
    out = tmp_path / "out"
    modules = imported("predict", tmp_path / file, photograph, "--out", out)
    assert (out / "photograph.png").exists() and (out / "overlay" / "photograph.jpg").exists()
    unneeded = {"torch", "numba", "safetensors", "av", "rasterio", "shapely", "nncf", "onnx"}
    assert not modules & {*unneeded, *HEAVY.split()}


@pytest.mark.slow
def test_a_model_whose_graph_is_kept_labels_without_torch(
    random_model, photograph, tmp_path, monkeypatch
):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    settings = PredictSettings(random_model, (str(photograph),), tmp_path / "net", cold=True)
    assert run(settings).config.engine == "torch"
    words = ["predict", random_model, photograph, "--out", tmp_path / "out"]
    modules = imported(*words, FULLCONV_CACHE=str(tmp_path / "cache"))
    assert not modules & {"torch", "numba", "safetensors", "onnx", *HEAVY.split()}
    for name in ("photograph.png", "unsure.csv", "overlay/photograph.jpg"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "net" / name).read_bytes()


@pytest.mark.slow
def test_predict_imports_little_beyond_torch(random_model, photograph, tmp_path):
    words = ["predict", random_model, photograph, "--out", tmp_path / "out"]
    whole = imported(*words, "--engine", "torch", "--precision", "fp32")
    torch = imported(program='import sys, torch; print("imported:", *sys.modules)')
    further = {name.partition(".")[0] for name in whole - torch}
    assert len(further) < 60
