"""Evaluation on a net whose answer is known, through images written to disk."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import tifffile
import torch
import yaml
from colour_net import CLASSES, ColourNet, FarColourNet
from PIL import Image

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.base.progress import Progress, Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.data.loading import CachedSplit
from fullconv.measure.evaluation import Evaluation, check_same_classes, evaluate, split_for
from fullconv.measure.metrics import ConfusionMatrix, Metrics
from fullconv.measure.run import EvaluateSettings, run
from fullconv.net.preprocessing import Preprocessing


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
    name_classes(tmp_path, CLASSES)
    return tmp_path


def name_classes(folder, classes):
    info = {"name": "colours", "classes": list(classes)}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))


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
    truth = image.labels[0]
    kept = truth != 255
    ious = []
    for c in range(3):
        union = kept & ((truth == c) | (said == c))
        if union.any():
            ious.append((kept & (truth == c) & (said == c)).sum() / union.sum())
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


class LeaningNet(ColourNet):
    """Adds to each class what grows from the left to the right, which a mirror turns round."""

    slopes = torch.tensor([1.0, -0.25, 0.125])

    def coarse(self, x):
        width = x.shape[-1]
        across = torch.arange(width) - (width - 1) / 2
        return super().coarse(x) + self.slopes[:, None, None] * across


def test_with_mirrors_probabilities_are_averaged(folder):
    """By numpy, pixel by pixel; of a net that has no side, nothing changes."""
    split = DatasetFolder(folder).split("test")
    plain, both = (evaluate(ColourNet(), split, tta=tta).metrics for tta in (False, True))
    assert plain.confusion.tolist() == both.confusion.tolist()
    matrix = ConfusionMatrix(3)
    for index in range(len(split)):
        sample = split[index]
        width = sample.image.shape[1]
        lean = (np.arange(width) - (width - 1) / 2)[:, None] * LeaningNet.slopes.numpy()
        both = [np.exp(sample.image / 255 + sign * lean) for sign in (1, -1)]
        averaged = sum(each / each.sum(-1, keepdims=True) for each in both)
        matrix.update(sample.labels[0], averaged.argmax(-1))
    expected = matrix.metrics()
    assert evaluate(LeaningNet(), split, tta=True).metrics.confusion.tolist() == (
        expected.confusion.tolist()
    )
    alone = evaluate(LeaningNet(), split).metrics
    assert alone.confusion.tolist() != expected.confusion.tolist()


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


# Several heads and inputs


@pytest.fixture
def far_folder(folder):
    """Add depth and the labels near and far to the folder; the heads are not in the net's order."""
    random = np.random.default_rng(1)
    for part in ("depth", "masks_geo"):
        (folder / part / "test").mkdir(parents=True)
    for path in (folder / "images/test").iterdir():
        with Image.open(path) as image:
            size = (image.height, image.width)
        depth = random.integers(0, 2000, size).astype(np.uint16)
        Image.fromarray(depth).save(folder / "depth/test" / path.name)
        near = random.choice([0, 1, 255], size).astype(np.uint8)
        Image.fromarray(near).save(folder / "masks_geo/test" / path.name)
    describe(folder)
    return folder


def describe(folder, inputs=("depth",), geo=("near", "far"), **sem):
    sem = {"masks": "masks", "classes": list(CLASSES), **sem}
    heads = {"geo": {"masks": "masks_geo", "classes": list(geo)}, "sem": sem}
    info = {
        "name": "far colours",
        "inputs": {"color": "images", **dict.fromkeys(inputs, "depth")},
        "heads": {name: head for name, head in heads.items() if head["classes"]},
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))


def counted(folder):
    """Count each head's pixels from the files, without any of the package's readers."""
    matrices = {"sem": np.zeros((3, 3), int), "geo": np.zeros((2, 2), int)}
    for path in sorted((folder / "images/test").iterdir()):

        def read(part, name=path.name):
            with Image.open(folder / part / "test" / name) as image:
                return np.array(image)

        said = {"sem": read("images").argmax(-1), "geo": (read("depth") > 1000).astype(int)}
        truths = {"sem": read("masks"), "geo": read("masks_geo")}
        for head, matrix in matrices.items():
            kept = truths[head] != 255
            np.add.at(matrix, (truths[head][kept], said[head][kept]), 1)
    return matrices


