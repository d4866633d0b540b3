"""Magnification by the first convolution: the very scores, without a magnified image."""

from __future__ import annotations

import pytest
import torch
from nets import classifier, lively, random_scores
from torch import nn

from fullconv import FCN
from fullconv.export.coarse import CoarseScores
from fullconv.net.rewrites.magnification import Extended, with_merged_magnification


def magnified_net(name, stride=4, **options):
    torch.manual_seed(0)
    net = FCN(classifier(name), stride, 3, **{"magnify": 2, **options})
    return lively(random_scores(net).eval())


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "timm:efficientnet_lite0"])
@pytest.mark.parametrize("size", [(40, 61), (33, 1), (1, 1), (64, 96)])
def test_scores_are_the_same(name, size):
    net = magnified_net(name).double()
    twin = with_merged_magnification(net)
    assert twin is not net
    assert twin.magnified is None
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected, actual = (each.coarse_of_pixels(images)["labels"] for each in (net, twin))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_it_is_what_is_worked_out_by_hand():
    """The first layer on rows 1, 2, 4: magnified they are 1, 1.5, 2, 3, 4, 4 between zeros."""
    twin = with_merged_magnification(magnified_net("mobilenet_v2").double())
    (extended,) = (part for part in twin.modules() if isinstance(part, Extended))
    convolution = first_convolution(twin)
    column = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).reshape(1, 1, 3, 1)
    plain = first_convolution(magnified_net("mobilenet_v2").double())
    summed = plain.weight.detach().sum((1, 3))  # of channels and columns, that are all alike
    with torch.no_grad():
        actual = convolution(extended(column.expand(1, 3, 3, 9)))[0, :, :, 4]
    above, middle, below = summed.unbind(1)
    expected = (
        1 * middle + 1.5 * below,
        1.5 * above + 2 * middle + 3 * below,
        3 * above + 4 * middle + 4 * below,
    )
    torch.testing.assert_close(actual, torch.stack(expected, 1))


def first_convolution(net):
    return next(part for part in net.trunk.modules() if isinstance(part, nn.Conv2d))


def test_the_net_stays_as_it_is_and_shares_all_other_weights():
    net = magnified_net("mobilenet_v2").train()
    before = {name: each.clone() for name, each in net.state_dict().items()}
    twin = with_merged_magnification(net)
    assert net.training
    assert not twin.training
    own = net.state_dict()
    assert all(own[name].equal(each) for name, each in before.items())
    unlike = [n for n, each in twin.state_dict().items() if each.data_ptr() != own[n].data_ptr()]
    assert unlike == ["trunk.layers.features.0.0.weight"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2", {"magnify": 1}),
        ("mobilenet_v2", {"magnify": 4, "stride": 8}),
        ("resnet18", {}),  # its first convolution is of kernel 7
        ("squeezenet1_1", {}),  # its first convolution is not padded
        ("timm:tf_efficientnet_lite0", {}),  # it pads by the image's size
    ],
)
def test_others_are_left_alone(name, options):
    net = magnified_net(name, **options)
    assert with_merged_magnification(net) is net


def test_a_magnification_that_was_changed_is_left_alone():
    net = magnified_net("mobilenet_v2")
    with torch.no_grad():
        net.magnified.weight.mul_(2)
    assert with_merged_magnification(net) is net


def test_engines_and_exports_of_coarse_scores_take_it():
    net = magnified_net("mobilenet_v2", coarsest=16).double()
    coarse = CoarseScores(net)
    assert coarse.net.magnified is None
    images = torch.randint(0, 256, (1, 50, 41, 3), dtype=torch.uint8)
    with torch.no_grad():
        (actual,) = coarse(images)
        torch.testing.assert_close(actual, net.coarse_of_pixels(images)["labels"])
