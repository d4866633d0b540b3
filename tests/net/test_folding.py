"""Batch normalisation folded into convolutions: the same scores; what is shared stays."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from nets import lively, random_scores
from torch import fx, nn

from fullconv import FCN
from fullconv.net.rewrites.folding import fold_norms


def norms(net):
    return [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    "trunk",
    [
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        "resnet18",
        pytest.param("regnet_x_400mf", marks=pytest.mark.slow),
        "timm:test_efficientnet",  # whose normalisations activate, too
        pytest.param("timm:efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("timm:mobilenetv3_small_050", marks=pytest.mark.slow),
    ],
)
def test_scores_stay_and_no_norm_is_left(trunk):
    torch.manual_seed(0)
    net = lively(random_scores(FCN(trunk, 8, 3))).eval().double()
    folded = deepcopy(net)
    fold_norms(folded)
    assert norms(net) and not norms(folded)
    images = torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        torch.testing.assert_close(folded(images), net(images), rtol=1e-9, atol=1e-9)


class Shared(nn.Module):
    """Convolutions that something else reads, too, or that are called twice, and a lone norm."""

    def __init__(self):
        super().__init__()
        self.read, self.twice, self.own = (nn.Conv2d(3, 3, 1) for _ in range(3))
        for index in range(4):
            norm = nn.BatchNorm2d(3)
            nn.init.normal_(norm.weight)
            norm.running_mean.normal_()
            setattr(self, f"norm{index}", norm)

    def forward(self, x):
        x = self.norm0(x)
        read = self.read(x)
        x = self.norm1(read) + read
        x = self.norm2(self.twice(self.twice(x)))
        return self.norm3(self.own(x))


def test_what_others_read_is_left_alone():
    torch.manual_seed(0)
    plain = fx.symbolic_trace(Shared()).eval()
    folded = deepcopy(plain)
    fold_norms(folded)
    assert [name for name, part in folded.named_modules() if isinstance(part, nn.BatchNorm2d)] == [
        "norm0",
        "norm1",
        "norm2",
    ]
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(folded(x), plain(x))


class BentNorm(nn.BatchNorm2d):
    """A user's own, which does more than normalise."""

    def forward(self, x):
        return super().forward(x).abs()


def test_a_normalisation_that_does_more_is_left_alone():
    torch.manual_seed(0)
    layers = nn.ModuleDict({"convolution": nn.Conv2d(3, 3, 1), "norm": BentNorm(3)})
    graph = fx.Graph()
    first = graph.call_module("convolution", (graph.placeholder("x"),))
    graph.output(graph.call_module("norm", (first,)))
    plain = fx.GraphModule(layers, graph).eval()
    folded = deepcopy(plain)
    fold_norms(folded)
    assert norms(folded)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(folded(x), plain(x))