def test_every_head_is_measured_from_all_inputs(far_folder):
    net = FarColourNet().train()
    split = split_for(net, DatasetFolder(far_folder), "test")
    for given in (split, CachedSplit(split, 1 << 20)):
        result = evaluate(net, given)
        for head, matrix in counted(far_folder).items():
            assert (result.heads[head].confusion == matrix).all()
        assert net.training
    ius = [result.heads[head].mean_iu for head in ("sem", "geo")]
    assert result.mean_iu == pytest.approx(sum(ius) / 2)
    with pytest.raises(FullconvError, match="several heads: sem, geo"):
        result.metrics  # noqa: B018


def test_the_form_of_metrics_json(far_folder):
    net = FarColourNet()
    result = evaluate(net, split_for(net, DatasetFolder(far_folder), "test"))
    written = json.loads(json.dumps(result.to_dict(net), allow_nan=False))
    assert list(written) == ["split", "images", "heads"]
    assert (written["split"], written["images"], list(written["heads"])) == (
        "test",
        4,
        ["sem", "geo"],
    )
    for head, matrix in counted(far_folder).items():
        alone = Metrics.of(matrix).to_dict("test", 4, net.heads[head].classes)
        assert {"split": "test", "images": 4, **written["heads"][head]} == alone


def test_one_head_alone_keeps_the_plain_form(folder):
    net = ColourNet()
    split = DatasetFolder(folder).split("test")
    written = evaluate(net, split).to_dict(net)
    assert written == expected(split).to_dict("test", 4, CLASSES)


def test_mean_iu_is_that_of_the_heads_with_something_to_measure():
    def metrics(*rows):
        return Metrics.of(np.array(rows))

    nothing, half = metrics([0, 0], [0, 0]), metrics([1, 1], [0, 0])
    assert Evaluation("val", {"a": half}, 1, ()).mean_iu == half.mean_iu == 0.25
    assert Evaluation("val", {"a": half, "b": nothing}, 1, ()).mean_iu == 0.25
    assert math.isnan(Evaluation("val", {"b": nothing}, 1, ()).mean_iu)


def test_classes_that_the_dataset_does_not_score_leave_the_means(far_folder):
    net = FarColourNet()
    describe(far_folder, unscored=["green"])
    result = evaluate(net, split_for(net, DatasetFolder(far_folder), "test"))
    iu = result.heads["sem"].iu
    assert result.heads["sem"].mean_iu == pytest.approx((iu[0] + iu[2]) / 2)
    assert not np.isnan(iu[1])
    written = result.to_dict(net)["heads"]
    assert written["sem"]["iu"]["green"] == pytest.approx(iu[1])
    assert written["sem"]["unscored"] == ["green"] and "unscored" not in written["geo"]


def test_a_dataset_without_what_the_net_needs_is_refused(far_folder):
    net = FarColourNet()

    def refused(reason):
        with pytest.raises(FullconvError, match=reason):
            split_for(net, DatasetFolder(far_folder), "test")

    describe(far_folder, inputs=())
    refused(r"inputs color, none called 'depth'")
    describe(far_folder, inputs=("hha",))
    refused(r"inputs color, hha, none called 'depth'")
    describe(far_folder, geo=())
    refused(r"none called 'geo'")
    describe(far_folder, geo=("near", "close"))
    refused(r"class 1 for geo is 'far' in the model but 'close'")
    describe(far_folder, classes=["red"])
    refused(r"model has 3 classes for sem \(red, green, blue\) but the dataset 1 \(red\)")
    describe(far_folder)
    for path in (far_folder / "images/test").iterdir():
        (far_folder / "depth/test" / path.name).write_bytes(path.read_bytes())
    refused(r"has 3 channels but the net's input 'depth' has 1")


# The command line, on a real net


def test_evaluate_writes_the_metrics_that_python_gives(
    folder, tmp_path, capsys, command_line, random_model
):
    name_classes(folder, ["red", "green", "[blue]"])
    out = tmp_path / "deep/metrics.json"
    assert command_line("evaluate", random_model, "--data", folder, "--out", out) == 0
    net = fullconv.load(random_model)
    split = DatasetFolder(folder).split("test")
    matrix = ConfusionMatrix(3)
    for index in range(len(split)):
        matrix.update(split[index].labels[0], net.predict(split[index].image))
    assert json.loads(out.read_text()) == matrix.metrics().to_dict("test", 4, net.classes)
    table = capsys.readouterr().out
    for name, iu in zip(net.classes, matrix.metrics().iu, strict=True):
        (line,) = [line for line in table.splitlines() if name in line]
        assert f"{iu:.3f}" in line
    assert "test: 4 images " in table
    assert "frequency weighted IU" in table
    words = ["evaluate", random_model, "--data", folder, "--out", out, "--tta"]
    assert command_line(*words) == 0
    mirrored = evaluate(net, split, tta=True)
    assert json.loads(out.read_text()) == mirrored.to_dict(net)
    assert "test: 4 images, with mirrors" in capsys.readouterr().out


