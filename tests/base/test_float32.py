"""Where float32 is asked for it is float32, and torch's settings are afterwards as they were.

What torch would tell an NVIDIA GPU can be seen without one; what that makes of it only on one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from colour_net import ColourNet
from dataset_folders import write_dataset
from torch import nn

from fullconv.base.runtime import full_float32
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import Batch, Part
from fullconv.measure.evaluation import evaluate
from fullconv.net.fcn import FCN
from fullconv.train.optimizer import make_optimizer
from fullconv.train.recipe import Recipe
from fullconv.train.step import Objective, take_step

EXACT = ("ieee",) * 3


def settings() -> tuple[str, ...]:
    """What torch does with float32 on a GPU: convolutions, recurrent layers, matrix products."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cuda.matmul.fp32_precision


@pytest.fixture(autouse=True)
def tf32() -> Iterator[None]:
    """Torch's own default for convolutions, and a user's wish for matrix products."""
    torch.set_float32_matmul_precision("high")
    assert settings() == ("tf32",) * 3
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("fails", [True, False])
def test_settings_are_put_back(fails: bool) -> None:
    try:
        with full_float32():
            assert settings() == EXACT
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert settings() == ("tf32",) * 3
    assert torch.backends.cudnn.allow_tf32  # can be read as before
    with full_float32(enabled=False):
        assert settings() == ("tf32",) * 3


def test_bodies_of_several_threads_overlap() -> None:
    """The one that ends first leaves the settings to the other."""
    first, second = full_float32(), full_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings() == EXACT
    second.__exit__(None, None, None)
    assert settings() == ("tf32",) * 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_computes_in_full_float32_unless_in_bf16(precision: str) -> None:
    layers = (nn.Conv2d(3, 4, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = FCN(nn.Sequential(*layers, nn.Linear(4, 2)), 4, 2).train()
    seen = []
    score = net.scores["4"]
    score.register_forward_hook(lambda *_: seen.append(settings()))
    score.weight.register_hook(lambda _: seen.append(settings()))  # in the backward pass
    part = Part(torch.randint(256, (2, 3, 8, 8)).byte(), torch.zeros(2, 1, 8, 8).byte())
    recipe = Recipe()
    objective = Objective(net, recipe, precision)
    take_step(objective, make_optimizer(net, recipe), Batch([part], ["a", "b"]))
    assert seen == [EXACT if precision == "fp32" else ("tf32",) * 3] * 2
    assert settings() == ("tf32",) * 3


@pytest.mark.parametrize("bf16", [True, False])
def test_evaluation_computes_in_full_float32_unless_in_bf16(tmp_path, bf16: bool) -> None:
    split = DatasetFolder(write_dataset(tmp_path / "d")).split("val")
    net, seen = ColourNet(), set()
    net.score.register_forward_hook(lambda *_: seen.add(settings()))
    evaluate(net, split, bf16=bf16)
    assert seen == {("tf32",) * 3 if bf16 else EXACT}
    assert settings() == ("tf32",) * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_convolutions_on_a_gpu_differ_from_double_by_rounding_alone() -> None:
    images, filters = torch.randn(4, 64, 32, 32), torch.randn(64, 64, 3, 3)
    exact = nn.functional.conv2d(images.double(), filters.double())
    with full_float32():
        found = nn.functional.conv2d(images.cuda(), filters.cuda()).cpu()
    assert (found - exact).abs().max() < 1e-6 * exact.abs().max() * 10
