"""Engines: the same scores whichever works them out, and a choice among them that holds."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_net import ColourNet
from nets import NarrowVGG, classifier, lively, narrow_caffe_vgg, random_scores
from torch import nn

from fullconv import FCN, Preprocessing
from fullconv.base.pipeline import ahead
from fullconv.data.folder import DatasetFolder
from fullconv.export.verified import REFERENCE, EngineConfig
from fullconv.net.head import Head
from fullconv.net.rewrites.by_size import OFTEN, SPECIAL_SIZES, TwinBySize
from fullconv.net.surgery import inference_twin
from fullconv.predict.engines import build, is_installed
from fullconv.predict.engines.torch_engine import twins_for_torch
from fullconv.predict.labeller import Labeller
from fullconv.predict.labelling import label_all

CPU = torch.device("cpu")
BF16 = any(there and "bf16" in name for name, there in torch.cpu.get_capabilities().items())


def needs(engine: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not is_installed(engine), reason=f"needs {engine}")


def engines(*precisions: str) -> list[object]:
    """Return test parameters: every engine in the precisions given."""
    marks = {name: [needs(name)] for name in ("openvino", "onnxruntime")}
    lacks = pytest.mark.skipif(not BF16, reason="needs a CPU with bfloat16")
    marks["openvino-bf16"] = [*marks["openvino"], lacks]  # torch emulates it
    return [
        pytest.param(
            EngineConfig(engine, precision),
            marks=marks.get(f"{engine}-{precision}", marks.get(engine, ())),
            id=f"{engine}-{precision}",
        )
        for precision in precisions
        for engine in ("torch", "openvino", "onnxruntime")
        if (engine, precision) != ("onnxruntime", "bf16")
    ]


def photo(size, seed=0, channels=3):
    """Return an image with structure at every scale, as photographs have."""
    random = np.random.default_rng(seed)
    noise = sum(
        np.kron(
            random.normal(size=(-(-size[0] // k), -(-size[1] // k), channels)), np.ones((k, k, 1))
        )[: size[0], : size[1]]
        for k in (1, 4, 16, 64)
    )
    return (128 + 40 * noise).clip(0, 255).astype(np.uint8)


def net(trunk="mobilenet_v2", stride=8, **arguments):
    torch.manual_seed(stride)
    if isinstance(trunk, str):
        trunk = classifier(trunk)
    made = lively(random_scores(FCN(trunk, stride, 4, **arguments))).eval()
    with torch.no_grad():  # no class is to win everywhere
        bias = made.scores[str(made.taps[0].stride)].bias
        bias -= expected(made, photo((96, 130))).mean((0, 2, 3))
    return made


@functools.cache
def narrow():
    """Return a net for tests that leave it as it is."""
    return net(NarrowVGG())


@functools.lru_cache(1)
def odd(trunk):
    """Return a net of `TRUNKS`."""
    trunk, *seen = trunk.split()
    options = {{"x": "magnify", "/": "reduce"}[each[0]]: int(each[1:]) for each in seen}
    return net(NarrowVGG() if trunk == "vgg" else trunk, **options)


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mobile():
    return net()


def expected(made, image):
    """Return coarse scores by the plain net, nothing of the engines used."""
    x = made.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        return made.coarse(x)


def difference(ours, theirs):
    """Return the greatest difference of scores, in units of their spread."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.std().clamp(min=1e-6))


# The same scores from every engine

SIZES = ((96, 130), (64, 64), (65, 127), (1, 1), (2, 3), (33, 70), (161, 97))


@pytest.mark.slow
@pytest.mark.parametrize("config", engines("fp32"))
def test_scores_are_those_of_the_net_whatever_the_size(mobile, config):
    engine = build(mobile, config)
    for size in SIZES:
        image = photo(size)
        scores = engine(image)
        assert list(scores) == ["labels"]
        assert difference(scores["labels"], expected(mobile, image)) < 1e-4, size


# Trunks whose borders depend on the size in ways that a converter might bake in: pooling that
# rounds up, images padded to whole windows, odd crops; and one of timm's, whose normalisations
# activate, too. Every trunk's files, which engines run, are in tests/export/test_trunks.py.
TRUNKS = (
    *("squeezenet1_1 x2", "squeezenet1_1 /2", "vgg", "squeezenet1_1", "googlenet"),
    "timm:test_efficientnet",
)


