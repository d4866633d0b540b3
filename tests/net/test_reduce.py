"""Nets that see images reduced: means of pixels by definition, then an ordinary net."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from coloured_scenes import write_scenes
from nets import NarrowVGG, classifier, lively, random_scores, settled
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from training import trained

from fullconv import FCN, load
from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetFolder
from fullconv.data.transforms import default_crop, default_reductions, training_transform
from fullconv.measure.evaluation import evaluate
from fullconv.train.recipe import read_recipe
from fullconv.train.resolution import judged

TRUNKS = ("mobilenet_v2", "squeezenet1_1", "narrow vgg")


def reduced_net(trunk: str, reduce: int) -> FCN:
    torch.manual_seed(0)
    made = settled(NarrowVGG()) if trunk == "narrow vgg" else classifier(trunk)
    return lively(random_scores(FCN(made, 8, 3, reduce=reduce)).eval())


@functools.cache
def reduced_in_float64(trunk: str, reduce: int) -> FCN:
    return reduced_net(trunk, reduce).double()


def means(image: Tensor, factor: int) -> Tensor:
    """Return the mean of each whole square of `factor` pixels a side, by loops."""
    height, width = (side // factor for side in image.shape[-2:])
    rows = [image[..., factor * y : factor * (y + 1), : factor * width] for y in range(height)]
    of_rows = torch.stack([row.mean(-2) for row in rows], -2)
    columns = [of_rows[..., factor * x : factor * (x + 1)].mean(-1) for x in range(width)]
    return torch.stack(columns, -1)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("reduce", [2, 3, 4])
@pytest.mark.parametrize("size", [(96, 128), (101, 67), (5, 1)])
def test_scores_are_a_plain_net_s_of_means(trunk: str, reduce: int, size: tuple[int, int]) -> None:
    net = reduced_in_float64(trunk, reduce)
    image = torch.randn(2, 3, *size, dtype=torch.double)
    bottom, right = (-length % reduce for length in size)
    repeated = np.pad(image.numpy(), ((0, 0), (0, 0), (0, bottom), (0, right)), mode="edge")
    shown = means(torch.from_numpy(repeated), reduce)
    inner = net.for_reduced()
    assert net.seen_size(size) == inner.seen_size((shown.shape[-2], shown.shape[-1]))
    assert net.seen_size(size) == tuple(net._seen(image).shape[-2:])
    with torch.no_grad():
        coarse = net.coarse(image)
        torch.testing.assert_close(coarse, inner.coarse(shown))
        scores = net(image)
    for axis, chain in zip((2, 3), (inner.vertical, inner.horizontal), strict=True):
        # A pixel of the reduced image lies in the middle of the pixels that it is the mean of.
        centre = reduce * float(chain.grids[-1].offset) + (reduce - 1) / 2
        pixels = torch.arange(size[axis - 2], dtype=torch.double)
        cell = ((pixels - centre) / (8 * reduce)).clamp(0, coarse.shape[axis] - 1)
        low = cell.floor().long()
        high = (low + 1).clamp(max=coarse.shape[axis] - 1)
        shape = [-1 if each == axis else 1 for each in range(4)]
        part = (cell - low).view(shape)
        lower, upper = coarse.index_select(axis, low), coarse.index_select(axis, high)
        coarse = lower * (1 - part) + upper * part
    torch.testing.assert_close(scores, coarse)
    assert scores.shape == (2, 3, *size)
    assert min(size) == 1 or float(scores.std()) > 0.01


@pytest.mark.slow
def test_what_is_learnt_is_shared() -> None:
    net = reduced_net("mobilenet_v2", 4)
    inner = net.for_reduced()
    assert (inner.arguments.reduce, net.arguments.reduce) == (1, 4)
    learnt = {id(each) for each in net.parameters() if each.requires_grad}
    assert learnt == {id(each) for each in inner.parameters() if each.requires_grad}
    assert {id(each) for each in net.buffers()} == {id(each) for each in inner.buffers()}
    plain = FCN(classifier("mobilenet_v2"), 8, 3)
    assert plain.for_reduced() is plain
    assert inner.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(inner.state_dict())
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(plain.eval()(image), inner.eval()(image))


@pytest.mark.slow
def test_it_is_kept_in_the_model_folder(tmp_path: Path) -> None:
    net = reduced_net("mobilenet_v2", 2)
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["net"]["reduce"] == 2
    image = np.random.default_rng(0).integers(0, 256, (90, 150, 3)).astype(np.uint8)
    assert np.array_equal(load(tmp_path).predict(image), net.predict(image))


@pytest.mark.slow
def test_describe_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command_line: Callable[..., int]
) -> None:
    reduced_net("mobilenet_v2", 2).save_pretrained(tmp_path)
    assert not command_line("describe", tmp_path, "--size", "80x128")
    told = capsys.readouterr().out
    assert "reduced to 40x64, means of 2x2 pixels" in told
    assert "x16 to stride 1" in told and "x2 to stride 32" in told


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"reduce": 0}, "reduce must be 1 to 16, not 0"),
        ({"reduce": 17}, "reduce must be 1 to 16, not 17"),
        ({"reduce": 2, "magnify": 2}, "not both"),
        ({"reduce": 2, "padding": 100}, "with a padding"),
        ({"reduce": 2, "learn_last_upscore": True}, "where the last upscore is learnt"),
        ({"reduce": 2, "inputs": {"color": 3, "depth": 1}}, "for the inputs color, depth"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], wrong: str) -> None:
    with pytest.raises(FullconvError, match=wrong):
        FCN(NarrowVGG(), 8, 2, **arguments)


# Training --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "factors"),
    [
        ((360, 480), [1]),
        ((1024, 2048), [1]),
        ((1280, 1920), [1, 2]),
        ((2000, 3000), [1, 2]),
        ((3000, 4000), [1, 2, 4]),
        ((6000, 8000), [1, 2, 4, 8]),
    ],
)
def test_of_large_photographs_768_pixels_a_side_are_left(
    size: tuple[int, int], factors: list[int]
) -> None:
    assert default_reductions(*size) == factors
    assert size[0] * size[1] // factors[-1] ** 2 >= 768 * 768 or factors == [1]


def test_crops_show_as_much_as_a_step_can_take() -> None:
    assert default_crop(3000, 4000, reduce=4) == (2176, 2944)
    assert default_crop(1280, 1920, reduce=2) == (1024, 1536)
    assert default_crop(100, 100, reduce=2) == (64, 64)


def test_crops_are_reduced_when_they_are_cut() -> None:
    """A crop as large as the image is its means, and a mask's pixels those nearest to them."""
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    mask = torch.randint(0, 9, (1, 64, 96), dtype=torch.uint8)
    cut = training_transform((64, 96), reduce=4)
    small, small_mask = cut(tv_tensors.Image(image), tv_tensors.Mask(mask))
    assert small.shape == (3, 16, 24) and small_mask.shape == (1, 16, 24)
    # Weighted means, of pixels a little farther around.
    assert (small.float() - F.avg_pool2d(image.float(), 4)).abs().mean() < 12
    assert (small_mask == mask[:, 2::4, 2::4]).all()


