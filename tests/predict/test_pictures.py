"""Palettes, palette PNGs and overlays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.base.palette import default_palette
from fullconv.predict.pictures import overlay, save_label_image

PALETTE = ((255, 0, 0), (0, 0, 255))


def test_default_palettes_are_distinct_nested_bytes():
    whole = default_palette(255)
    assert len(set(whole)) == 255
    assert (255, 255, 255) not in whole  # what is ignored is white
    assert all(isinstance(v, int) and 0 <= v <= 255 for colour in whole for v in colour)
    assert default_palette(0) == ()
    assert all(default_palette(n) == whole[:n] for n in (1, 2, 21, 254))
    for wrong in (-1, 256):
        with pytest.raises(ValueError, match="0 to 255"):
            default_palette(wrong)


def dichromat_greys(colours, missing):
    """Return what Viénot's older model leaves of linear RGB without red or green cones."""
    linear = (np.asarray(colours) / 255) ** 2.2
    red, green, blue = linear.T
    yellow = {"red": 0.11 * red + 0.89 * green, "green": 0.29 * red + 0.71 * green}[missing]
    return np.stack([yellow, blue], 1) ** (1 / 2.2)


@pytest.mark.parametrize("missing", ["red", "green"])
def test_the_first_dozen_differ_to_the_colour_blind(missing):
    # Checked by another model of colour blindness than the palette was made with; by it, the
    # first dozen of PASCAL VOC's palette have pairs nearer than 0.01, of matplotlib's tab10 0.05.
    seen = dichromat_greys(default_palette(12), missing)
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(12, 1)]
    assert apart.min() > 0.1


@given(
    st.integers(1, 255),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
def test_a_saved_label_image_holds_the_ids_and_colours(tmp_path_factory, classes, size, seed):
    labels = np.random.default_rng(seed).integers(0, classes + 1, size).astype(np.uint8)
    labels[labels == classes] = 255
    path = tmp_path_factory.getbasetemp() / "labels.png"
    palette = default_palette(classes)
    save_label_image(path, labels, palette)
    with Image.open(path) as image:
        assert (image.mode, image.format) == ("P", "PNG")
        assert "transparency" not in image.info
        assert (np.asarray(image) == labels).all()
        colours = np.asarray(image.convert("RGB"))
    table = np.array([*palette, *[(255, 255, 255)] * (256 - classes)])
    assert (colours == table[labels]).all()


def test_label_images_are_8_bit_even_of_two_classes(tmp_path):
    save_label_image(tmp_path / "a.png", np.eye(9, dtype=np.uint8), PALETTE)
    header = (tmp_path / "a.png").read_bytes()
    assert header[24:26] == bytes([8, 3])  # bit depth 8, colour type 3: palette


def test_another_ignore_index_is_white(tmp_path):
    save_label_image(tmp_path / "a.png", np.array([[0, 2]], np.uint8), PALETTE, ignore_index=2)
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image.convert("RGB"))[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_failed_writing_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"before")
    with pytest.raises(TypeError):
        save_label_image(target, np.zeros((2, 2), np.complex64), PALETTE)  # type: ignore[arg-type]
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_overlay_blends_by_class_and_leaves_the_ignored_alone():
    image = np.full((3, 3, 3), 100, np.uint8)
    labels = np.zeros((3, 3), np.uint8)
    assert overlay(image, labels, PALETTE)[1, 1] == pytest.approx([169, 55, 55], abs=1)
    ignored = overlay(image, labels + 255, PALETTE)
    assert (ignored == image).all()
    assert (overlay(image, labels + 2, PALETTE, ignore_index=2) == image).all()
    assert (image == 100).all()


def test_overlay_darkens_boundaries_only():
    image = np.full((4, 6, 3), 100, np.uint8)
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 1
    shown = overlay(image, labels, PALETTE).astype(int)
    flat = overlay(image, np.zeros_like(labels), PALETTE).astype(int)
    assert (shown[:, :2] == flat[:, :2]).all()
    assert (shown[:, 2].sum(-1) < 0.7 * flat[:, 2].sum(-1)).all()
    assert (shown[:, 4:] == shown[:1, 4:5]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_overlay_of_tiny_images(size):
    image = np.zeros((*size, 3), np.uint8)
    assert overlay(image, np.zeros(size, np.uint8), PALETTE).shape == (*size, 3)
