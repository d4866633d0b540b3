from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors

from fullconv.data.transforms import (
    MEAN_COLOR,
    MIDDLE,
    UNMEASURED,
    RandomScaleCrop,
    default_crop,
    training_transform,
)


def pair(labels: np.ndarray) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image whose red, green and blue all are twice the label."""
    image = torch.from_numpy(np.repeat(labels[None] * 2, 3, 0))
    return tv_tensors.Image(image), tv_tensors.Mask(torch.from_numpy(labels[None]))


def ramp(height: int = 60, width: int = 100) -> np.ndarray:
    """Labels that grow by one a column."""
    return np.tile(np.arange(width, dtype=np.uint8), (height, 1))


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("size", "magnify", "crop"),
    [
        ((256, 256), 2, (128, 128)),
        ((160, 240), 2, (80, 112)),
        ((400, 256), 4, (96, 64)),
        ((128, 96), 4, (48, 48)),
        ((40, 60), 4, (40, 48)),
        ((20, 30), 4, (16, 24)),
        ((3, 5), 4, (3, 5)),
        ((4000, 3000), 2, (368, 272)),
    ],
)
def test_crops_of_magnified_images_show_as_much_less(
    size: tuple[int, int], magnify: int, crop: tuple[int, int]
) -> None:
    assert default_crop(*size, magnify) == crop


@pytest.mark.parametrize(
    ("size", "magnify", "finer", "crop"),
    [
        ((584, 564), 1, 4, (128, 128)),
        ((320, 320), 1, 4, (96, 96)),
        ((384, 384), 1, 2, (192, 192)),
        ((160, 240), 2, 2, (80, 112)),
        ((360, 480), 1, 1, (352, 480)),
        ((4000, 3000), 1, 4, (160, 128)),
    ],
)
def test_crops_of_nets_with_finer_cells_show_as_much_less(
    size: tuple[int, int], magnify: int, finer: int, crop: tuple[int, int]
) -> None:
    assert default_crop(*size, magnify, finer=finer) == crop


# Several inputs and heads ----------------------------------------------------------------------

INPUTS = {"depth": 1, "color": 3, "hha": 3}


def scene(labels: np.ndarray) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Depth 500 times the label, colour twice, HHA once; two heads, the second counting down."""
    grey = labels[None].astype(np.float32)
    image = np.concatenate([500 * grey, *[2 * grey] * 3, *[grey] * 3])
    masks = np.stack([labels, 200 - labels])
    return tv_tensors.Image(torch.from_numpy(image)), tv_tensors.Mask(torch.from_numpy(masks))


@pytest.mark.parametrize("factor", [0.6, 1.0, 2.3])
def test_all_inputs_and_heads_move_together(factor: float) -> None:
    torch.manual_seed(1)
    transform = training_transform((24, 24), (factor, factor), 0.5, inputs=INPUTS)
    for _ in range(20):
        image, masks = transform(*scene(ramp()))
        assert image.shape == (7, 24, 24)
        assert image.dtype == torch.float32
        assert masks.shape == (2, 24, 24)
        assert masks.dtype == torch.uint8
        assert torch.equal(masks[1], 200 - masks[0])
        assert torch.equal(image[0], 500.0 * masks[0])  # distances are taken, never mixed
        inner = (slice(None), slice(2, -2), slice(2, -2))
        for part, times in ((image[1:4], 2), (image[4:], 1)):
            assert (part / times - masks[0]).abs()[inner].max() <= 1.0
            assert torch.equal(part[0], part[2])


