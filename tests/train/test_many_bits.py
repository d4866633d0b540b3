"""Grey images of 10 and 12 bits, of 32-bit integers and of fractions train as in 8 bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from coloured_scenes import write_scenes
from PIL import Image
from training import changed, trained, weights_of

import fullconv
from fullconv.base.progress import Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.measure.evaluation import evaluate, split_for
from fullconv.train.recipe import read_recipe

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

KINDS = {"10 bits": 1020, "12 bits": 4080, "int32": 255, "float32": 255}


def write_grey(root: Path, kind: str) -> Path:
    """Scenes of grey images, the same values of 0..255 stored in one way or another."""
    write_scenes(root, train=4, test=1)
    for path in (root / "images").rglob("*.png"):
        values = np.asarray(Image.open(path)).astype(int) @ (3, 2, 1) // 6
        values.flat[:2] = 0, 255
        if kind == "8 bits":
            Image.fromarray(values.astype(np.uint8)).save(path)
        elif kind.endswith("bits"):
            Image.fromarray((values * (KINDS[kind] // 255)).astype(np.uint16)).save(path)
        else:
            path.unlink()
            tifffile.imwrite(path.with_suffix(".tif"), values.astype(kind))
    return root


def run(data: Path, out: Path, **options: str) -> Path:
    recipe = read_recipe(
        "default", ["steps=2", "batch_size=2", "workers=0", "precision=fp32", "magnify=1"]
    )
    asked = {"backbone": "squeezenet1_1", "model": "fcn16s", "weights": "none", "data": data}
    return trained(out, {**asked, "recipe": recipe, **options}, reporter=Reporter())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of 8 bits, and the model that it gives."""
    root = tmp_path_factory.mktemp("plain")
    data = write_grey(root / "data", "8 bits")
    return data, run(data, root / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_images_of_many_bits_is_that_of_8_bits(
    tmp_path: Path, plain: tuple[Path, Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    few, expected = plain
    many = write_grey(tmp_path / "many", kind)
    capsys.readouterr()
    folder = run(many, tmp_path / "run")
    most = KINDS[kind]
    assert f"note: the values of color are 0..{most} of " in capsys.readouterr().err
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(
        (expected / "metrics.json").read_text()
    )
    net, other = fullconv.load(folder), fullconv.load(expected)
    assert not changed(net, weights_of(other))
    assert net.preprocessing.ranges == {"color": (0.0, float(most))}
    assert other.preprocessing.ranges == {}
    (path,) = (many / "images/test").iterdir()
    (same,) = (few / "images/test").iterdir()
    assert (net.predict(path) == other.predict(same)).all()
    measured = evaluate(net, split_for(net, DatasetFolder(many), "test"))
    assert measured.mean_iu == evaluate(other, split_for(other, DatasetFolder(few), "test")).mean_iu


def test_a_model_that_is_trained_on_sees_the_new_images_range(tmp_path: Path) -> None:
    first = run(write_grey(tmp_path / "first", "12 bits"), tmp_path / "a")
    for kind, ranges in (("8 bits", {}), ("10 bits", {"color": (0.0, 1020.0)})):
        folder = run(
            write_grey(tmp_path / kind, kind), tmp_path / f"run {kind}", weights=str(first)
        )
        assert fullconv.load(folder).preprocessing.ranges == ranges
