"""Graphs of layers, pickled and back: nothing of them is lost."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
from nets import Staged, random_scores, settled
from torch import nn
from torch.nn import functional as F

from fullconv import FCN, Preprocessing, convolutionalize
from fullconv.dense.graph import LayerGraph


class Deep(nn.Module):
    """Reads its training flag from inside another module."""

    def forward(self, maps):
        return F.dropout(maps, 0.5, training=self.training)


def middle(net, maps):
    """Call what pickle does not find by itself, and name nodes otherwise than a new trace would."""
    first = F.max_pool2d(maps, 3, 1, 1) + net.layers[0](maps)
    return first + F.avg_pool2d(first * 2, kernel_size=3, stride=1, padding=1)


def made():
    torch.manual_seed(0)
    return settled(Staged(middle, nn.Sequential(nn.BatchNorm2d(8), Deep())), 32)


def through_torch(module):
    file = io.BytesIO()
    torch.save(module, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def through_pickle(module):
    return pickle.loads(pickle.dumps(module))


def seen(module):
    """Return all that is known of a graph of layers."""
    nodes = [
        (each.name, each.op, each.target, str((each.args, each.kwargs)), each.meta.get("shape"))
        for each in module.graph.nodes
    ]
    modes = {path: part.training for path, part in module.named_modules()}
    return repr(module), nodes, modes


def assert_same(actual, expected, images):
    for training in (False, True):
        scores = []
        for each in (actual, expected):
            torch.manual_seed(1)
            scores.append(each.train(training)(images))
        assert scores[0].equal(scores[1])


@pytest.mark.parametrize("there_and_back", [through_torch, through_pickle])
def test_a_convolutionalized_classifier_comes_back_whole(there_and_back):
    dense = convolutionalize(made(), 32)
    back = there_and_back(dense)
    assert isinstance(back, LayerGraph) and seen(back) == seen(dense)
    images = torch.randn(2, 3, 41, 36)
    assert_same(back, dense, images)
    assert not dense.train()(images).equal(dense(images)), "nothing was drawn"


@pytest.mark.parametrize("there_and_back", [through_torch, through_pickle])
def test_a_net_comes_back_whole(there_and_back):
    net = random_scores(FCN(made(), 4, 3, preprocessing=Preprocessing(input_size=32)))
    back = there_and_back(there_and_back(net))
    assert seen(back.trunk.layers) == seen(net.trunk.layers)
    assert back.arguments == net.arguments and back.taps == net.taps
    assert_same(back, net, torch.randn(1, 3, 21, 30))
