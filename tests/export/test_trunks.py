"""Every trunk of the libraries' as a file: no size of an image is baked in, no border differs."""

from __future__ import annotations

from functools import lru_cache

import pytest
from exports import FORMATS, by_hand, exported, photo, scored_net
from nets import TIMM, TORCHVISION, classifier, settled

from fullconv.base.errors import FullconvError
from fullconv.export.opened import OpenedExport
from fullconv.net.fcn import FCN


@lru_cache(1)
def finest(name: str) -> FCN:
    """Return an FCN-8s on a trunk or, where it has no such stride, an FCN-32s.

    Statistics of a batch are those of photos of ordinary size: with those of 64 x 64 EfficientNet's
    values grow until float32 itself is 3e-3 from float64.
    """
    trunk = settled(classifier(name), 128)
    try:
        return scored_net(trunk, 8)
    except FullconvError:
        return scored_net(trunk, 32)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", (*TORCHVISION, *TIMM))
def test_a_trunk_as_a_file(name, form, tmp_path):
    net = finest(name)
    opened = OpenedExport(exported(net, tmp_path, form, output="scores").path)
    for seed, size in enumerate(((1, 1), (66, 67), (45, 130))):
        image = photo(size, seed)[None]
        truth = by_hand(net, image)["labels"]
        found = opened.outputs(image)["labels"]
        assert found.shape == tuple(truth.shape)
        apart = abs(found - truth.numpy()).max() / max(float(truth.abs().max()), 1.0)
        assert apart < 1e-4, size
