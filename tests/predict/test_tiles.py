"""Exact tiles: the scores and labels of a whole image, whatever it is divided into."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import NarrowVGG, Staged, classifier, lively, narrow_caffe_vgg, random_scores, settled
from torch import nn

from fullconv import FCN
from fullconv.export.verified import REFERENCE
from fullconv.predict.engines import build
from fullconv.predict.labeller import Labeller
from fullconv.predict.memory import Memory
from fullconv.predict.room import NoRoomError, Tiling
from fullconv.predict.scenes import PixelScene
from fullconv.predict.seams import Seams, changed_share
from fullconv.predict.tiles import Reach, Tiles, spans

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


@pytest.mark.slow
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
            # CPUs sum a layer in an order that depends on its size: a tie may fall otherwise.
            assert differing(net, [found], [whole], size)[1] == 0


def odd_layers():
    """Return layers that pad unevenly, round up, and join two windows."""

    def middle(self, x):
        return self.layers[0](x) + nn.functional.max_pool2d(x, 3, 1, 1)

    return Staged(middle, nn.Conv2d(8, 8, 5, padding=4, dilation=2))


SMALL = {  # as built by small_net: trunk, stride, options
    "plain": (lambda: Staged(lambda _, x: x), 4, {}),
    "coarse": (lambda: Staged(lambda _, x: x), 8, {}),
    "odd": (odd_layers, 4, {}),
    "twice": (odd_layers, 4, {"magnify": 2}),
    "a half": (odd_layers, 8, {"reduce": 2}),
    "a quarter": (lambda: Staged(lambda _, x: x), 4, {"reduce": 4}),
    "several heads": (odd_layers, 4, {"heads": {"a": 3, "b": 5}}),
    "learnt": (odd_layers, 4, {"learn_last_upscore": True}),
    "late": (odd_layers, 4, {"inputs": {"color": 3, "depth": 1}, "fusion": "late"}),
}


@pytest.fixture(scope="module")
def small_nets():
    return {name: small_net(*about) for name, about in SMALL.items()}


def small_net(trunk, stride, options):
    torch.manual_seed(1)
    many = "heads" in options
    net = FCN(settled(trunk(), 32), stride, None if many else 4, **options)
    with torch.no_grad():
        for head in net.heads.values():
            for part in head.parameters():
                part.add_(torch.randn_like(part), alpha=0.3)
    return net.eval()


def differing(net, views, others, size):
    """Return the largest difference of scores, and labels that differ beyond a doubt."""
    worst, wrong = 0.0, 0
    for name, head in net.heads.items():
        own, other = ([view[name] for view in each] for each in (views, others))
        probabilities = torch.cat(list(head.probability_bands(own, size)), 1)
        scores, found = (head.upsample(each[0], size)[0] for each in (own, other))
        worst = max(worst, float((scores - found).abs().max()))
        best, second = (probabilities if len(own) > 1 else scores).topk(2, 0).values
        labels, seen = (head.labels_of_views(each, size) for each in (own, other))
        wrong += int(((labels != seen) & (best - second > 1e-4).numpy()).sum())
    return worst, wrong


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(SMALL)),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    tile=st.tuples(st.integers(40, 130), st.integers(40, 130)),
    tta=st.booleans(),
)
def test_tiles_of_any_size_give_the_whole_image_s_labels(
    small_nets, name, height, width, tile, tta
):
    net, size = small_nets[name], (height, width)
    tiles = Tiles.sized(net, size, tile)
    assume(tiles is not None)
    assert tiles.exact and tiles.largest[0] <= tile[0] and tiles.largest[1] <= tile[1]
    channels = sum(net.inputs.values())
    image = np.random.default_rng(height).integers(0, 256, (*size, channels), np.uint8)
    label = Labeller(net, net.coarse_of_image, tta=tta)
    with torch.inference_mode():
        whole, found = label.views(image), label.views(image, tiles)
        worst, wrong = differing(net, whole, found, size)
    assert worst <= 1e-4 and wrong == 0


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(
    name=st.sampled_from(sorted(NETS)),
    height=st.integers(540, 720),
    width=st.integers(540, 720),
    tile=st.integers(536, 640),
    tta=st.booleans(),
)
def test_engines_tiles_give_the_whole_image_s_labels(nets, name, height, width, tile, tta):
    """The engine leaves out the padding of the paper's nets for its first tiles (elision)."""
    net, factor = nets(name), 2 if name == "reduced" else 1
    size, most = (height * factor, width * factor), (tile * factor, tile * factor)
    tiles = Tiles.sized(net, size, most)
    assume(tiles is not None)
    image = np.random.default_rng(height).integers(0, 256, (*size, 3), np.uint8)
    label = Labeller(net, build(net, REFERENCE), tta=tta)  # whose folded norms round otherwise
    views, found = label.views(image), label.views(image, tiles)
    with torch.inference_mode():
        worst, wrong = differing(net, views, found, size)
    assert worst <= 1e-4 and wrong == 0


