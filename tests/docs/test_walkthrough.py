"""docs/from-classifier-to-fcn8s.md: every number on the page is the net's own."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from nets import unset

from fullconv.data.folder import DatasetFolder
from fullconv.geometry import least_padding
from fullconv.measure.bounds import PUBLISHED, upper_bounds
from fullconv.net.description import Description, describe
from fullconv.net.fcn import FCN
from fullconv.papers.blueprint import paper
from fullconv.train.recipe import read_recipe

PAGE = Path(__file__).parents[2] / "docs" / "from-classifier-to-fcn8s.md"
TEXT = PAGE.read_text(encoding="utf-8").replace("−", "-")
STAGES = {"FCN-32s": "voc-fcn32s", "FCN-16s": "voc-fcn16s", "FCN-8s": "voc-fcn8s"}


@cache
def _described(name: str) -> Description:
    return describe(_unset(name), (500, 500))


def _unset(name: str) -> FCN:
    return unset(lambda: paper(name) if "-" in name else FCN(name, 8, 21))


def _table(first: str) -> list[dict[str, str]]:
    """Return the rows of the page's table whose first column is called `first`."""
    lines = iter(TEXT.splitlines())
    heads = next(_cells(line) for line in lines if line.startswith(f"| {first} |"))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append(dict(zip(heads, _cells(line), strict=True)))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _equations(section: str) -> list[tuple[str, str, float]]:
    """Return what the section derives: name, expression and value."""
    body = TEXT.partition(f"## {section}")[2].partition("\n## ")[0]
    found = re.findall(r"^(.+?) *: +([-+*/(). \d]+?) += +(-?[\d.]+)$", body, re.MULTILINE)
    return [(name.strip(), expression, float(value)) for name, expression, value in found]


@pytest.mark.slow
def test_layers() -> None:
    layers = _described("voc-fcn8s").layers
    rows = _table("layer")
    assert [row["layer"] for row in rows] == [layer.name for layer in layers]
    for row, layer in zip(rows, layers, strict=True):
        assert _numbers(row["window / stride, padding"]) == _numbers(layer.window)
        assert row["channels"] == str(layer.channels)
        assert row["cells"] == "{} × {}".format(*layer.size)
        assert row["stride"] == str(layer.grid.stride)
        assert float(row["first centre"]) == layer.grid.offset
        assert row["sees pixels"] == str(layer.grid.receptive_field)


@pytest.mark.slow
def test_first_centres_by_hand() -> None:
    offsets = {layer.name: layer.grid.offset for layer in _described("voc-fcn8s").layers}
    equations = _equations("3.")
    assert [name for name, *_ in equations] == [
        "conv1_1", *(f"pool{i}" for i in range(1, 6)), "fc6"
    ]  # fmt: skip
    for name, expression, value in equations:
        assert eval(expression) == value == offsets[name]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_upscores(stage: str) -> None:
    scored = _described(STAGES[stage]).scored
    rows = [row for row in _table("net") if row["net"] == stage]
    assert len(rows) == len(scored)
    for row, here, finer in zip(rows, scored, (*scored[1:], None), strict=True):
        a = here.alignment
        assert row["upscore"] == f"×{a.factor}"
        assert row["from cells"] == "{} × {}".format(*here.fused)
        assert row["kernel"] == f"{a.kernel} × {a.kernel}"
        assert row["enlarged"] == "{} × {}".format(*here.enlarged)
        assert row["crop of the skip"] == (str(a.finer_crop) if finer else "–")
        assert row["crop"] == str(a.crop)
        assert row["to"] == "{} × {}".format(*(finer.fused if finer else (500, 500)))


@pytest.mark.slow
def test_crops_by_hand() -> None:
    derived = [*_equations("4."), *_equations("5.")]
    for name, expression, value in derived:
        assert eval(expression) == value, name
    values = {"crop": [], "skip": [], "enlarged": []}
    for name, _, value in derived:
        kind = "skip" if name.startswith("crop of") else "crop" if name == "crop" else "enlarged"
        if "centre" not in name:
            values[kind].append(value)
    nets = [_described(name).scored for name in STAGES.values()]
    assert values["crop"] == [net[-1].alignment.crop for net in nets] == [19, 27, 31]
    assert values["skip"] == [nets[2][0].alignment.finer_crop, nets[2][1].alignment.finer_crop]
    assert values["skip"] == [5, 9]
    (coarse,), middle, fine = ([row.enlarged[0] for row in net] for net in nets)
    assert values["enlarged"] == [coarse, *middle, *fine[1:]]


