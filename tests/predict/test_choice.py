"""The choice of an engine: by measurement, by agreement, by what is left to do, and remembered."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from colour_net import ColourNet
from nets import NarrowVGG, random_scores
from torch import nn

from fullconv import FCN
from fullconv.base.errors import FullconvError
from fullconv.predict import choice, engines
from fullconv.predict.choice import AT_ONCE, REFERENCE, choose
from fullconv.predict.engines import EngineError, Way, build, check, is_installed, told, ways
from fullconv.predict.engines.torch_engine import TorchEngine
from fullconv.predict.labeller import Labeller
from fullconv.predict.remembered import Measured, Memory, cache_folder

CPU = torch.device("cpu")
OPENVINO, OPENVINO_BF16, ONNX = Way("openvino"), Way("openvino", "bf16"), Way("onnxruntime")
PIXELS = 100 * 100


class Net(ColourNet):
    """Its labels are known, and as many as wanted can be altered."""

    arguments: dict[str, object] = {}  # noqa: RUF012


def image(seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 200, (100, 100, 3), np.uint8)
    pixels.reshape(-1, 3)[np.arange(PIXELS), random.integers(0, 3, PIXELS)] = 255
    return pixels


class Simulated:
    """Engines in whose place torch does the work, late, with some labels wrong, or not at all.

    Attributes:
        built: the ways that were built, in order.
    """

    def __init__(self, **traits):
        self.traits, self.built, self.at_once = traits, [], []
        self.wrong_of = None  # the only image whose labels are altered, if it isn't all

    def __call__(self, net, way, _, at_once):
        self.built.append(way)
        self.at_once.append(at_once)
        seconds, wrong, failure = self.traits[str(way).replace(" ", "_")]
        if failure == "build":
            raise EngineError(f"engine {way} can't work out this net: no such layer")
        real = TorchEngine(net)

        def engine(image):
            time.sleep(seconds)
            if failure:
                raise RuntimeError(failure)
            scores = real(image)["labels"].clone()
            if self.wrong_of is None or (image == self.wrong_of).all():
                scores.flatten(2)[0, :, :wrong] = scores.flatten(2)[0, [1, 2, 0], :wrong]
            return {"labels": scores}

        engine.at_once = at_once
        return engine


def traits(seconds, wrong=0, failure=None):
    return seconds, wrong, failure


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def simulate(monkeypatch):
    """Give a function that puts simulated engines in the place of the real ones."""

    def put(**traits):
        known = [Way(*name.split("_")[:2]) for name in traits]
        simulated = Simulated(**traits)
        monkeypatch.setattr(choice, "build", simulated)
        monkeypatch.setattr(choice, "ROUNDS", 0.02)

        def asked(engine, precision, _):
            return [
                way
                for way in known
                if engine in ("auto", way.engine) and precision in ("auto", way.precision)
            ]

        monkeypatch.setattr(choice, "ways", asked)
        return simulated

    return put


def chosen(images, net=None, samples=4, **asked):
    """Choose for a run of so many images; return the choice and what was said."""
    said = []
    found = choose(
        net or Net(),
        images,
        lambda count: [image(seed) for seed in range(min(count, samples, images))],
        say=said.append,
        **asked,
    )
    return found, said


MANY = 10_000
SLOW, QUICK, QUICKEST = 0.02, 0.005, 0.0


# The choice


def test_the_quickest_is_chosen_where_there_is_much_to_do(simulate):
    simulated = simulate(
        torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK), onnxruntime_fp32=traits(SLOW)
    )
    found, said = chosen(MANY)
    assert (found.way, said) == (OPENVINO, [])
    assert simulated.built == [REFERENCE, OPENVINO, ONNX]
    assert found.measured.agreement == 1
    assert QUICK / AT_ONCE < found.measured.seconds < SLOW


@pytest.mark.parametrize("images", [1, 6, 20])
def test_little_work_goes_to_torch_at_once(simulate, images, own_cache):
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    found, _ = chosen(images)
    assert (found.way, found.measured, simulated.built) == (REFERENCE, None, [REFERENCE])
    assert simulated.at_once == [min(images, AT_ONCE)]
    assert not own_cache.exists()


@pytest.mark.parametrize(("wrong", "way"), [(50, OPENVINO_BF16), (51, REFERENCE)])
def test_less_precision_is_taken_only_if_995_labels_in_1000_agree(simulate, wrong, way):
    simulate(torch_fp32=traits(SLOW), openvino_bf16=traits(QUICK, wrong))
    found, _ = chosen(MANY)
    assert found.way == way
    if way == OPENVINO_BF16:
        assert found.measured.agreement == pytest.approx(0.995)


def test_agreement_is_measured_on_all_samples(simulate):
    """One image of four disagrees in 4%, all of them in 1%."""
    simulated = simulate(torch_fp32=traits(SLOW), openvino_bf16=traits(QUICK, 400))
    simulated.wrong_of = image(2)
    assert chosen(MANY, samples=2)[0].way == OPENVINO_BF16
    Memory(Net(), (100, 100, 3), "uint8").path.unlink()
    assert chosen(MANY, samples=4)[0].way == REFERENCE
    record = Memory(Net(), (100, 100, 3), "uint8").recall()[1]
    assert record.agreement == pytest.approx(0.99)


@pytest.mark.parametrize(("wrong", "way"), [(1, OPENVINO), (2, REFERENCE)])
def test_in_float32_one_label_in_10000_may_differ(simulate, wrong, way):
    simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK, wrong))
    assert chosen(MANY)[0].way == way


def test_bf16_asked_for_by_name_need_not_agree(simulate):
    simulate(torch_fp32=traits(SLOW), torch_bf16=traits(SLOW), openvino_bf16=traits(QUICK, 5000))
    found, _ = chosen(MANY, precision="bf16")
    assert found.way == OPENVINO_BF16
    assert found.measured.agreement == pytest.approx(0.5)


def test_an_engine_asked_for_is_chosen_however_slow(simulate):
    simulate(
        torch_fp32=traits(QUICKEST), openvino_fp32=traits(SLOW), openvino_bf16=traits(QUICK, 60)
    )
    assert chosen(MANY, engine="openvino")[0].way == OPENVINO
    assert chosen(1, engine="openvino")[0].way == OPENVINO


def test_a_way_that_fails_is_left_out_and_said_once(simulate):
    simulated = simulate(
        torch_fp32=traits(SLOW),
        openvino_fp32=traits(QUICKEST, failure="build"),
        openvino_bf16=traits(QUICKEST, failure="no\nsuch layer"),
        onnxruntime_fp32=traits(QUICK),
    )
    found, said = chosen(MANY)
    assert found.way == ONNX
    assert said == [
        "openvino fp32 is left out: engine openvino fp32 can't work out this net: no such layer",
        "openvino bf16 is left out: no such layer",
    ]
    simulated.built.clear()
    found, said = chosen(MANY)
    assert (found.way, said, simulated.built) == (ONNX, [], [ONNX])


def test_what_fails_by_name_is_an_error(simulate):
    simulate(openvino_fp32=traits(QUICKEST, failure="build"))
    with pytest.raises(EngineError, match="engine openvino fp32 can't work out this net"):
        chosen(MANY, engine="openvino", precision="fp32")


def test_if_the_reference_fails_it_is_taken_unmeasured(simulate, own_cache):
    """As of a first image that is too large: that is the image's affair, not the run's."""
    simulate(torch_fp32=traits(SLOW, failure="memory"), openvino_fp32=traits(QUICKEST))
    assert chosen(MANY)[0].way == REFERENCE
    assert not own_cache.exists()


def test_no_readable_image_no_measurement(simulate, own_cache):
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    assert chosen(MANY, samples=0)[0].way == REFERENCE
    assert simulated.built == [REFERENCE] and not own_cache.exists()


def test_compiling_is_tried_only_for_hours_of_work(simulate, monkeypatch):
    compiled = Way("torch", "fp32", True)
    simulated = simulate(torch_fp32=traits(SLOW), torch_fp32_compiled=traits(QUICKEST))
    monkeypatch.setattr(choice, "ways", lambda *_: [REFERENCE, compiled])
    assert chosen(MANY)[0].way == REFERENCE
    assert compiled not in simulated.built
    assert chosen(1_000_000)[0].way == compiled


def test_images_that_take_long_are_worked_on_alone(simulate, monkeypatch):
    monkeypatch.setattr(choice, "LONG", SLOW / 2)
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK))
    assert chosen(MANY)[0].way == OPENVINO
    assert chosen(MANY)[0].way == OPENVINO
    assert simulated.at_once == [AT_ONCE, 1, 1]
    simulated.at_once.clear()
    monkeypatch.setattr(choice, "LONG", 10)
    chosen(MANY)
    assert simulated.at_once == [AT_ONCE]


# Memory


def test_a_choice_is_remembered_and_nothing_measured_again(simulate):
    simulated = simulate(
        torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST), openvino_bf16=traits(QUICK, 60)
    )
    first, _ = chosen(MANY)
    simulated.built.clear()
    again, _ = chosen(MANY)
    assert (again.way, again.measured) == (first.way, first.measured)
    assert simulated.built == [OPENVINO]


def remember(net, *measured):
    Memory(net, (100, 100, 3), "uint8").keep(measured)


def test_what_it_takes_to_get_ready_counts(simulate):
    """torch 20 ms an image at once, OpenVINO 5 ms after 1.5 s: equal at 100 images."""
    remember(
        Net(),
        Measured(way=REFERENCE, seconds=0.02, agreement=1),
        Measured(way=OPENVINO, seconds=0.005, build=1.5, agreement=1),
    )
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK))
    assert [chosen(images)[0].way for images in (1, 98, 102)] == [REFERENCE, REFERENCE, OPENVINO]
    assert simulated.built == [REFERENCE, REFERENCE, OPENVINO]


def test_a_remembered_way_that_no_longer_works_gives_way_to_the_next(simulate):
    remember(
        Net(),
        Measured(way=REFERENCE, seconds=0.02, agreement=1),
        Measured(way=OPENVINO, seconds=0.001, agreement=1),
        Measured(way=ONNX, seconds=0.002, agreement=1),
    )
    simulate(
        torch_fp32=traits(SLOW),
        openvino_fp32=traits(QUICKEST, failure="build"),
        onnxruntime_fp32=traits(QUICKEST),
    )
    found, said = chosen(MANY)
    assert found.way == ONNX
    assert said == ["engine openvino fp32 can't work out this net: no such layer"]


def test_an_engine_installed_since_is_measured_beside_what_is_known(simulate):
    simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK))
    chosen(MANY)
    simulated = simulate(
        torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK), onnxruntime_fp32=traits(QUICKEST, 1)
    )
    found, _ = chosen(MANY)
    assert found.way == ONNX
    assert found.measured.agreement == pytest.approx(0.9999)
    assert simulated.built == [ONNX, REFERENCE]
    known = [each.way for each in Memory(Net(), (100, 100, 3), "uint8").recall()]
    assert known == [REFERENCE, OPENVINO, ONNX]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"about": {}, "measured": []}', "\0", None])
def test_a_damaged_file_is_as_good_as_none(simulate, damage):
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    chosen(MANY)
    path = Memory(Net(), (100, 100, 3), "uint8").path
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2] if damage is None else damage)
    simulated.built.clear()
    assert chosen(MANY)[0].way == OPENVINO
    assert simulated.built == [REFERENCE, OPENVINO]
    assert json.loads(path.read_text())["about"] == json.loads(whole)["about"]


def test_a_cache_that_cant_be_written_is_done_without(simulate, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "file"))
    simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    assert [chosen(MANY)[0].way for _ in range(2)] == [OPENVINO] * 2


def test_each_net_size_and_setting_has_its_own_file(monkeypatch):
    def path(net=None, shape=(100, 100, 3), kind="uint8"):
        return Memory(net or Net(), shape, kind).path

    others = [path(shape=(100, 101, 3)), path(kind="float32")]
    changed = Net()
    with torch.no_grad():
        changed.score.weight[2, 2] += 1e-6
    others.append(path(changed))
    strided = Net()
    strided.arguments = strided.arguments.changed(stride=16)
    others.append(path(strided))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 99)
        others.append(path())
    with monkeypatch.context() as patch:
        patch.setattr("fullconv.predict.remembered.version", lambda _: "99.0")
        others.append(path())
    assert len({path(), *others}) == 1 + len(others)
    channels_last = Net().to(memory_format=torch.channels_last)
    assert path() == path() == path(channels_last)


def test_where_caches_lie(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FULLCONV_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fullconv"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fullconv"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "fullconv"


@pytest.mark.slow
def test_real_engines_are_measured_and_remembered(monkeypatch):
    torch.manual_seed(0)
    net = random_scores(FCN(NarrowVGG(), 16, 3)).eval()
    images = [np.random.default_rng(n).integers(0, 256, (200, 300, 3), np.uint8) for n in range(4)]
    said = []
    first = choose(net, 2000, lambda count: images[:count], say=said.append)
    memory = Memory(net, (200, 300, 3), "uint8")
    known = {each.way: each for each in memory.recall()}
    assert said == [] and not any(each.failure for each in known.values())
    assert REFERENCE in known and (len(known) > 1 or known[REFERENCE].seconds < 1e-3)
    assert all(each.agreement > 0.9999 for each in known.values() if each.way.precision == "fp32")
    assert first.measured == known[first.way]
    monkeypatch.setattr(choice._Trials, "_measured", None)  # would fail if it were called
    again = choose(net, 2000, lambda count: images[:count])
    assert again.measured in known.values()
    labels = [Labeller(net, each.engine)(images[0])["labels"] for each in (first, again)]
    assert (labels[0] == labels[1]).mean() > 0.995


# What there is to choose from


def test_the_ways_on_a_cpu_are_those_installed(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(engines, "is_installed", lambda engine: engine != "onnxruntime")
    found = ways("auto", "auto", CPU)
    assert found[0] == REFERENCE
    assert {way.engine for way in found} == {"torch", "openvino"}
    assert len(found) == len(set(found)) == 6
    assert set(ways("openvino", "auto", CPU)) == {OPENVINO, OPENVINO_BF16}
    assert set(ways("auto", "fp32", CPU)) == {REFERENCE, OPENVINO, Way("torch", "fp32", True)}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    assert {way.precision for way in ways("auto", "auto", CPU)} == {"fp32"}
    assert Way("torch", "bf16") in ways("auto", "bf16", CPU)  # slow, but it was asked for


def test_the_ways_beside_a_cpu_are_torch_s(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    torch_ways = [Way("torch", p, c) for p in ("bf16", "fp32") for c in (False, True)]
    assert sorted(ways("auto", "auto", torch.device("cuda"))) == torch_ways
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert sorted(ways("auto", "auto", torch.device("cuda"))) == torch_ways[2:]
    assert ways("auto", "auto", torch.device("mps")) == [REFERENCE]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("torhc", "auto", "auto"), "engine 'torhc' is none of auto, .*did you mean torch"),
        (("auto", "bf61", "auto"), "precision 'bf61' is none of auto, fp32, bf16; .*bf16"),
        (("auto", "int8", "auto"), "precision int8 is not supported yet"),
        (("openvino", "fp32", "cuda"), "engine openvino works on the CPU only"),
        (("onnxruntime", "bf16", "cpu"), "engine onnxruntime knows no bf16"),
    ],
)
def test_what_there_is_not_is_refused(monkeypatch, asked, reason):
    monkeypatch.setattr(engines, "is_installed", lambda _: True)
    with pytest.raises(FullconvError, match=reason):
        check(*asked)


def test_an_engine_that_is_not_installed_is_refused_by_name_only(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    for name in ("auto", "torch"):
        check(name, "auto", "auto")
    for name, extra in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        with pytest.raises(FullconvError) as caught:
            check(name, "auto", "auto")
        assert f"engine {name} is not installed: pip install 'fullconv[{extra}]'" in str(
            caught.value
        )
    assert {way.engine for way in ways("auto", "auto", CPU)} == {"torch"}
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name != "onnx" or None)
    assert not is_installed("onnxruntime")  # which can't be fed without onnx


def test_converters_errors_become_one_line(monkeypatch):
    class Odd(nn.Module):
        def __init__(self, *_, **__):
            super().__init__()
            raise ValueError("Model wasn't converted:\n  aten::strange\n" + "at line 5\n" * 100)

    monkeypatch.setattr("fullconv.predict.engines.torch_engine.TorchEngine", Odd)
    with pytest.raises(EngineError) as caught:
        build(Net(), REFERENCE)
    message = str(caught.value)
    assert message.startswith("engine torch fp32 can't work out this net: Model wasn't converted: ")
    assert "\n" not in message and len(message) < 400
    assert caught.value.exit_code == 2
    assert told(KeyError()) == "KeyError"
