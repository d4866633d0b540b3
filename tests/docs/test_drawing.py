"""The drawing of a net: maps where the net's own arithmetic puts them, and words one can read."""

from __future__ import annotations

import importlib
import itertools
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from nets import NarrowVGG

from fullconv.base.errors import FullconvError
from fullconv.net.description import describe
from fullconv.net.fcn import FCN

sys.path.append(str(Path(__file__).parents[2] / "docs"))
drawing = importlib.import_module("drawing")
draw, joins, save = drawing.draw, drawing.joins, drawing.save

SIZE = (200, 150)


@cache
def _net(name: str) -> FCN:
    torch.manual_seed(0)
    heads = {"sem": ["a", "b"], "geo": 3}
    inputs = {"color": 3, "hha": 3}
    if name == "padded":
        return FCN(NarrowVGG(), 8, 2, padding=120).eval()
    if name == "several":
        trunk = NarrowVGG()
        return FCN(trunk, 16, heads=heads, inputs=inputs, fusion="late", padding=120).eval()
    return FCN(name, 8, 2).eval()


NETS = (
    "padded",
    "several",
    "squeezenet1_0",
    pytest.param("mobilenet_v2", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_maps_stand_where_upscores_put_them(name: str) -> None:
    """A bilinear upscore spreads one cell evenly about its centre: the mean pixel tells it."""
    net = _net(name)
    head = next(iter(net.heads.values()))
    seen = describe(net, SIZE)
    last = joins(seen, head.num_classes)[-1]
    fused = seen.scored[-1].fused
    grid, centre = seen.scored[-1].grid, None
    for row in (fused[0] // 2, fused[0] // 2 + 1):
        cells = torch.zeros(1, head.num_classes, *fused)
        cells[0, 0, row, fused[1] // 2] = 1
        scores = head.upsample(cells, SIZE)[0, 0].double()
        found = (scores.sum(1) * torch.arange(SIZE[0])).sum() / scores.sum()
        joined = joins(seen, head.num_classes)
        fused_strip = joined[-2].result if len(joined) > 1 else None
        assert fused_strip is not None
        centre = fused_strip.centre + row * grid.stride
        assert found.item() == pytest.approx(centre, abs=1e-4)
    assert last.result.ends == (-0.5, SIZE[0] - 0.5)


@pytest.mark.parametrize("name", NETS)
def test_what_is_kept_of_each_map_lies_on_what_it_is_added_to(name: str) -> None:
    net = _net(name)
    seen = describe(net, SIZE)
    for join in joins(seen, 2):
        for strip in (join.enlarged, join.skip):
            if strip is not None and strip.kept is not None:
                first, end = strip.kept
                assert 0 <= first < end <= strip.cells
                assert end - first == join.result.cells
                assert strip.centre + first * strip.stride == join.result.centre
                assert strip.stride == join.result.stride


def test_layers_on_one_grid_share_a_column() -> None:
    seen = describe(_net("padded"), SIZE)
    columns = drawing.columns(seen.layers, seen.scored)
    assert [len(column.names) for column in columns] == [2, 3, 4, 4, 4, 1, 2]
    assert sum(len(column.names) for column in columns) == len(seen.layers)
    assert [column.grid.stride for column in columns] == [1, 2, 4, 8, 16, 32, 32]
    assert columns[-1].channels == 16


def test_a_column_of_branches_has_the_channels_of_what_joins_them() -> None:
    seen = describe(_net("squeezenet1_0"), SIZE)
    scored = {layer.grid.stride: layer.channels for layer in seen.scored}
    for column in drawing.columns(seen.layers, seen.scored):
        if column.grid.stride in (8, 16):
            assert column.channels == scored[column.grid.stride]


def _texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text().strip()]


@pytest.mark.parametrize("name", NETS)
def test_words_are_all_there_inside_the_paper_and_apart(name: str) -> None:
    net = _net(name)
    figure = draw(net, SIZE, name)
    boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
    for said, box in boxes:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, said
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, said
    for (said, box), (other, across) in itertools.combinations(boxes, 2):
        assert not box.overlaps(across), f"{said!r} is written over {other!r}"
    words = "\n".join(said for said, _ in boxes)
    seen = describe(net, SIZE)
    for row in seen.scored:
        sizes = "{} × {}".format(*row.size), "{} × {}".format(*row.fused)
        assert all(size in words for size in sizes)
        a = row.alignment
        assert f"upscore\n×{a.factor}" in words
        assert f"{a.kernel} × {a.kernel}" in words
        assert all(f"crop {crop}" in words for crop in (a.crop, a.finer_crop) if crop)
        assert row.layer[-15:] in words
    for column in drawing.columns(seen.layers, seen.scored):
        assert f"{column.channels} channels\nstride {column.grid.stride}" in words


def test_several_inputs_and_heads_are_told() -> None:
    texts = _texts(draw(_net("several"), SIZE, "several"))
    words = " ".join(" ".join(text.get_text().split()) for text in texts)
    assert "a trunk for each of color, hha" in words
    assert "scores for each of sem, geo" in words
    assert "3 channels" in words


@pytest.mark.parametrize(
    ("suffix", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("PDF", b"%PDF")]
)
def test_saved_in_the_kind_that_the_suffix_says(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"net.{suffix}"
    save(draw(_net("squeezenet1_0"), (64, 64), "$x$ & <y>"), path)
    assert path.read_bytes().startswith(magic)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_equal_nets_are_drawn_byte_for_byte_alike(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(draw(_net("squeezenet1_0"), (64, 64), "net"), tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FullconvError, match=r"net\.txt: a drawing is a \.svg, \.png or \.pdf"):
        save(Figure(), tmp_path / "net.txt")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("squeezenet1_0", "--net", "fcn16s"), ("voc-fcn-alexnet",)])
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    path = tmp_path / "net.svg"
    monkeypatch.setattr(sys, "argv", ["drawing.py", words[0], str(path), *words[1:]])
    drawing.main()
    assert path.stat().st_size > 10_000
