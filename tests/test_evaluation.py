"""Evaluation on a net whose answer is known, through images written to disk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from colour_net import ColourNet
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import CachedSplit
from fullconv.errors import FullconvError
from fullconv.evaluation import check_same_classes, evaluate
from fullconv.metrics import ConfusionMatrix
from fullconv.progress import Progress


@pytest.fixture
def folder(tmp_path):
    """Write random images of several sizes, one of them all ignored; return the folder."""
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part / "test").mkdir(parents=True)
    for index, size in enumerate([(5, 7), (1, 1), (8, 3), (4, 4)]):
        image = random.integers(0, 256, (*size, 3), np.uint8)
        mask = random.choice([0, 1, 2, 255], size).astype(np.uint8)
        mask[:] = 255 if index == 3 else mask
        Image.fromarray(image).save(tmp_path / f"images/test/{index}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/test/{index}.png")
    info = {"name": "colours", "classes": list(ColourNet.classes)}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(info))
    return tmp_path


def expected(split):
    """Count over all pixels at once, from arrays, in one go."""
    matrix = ConfusionMatrix(3)
    images = [split[i] for i in range(len(split))]
    truth = np.concatenate([sample.labels.ravel() for sample in images])
    colours = np.concatenate([sample.image.reshape(-1, 3) for sample in images])
    matrix.update(truth, colours.argmax(1))
    return matrix.metrics()


@pytest.mark.parametrize("training", [True, False])
def test_measures_every_pixel_once_and_restores_modes(folder, training):
    split = DatasetFolder(folder).split("test")
    net = ColourNet().train(training)
    net.dropout.eval()
    modes = [module.training for module in net.modules()]
    result = evaluate(net, split)
    assert result.metrics.confusion.tolist() == expected(split).confusion.tolist()
    assert result.metrics.mean_iu == expected(split).mean_iu
    assert result.images == 4
    assert [module.training for module in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert torch.is_grad_enabled()


def test_dropout_is_off(folder):
    split = DatasetFolder(folder).split("test")
    result = evaluate(ColourNet().train(), split)
    assert result.metrics.confusion.tolist() == expected(split).confusion.tolist()


def test_per_image_holds_each_image_s_own_mean_iu(folder):
    split = DatasetFolder(folder).split("test")
    result = evaluate(ColourNet(), split)
    assert [name for name, _ in result.per_image] == ["0", "1", "2", "3"]
    assert math.isnan(result.per_image[3][1])
    image = split[0]
    said = image.image.argmax(-1)
    kept = image.labels != 255
    ious = []
    for c in range(3):
        union = kept & ((image.labels == c) | (said == c))
        if union.any():
            ious.append((kept & (image.labels == c) & (said == c)).sum() / union.sum())
    assert result.per_image[0][1] == pytest.approx(np.mean(ious))


def test_a_cached_split_gives_the_same(folder):
    split = DatasetFolder(folder).split("test")
    cached = evaluate(ColourNet(), CachedSplit(split, 1 << 20))
    assert cached.metrics.confusion.tolist() == expected(split).confusion.tolist()


def test_bfloat16_is_only_used_when_asked(folder):
    seen = []
    net = ColourNet()
    net.score.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    split = DatasetFolder(folder).split("test")
    evaluate(net, split)
    evaluate(net, split, bf16=True)
    assert seen == [torch.float32] * 4 + [torch.bfloat16] * 4


def test_the_bar_counts_images(folder):
    bar = Progress(4, "evaluate", "images")
    evaluate(ColourNet(), DatasetFolder(folder).split("test"), bar=bar)
    assert bar.done == 4
    assert "mean IU" in bar.note


def test_an_unreadable_image_is_named_and_modes_are_restored(folder):
    path = folder / "images/test/2.png"
    path.write_bytes(path.read_bytes()[:40])
    net = ColourNet().train()
    with pytest.raises(FullconvError, match=r"2\.png"):
        evaluate(net, DatasetFolder(folder).split("test"))
    assert net.training


def test_other_classes_are_refused_by_name():
    check_same_classes(["sky", "road"], ["sky", "road"])
    with pytest.raises(FullconvError, match=r"model has 2 classes .* dataset 3 \(a, b, c\)"):
        check_same_classes(["sky", "road"], ["a", "b", "c"])
    with pytest.raises(FullconvError, match=r"class 1 is 'road' in the model but 'car'"):
        check_same_classes(["sky", "road", "x"], ["sky", "car", "y"])
