"""Training as Caffe's solver does it, against the arithmetic written out in numpy, in float64.

The net is a small one of the paper's kind: convolution, ReLU, pooling, score, frozen upscore.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import nn

from fullconv.data.loading import Batch, Part
from fullconv.net.fcn import FCN
from fullconv.net.preprocessing import Preprocessing
from fullconv.train.plan import Plan
from fullconv.train.recipe import Recipe, read_recipe
from fullconv.train.state import TrainingState
from fullconv.train.step import Objective, take_step

Array = NDArray[np.float64]
Weights = dict[str, Array]
CLASSES, IGNORED, STEPS = 3, 255, 6
PREPROCESSING = Preprocessing("BGR", 1 / 64, (1.0, 1.5, 2.0), (1.0, 1.0, 1.0), 16)


pytestmark = pytest.mark.usefixtures("one_thread")


def small_net() -> FCN:
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 7),
    )
    net = FCN(classifier, 4, CLASSES, preprocessing=PREPROCESSING).train()
    (score,) = net.scores.values()
    nn.init.normal_(score.weight)
    nn.init.normal_(score.bias)
    return net


def batch(seed: int, parts: int, size: int) -> Batch:
    """Parts of `size` images; no two parts are of one height and width, or ignore as much."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(parts):
        height, width = 8 + 4 * index, 16 - 4 * index
        images = random.integers(0, 256, (size, 3, height, width), dtype=np.uint8)
        labels = random.integers(0, CLASSES, (size, 1, height, width), dtype=np.uint8)
        labels[random.random(labels.shape) < 0.2 * (index + 1)] = IGNORED
        made.append(Part(torch.from_numpy(images), torch.from_numpy(labels)))
    return Batch(made, [""] * parts * size)


# The net, forwards and backwards ---------------------------------------------------------------


def preprocessed(images: NDArray[np.uint8]) -> Array:
    mean = np.array(PREPROCESSING.mean)[:, None, None]
    return images[:, ::-1].astype(np.float64) * PREPROCESSING.scale - mean


def interpolation(cells: int, pixels: int) -> Array:
    """Pixels x cells: bilinear between the cells' centres, at pixels 1, 5, 9 ...; flat outside.

    A cell pools two outputs of the convolution, which stand on pixels 4i and 4i + 2.
    """
    centres = 4 * np.arange(cells) + 1
    rows = [np.interp(np.arange(pixels), centres, one) for one in np.eye(cells)]
    return np.stack(rows, 1)


