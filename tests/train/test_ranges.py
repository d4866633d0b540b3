"""Images that use few of their bits train as the same pixels in 8 bits, and predict so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from coloured_scenes import write_scenes
from PIL import Image
from safetensors.torch import load_file
from training import trained

import fullconv
from fullconv.data.folder import DatasetFolder, Input
from fullconv.measure.evaluation import evaluate, split_for
from fullconv.net.preprocessing import Preprocessing
from fullconv.train.nets import in_ranges
from fullconv.train.recipe import read_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = ("epochs=2", "batch_size=2", "crop=32", "workers=0", "precision=fp32", "magnify=1")


def run(data: Path, out: Path, **options: bool) -> Path:
    recipe = read_recipe("default", SETTINGS)
    asked = {"data": data, "model": "fcn16s", "backbone": "squeezenet1_1", "weights": "none"}
    return trained(out, {**asked, "recipe": recipe}, **options)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same scenes in 8 bits, and four times their values in 16."""
    folder = tmp_path_factory.mktemp("both")
    plain, wide = (write_scenes(folder / name, train=4, val=2) for name in ("plain", "wide"))
    for path in sorted((plain / "images").glob("*/*")):
        pixels = np.array(Image.open(path).convert("RGB"))
        pixels[0], pixels[1] = 0, 255  # the ends of the range
        other = wide / path.relative_to(plain)
        for each in (path, other):
            each.unlink()
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        values = 4 * pixels.astype(np.uint16)
        tifffile.imwrite(other.with_suffix(".tif"), values, photometric="rgb")
    return plain, wide


@pytest.mark.slow
def test_a_training_in_10_bits_is_that_in_8(both, tmp_path):
    plain, wide = (run(data, tmp_path / data.name) for data in both)
    one, other = (load_file(folder / "model.safetensors") for folder in (plain, wide))
    assert all(one[name].equal(other[name]) for name in one)
    expected = json.loads((wide / "config.json").read_text())["preprocessing"]
    assert expected["ranges"] == {"color": [0.0, 1020.0]}
    assert "ranges" not in json.loads((plain / "config.json").read_text())["preprocessing"]
    record = yaml.safe_load((wide.parent / "recipe.yaml").read_text())
    assert record["ranges"] == {"color": [0.0, 1020.0]}

    nets = [fullconv.load(folder) for folder in (plain, wide)]
    results = [
        evaluate(net, split_for(net, DatasetFolder(data), "val")).metrics
        for net, data in zip(nets, both, strict=True)
    ]
    np.testing.assert_array_equal(results[0].confusion, results[1].confusion)
    (photo, *_) = sorted((both[0] / "images/val").iterdir())
    (same, *_) = sorted((both[1] / "images/val").iterdir())
    np.testing.assert_array_equal(nets[0].predict(photo), nets[1].predict(same))


def test_further_inputs_are_brought_to_their_range_by_means_and_deviations():
    own = Preprocessing(mean=(0.5,) * 6, std=(0.25,) * 6, logarithmic=(3,))
    inputs = {
        "color": Input("color", "images"),
        "height": Input("height", "heights", 1, "f4"),
        "bands": Input("bands", "bands", 2, "u2"),
    }
    ranges = {"color": (0.0, 1020.0), "height": (-100.0, 900.0), "bands": (0.0, 4000.0)}
    expected = in_ranges(own, inputs, ranges)
    ends = torch.tensor([[0.0, 0, 0, -100, 0, 0], [255.0, 255, 255, 900, 4000, 4000]])
    found = expected(ends[:, :, None, None])
    wanted = replace(own, logarithmic=())(
        torch.tensor([0.0, 255])[:, None, None, None].repeat(1, 6, 1, 1)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert expected.ranges == ranges and in_ranges(expected, inputs, ranges) == expected
    distances = {**inputs, "height": Input("height", "heights", 1, "u2")}
    assert in_ranges(own, distances, ranges).logarithmic == (3,)


@pytest.mark.slow
def test_a_run_that_is_continued_keeps_its_range(both, tmp_path):
    run(both[1], tmp_path / "run")
    record = tmp_path / "run/recipe.yaml"
    values = yaml.safe_load(record.read_text())
    del values["nets"]["fcn16s"]["seconds"]
    record.write_text(yaml.safe_dump(values))
    for path in (both[1] / "images/train").iterdir():  # as though brighter ones were put in
        tifffile.imwrite(path, 2 * tifffile.imread(path), photometric="rgb")
    run(both[1], tmp_path / "run", resume=True)
    assert yaml.safe_load(record.read_text())["ranges"] == {"color": [0.0, 1020.0]}


def test_ranges_travel_with_the_preprocessing():
    own = Preprocessing(ranges={"color": (0.0, 1020.0)})
    assert Preprocessing.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    assert "ranges" not in Preprocessing().to_dict()
    with pytest.raises(ValueError, match="must be finite and rise"):
        Preprocessing.from_dict({"ranges": {"color": [5, 5]}})