def test_each_input_gets_what_the_same_crop_gives_it_alone() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (7, 40, 30)))
    image, (_, mask) = tv_tensors.Image(noise.float()), scene(ramp(40, 30))
    places = {"depth": slice(0, 1), "color": slice(1, 4), "hha": slice(4, 7)}

    def cropped(part: slice, inputs: dict[str, int]) -> Tensor:
        torch.manual_seed(4)
        crop = RandomScaleCrop((50, 20), (0.7, 0.9), inputs=inputs)
        return crop(tv_tensors.Image(image[part]), mask)[0]

    whole = cropped(slice(0, 7), INPUTS)
    for name, part in places.items():
        assert torch.equal(whole[part], cropped(part, {name: INPUTS[name]}))


def test_what_lies_outside_is_neutral_for_each_input() -> None:
    torch.manual_seed(0)
    crop = RandomScaleCrop((9, 12), (1, 1), ignore_index=99, inputs=INPUTS)
    image, masks = crop(*scene(ramp(4, 5) + 3))
    outside = masks[0] == 99
    assert torch.equal(masks[1] == 99, outside)
    assert int((~outside).sum()) == 4 * 5
    expected = torch.tensor([UNMEASURED, *MEAN_COLOR, MIDDLE, MIDDLE, MIDDLE])
    assert torch.equal(image[:, outside], expected[:, None].expand(7, 88).float())
    assert torch.equal(image[0][~outside], 500.0 * masks[0][~outside])


def test_colour_changes_the_color_input_alone_and_as_it_would_without_others() -> None:
    random = np.random.default_rng(0)
    colour = torch.from_numpy(random.integers(0, 256, (3, 20, 20), dtype=np.uint8))
    others = torch.from_numpy(random.uniform(0, 6e4, (4, 20, 20)).astype(np.float32))
    mask = tv_tensors.Mask(torch.zeros(1, 20, 20, dtype=torch.uint8))
    image = torch.cat([others[:1], colour.float() - 0.4, others[1:]])
    torch.manual_seed(3)
    alone, _ = training_transform(None, color=0.5)(tv_tensors.Image(colour), mask)
    torch.manual_seed(3)
    moved, _ = training_transform(None, color=0.5, inputs=INPUTS)(tv_tensors.Image(image), mask)
    assert not torch.equal(alone, colour)
    assert moved.dtype == torch.float32
    assert torch.equal(moved[1:4], alone.float())
    assert torch.equal(moved[[0, 4, 5, 6]], others)


@pytest.mark.parametrize("inputs", [{"hha": 3}, {"depth": 1, "hha": 3}])
def test_without_a_color_input_no_colour_changes(inputs: dict[str, int]) -> None:
    image = tv_tensors.Image(torch.rand(sum(inputs.values()), 9, 7) * 255)
    mask = tv_tensors.Mask(torch.zeros(1, 9, 7, dtype=torch.uint8))
    moved, _ = training_transform(None, color=0.9, inputs=inputs)(image, mask)
    assert torch.equal(moved, image)


def test_whole_images_stay_as_they_are_or_are_flipped() -> None:
    for height, width in ((7, 11), (64, 5)):
        image, masks = scene(ramp(height, width))
        for flip in (0.0, 1.0):
            transform = training_transform(None, (0.5, 2.0), flip, inputs=INPUTS)
            moved, moved_masks = transform(image, masks)
            assert torch.equal(moved, image.flip(-1) if flip else image)
            assert torch.equal(moved_masks, masks.flip(-1) if flip else masks)
            assert moved.dtype == torch.float32


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    crop=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_any_scene_gives_the_crop_and_no_distance_is_invented(
    size: tuple[int, int], crop: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    labels = np.random.default_rng(seed).choice([1, 7, 100], size).astype(np.uint8)
    transform = training_transform(crop, (0.2, 4.0), 0.5, 0.3, inputs=INPUTS)
    image, masks = transform(*scene(labels))
    assert image.shape == (7, *crop)
    assert masks.shape == (2, *crop)
    assert set(image[0].unique().tolist()) <= {UNMEASURED, *(500.0 * np.unique(labels)).tolist()}
    assert torch.equal(image[0] == UNMEASURED, masks[0] == 255)
    assert image.min() >= 0
