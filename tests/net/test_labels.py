"""What is made of coarse scores: parts of an image, probabilities, unsure shares, two views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from colour_net import ColourNet, PixelHead
from nets import NarrowVGG, classifier, lively, narrow_caffe_vgg, random_scores

from fullconv import FCN
from fullconv.net import head as head_module
from fullconv.net.fcn import views_of

TRUNKS = {
    "half a cell off": (NarrowVGG, {}),
    "aligned": (lambda: classifier("mobilenet_v2"), {}),
    "faded": (narrow_caffe_vgg, {"padding": 100}),
    "faded, learned": (narrow_caffe_vgg, {"padding": 100, "learn_last_upscore": True}),
    "learned": (NarrowVGG, {"learn_last_upscore": True}),
}


def a_net(trunk, arguments, stride=8, classes=4):
    torch.manual_seed(stride)
    net = lively(random_scores(FCN(trunk(), stride, classes, **arguments))).eval()
    if "learn_last_upscore" in arguments:
        with torch.no_grad():
            net.upscores[f"{stride}-1"].weight.mul_(torch.rand(classes, 1, 1, 1) + 0.5)
    return net


def photo(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def whole(net, image):
    """Return probabilities at every pixel, C x H x W, by nothing but the net itself."""
    x = net.preprocessing(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    with torch.no_grad():
        return (net(x) / net.head.temperature).softmax(1)[0]


def views_through(net, image, *, tta):
    """Return the coarse scores of each view of an image, of the only head."""
    with torch.inference_mode():
        return [net.coarse_of_image(view)["labels"] for view in views_of(image, tta=tta)]


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("stride", [8, 16])
def test_parts_are_those_of_the_whole(kind, stride):
    net = a_net(*TRUNKS[kind], stride)
    random = np.random.default_rng(0)
    for height, width in ((1, 1), (53, 70), (96, 33)):
        coarse = net.coarse(torch.randn(1, 3, height, width)).detach()
        scores = net.upsample(coarse, (height, width)).detach()
        parts = [(range(height), range(width)), (range(height - 1, height), range(1))]
        for _ in range(12):
            top, left = random.integers(height), random.integers(width)
            bottom, right = random.integers(top, height) + 1, random.integers(left, width) + 1
            parts.append((range(top, bottom), range(left, right)))
        for rows, columns in parts:
            part = net.head.scores_within(coarse, rows, columns)
            expected = scores[..., rows.start : rows.stop, columns.start : columns.stop]
            torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)


def test_a_part_enlarges_no_more_than_it_needs(monkeypatch):
    net = a_net(NarrowVGG, {})
    coarse = net.coarse(torch.randn(1, 3, 400, 400)).detach()
    sizes = []
    monkeypatch.setattr(
        type(net.head), "upsample", lambda _, scores, size: sizes.append(size) or scores
    )
    net.head.scores_within(coarse, range(201, 241), range(399, 400))
    ((height, width),) = sizes
    assert height <= 40 + 16 and width <= 1 + 16


@pytest.mark.parametrize("tta", [False, True])
def test_bands_are_the_calibrated_probabilities_of_all_pixels(monkeypatch, tta):
    monkeypatch.setattr(head_module, "BAND", 4 * 70 * 20)
    net = a_net(NarrowVGG, {})
    net.head.temperature = 2.5
    image = photo((53, 70))
    views = views_through(net, image, tta=tta)
    bands = list(net.head.probability_bands(views, (53, 70)))
    assert [band.shape[1] for band in bands] == [20, 20, 13]
    expected = whole(net, image)
    if tta:
        mirror = whole(net, image[:, ::-1]).flip(-1)
        assert (expected - mirror).abs().max() > 0.05
        expected = (expected + mirror) / 2
    torch.testing.assert_close(torch.cat(bands, 1), expected, rtol=1e-4, atol=1e-5)
    if tta:
        found = net.label(image, tta=True)["labels"]
        assert (found == expected.argmax(0).numpy()).mean() > 0.999
        assert (found != net.label(image)["labels"]).any()


class TwoPixels(ColourNet):
    """Of two classes at two pixels; it scores the left one and the right one differently."""

    def __init__(self):
        super().__init__({"labels": PixelHead(("a", "b"), ((0, 0, 0), (1, 1, 1)))})

    def coarse(self, x):
        # Logarithms of odds, for and against: 9:1 of what is left, 1:3 of what is right.
        left, right = torch.tensor([9.0, 1.0]).log(), torch.tensor([1.0, 3.0]).log()
        return torch.stack([left, right], 1)[None, :, None] + 0 * x.sum()


def test_a_worked_example_of_two_views():
    """Left 0.9 for a, right 0.25; in the mirror the pixels change places: 0.575 for both."""
    net, image = TwoPixels(), np.zeros((1, 2, 3), np.uint8)
    (band,) = net.head.probability_bands(views_through(net, image, tta=True), (1, 2))
    torch.testing.assert_close(band, torch.tensor([[[0.575, 0.575]], [[0.425, 0.425]]]))
    assert net.label(image)["labels"].tolist() == [[0, 1]]
    assert net.label(image, tta=True)["labels"].tolist() == [[0, 0]]


def test_mirrors_change_no_label_of_a_net_without_sides():
    image = photo((9, 14))
    plain, both = (ColourNet().label(image, tta=tta)["labels"] for tta in (False, True))
    assert (plain == both).all() and len(np.unique(plain)) == 3


def test_the_unsure_share_of_a_worked_example():
    """Of probabilities 0.9, 0.75, 0.74 and NaN the last two are below 0.75."""
    net = ColourNet({"labels": PixelHead(("a", "b"), ((0, 0, 0), (1, 1, 1)))})
    odds = torch.tensor([9.0, 3.001, 0.74 / 0.26, float("nan")])
    coarse = torch.stack([odds.log(), torch.zeros(4)]).reshape(1, 2, 2, 2)
    assert net.unsure_shares([{"labels": coarse}], (2, 2)) == {"labels": 0.5}
    sure = torch.zeros(1, 2, 2, 2).index_fill(1, torch.tensor([0]), 9.0)
    both = [{"labels": coarse}, {"labels": sure}]
    assert net.unsure_shares(both, (2, 2)) == {"labels": 0.25}
    net.heads["labels"] = PixelHead(("a", "b"), ((0, 0, 0), (1, 1, 1)), temperature=0.5)
    assert net.unsure_shares([{"labels": coarse}], (2, 2)) == {"labels": 0.25}  # 0.74: 0.89 now


def test_cells_beyond_the_image_are_not_counted():
    """The paper's nets score a frame of 100 pixels round the image, too."""
    net = a_net(narrow_caffe_vgg, {"padding": 100})
    net.coarse(torch.zeros(1, 3, 40, 64))
    cells = net.coarse(torch.zeros(1, 3, 40, 64)).shape[-2:]
    chains = (net.vertical, net.horizontal)
    on_image = [
        range(
            max(chain.alignments[-1].cells_read(0)[0], 0),
            min(chain.alignments[-1].cells_read(length - 1)[1] + 1, count),
        )
        for chain, length, count in zip(chains, (40, 64), cells, strict=True)
    ]
    down, across = on_image
    assert len(down) <= 40 // 8 + 3 and len(down) < cells[0]
    coarse = torch.zeros(1, 4, *cells)  # unsure wherever it is not made sure
    coarse[:, 0, down.start : down.stop, across.start : across.stop] = 9
    assert net.unsure_shares([{"labels": coarse}], (40, 64)) == {"labels": 0.0}
    coarse[:, 0, down.start, across.start] = 0
    share = net.unsure_shares([{"labels": coarse}], (40, 64))["labels"]
    assert share == pytest.approx(1 / (len(down) * len(across)))