@pytest.mark.slow
def test_words_about_crops_and_cells() -> None:
    assert len(re.findall(r"\b19, 27, 31, 5\s+and\s+9\b", TEXT)) == 2
    coarsest = _described("voc-fcn32s").scored[0]
    cells, grid = coarsest.size[0], coarsest.grid
    last = float(grid.offset + grid.stride * (cells - 1))
    assert f"{float(grid.offset)} + {grid.stride} · i" in TEXT
    assert f"from {float(grid.offset)} to {last}:" in TEXT
    crop = coarsest.alignment.crop
    assert f"rows and columns {crop} to {crop + 499}" in TEXT
    alexnet = _described("voc-fcn-alexnet").scored[0].alignment
    assert f"its kernel of {alexnet.kernel} and its crop of {alexnet.crop}" in TEXT


@pytest.mark.slow
def test_words_about_the_classifier() -> None:
    fc6 = next(layer for layer in _described("voc-fcn8s").layers if layer.name == "fc6")
    assert f"{fc6.parameters:,} in fc6" in TEXT
    assert f"{7 * 7 * 512:,} numbers" in TEXT
    frame = 1 - 500**2 / _described("voc-fcn8s").layers[0].size[0] ** 2
    assert 0.45 < frame < 0.5  # "almost half"


@pytest.mark.slow
def test_why_100() -> None:
    for stage, name in STAGES.items():
        crop = _described(name).scored[-1].alignment.crop
        assert re.search(rf"{stage}(\s+then\s+crops)?\s+by\s+p - {100 - crop}\b", TEXT), stage
    nets = {"VGG16": "voc-fcn32s", "AlexNet": "voc-fcn-alexnet"}
    for row in _table("nets on"):
        net = _unset(nets[row["nets on"]])
        assert row["offset is 0 at"] == str(100 - net.vertical.alignments[-1].crop)
        assert row["least padding for every size"] == str(least_padding(net.vertical.grids))


@pytest.mark.slow
def test_costs() -> None:
    padded, own = _table("net, at 500 × 500")
    for row, name in ((padded, "voc-fcn8s"), (own, "vgg16")):
        seen = _described(name)
        assert row["multiply-adds"] == f"{seen.multiply_adds / 1e9:.1f} G"
        assert row["coarse cells"] == "{} × {}".format(*seen.scored[0].size)
    assert _described("vgg16").padded == (512, 512)
    assert "(500 to 512)" in TEXT


@pytest.mark.slow
def test_learning_rates_and_results_are_those_of_the_recipes() -> None:
    rows = [row for row in _table_of_results() if row["net"].startswith("voc")]
    assert len(rows) == 4
    for row in rows:
        assert float(row["learning rate"]) == read_recipe(row["net"]).lr
        recipe = files("fullconv") / f"papers/recipes/{row['net']}.yaml"
        assert f"mean IU of {row['published mean IU']}" in recipe.read_text()
    scales = _unset("voc-fcn8s-atonce").arguments.skip_scales
    told = re.search(r"pool4 by ([\d.]+) and pool3 by ([\d.]+)", TEXT)
    assert told is not None
    assert [float(value) for value in told.groups()] == [scales[16], scales[8]]


def _table_of_results() -> list[dict[str, str]]:
    head = "| net | started from |"
    lines = TEXT[TEXT.index(head) :].split("\n\n")[0].splitlines()
    return [dict(zip(_cells(lines[0]), _cells(line), strict=True)) for line in lines[2:]]


def test_published_bounds() -> None:
    found = {int(row["f"]): float(row["VOC 2011 val, by the paper"]) for row in _table("f")}
    assert found == dict(PUBLISHED)


@pytest.mark.realdata
@pytest.mark.skipif("FULLCONV_SHARED" not in os.environ, reason="FULLCONV_SHARED is not set")
def test_bounds_of_camvid() -> None:
    root = Path(os.environ["FULLCONV_SHARED"]) / "data" / "camvid"
    bounds = upper_bounds(DatasetFolder(root).split("val"))["labels"]
    for row in _table("f"):
        assert row["CamVid val"] == f"{bounds[int(row['f'])].mean_iu:.3f}"


def test_drawing_is_there() -> None:
    (script, name) = re.findall(r"python (\S+) (\S+) net\.svg", TEXT)[0]
    assert (PAGE.parents[1] / script).is_file() and name in STAGES.values()
