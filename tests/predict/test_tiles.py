"""Exact tiles: the scores and labels of a whole image, whatever it is divided into."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NarrowVGG, classifier, lively, narrow_caffe_vgg, random_scores

from fullconv import FCN
from fullconv.predict.scenes import PixelScene
from fullconv.predict.tiles import Tiles, spans

# Trunks whose layers begin, end, pad and round in different ways, seen smaller and larger.
NETS = {
    "mobilenet_v2": ("mobilenet_v2", 8, {}),
    "squeezenet": ("squeezenet1_1", 8, {}),
    "vgg": ("vgg", 8, {}),
    "the paper's padding": ("caffe", 8, {"padding": 100}),
    "magnified": ("squeezenet1_1", 8, {"magnify": 2}),
    "reduced": ("squeezenet1_1", 8, {"reduce": 2}),
    "alexnet": ("alexnet", 32, {}),
    "resnet18": ("resnet18", 8, {}),
    "googlenet": ("googlenet", 16, {}),
}
QUICK = ("mobilenet_v2", "the paper's padding", "magnified")


def built(name):
    trunk, stride, options = NETS[name]
    torch.manual_seed(0)
    made = {"vgg": NarrowVGG, "caffe": narrow_caffe_vgg}.get(trunk)
    trunk = made() if made else classifier(trunk)
    return lively(random_scores(FCN(trunk, stride, 4, **options))).eval()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETS]
)
@pytest.mark.parametrize("size", [(520, 901), (1003, 733)])
def test_tiles_give_the_whole_image_s_scores_and_labels(name, size):
    net = built(name)
    factor = 2 if name == "reduced" else 1
    size = (size[0] * factor, size[1] * factor)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    tiles = Tiles.of(net, size, (630 * factor) ** 2)
    assert tiles is not None and len(list(tiles)) > 1
    assert tiles.largest[0] * tiles.largest[1] <= (630 * factor) ** 2
    with torch.inference_mode():
        for mirrored in (False, True):
            seen = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
            whole = net.coarse_of_image(seen)
            found = tiles.coarse(PixelScene(image), net.coarse_of_image, mirrored=mirrored)
            scores, expected = found["labels"], whole["labels"]
            assert scores.shape == expected.shape
            assert (scores - expected).abs().max() <= 1e-5 * expected.std()
            labels, truth = (net.labels([each], size)["labels"] for each in (found, whole))
            assert (labels == truth).all()


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 3000),
    most=st.integers(1, 1200),
    which=st.sampled_from(("mobilenet_v2", "the paper's padding", "magnified")),
)
def test_every_cell_is_taken_once_and_sees_only_its_tile(geometries, size, most, which):
    geometry = geometries[which]
    found = spans(geometry, size, most)
    if found is None:
        return
    count = geometry.fused[-1].cells(geometry.covering_size(size))
    assert [cell for span in found for cell in span.cells] == list(range(count))
    for span in found:
        assert len(span.pixels) <= most
        assert span.pixels.start % geometry.grids[0].stride == 0
        for cell in (span.cells[0], span.cells[-1]):
            first, last = geometry.pixels_of_cells(cell, cell, size)
            assert span.pixels.start <= first <= last < span.pixels.stop


@pytest.fixture(scope="module")
def geometries():
    return {name: built(name).vertical for name in QUICK}


def test_what_depends_on_the_whole_image_has_no_tiles():
    net = FCN(classifier("mobilenet_v3_small"), 16, 3).eval()  # squeeze and excitation
    assert Tiles.of(net, (2000, 2000), 1000 * 1000) is None
    assert Tiles.of(built("mobilenet_v2"), (2000, 2000), 100 * 100) is None  # a cell sees more