@pytest.fixture(scope="module")
def nets():
    made = {}

    def net(name):
        if name not in made:
            made[name] = built(name)
        return made[name]

    return net


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_depends_on_the_whole_image_has_no_tiles():
    net = FCN(classifier("mobilenet_v3_small"), 16, 3).eval()  # squeeze and excitation
    assert Tiles.of(net, (2000, 2000), 1000 * 1000) is None
    assert Tiles.of(built("mobilenet_v2"), (2000, 2000), 100 * 100) is None  # a cell sees more


class Squeezed(Staged):
    """Depends on the whole image, as squeeze-and-excitation does."""

    def __init__(self):
        super().__init__(lambda _, x: x * nn.functional.adaptive_avg_pool2d(x, 1).sigmoid())


def test_tiles_of_what_depends_on_the_whole_image_are_approximate_and_asked_for():
    torch.manual_seed(0)
    net = lively(random_scores(FCN(settled(Squeezed(), 32), 4, 4)), 64).eval()
    size = (400, 300)
    assert Tiles.sized(net, size, (100, 100)) is None
    memory = Memory(net, 1 << 30, tiling=Tiling((100, 100)))
    tiles = memory.work(size).tiles
    assert tiles is not None and not tiles.exact and tiles.largest <= (100, 100)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image[:200] //= 8  # so that tiles differ in their means
    label = Labeller(net, build(net, REFERENCE))
    share = changed_share(label, PixelScene(image), tiles)
    assert 0 < share < 0.5
    said = Seams(label, memory).remark(PixelScene(image), tiles)
    assert said.startswith("the model looks at the whole image at once")
    assert "of a part of 200 x 200 pixels, labelled whole as well, that changes " in said


@pytest.mark.slow
def test_a_margin_is_less_than_what_is_seen_only_if_it_is_asked_for(small_nets):
    net, size = small_nets["odd"], (300, 200)
    full, less = (Tiles.sized(net, size, (90, 90), Reach(margin)) for margin in (None, 8))
    assert full.exact and not less.exact
    assert len(less) < len(full)
    assert Tiles.sized(net, size, (90, 90), Reach(500)).exact
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    label = Labeller(net, build(net, REFERENCE))
    assert changed_share(label, PixelScene(image), full) == 0
    assert 0 < changed_share(label, PixelScene(image), less) < 0.2
    memory = Memory(net, 1 << 30, tiling=Tiling((90, 90), 8))
    said = Seams(label, memory).remark(PixelScene(image), memory.work(size).tiles)
    assert said.startswith("its tiles reach 8 pixels beyond what is taken of them")


def test_a_tile_that_is_too_small_is_refused_with_the_least(small_nets):
    net = small_nets["odd"]
    with pytest.raises(NoRoomError) as caught:
        Memory(net, 1 << 30, tiling=Tiling((20, 90))).work((300, 200))
    (least,) = {word for word in str(caught.value).split() if "x" in word and word[0] in "3456789"}
    height, width = map(int, least.split("x"))
    assert Tiles.sized(net, (300, 200), (height, width)) is not None
    assert Tiles.sized(net, (300, 200), (height - 1, width)) is None
    assert Memory(net, 1 << 30, tiling=Tiling((20, 90))).work((20, 90)).tiles is None
