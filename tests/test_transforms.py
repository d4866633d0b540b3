from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors

from fullconv.data.transforms import MEAN_COLOR, RandomScaleCrop, default_crop, training_transform


def pair(labels: np.ndarray) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image whose red, green and blue all are twice the label."""
    image = torch.from_numpy(np.repeat(labels[None] * 2, 3, 0))
    return tv_tensors.Image(image), tv_tensors.Mask(torch.from_numpy(labels[None]))


def ramp(height: int = 60, width: int = 100) -> np.ndarray:
    """Labels that grow by one a column."""
    return np.tile(np.arange(width, dtype=np.uint8), (height, 1))


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.tuples(st.floats(0.1, 1.0), st.floats(1.0, 5.0)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_any_image_gives_the_crop_and_no_label_is_invented(
    height: int, width: int, crop: tuple[int, int], scale: tuple[float, float], seed: int
) -> None:
    torch.manual_seed(seed)
    labels = np.random.default_rng(seed).choice([0, 7, 100], (height, width)).astype(np.uint8)
    image, mask = training_transform(crop, scale, 0.5, 0.3)(*pair(labels))
    assert image.shape == (3, *crop)
    assert mask.shape == (1, *crop)
    assert image.dtype == mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) <= {*np.unique(labels).tolist(), 255}


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3, 2.5])
def test_labels_stay_on_their_pixels(factor: float) -> None:
    """Away from the border the enlarged image still shows what its labels say, without a shift."""
    torch.manual_seed(1)
    crop = RandomScaleCrop((24, 24), (factor, factor))
    bias = []
    for _ in range(20):
        image, mask = crop(*pair(ramp()))
        difference = image[0, 2:-2, 2:-2].float() / 2 - mask[0, 2:-2, 2:-2].float()
        assert difference.abs().max() <= 1.0
        bias.append(float(difference.mean()))
    assert abs(np.mean(bias)) < 0.1


def test_no_change_at_scale_one() -> None:
    torch.manual_seed(0)
    image, mask = pair(ramp())
    moved, moved_mask = RandomScaleCrop((60, 100), (1, 1))(image, mask)
    assert torch.equal(moved, image)
    assert torch.equal(moved_mask, mask)


def test_what_lies_outside_is_mean_colour_and_ignored() -> None:
    torch.manual_seed(0)
    image, mask = RandomScaleCrop((9, 12), (1, 1), ignore_index=99)(*pair(ramp(4, 5) + 3))
    outside = mask[0] == 99
    assert int((~outside).sum()) == 4 * 5
    assert torch.equal(image[:, outside], torch.tensor(MEAN_COLOR)[:, None].expand(3, 88).byte())
    assert torch.equal(image[0][~outside], mask[0][~outside] * 2)


def test_scales_are_even_on_a_logarithmic_scale() -> None:
    torch.manual_seed(0)
    crop = RandomScaleCrop((10, 10), (0.5, 2.0))
    image, _ = pair(ramp(100, 100))
    heights = [crop.make_params([image])["region"][2] for _ in range(400)]
    assert min(heights) == 5
    assert max(heights) == 20
    assert np.mean(np.array(heights) < 10) == pytest.approx(0.5, abs=0.1)


def test_every_place_is_reached() -> None:
    torch.manual_seed(0)
    crop = RandomScaleCrop((2, 2), (1, 1))
    corners = {int(crop(*pair(ramp(2, 4)))[1][0, 0, 0]) for _ in range(60)}
    assert corners == {0, 1, 2}


def test_flip() -> None:
    image, mask = pair(ramp())
    moved, moved_mask = training_transform((60, 100), flip=1.0)(image, mask)
    assert torch.equal(moved, image.flip(-1))
    assert torch.equal(moved_mask, mask.flip(-1))


def test_colour_changes_the_image_alone() -> None:
    torch.manual_seed(0)
    image, mask = pair(ramp())
    moved, moved_mask = training_transform((60, 100), color=0.5)(image, mask)
    assert not torch.equal(moved, image)
    assert torch.equal(moved_mask, mask)


def test_randomness_is_torchs_own() -> None:
    transform = training_transform((20, 20), (0.5, 2.0), 0.5, 0.4)

    def draw() -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        return transform(*pair(ramp()))

    assert all(torch.equal(one, two) for one, two in zip(draw(), draw(), strict=True))


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((360, 480), (352, 480)),
        ((32, 33), (32, 32)),
        ((20, 700), (20, 672)),
        ((1, 1), (1, 1)),
        ((1024, 2048), (448, 896)),
        ((4000, 3000), (736, 544)),
    ],
)
def test_default_crop(size: tuple[int, int], crop: tuple[int, int]) -> None:
    assert default_crop(*size) == crop
    assert crop[0] * crop[1] <= 640 * 640
