"""int8: what is quantised, on which images, and what is left in float after all."""

from __future__ import annotations

import numpy as np
import pytest
from exports import FORMATS, exported, photo, scored_net
from nets import NarrowVGG
from PIL import Image

from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.export import attempt, int8
from fullconv.export.attempt import QuantisedAttempt
from fullconv.export.formats import FORMATS as BY_NAME
from fullconv.export.int8 import Layers, calibration_split
from fullconv.export.opened import OpenedExport
from fullconv.export.run import ExportSettings, export
from fullconv.export.whole import WholeNet
from fullconv.net.fcn import FCN
from fullconv.predict.engines import is_installed

needs_nncf = pytest.mark.skipif(not int8.is_installed(), reason="needs nncf")


def write_data(root, masks, count=6, size=(64, 80)):
    """Write images into train and test, labelled by a function of the image and its number."""
    for split in ("train", "test"):
        for index in range(count):
            image = photo(size, index + 100 * (split == "test"))
            for kind, pixels in (("images", image), ("masks", masks(image, index))):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")
    (root / "dataset.yaml").write_text("name: four\nclasses: [a, b, c, d]\n")
    return root


@pytest.fixture(scope="module")
def net():
    return scored_net(classes=None, heads={"labels": ["a", "b", "c", "d"]})


@pytest.mark.parametrize("form", FORMATS)
def test_scores_upscores_and_preprocessing_are_told_from_the_trunk(form, net):
    chosen = BY_NAME[form]
    graph = chosen.convert(WholeNet(net, "labels", chosen.best))
    layers = chosen.layers(graph)
    assert len(layers.convolutions) == 15  # VGG16's thirteen, fc6 and fc7
    if form == "onnx":
        kinds = {node.name: node.op_type for node in graph.graph.node}
    else:
        kinds = {node.get_friendly_name(): node.get_type_name() for node in graph.get_ops()}
    others = [kinds[name] for name in layers.others]
    assert others.count("Conv" if form == "onnx" else "Convolution") == 3  # the scores
    up = "ConvTranspose" if form == "onnx" else "GroupConvolutionBackpropData"
    assert others.count(up) == 3
    assert ("Mul" if form == "onnx" else "Multiply") in others  # of the preprocessing


def test_groups_are_successive_and_hold_every_convolution():
    layers = Layers(tuple(f"c{n}" for n in range(15)), ("score",))
    groups = layers.groups()
    assert [name for group in groups.values() for name in group] == list(layers.convolutions)
    assert next(iter(groups)) == "convolutions 1 to 3 of 15" and len(groups) == 6
    assert len(Layers(("a", "b"), ()).groups()) == 2


def test_calibration_images_show_all_sizes_and_every_class(tmp_path):
    def masks(image, index):
        labels = np.zeros(image.shape[:2], np.uint8)
        labels[0, 0] = {37: 1, 21: 2, 5: 3}.get(index, 0)  # each in one image only
        return labels

    write_data(tmp_path, masks, count=40, size=(8, 9))
    large = photo((20, 30))
    Image.fromarray(large).save(tmp_path / "images/train/07.png")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "masks/train/07.png")
    split = DatasetFolder(tmp_path).split("train")
    chosen = calibration_split(split, 10)
    names = [sample.name for sample in chosen.samples]
    assert len(names) == len(set(names)) == 10
    assert {"37", "21", "05", "07"} <= set(names)
    assert len(calibration_split(split, 100)) == len(split) > 30