def asked(data: Path, *overrides: str) -> dict[str, Any]:
    plain = ["batch_size=2", "workers=0", "precision=fp32", "steps=3", *overrides]
    usual = {"backbone": "squeezenet1_1", "model": "fcn8s", "weights": "none"}
    return {"data": data, "recipe": read_recipe("default", plain), **usual}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_reduced_net_is_trained_and_measured_on_the_images_own_pixels(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", train=2, val=2, size=(150, 201))
    folder = trained(tmp_path / "run", asked(data, "reduce=2"))
    net = load(folder)
    assert net.arguments.reduce == 2
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert record["nets"]["fcn8s"]["reduce"] == 2
    assert tuple(record["nets"]["fcn8s"]["plan"]["crop"]) == (128, 192)
    kept = json.loads((folder / "metrics.json").read_text())["mean_iu"]
    again = evaluate(net, DatasetFolder(data).split("val")).metrics.mean_iu
    assert kept == pytest.approx(again, abs=1e-6)
    longer = asked(data, "reduce=2")
    assert trained(tmp_path / "run", longer, resume=True) == folder
    with pytest.raises(FullconvError, match="not both"):
        trained(tmp_path / "two", asked(data, "reduce=2", "magnify=2"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("thing", "factor"), [(400, 2), (6, 1)])
def test_photographs_are_reduced_unless_what_their_masks_hold_is_small(
    tmp_path: Path, thing: int, factor: int
) -> None:
    data = write_scenes(tmp_path / "data", train=1, val=1, size=(1540, 1540))
    rows, columns = np.indices((1540, 1540))
    mask = ((rows // thing + columns // thing) % 2).astype(np.uint8)
    for path in (data / "masks").glob("*/*.png"):
        Image.fromarray(mask).save(path)
    assert judged(DatasetFolder(data), ("color",)).images == 1
    settings = asked(data, "crop=96", "steps=1", "batch_size=1")
    folder = trained(tmp_path / "run", settings)
    assert load(folder).arguments.reduce == factor