def loss_and_gradient(
    weights: Weights, images: Array, labels: NDArray[np.uint8], normalise: bool
) -> tuple[float, Weights]:
    """Caffe's SoftmaxWithLoss: over valid pixels if it normalises, over images otherwise."""
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    convolved = np.einsum("nchwij,ocij->nohw", windows, weights["conv.weight"])
    convolved += weights["conv.bias"][:, None, None]
    rectified = np.maximum(convolved, 0)
    rows, columns = height // 4, width // 4
    blocks = rectified.reshape(count, -1, rows, 2, columns, 2).swapaxes(3, 4)
    blocks = blocks.reshape(count, -1, rows, columns, 4)
    pooled = blocks.max(-1)
    scores = np.einsum("nohw,ko->nkhw", pooled, weights["score.weight"])
    scores += weights["score.bias"][:, None, None]
    down, across = interpolation(rows, height), interpolation(columns, width)
    upscored = np.einsum("nkhw,yh,xw->nkyx", scores, down, across)

    chances = np.exp(upscored - upscored.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    valid = labels != IGNORED
    truth = np.eye(CLASSES)[np.where(valid, labels, 0)].transpose(0, 3, 1, 2)
    divisor = max(valid.sum(), 1) if normalise else count
    loss = -np.log((chances * truth).sum(1)[valid]).sum() / divisor

    of_upscored = (chances - truth) * valid[:, None] / divisor
    of_scores = np.einsum("nkyx,yh,xw->nkhw", of_upscored, down, across)
    of_pooled = np.einsum("nkhw,ko->nohw", of_scores, weights["score.weight"])
    of_blocks = np.eye(4)[blocks.argmax(-1)] * of_pooled[..., None]
    of_rectified = of_blocks.reshape(count, -1, rows, columns, 2, 2).swapaxes(3, 4)
    of_convolved = of_rectified.reshape(convolved.shape) * (convolved > 0)
    return loss, {
        "conv.weight": np.einsum("nohw,nchwij->ocij", of_convolved, windows),
        "conv.bias": of_convolved.sum((0, 2, 3)),
        "score.weight": np.einsum("nkhw,nohw->ko", of_scores, pooled),
        "score.bias": of_scores.sum((0, 2, 3)),
    }


# The solver ------------------------------------------------------------------------------------


def caffe_sgd(
    weights: Weights,
    batches: list[Batch],
    recipe: Recipe,
    multipliers: dict[str, tuple[float, float]],
    normalise: bool,
) -> list[float]:
    """Change `weights` as Caffe's SGDSolver does; return the loss of each step.

    Args:
        weights: by layer.
        batches: one a step; its parts are the passes of iter_size.
        recipe: for its learning rate, momentum and decay.
        multipliers: lr_mult and decay_mult of each parameter.
        normalise: of the loss.
    """
    history = {name: np.zeros_like(value) for name, value in weights.items()}
    losses = []
    for each in batches:
        iter_size = len(each.parts)
        gradients = {name: np.zeros_like(value) for name, value in weights.items()}
        losses.append(0.0)
        for images, labels in each.parts:
            loss, found = loss_and_gradient(
                weights, preprocessed(images.numpy()), labels.numpy()[:, 0], normalise
            )
            losses[-1] += loss / iter_size
            for name, value in found.items():
                gradients[name] += value
        for name, (lr_mult, decay_mult) in multipliers.items():
            gradient = gradients[name] / iter_size
            gradient += recipe.weight_decay * decay_mult * weights[name]
            history[name] = recipe.momentum * history[name] + recipe.lr * lr_mult * gradient
            weights[name] -= history[name]
    return losses


VGG = {
    "conv.weight": (1.0, 1.0),
    "conv.bias": (2.0, 0.0),
    "score.weight": (1.0, 1.0),
    "score.bias": (2.0, 0.0),
}
ALEXNET = {**VGG, "conv.bias": (1.0, 1.0)}


def parameters_of(net: FCN) -> Weights:
    (score,) = net.scores.values()
    convolution = next(m for m in net.trunk.modules() if isinstance(m, nn.Conv2d))
    values = {
        "conv.weight": convolution.weight,
        "conv.bias": convolution.bias,
        "score.weight": score.weight[..., 0, 0],
        "score.bias": score.bias,
    }
    return {name: value.detach().double().numpy().copy() for name, value in values.items()}


def trained(net: FCN, recipe: Recipe, batches: list[Batch]) -> None:
    plan = Plan(STEPS, STEPS, 1, crop="whole")
    state = TrainingState.start(net, recipe, plan)
    for step, each in enumerate(batches):
        state.set_learning_rate(plan.learning_rate(recipe, step))
        take_step(Objective(net, recipe), state.optimizer, each)


@pytest.mark.parametrize(
    ("rule", "accumulate", "images"),
    [
        ("vgg", 1, 1),
        ("vgg", 3, 1),
        ("vgg", 1, 2),
        ("vgg", 3, 2),
        ("alexnet", 1, 1),
        ("alexnet", 3, 1),
    ],
)
def test_the_weights_are_caffes(rule: str, accumulate: int, images: int) -> None:
    name = "voc-fcn32s" if rule == "vgg" else "voc-fcn-alexnet"
    lr = 2e-4 if rule == "vgg" else 0.03  # as the loss is a sum or a mean
    recipe = read_recipe(name, [f"lr={lr}", f"accumulate={accumulate}", "weight_decay=0.3"])
    multipliers = VGG if rule == "vgg" else ALEXNET
    batches = [batch(seed, accumulate, images) for seed in range(STEPS)]
    net = small_net()
    before, expected = parameters_of(net), parameters_of(net)
    upscore = net.upscores["4-1"].weight.clone()
    losses = caffe_sgd(expected, batches, recipe, multipliers, normalise=rule == "alexnet")
    assert np.isfinite(losses).all()
    trained(net, recipe, batches)
    for key, value in parameters_of(net).items():
        moved = np.abs(expected[key] - before[key]).max()
        assert moved > 0.01
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=2e-5 * moved, err_msg=key)
    assert torch.equal(net.upscores["4-1"].weight, upscore)


@pytest.mark.parametrize(
    "change",
    [
        "momentum=0.98",
        "weight_decay=0.29",
        "doubled_biases=scores",
        "doubled_biases=none",
        "loss=mean",
        "lr=1.99e-4",
    ],
)
def test_the_comparison_would_notice(change: str) -> None:
    settings = ["lr=2e-4", "accumulate=3", "weight_decay=0.3"]
    recipe = read_recipe("voc-fcn32s", settings)
    batches = [batch(seed, 3, 1) for seed in range(STEPS)]
    net = small_net()
    before, expected = parameters_of(net), parameters_of(net)
    caffe_sgd(expected, batches, recipe, VGG, normalise=False)
    trained(net, read_recipe("voc-fcn32s", [*settings, change]), batches)
    apart = {
        key: np.abs(value - expected[key]).max() / np.abs(expected[key] - before[key]).max()
        for key, value in parameters_of(net).items()
    }
    assert max(apart.values()) > 1e-3


def test_the_gradient_is_the_losss() -> None:
    """The arithmetic above, against finite differences of itself."""
    weights = parameters_of(small_net())
    images, labels = batch(9, 1, 2).parts[0]
    given = (preprocessed(images.numpy()), labels.numpy()[:, 0], False)
    _, gradient = loss_and_gradient(weights, *given)
    for name, value in weights.items():
        for place in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[place] = 1e-6
            above, below = (
                loss_and_gradient({**weights, name: value + sign * step}, *given)[0]
                for sign in (1, -1)
            )
            assert (above - below) / 2e-6 == pytest.approx(
                gradient[name][place], rel=1e-4, abs=1e-4
            )
