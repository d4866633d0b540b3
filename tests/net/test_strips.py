"""Images from the top on, strip by strip: the scores of the whole image, row for row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NarrowVGG, Staged, classifier, lively, narrow_caffe_vgg, random_scores, settled
from torch import nn

from fullconv import FCN
from fullconv.net.rewrites.folding import fold_norms
from fullconv.net.strips import Strip, Strips
from fullconv.net.surgery import inference_twin


def odd_layers():
    """Return layers that pad unevenly, round up, and join two windows."""

    def middle(self, x):
        return self.layers[0](x) + nn.functional.max_pool2d(x, 3, 1, 1)

    return Staged(middle, nn.Conv2d(8, 8, 5, padding=4, dilation=2))


SMALL = {
    "plain": (lambda: Staged(lambda _, x: x), 4, {}),
    "coarse": (lambda: Staged(lambda _, x: x), 8, {}),
    "odd": (odd_layers, 4, {}),
    "a half": (odd_layers, 8, {"reduce": 2}),
    "several heads": (odd_layers, 4, {"heads": {"a": 3, "b": 5}}),
}
LARGE = {
    "mobilenet_v2": ("mobilenet_v2", 8, {}),
    "squeezenet": ("squeezenet1_1", 8, {}),
    "vgg": (NarrowVGG, 8, {}),
    "the paper's padding": (narrow_caffe_vgg, 8, {"padding": 100}),
    "reduced": ("squeezenet1_1", 8, {"reduce": 2}),
    "alexnet": ("alexnet", 32, {}),
    "resnet18": ("resnet18", 8, {}),
    "googlenet": ("googlenet", 16, {}),
    "shufflenet": ("shufflenet_v2_x1_0", 8, {}),
    "densenet": ("densenet121", 8, {}),
    "regnet": ("regnet_x_400mf", 8, {}),
}
QUICK = ("mobilenet_v2", "the paper's padding")


def built(trunk, stride, options):
    torch.manual_seed(1)
    many = "heads" in options
    net = FCN(trunk, stride, None if many else 4, **options)
    with torch.no_grad():
        for head in net.heads.values():
            for part in head.parameters():
                part.add_(torch.randn_like(part), alpha=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def small_nets():
    return {
        name: built(settled(trunk(), 32), stride, options)
        for name, (trunk, stride, options) in SMALL.items()
    }


def by_strips(net, image, height):
    strips = Strips.of(inference_twin(net))
    strip, rows = Strip(strips, len(image)), height * strips.step
    for top in range(0, len(image), rows):
        strip.add(image[top : top + rows])
    return strip.coarse(range(len(image)), len(image))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(SMALL)),
    height=st.integers(1, 200),
    width=st.integers(1, 90),
    strip=st.integers(1, 6),
)
def test_strips_of_any_height_give_the_whole_image_s_scores(small_nets, name, height, width, strip):
    net = small_nets[name]
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    with torch.inference_mode():
        whole, found = net.coarse_of_image(image), by_strips(net, image, strip)
    for head, scores in found.items():
        assert scores.shape == whole[head].shape
        assert (scores - whole[head]).abs().max() <= 1e-4


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in LARGE]
)
def test_trunks_are_cut_into_parts_that_give_the_whole_image_s_scores(name):
    trunk, stride, options = LARGE[name]
    torch.manual_seed(0)
    net = FCN(classifier(trunk) if isinstance(trunk, str) else trunk(), stride, 4, **options)
    net = lively(random_scores(net)).eval()
    folded = inference_twin(net)
    fold_norms(folded)
    strips = Strips.of(folded)
    assert len(strips.parts) > 4
    image = np.random.default_rng(0).integers(0, 256, (901, 220, 3), np.uint8)
    with torch.inference_mode():
        whole, found = net.coarse_of_image(image)["labels"], by_strips(folded, image, 2)["labels"]
    assert found.shape == whole.shape
    assert (found - whole).abs().max() <= 1e-4 * whole.std()


def test_no_strips_where_branches_may_disagree_about_their_rows():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.pool = nn.Conv2d(3, 3, 3, 2, 1), nn.MaxPool2d(2)

        def forward(self, maps):
            return self.convolution(maps) + self.pool(maps)

    padded = nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, 2, 1))
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    net = FCN(nn.Sequential(Pooled(), padded, *end).eval(), 4, 3).eval()
    assert Strips.of(net) is None
