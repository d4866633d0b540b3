"""`FCN.predict` and `FCN.label`: the net stays as it is, whoever asks, however it was made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nets import lively, random_scores
from torch import nn

import fullconv
from fullconv import FCN


def tiny() -> nn.Module:
    """Strides 2 to 32, batch normalisation and dropout: what a training mode would show in."""
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 8), (8, 8), (8, 8), (8, 8)):
        convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 5)]
    return nn.Sequential(*layers, *end)


@pytest.fixture
def net() -> FCN:
    torch.manual_seed(0)
    return lively(random_scores(FCN(tiny(), 8, 4)))


def photo(seed: int, size: tuple[int, int] = (61, 83)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_threads_may_label_with_a_net_in_training_mode(net: FCN) -> None:
    images = [photo(seed) for seed in range(24)]
    expected = [net.eval().predict(image) for image in images]
    net.train()
    net.trunk.eval()  # parts may differ, and stay so
    modes = [part.training for part in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(net.predict, images))
    for labels, truth in zip(found, expected, strict=True):
        np.testing.assert_array_equal(labels, truth)
    assert [part.training for part in net.modules()] == modes
    assert all(value.equal(state[name]) for name, value in net.state_dict().items())


def test_describing_and_eliding_change_no_mode(net: FCN) -> None:
    from fullconv.net.description import describe
    from fullconv.net.rewrites.elision import elided

    net.train()
    describe(net, (64, 96))
    elided(net, (64, 96))
    assert all(part.training for part in net.modules())


def test_a_net_in_training_mode_learns_on_after_it_labelled(net: FCN) -> None:
    net.train()
    before = net.predict(photo(0))
    with torch.no_grad():
        for score in net.scores.values():
            score.weight.neg_()
    assert (net.predict(photo(0)) != before).any()  # the twin sees what was learnt


@pytest.mark.parametrize("made", ["built", "loaded"])
def test_nets_made_in_inference_mode_predict(net: FCN, made: str, tmp_path) -> None:
    expected = net.eval().predict(photo(0))
    net.save_pretrained(tmp_path)
    with torch.inference_mode():
        if made == "loaded":
            other = fullconv.load(tmp_path)
        else:
            torch.manual_seed(0)
            other = FCN(tiny(), 8, 4).eval()
            other.load_state_dict(net.state_dict())
        np.testing.assert_array_equal(other.predict(photo(0)), expected)
    np.testing.assert_array_equal(other.predict(photo(0)), expected)