@needs_nncf
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_trunk_in_int8_keeps_its_labels(form, net, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "MOST_LOST", 1.0)  # of noise: no layer is to stay in float
    data = write_data(tmp_path / "data", lambda image, _: net.label(image)["labels"])
    done = exported(net, tmp_path / "b", form, precision="int8", data=data)
    found = done.about.verification
    assert (done.about.precision, found.source, found.scores) == ("int8", "data", None)
    assert found.mean_iu_of_net == 1 and 0.3 < found.mean_iu < 1
    opened = OpenedExport(done.path)
    image = photo((96, 130))
    assert (opened.label(image)["labels"] == net.predict(image)).mean() > 0.6
    assert opened.label(photo((1, 1)))["labels"].shape == (1, 1)
    if form == "onnx":
        import onnx

        graph = onnx.load(done.path).graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("QuantizeLinear") >= 15
        bytes_ = {each.name for each in graph.initializer if each.data_type in (2, 3)}
        assert len(bytes_) >= 15
        score = net.scores["8"].weight.numel()
        floats = [int(np.prod(each.dims)) for each in graph.initializer if each.data_type == 1]
        assert score in floats  # left as it is


@needs_nncf
@pytest.mark.slow
@pytest.mark.skipif(not is_installed("onnxruntime"), reason="needs onnxruntime")
def test_biases_are_corrected_all_at_once_where_they_cant_be_one_by_one(
    tmp_path, monkeypatch, capsys
):
    """SqueezeNet's: one activation that two convolutions read (see findings/)."""
    monkeypatch.setattr(attempt, "MOST_LOST", 1.0)
    net = scored_net("squeezenet1_1", 16, heads={"labels": ["a", "b", "c", "d"]})
    data = write_data(tmp_path / "data", lambda image, _: net.label(image)["labels"])
    settings = ExportSettings(net, "onnx", tmp_path / "net.onnx", precision="int8", data=data)
    done = export(settings, Reporter())
    told = capsys.readouterr().err
    assert told.count("int8: biases are corrected all at once (") == 1 and "Duplicate" in told
    image = photo((96, 130))
    found = OpenedExport(done.path).label(image)["labels"]
    assert (found == net.label(image)["labels"]).mean() > 0.6


# Layers that stay in float


class Rounded(QuantisedAttempt):
    """Loses mean IU by what is not in float."""

    def __init__(self, costs):
        self._costs, self.tries = costs, []
        self._reporter = SILENT
        self._form = type("Form", (), {"layers": lambda _, graph: graph})()
        self._net = None

    def _tried(self, in_float, _split):
        self._in_float = in_float
        self.tries.append(in_float)
        return sum(cost for name, cost in self._costs.items() if name not in in_float), in_float


@pytest.mark.parametrize(
    ("costs", "left"),
    [
        ((0.001, 0.001, 0.001, 0.0005, 0.0005, 0.0005), ()),
        ((0.001, 0.02, 0.001, 0.0005, 0.0005, 0.0005), (1,)),
        ((0.001, 0.02, 0.001, 0.0005, 0.03, 0.0005), (1, 4)),
        ((0.1,) * 6, (0, 1, 2, 3, 4, 5)),
        ((float("nan"),) * 6, ()),
    ],
)
def test_what_harms_most_stays_in_float(costs, left, monkeypatch):
    layers = Layers(tuple("abcdef"), ())
    names = list(layers.groups())
    monkeypatch.setattr(attempt.Attempt, "graph", lambda *_: layers)
    tried = Rounded(dict(zip(names, costs, strict=True)))
    assert tried._frugal(None) == tuple(names[index] for index in left)
    assert tried._in_float == tuple(names[index] for index in left)


# What is refused


def test_int8_needs_data(net, tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(FullconvError, match="needs images to calibrate with: give --data"):
        exported(net, tmp_path, "onnx", precision="int8")


@pytest.mark.slow
@needs_nncf
def test_an_untrained_net_is_not_quantised(tmp_path):
    pytest.importorskip("onnxruntime")
    untrained = FCN(NarrowVGG(), 8, classes=None, heads={"labels": ["a", "b", "c", "d"]}).eval()
    data = write_data(tmp_path / "data", lambda image, _: image[..., 0] % 4, count=2)
    with pytest.raises(WorkFailedError, match="train it before it is quantised"):
        exported(untrained, tmp_path / "out", "onnx", precision="int8", data=data)
