"""Magnified nets: the image enlarged by definition, then an ordinary net, read at the pixels."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import NarrowVGG, classifier, lively, random_scores, settled

from fullconv import FCN, load
from fullconv.base.errors import FullconvError
from fullconv.data.transforms import default_magnification
from fullconv.geometry import PIXELS, Grid, SkipGeometry, Window
from fullconv.train.losses import cell_labels

TRUNKS = ("mobilenet_v2", "squeezenet1_1", "narrow vgg")


def magnified_net(trunk, magnify, stride=8):
    torch.manual_seed(0)
    made = settled(NarrowVGG()) if trunk == "narrow vgg" else classifier(trunk)
    return lively(random_scores(FCN(made, stride, 3, magnify=magnify)).eval())


def enlarged(image, factor, begin):
    """Return linear interpolation of the last axis at (j - begin) / factor, in float64."""
    length = image.shape[-1]
    at = (np.arange(factor * length) - float(begin)) / factor
    whole = np.floor(at).astype(int)
    low, high = whole.clip(0, length - 1), (whole + 1).clip(0, length - 1)
    return image[..., low] * (1 - (at - whole)) + image[..., high] * (at - whole)


def seen(net, image):
    """Return the image as the trunk sees it, by definition, before any padding."""
    begins = net.vertical.pixels.offset, net.horizontal.pixels.offset
    factor = net.arguments.magnify
    rows = enlarged(image.swapaxes(-1, -2), factor, begins[0]).swapaxes(-1, -2)
    return enlarged(rows, factor, begins[1])


@pytest.mark.slow
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("magnify", [2, 4])
@pytest.mark.parametrize("size", [(40, 61), (33, 1)])
def test_the_image_is_interpolated_and_the_scores_are_those_of_a_plain_net(trunk, magnify, size):
    net = magnified_net(trunk, magnify).double()
    plain = magnified_net(trunk, 1).double()
    state = {name: each for name, each in net.state_dict().items() if not name.startswith("magn")}
    plain.load_state_dict({**plain.state_dict(), **state} | _last_of(plain))
    image = np.random.default_rng(0).normal(size=(2, 3, *size))
    by_definition = torch.from_numpy(seen(net, image))
    with torch.no_grad():
        shown = net._seen(torch.from_numpy(image))
        scores = net(torch.from_numpy(image))
        coarse = plain.coarse(by_definition)
        assert coarse.shape == net.coarse(torch.from_numpy(image)).shape
        everywhere = plain.upsample(coarse, tuple(by_definition.shape[2:]))
    height, width = by_definition.shape[2:]
    torch.testing.assert_close(shown[..., :height, :width], by_definition)
    begins = net.vertical.pixels.offset, net.horizontal.pixels.offset
    if all(begin.denominator == 1 for begin in begins):  # else pixels lie between those it sees
        top, left = map(int, begins)
        torch.testing.assert_close(scores, everywhere[..., top::magnify, left::magnify])
    assert scores.shape == (2, 3, *size) and float(scores.std()) > 0.01


def _last_of(net):
    """Return the last upscore of a net, whose size depends on the magnification."""
    return {name: each for name, each in net.state_dict().items() if "-1.weight" in name}


@pytest.mark.parametrize("offset", [0, 3, 17, Fraction(7, 2)])
@pytest.mark.parametrize("magnify", [1, 2, 4])
def test_the_last_upscore_lands_on_the_pixels_exactly(offset, magnify):
    """Output j of a ramp is the coarse coordinate of pixel j, worked out by hand."""
    first, last = int(np.floor(offset)), int(np.ceil(offset))
    chain = SkipGeometry.of([Grid(8, first, last, windows=(Window(8, 8),))], scale=magnify)
    alignment, pixels = chain.alignments[0], chain.pixels
    assert 0 <= pixels.offset < max(Fraction(magnify, 2), Fraction(1, 2))
    assert pixels == PIXELS or pixels.stride == magnify
    for j in range(5):
        on_seen = magnify * j + pixels.offset
        assert (j + alignment.shift) / alignment.factor == (on_seen - Fraction(offset)) / 8


@pytest.mark.parametrize("trunk", TRUNKS)
def test_cells_get_the_label_of_the_pixel_nearest_to_their_centre(trunk):
    net = magnified_net(trunk, 2)
    height, width = 64, 48
    cells = net.coarse(torch.zeros(1, 3, height, width)).shape[2:]
    rows = torch.arange(height)[:, None].expand(height, width)[None].to(torch.uint8)
    found = cell_labels(net, rows, tuple(cells))[0, :, 2]
    grid, pixels = net.vertical.fused[-1], net.vertical.pixels
    for cell, label in enumerate(found.tolist()):
        centre = (grid.offset + grid.stride * cell - pixels.offset) / pixels.stride
        assert label == 255 or abs(label - centre) <= Fraction(1, 2)
    assert found.ne(255).sum() >= len(found) - 1


@pytest.mark.slow
def test_it_is_kept_in_the_model_folder(tmp_path):
    net = magnified_net("mobilenet_v2", 2)
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["net"]["magnify"] == 2
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    again = load(tmp_path)
    assert (again.predict(image) == net.predict(image)).all()
    assert len(np.unique(net.predict(image))) > 1


@pytest.mark.slow
def test_describe_tells(tmp_path, capsys, command_line):
    magnified_net("mobilenet_v2", 2).save_pretrained(tmp_path)
    assert not command_line("describe", tmp_path, "--size", "40x64")
    told = capsys.readouterr().out
    assert "magnified to 80x128, whose pixels" in told and "padded" not in told


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"stride": 8, "magnify": 3}, "1 or 2 or 4 at stride 8, not 3"),
        ({"stride": 8, "magnify": 8}, "1 or 2 or 4 at stride 8, not 8"),
        ({"stride": 32, "magnify": 0}, "at stride 32, not 0"),
        ({"stride": 32, "magnify": 2, "padding": 100}, "must be 1 with a padding"),
    ],
)
def test_other_factors_are_refused(arguments, wrong):
    with pytest.raises(FullconvError, match=wrong):
        FCN(NarrowVGG(), num_classes=2, **arguments)


@pytest.mark.parametrize(
    ("size", "most", "factor"),
    [
        ((360, 480), 4, 1),
        ((384, 384), 4, 2),
        ((385, 384), 4, 1),
        ((192, 192), 4, 4),
        ((64, 64), 4, 4),
        ((64, 64), 2, 2),
        ((64, 64), 1, 1),
        ((4000, 3000), 16, 1),
    ],
)
def test_small_images_are_magnified_by_default(size, most, factor):
    assert default_magnification(*size, most) == factor
