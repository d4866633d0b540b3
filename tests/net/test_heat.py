"""Maps of a class's probability: where they lie, and that they are what the nets say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

import fullconv
from fullconv.base.images import ImageReader
from fullconv.net.classifiers import build_classifier
from fullconv.net.heat import DenseClassifier, heat_of_net, imagenet_classes, matching

SHARED = Path(os.environ.get("FULLCONV_SHARED", "no-such-folder"))
PLAIN = fullconv.Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, input_size=32)


class RedOrNot(nn.Module):
    """Scores the mean of red, against a half, in cells of 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 1, 4, 4)
        nn.init.zeros_(self.cells.weight)
        nn.init.constant_(self.cells.bias, -0.5)
        with torch.no_grad():
            self.cells.weight[0, 0] = 1 / 16
        self.score = nn.Linear(1, 2)
        with torch.no_grad():
            self.score.weight[:] = torch.tensor([[20.0], [-20.0]])
            self.score.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.cells(x).mean((2, 3)))


@pytest.fixture(scope="module")
def red() -> DenseClassifier:
    return DenseClassifier(RedOrNot(), PLAIN)


def square(height: int, width: int, top: int, left: int, side: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + side, left : left + side, 0] = 255
    return image


@pytest.mark.parametrize("scales", [(1.0,), (2.0,), (1.0, 1.5, 2.0, 3.0)])
@pytest.mark.parametrize("size", [(64, 64), (90, 131), (333, 77)])
def test_heat_lies_where_the_class_is(
    red: DenseClassifier, size: tuple[int, int], scales: tuple[float, ...]
) -> None:
    side = min(size) // 2
    top, left = size[0] - side - 5, 7
    image = square(*size, top, left, side)
    heat = red.heat(image, [0], scales)
    assert heat.shape == size
    assert heat.dtype == np.float32
    assert 0 <= heat.min() <= heat.max() <= 1
    rows, columns = np.mgrid[: size[0], : size[1]]
    weight = heat / heat.sum()
    assert (rows * weight).sum() == pytest.approx(top + (side - 1) / 2, abs=0.04 * max(size))
    assert (columns * weight).sum() == pytest.approx(left + (side - 1) / 2, abs=0.04 * max(size))
    assert heat[top + side // 2, left + side // 2] > 0.99
    assert heat[2, -3] < 0.01


def test_half_a_picture_is_parted_at_its_middle(red: DenseClassifier) -> None:
    """The places of cells are exact: both halves get the same, mirrored."""
    image = square(64, 64, 0, 0, 32)
    image[:, :32, 0] = 255
    heat = red.heat(image, [0], (2.0,))
    assert np.allclose(heat + heat[:, ::-1], 1, atol=1e-3)


def test_classes_add_up(red: DenseClassifier) -> None:
    image = square(50, 60, 3, 4, 20)
    both = red.heat(image, [0, 1])
    assert np.allclose(both, 1, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (7, 3)])
def test_images_of_any_size(red: DenseClassifier, size: tuple[int, int]) -> None:
    heat = red.heat(np.full((*size, 3), 255, np.uint8), [0])
    assert heat.shape == size
    assert heat.min() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "mobilenet_v3_small"])
def test_torchvisions_classifiers(name: str) -> None:
    """Dense layers, a convolution that scores, and squeeze-and-excitation."""
    torch.manual_seed(0)
    dense = DenseClassifier(tv.get_model(name, weights=None), fullconv.Preprocessing())
    heat = dense.heat(np.zeros((30, 40, 3), np.uint8), [1, 2], (1.0,))
    assert heat.shape == (30, 40)
    assert dense.num_classes == 1000


def test_of_a_net_it_is_the_probability(random_model: Path) -> None:
    net = fullconv.load(random_model)
    net.head.temperature = 1.7
    image = np.random.default_rng(0).integers(0, 256, (45, 52, 3)).astype(np.uint8)
    with torch.no_grad():
        scores = net(net.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None]))
    expected = (scores[0] / 1.7).softmax(0)[[0, 2]].sum(0).numpy()
    assert np.allclose(heat_of_net(net, image, "labels", [0, 2]), expected, atol=1e-5)


NAMES = ("tabby", "tiger cat", "Egyptian cat", "catamaran", "hotdog", "African hunting dog")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("tabby", ["tabby"]),
        ("TIGER-cat", ["tiger cat"]),
        ("cat", ["tiger cat", "Egyptian cat"]),  # a word before a part of one
        ("amaran", ["catamaran"]),
        ("hot dog", ["hotdog"]),
        ("dog", ["African hunting dog"]),
        ("3", ["catamaran"]),
    ],
)
def test_names(wanted: str, found: list[str]) -> None:
    assert [NAMES[label] for label in matching(wanted, NAMES)] == found


@pytest.mark.parametrize(
    ("wanted", "told"),
    [("taby", "did you mean tabby"), ("zebra", "no class is called 'zebra'"), ("6", "0 to 5")],
)
def test_names_that_nothing_has(wanted: str, told: str) -> None:
    with pytest.raises(fullconv.FullconvError, match=told):
        matching(wanted, NAMES)
    with pytest.raises(fullconv.FullconvError):
        matching("  ", NAMES)


# Boxes, as top, bottom, left, right in shares of the photograph, looked up by eye.
PHOTOS = {
    "cat": ("tabby,cat", (0.1, 1.0, 0.1, 0.75)),
    "parrot": ("macaw", (0.08, 0.95, 0.2, 1.0)),
    "hot_dog": ("hot dog", (0.15, 0.6, 0.08, 1.0)),
}


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="needs FULLCONV_SHARED")
@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_0"])
def test_photographs(name: str, photo: str) -> None:
    wanted, (top, bottom, left, right) = PHOTOS[photo]
    dense = DenseClassifier(*build_classifier(name, SHARED / f"weights/{name}.safetensors"))
    names = imagenet_classes()
    classes = {label for each in wanted.split(",") for label in matching(each, names)}
    image = ImageReader().image(SHARED / f"data/photos/{photo}.jpg")
    heat = dense.heat(image, sorted(classes))
    height, width = heat.shape
    inside = heat[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    assert heat.max() > 0.9
    assert inside.sum() / heat.sum() > 0.8  # cells at scale 1 reach a seventh of a side beyond
    assert inside.mean() > 3 * (heat.sum() - inside.sum()) / (heat.size - inside.size)