@pytest.mark.slow
@pytest.mark.parametrize("config", engines("fp32"))
@pytest.mark.parametrize("trunk", TRUNKS)
def test_no_engine_bakes_a_size_in(trunk, config):
    made = odd(trunk)
    engine = build(made, config)
    for size in (*SIZES, (66, 67), (68, 95), (94, 100)):
        image = photo(size)
        assert difference(engine(image)["labels"], expected(made, image)) < 1e-4, size


@pytest.mark.slow
@pytest.mark.skipif(not BF16, reason="needs a CPU with bfloat16")
@pytest.mark.parametrize("config", engines("bf16"))
def test_bf16_is_near_but_not_the_same(mobile, config):
    engine = build(mobile, config)
    for size in SIZES[:2]:
        image = photo(size)
        plain = expected(mobile, image)
        apart = (engine(image)["labels"] - plain).square().mean().sqrt() / plain.std()
        assert 1e-3 < apart < 0.3  # of random weights, whose errors grow from layer to layer


@pytest.mark.slow
@pytest.mark.parametrize("config", engines("fp32"))
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_several_heads_and_inputs(config, fusion):
    """Float32 distances and bytes alike; preprocessing is in the engine, logarithm included."""
    torch.manual_seed(0)
    made = FCN(
        NarrowVGG(),
        16,
        heads={"sem": 3, "geo": 2},
        inputs={"color": 3, "depth": 1},
        fusion=fusion,
        preprocessing=Preprocessing(
            "BGR", 1.0, (104.0, 117.0, 123.0, 6.0), (60.0, 50.0, 40.0, 2.0), 224, (3,)
        ),
    ).eval()
    for _, head in made.heads.items():
        for score in head.scores.modules():
            if isinstance(score, nn.Conv2d):
                nn.init.normal_(score.weight)
    engine = build(made, config)
    bytes_only = photo((70, 90), channels=4)
    distances = bytes_only.astype(np.float32)
    distances[..., 3] *= 20.5
    for image in (bytes_only, distances):
        scores, plain = engine(image), expected(made, image)
        assert list(scores) == ["sem", "geo"]
        for head in scores:
            assert difference(scores[head], plain[head]) < 1e-4
    with pytest.raises(AssertionError):
        assert difference(engine(bytes_only)["sem"], expected(made, distances)["sem"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("config", engines("fp32"))
def test_a_net_with_much_padding_of_any_size(config):
    """The first size is elided, others after some images, further ones never: all are right."""
    made = net(narrow_caffe_vgg(), padding=100)
    engine = build(made, config)
    sizes = [(70, 90)] * 2 + [(90, 70)] * (OFTEN + 1) + [(64, 80)] * (OFTEN + 1) + [(70, 90)]
    for seed, size in enumerate(sizes):
        image = photo(size, seed)
        assert difference(engine(image)["labels"], expected(made, image)) < 1e-4, size


def test_sizes_that_a_net_is_elided_for():
    made = TwinBySize(inference_twin(net(narrow_caffe_vgg(), padding=100)))

    def special(height):
        return made((height, 7)).size

    assert special(5) == (5, 7)  # the first
    assert [special(6) for _ in range(OFTEN)] == [None] * (OFTEN - 1) + [(6, 7)]
    assert SPECIAL_SIZES == 2
    assert [special(8) for _ in range(2 * OFTEN)] == [None] * 2 * OFTEN
    assert (special(5), special(6)) == ((5, 7), (6, 7))
    usual = TwinBySize(inference_twin(narrow()))
    assert [usual((5, 7)).size for _ in range(OFTEN)] == [None] * OFTEN


@pytest.mark.parametrize("config", engines("fp32", "bf16"))
@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.usefixtures("four_threads")
def test_many_threads_may_ask_at_once(config, at_once):
    engine = build(narrow(), config, at_once=at_once)
    images = [photo((64 + 8 * (n % 3), 96), seed=n) for n in range(18)]
    alone = [engine(image)["labels"].clone() for image in images]
    together = list(ahead(engine, images, 6))
    for one, other in zip(alone, together, strict=True):
        assert one.equal(other["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("config", engines("fp32"))
def test_arrays_of_any_layout_are_read(mobile, config):
    engine = build(mobile, config)
    image = photo((64, 80))
    turned = image[::-1, ::-1]
    whole = engine(turned)["labels"]
    assert whole.equal(engine(np.ascontiguousarray(turned))["labels"])
    image.setflags(write=False)
    assert difference(engine(image)["labels"], expected(mobile, image.copy())) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("config", engines("fp32"))
def test_labels_need_no_full_resolution_scores(mobile, config, monkeypatch):
    image = photo((96, 130))
    truth = mobile(mobile.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None]))
    label = Labeller(mobile, build(mobile, config))
    monkeypatch.setattr(Head, "upsample", None)
    labels = label(image)["labels"]
    assert (labels.dtype, labels.shape) == (np.uint8, (96, 130))
    assert (labels == truth.argmax(1)[0].numpy()).mean() >= 0.9999
    assert len(np.unique(labels)) > 1


def test_probabilities_are_the_softmax_of_the_upscored(mobile):
    image = photo((40, 60))
    label = Labeller(mobile, build(mobile, REFERENCE))
    bands = label.probability_bands("labels", label.views(image), (40, 60))
    found = np.concatenate(list(bands), 1)
    x = mobile.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        truth = mobile(x).softmax(1)[0].numpy()
    assert (found.dtype, found.shape) == (np.float16, (4, 40, 60))
    assert np.abs(found - truth).max() < 2e-3


@pytest.mark.parametrize("config", engines("fp32", "bf16"))
def test_an_engine_leaves_its_net_as_it_was(config):
    made = net(NarrowVGG())
    made.train()
    made.trunk.eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    modes = [part.training for part in made.modules()]
    image = photo((64, 80))
    first = build(made, config)(image)["labels"]
    assert [part.training for part in made.modules()] == modes
    assert all(value.equal(before[name]) for name, value in made.state_dict().items())
    assert all(each.requires_grad for each in made.trunk.parameters())
    made.eval()  # whatever mode the net is in, an engine evaluates
    assert difference(first, expected(made, image)) < (1e-4 if config.precision == "fp32" else 0.5)
    assert not first.requires_grad


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("at_once", "threads"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_torch_s_threads_are_divided_among_images_side_by_side(at_once, threads):
    class Counting(ColourNet):
        counted = []  # noqa: RUF012

        def coarse(self, x):
            self.counted.append(torch.get_num_threads())
            return super().coarse(x)

    engine = build(Counting(), REFERENCE, at_once=at_once)
    with ThreadPoolExecutor(8) as others:
        list(others.map(engine, [photo((8, 9))] * 16))
        assert set(Counting.counted) == {threads}
        Counting.counted.clear()
        engine(np.zeros((512, 1024, 3), np.uint8))  # a large one has them all
        assert Counting.counted == [4]
        assert torch.get_num_threads() == 4
        Counting.counted.clear()
        assert len(list(label_all(engine, [photo((8, 9))] * 16, engine))) == 16
        assert set(Counting.counted) == {threads}  # whatever torch has in the threads that ask
    assert torch.get_num_threads() == 4
    with ThreadPoolExecutor(1) as new:
        assert new.submit(torch.get_num_threads).result() == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("at_once", "threads"), [(1, 4), (2, 1)])
def test_threads_that_ask_have_one_thread_each_if_the_engine_has_its_own(at_once, threads):
    engine = build(ColourNet(), REFERENCE, at_once=at_once)
    found = list(label_all(lambda _: torch.get_num_threads(), range(20), engine))
    assert set(found) == {threads}
    assert torch.get_num_threads() == 4
    with pytest.raises(ZeroDivisionError):
        list(label_all(lambda n: 1 // n, [1, 0, 1], engine))
    assert torch.get_num_threads() == 4


def test_torch_in_bf16_holds_half_the_weights_once():
    made = net(narrow_caffe_vgg(), padding=100)
    twins = twins_for_torch(made, bf16=True)
    modules = [twins((40, 50)).net, *(twins((50, 40)).net for _ in range(OFTEN)), twins((9, 9)).net]
    assert modules[1] is modules[2] is modules[3] is not modules[4]
    modules = [modules[0], modules[4], modules[5]]
    kept = [
        {
            id(part.weight)
            for part in module.modules()
            if isinstance(part, nn.Conv2d) and part.weight.dtype == torch.bfloat16
        }
        for module in modules
    ]
    assert kept[2] and kept[2] >= kept[0] == kept[1]
    assert len(kept[2]) == sum(isinstance(part, nn.Conv2d) for part in made.modules())
    assert all(part.weight.dtype == torch.float32 for part in made.scores.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_torch_compiles_a_net():
    made = narrow()
    engine = build(made, EngineConfig("torch", compiled=True))
    for size in ((64, 80), (70, 90)):
        image = photo(size)
        assert difference(engine(image)["labels"], expected(made, image)) < 1e-4


@needs("openvino")
@pytest.mark.parametrize(
    ("at_once", "size", "streams"),
    [
        pytest.param(1, 64, 1, marks=pytest.mark.slow),
        (3, 64, 3),
        pytest.param(3, 512, 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("four_threads")
def test_openvino_is_told_its_settings(at_once, size, streams):
    engine = build(narrow(), EngineConfig("openvino"), at_once=at_once)
    requests = engine.prepare(np.zeros((size, 1024, 3), np.uint8))
    compiled = requests.graph
    said = {
        name: compiled.get_property(name)
        for name in ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS")
    }
    assert said["INFERENCE_PRECISION_HINT"].to_string() == "f32"
    assert said["NUM_STREAMS"] == min(streams, os.cpu_count() or 1)  # never more than cores
    assert requests.count == said["NUM_STREAMS"]


@pytest.mark.parametrize("config", engines("fp32"))
@pytest.mark.parametrize("size", [pytest.param((64, 80), marks=pytest.mark.slow), (9, 40)])
def test_images_worked_out_together_get_their_own_scores(config, size):
    made = narrow()
    engine = build(made, config)
    images = [photo(size, seed=seed) for seed in range(3)]
    for image, found in zip(images, engine.of_batch(images), strict=True):
        assert difference(found["labels"], expected(made, image)) < 1e-4


@pytest.mark.slow
@needs("openvino")
def test_openvino_reports_to_nobody(tmp_path):
    script = "from fullconv.export.openvino_core import import_openvino; import_openvino()"
    environment = {**os.environ, "HOME": str(tmp_path), "CI": ""}
    for start in ("", "import openvino; "):
        subprocess.run([sys.executable, "-c", start + script], env=environment, check=True)
        assert bool(list(tmp_path.iterdir())) == bool(start)  # only where others let it


@pytest.mark.realdata
@pytest.mark.parametrize("config", engines("fp32", "bf16"))
def test_labels_of_photographs_agree(config, fitted):
    made, photographs = fitted
    label, plain = Labeller(made, build(made, config)), Labeller(made, build(made, REFERENCE))
    same = []
    for image in photographs:
        labels = plain(image)["labels"]
        assert len(np.unique(labels)) > 3
        assert (labels == made.predict(image)).mean() > 0.9999
        same.append((label(image)["labels"] == labels).mean())
    assert np.mean(same) >= (0.9999 if config.precision == "fp32" else 0.98)


@pytest.fixture(scope="module")
def fitted():
    """Give a net whose scores are like a trained one's, and photographs it was not fitted to.

    Its coarsest score is the ridge regression of CamVid's classes on MobileNetV2's features.
    """
    shared = os.environ.get("FULLCONV_SHARED")
    if not shared:
        pytest.skip("FULLCONV_SHARED names no folder of real data")
    torch.manual_seed(0)
    made = FCN("mobilenet_v2", 8, 11, weights=f"{shared}/weights/mobilenet_v2.safetensors").eval()
    split = DatasetFolder(Path(shared) / "data/camvid").split("train")
    features, truths = [], []
    for index in range(0, len(split), 12):
        _, image, (truth,) = split[index]
        x = made.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None])
        with torch.no_grad():
            features.append(made.trunk(x)[0][0].flatten(1).T.double())
        truths.append(torch.from_numpy(truth[::32, ::32].copy()).flatten().long())
    known = (truth := torch.cat(truths)) < 11
    x = nn.functional.pad(torch.cat(features), (0, 1), value=1.0)[known]
    y = nn.functional.one_hot(truth[known], 11).double()
    weights = torch.linalg.solve(x.T @ x + 100 * torch.eye(x.shape[1]).double(), x.T @ y)
    with torch.no_grad():
        made.scores["32"].weight.copy_(10 * weights[:-1].T[..., None, None])
        made.scores["32"].bias.copy_(10 * weights[-1])
    test = DatasetFolder(Path(shared) / "data/camvid").split("test")
    return made, [test[index].image for index in range(0, len(test), 40)]
