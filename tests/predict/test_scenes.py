"""Scenes, and what a person is shown of them."""

from __future__ import annotations

import numpy as np

from fullconv.predict.scenes import photograph


def test_what_a_person_is_shown():
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (4, 5, 3), np.uint8)
    depth = random.integers(500, 3000, (4, 5, 1)).astype(np.float32)
    depth[0, 0], depth[3, 4] = 500, 3000
    both = np.concatenate([depth, colour], 2)
    assert (photograph(colour, {"color": 3}) == colour).all()
    assert (photograph(both, {"depth": 1, "color": 3}) == colour).all()
    assert (photograph(colour, {"hha": 3}) == colour).all()
    grey = photograph(depth, {"depth": 1})
    assert (grey.dtype, grey.shape) == (np.uint8, (4, 5, 3))
    assert grey[0, 0].tolist() == [0, 0, 0]
    assert grey[3, 4].tolist() == [255, 255, 255]
    order = depth.ravel().argsort()
    assert (np.diff(grey[..., 0].ravel()[order].astype(int)) >= 0).all()
    assert (photograph(np.zeros((2, 2, 1), np.float32), {"depth": 1}) == 0).all()