def test_evaluate_names_another_split(folder, capsys, command_line, random_model):
    assert command_line("evaluate", random_model, "--data", folder, "--split", "val") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no split 'val'" in line
    assert "test" in line


def test_evaluate_refuses_other_classes(folder, capsys, command_line, random_model):
    name_classes(folder, ["red", "grue", "[blue]"])
    assert command_line("evaluate", random_model, "--data", folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "class 1 is 'green' in the model but 'grue' in the dataset" in line
    name_classes(folder, ["red", "green"])
    assert command_line("evaluate", random_model, "--data", folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the model has 3 classes (red, green, [blue]) but the dataset 2 (red, green)" in line


def test_evaluate_refuses_what_is_no_dataset_or_no_model(tmp_path, capsys, command_line, folder):
    assert command_line("evaluate", tmp_path / "none", "--data", folder) == 2
    assert "none: no such model folder" in capsys.readouterr().err
    assert command_line("evaluate", folder, "--data", tmp_path / "nothing") == 2
    assert "nothing: is no folder" in capsys.readouterr().err
    assert command_line("evaluate", folder, "--data", folder) == 2
    assert "config.json: missing" in capsys.readouterr().err


def test_evaluate_says_when_the_metrics_can_t_be_written(
    folder, capsys, command_line, random_model
):
    name_classes(folder, ["red", "green", "[blue]"])
    words = ["evaluate", random_model, "--data", folder, "--quiet"]
    assert command_line(*words, "--out", folder / "dataset.yaml/m.json") == 1
    said = capsys.readouterr()
    assert "mean IU" in said.out
    assert len(said.err.splitlines()) == 1


def test_evaluate_prints_a_table_for_each_head(
    far_folder, tmp_path, capsys, command_line, two_headed_model
):
    describe(far_folder, unscored=["green"])
    out = tmp_path / "metrics.json"
    words = ["evaluate", two_headed_model, "--data", far_folder, "--out", out]
    assert command_line(*words) == 0
    said = capsys.readouterr().out
    written = json.loads(out.read_text())
    for head in ("sem", "geo"):
        table = said[said.index(f"{head}, test: 4 images") :]
        (line, *_) = [line for line in table.splitlines() if "mean IU" in line]
        assert f"{written['heads'][head]['mean_iu']:.3f}" in line
    assert said.index("sem, test") < said.index("in no mean: green") < said.index("geo, test")
    net, split = fullconv.load(two_headed_model), DatasetFolder(far_folder)
    images = split.split("test", ("color", "depth"), ("sem", "geo"))
    for layer, head in enumerate(("sem", "geo")):
        matrix = ConfusionMatrix(len(net.heads[head].classes))
        for index in range(len(images)):
            said = net.predict(images[index].image)[head]
            matrix.update(images[index].labels[layer], said)
        assert written["heads"][head]["confusion"] == matrix.counts.tolist()


@dataclass(frozen=True)
class Heard(Reporter):
    """Remembers what was said."""

    lines: list[str] = field(default_factory=list)

    def warn(self, line):
        self.lines.append(line)


@pytest.mark.parametrize(("factor", "warned"), [(16, False), (1, True), (257, True)])
def test_images_far_from_those_of_training_get_a_warning(folder, factor, warned):
    """Once, as in predict; the metrics are measured nevertheless."""
    for path in (folder / "images/test").glob("*.png"):
        pixels = np.full_like(np.asarray(Image.open(path)), 255).astype(np.uint16)
        tifffile.imwrite(path.with_suffix(".tif"), pixels * factor, photometric="rgb")
        path.unlink()
    seen = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, ranges={"color": (0.0, 16 * 256.0)})
    heard = Heard()
    measured = run(EvaluateSettings(ColourNet(preprocessing=seen), folder), heard)
    assert measured.evaluation.images == 4
    assert len(heard.lines) == warned
    assert all("test/0.tif: its values (color) are far from 0..4096" in one for one in heard.lines)
