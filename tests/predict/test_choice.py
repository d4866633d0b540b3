"""The choice of an engine: by measurement, by agreement, by what is left to do, and noted."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from colour_net import ColourNet
from nets import NarrowVGG, random_scores
from torch import nn

from fullconv import FCN
from fullconv.base.errors import FullconvError, one_line
from fullconv.base.progress import Reporter
from fullconv.export import int8, verification
from fullconv.export.verification import Notes
from fullconv.export.verified import REFERENCE, EngineConfig, Verification
from fullconv.predict import choice, engines
from fullconv.predict.choice import AT_ONCE, Asked, choose
from fullconv.predict.engines import build, check, configs, is_installed
from fullconv.predict.engines.errors import EngineError
from fullconv.predict.labeller import Labeller

CPU = torch.device("cpu")
OPENVINO, OPENVINO_BF16 = EngineConfig("openvino"), EngineConfig("openvino", "bf16")
ONNX = EngineConfig("onnxruntime")
PIXELS = 100 * 100


def image(seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 200, (100, 100, 3), np.uint8)
    pixels.reshape(-1, 3)[np.arange(PIXELS), random.integers(0, 3, PIXELS)] = 255
    return pixels


class Clock:
    """Goes on only when an engine works, so that no test depends on the machine."""

    def __init__(self):
        self.now, self._lock = 0.0, threading.Lock()

    def __call__(self):
        return self.now

    def advance(self, seconds):
        with self._lock:
            self.now += seconds


class Simulated:
    """Engines in whose place torch does the work, late, with some labels wrong, or not at all.

    Attributes:
        built: what was built, in order.
        clock: tells how late.
    """

    def __init__(self, clock, **traits):
        self.traits, self.built, self.at_once, self.clock = traits, [], [], clock
        self.wrong_of = None  # the only image whose labels are altered, if it isn't all

    def __call__(self, net, config, _, at_once):
        self.built.append(config)
        self.at_once.append(at_once)
        seconds, wrong, failure = self.traits[str(config).replace(" ", "_")]
        if failure == "build":
            raise EngineError(f"engine {config} can't work out this net: no such layer")
        real = build(net, REFERENCE)

        def engine(image):
            alone = threading.current_thread() is threading.main_thread()
            self.clock.advance(
                seconds / (1 if alone else max(1, 0.8 * at_once))
            )  # each takes longer
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
def clock():
    return Clock()


@pytest.fixture
def simulate(monkeypatch, clock):
    """Give a function that puts simulated engines in the place of the real ones."""
    monkeypatch.setattr(verification, "SECONDS", 20 * QUICKEST)  # a few rounds: none differs

    def put(**traits):
        known = [EngineConfig(*name.split("_")[:2]) for name in traits]
        simulated = Simulated(clock, **traits)
        monkeypatch.setattr(choice, "build", simulated)

        def asked(engine, precision, _):
            return [
                config
                for config in known
                if engine in ("auto", config.engine) and precision in ("auto", config.precision)
            ]

        monkeypatch.setattr(choice, "configs", asked)
        return simulated

    return put


@dataclass(frozen=True)
class Heard(Reporter):
    """Remembers what was said."""

    lines: list[str] = field(default_factory=list)

    def warn(self, line):
        self.lines.append(line)


@pytest.fixture
def chosen(clock):
    """Give a function that chooses for a run of so many images; it returns what was said, too."""

    def choose_for(images, net=None, samples=4, **asked):
        heard = Heard()
        found = choose(
            net or ColourNet(),
            Asked(images, **asked),
            lambda count: [image(seed) for seed in range(min(count, samples, images))],
            heard,
            clock,
        )
        return found, heard.lines

    return choose_for


def notes(net=None, shape=(100, 100, 3), kind="uint8", folder=None):
    return Notes(net or ColourNet(), shape, kind, folder)


MANY = 10_000
SLOW, QUICK, QUICKEST = 0.02, 0.005, 0.001


# The choice


def test_the_quickest_is_chosen_where_there_is_much_to_do(chosen, simulate):
    simulated = simulate(
        torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK), onnxruntime_fp32=traits(SLOW)
    )
    found, said = chosen(MANY)
    assert (found.config, said) == (OPENVINO, [])
    assert simulated.built == [REFERENCE, OPENVINO, ONNX]
    assert found.verification.agreement == 1
    assert QUICK / AT_ONCE < found.verification.seconds < SLOW


@pytest.mark.parametrize("images", [1, 6, 20])
def test_little_work_goes_to_torch_at_once(chosen, simulate, images, own_cache):
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    found, _ = chosen(images)
    assert (found.config, found.verification, simulated.built) == (REFERENCE, None, [REFERENCE])
    assert simulated.at_once == [min(images, AT_ONCE)]
    assert not own_cache.exists()


@pytest.mark.parametrize(("wrong", "config"), [(50, OPENVINO_BF16), (51, REFERENCE)])
def test_less_precision_is_taken_only_if_995_labels_in_1000_agree(chosen, simulate, wrong, config):
    simulate(torch_fp32=traits(SLOW), openvino_bf16=traits(QUICK, wrong))
    found, _ = chosen(MANY)
    assert found.config == config
    if config == OPENVINO_BF16:
        assert found.verification.agreement == pytest.approx(0.995)


def test_agreement_is_measured_on_all_samples(chosen, simulate):
    """One image of four disagrees in 4%, all of them in 1%."""
    simulated = simulate(torch_fp32=traits(SLOW), openvino_bf16=traits(QUICK, 400))
    simulated.wrong_of = image(2)
    assert chosen(MANY, samples=2)[0].config == OPENVINO_BF16
    notes().paths[0].unlink()
    assert chosen(MANY, samples=4)[0].config == REFERENCE
    record = notes().recall()[1]
    assert record.agreement == pytest.approx(0.99)


@pytest.mark.parametrize(("wrong", "config"), [(1, OPENVINO), (2, REFERENCE)])
def test_in_float32_one_label_in_10000_may_differ(chosen, simulate, wrong, config):
    simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK, wrong))
    assert chosen(MANY)[0].config == config


def test_bf16_asked_for_by_name_need_not_agree(chosen, simulate):
    simulate(torch_fp32=traits(SLOW), torch_bf16=traits(SLOW), openvino_bf16=traits(QUICK, 5000))
    found, _ = chosen(MANY, precision="bf16")
    assert found.config == OPENVINO_BF16
    assert found.verification.agreement == pytest.approx(0.5)


def test_an_engine_asked_for_is_chosen_however_slow(chosen, simulate):
    simulate(
        torch_fp32=traits(QUICKEST), openvino_fp32=traits(SLOW), openvino_bf16=traits(QUICK, 60)
    )
    assert chosen(MANY, engine="openvino")[0].config == OPENVINO
    assert chosen(1, engine="openvino")[0].config == OPENVINO


def test_an_engine_that_fails_is_left_out_and_said_once(chosen, simulate):
    simulated = simulate(
        torch_fp32=traits(SLOW),
        openvino_fp32=traits(QUICKEST, failure="build"),
        openvino_bf16=traits(QUICKEST, failure="no\nsuch layer"),
        onnxruntime_fp32=traits(QUICK),
    )
    found, said = chosen(MANY)
    assert found.config == ONNX
    assert said == [
        "openvino fp32 is left out: engine openvino fp32 can't work out this net: no such layer",
        "openvino bf16 is left out: no such layer",
    ]
    simulated.built.clear()
    found, said = chosen(MANY)
    assert (found.config, said, simulated.built) == (ONNX, [], [ONNX])


def test_what_fails_by_name_is_an_error(chosen, simulate):
    simulate(openvino_fp32=traits(QUICKEST, failure="build"))
    with pytest.raises(EngineError, match="engine openvino fp32 can't work out this net"):
        chosen(MANY, engine="openvino", precision="fp32")


def test_if_the_reference_fails_it_is_taken_unmeasured(chosen, simulate, own_cache):
    """As of a first image that is too large: that is the image's affair, not the run's."""
    simulate(torch_fp32=traits(SLOW, failure="memory"), openvino_fp32=traits(QUICKEST))
    assert chosen(MANY)[0].config == REFERENCE
    assert not own_cache.exists()


def test_no_readable_image_no_measurement(chosen, simulate, own_cache):
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    assert chosen(MANY, samples=0)[0].config == REFERENCE
    assert simulated.built == [REFERENCE] and not own_cache.exists()


def test_compiling_is_tried_only_for_hours_of_work(chosen, simulate, monkeypatch):
    compiled = EngineConfig("torch", "fp32", True)
    simulated = simulate(torch_fp32=traits(SLOW), torch_fp32_compiled=traits(QUICKEST))
    monkeypatch.setattr(choice, "configs", lambda *_: [REFERENCE, compiled])
    assert chosen(MANY)[0].config == REFERENCE
    assert compiled not in simulated.built
    assert chosen(1_000_000)[0].config == compiled


def test_images_that_take_long_are_worked_on_alone(chosen, simulate, monkeypatch):
    monkeypatch.setattr(choice, "LONG", SLOW / 4)
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK))
    assert chosen(MANY)[0].config == OPENVINO
    assert chosen(MANY)[0].config == OPENVINO
    assert simulated.at_once == [AT_ONCE, 1, 1]
    simulated.at_once.clear()
    monkeypatch.setattr(choice, "LONG", 10)
    chosen(MANY)
    assert simulated.at_once == [AT_ONCE]


# Memory


def test_a_choice_is_remembered_and_nothing_measured_again(chosen, simulate):
    simulated = simulate(
        torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST), openvino_bf16=traits(QUICK, 60)
    )
    first, _ = chosen(MANY)
    simulated.built.clear()
    again, _ = chosen(MANY)
    assert (again.config, again.verification) == (first.config, first.verification)
    assert simulated.built == [OPENVINO]


def remember(net, *measured):
    notes(net).keep(measured)


def test_what_it_takes_to_get_ready_counts(chosen, simulate):
    """torch 20 ms an image at once, OpenVINO 5 ms after 1.5 s: equal at 100 images."""
    remember(
        ColourNet(),
        Verification(config=REFERENCE, seconds=0.02, agreement=1),
        Verification(config=OPENVINO, seconds=0.005, build=1.5, agreement=1),
    )
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK))
    assert [chosen(images)[0].config for images in (1, 98, 102)] == [REFERENCE, REFERENCE, OPENVINO]
    assert simulated.built == [REFERENCE, REFERENCE, OPENVINO]


def test_a_remembered_engine_that_no_longer_works_gives_way_to_the_next(chosen, simulate):
    remember(
        ColourNet(),
        Verification(config=REFERENCE, seconds=0.02, agreement=1),
        Verification(config=OPENVINO, seconds=0.001, agreement=1),
        Verification(config=ONNX, seconds=0.002, agreement=1),
    )
    simulate(
        torch_fp32=traits(SLOW),
        openvino_fp32=traits(QUICKEST, failure="build"),
        onnxruntime_fp32=traits(QUICKEST),
    )
    found, said = chosen(MANY)
    assert found.config == ONNX
    assert said == ["engine openvino fp32 can't work out this net: no such layer"]


def test_an_engine_installed_since_is_measured_beside_what_is_known(chosen, simulate):
    simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK))
    chosen(MANY)
    simulated = simulate(
        torch_fp32=traits(SLOW), openvino_fp32=traits(QUICK), onnxruntime_fp32=traits(QUICKEST, 1)
    )
    found, _ = chosen(MANY)
    assert found.config == ONNX
    assert found.verification.agreement == pytest.approx(0.9999)
    assert simulated.built == [ONNX, REFERENCE]
    known = [each.config for each in notes().recall()]
    assert known == [REFERENCE, OPENVINO, ONNX]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"notes": [{"about": {}, "verified": []}]}', "\0", None]
)
def test_a_damaged_file_is_as_good_as_none(chosen, simulate, damage):
    simulated = simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    chosen(MANY)
    path = notes().paths[0]
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2] if damage is None else damage)
    simulated.built.clear()
    assert chosen(MANY)[0].config == OPENVINO
    assert simulated.built == [REFERENCE, OPENVINO]
    ours, before = (json.loads(text)["notes"][0]["about"] for text in (path.read_text(), whole))
    assert ours == before


def test_a_cache_that_cant_be_written_is_done_without(chosen, simulate, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "file"))
    simulate(torch_fp32=traits(SLOW), openvino_fp32=traits(QUICKEST))
    assert [chosen(MANY)[0].config for _ in range(2)] == [OPENVINO] * 2


@pytest.mark.slow
def test_real_engines_are_measured_and_remembered(monkeypatch):
    torch.manual_seed(0)
    net = random_scores(FCN(NarrowVGG(), 16, 3)).eval()
    images = [np.random.default_rng(n).integers(0, 256, (200, 300, 3), np.uint8) for n in range(4)]
    heard = Heard()
    ticks = itertools.count(0, 0.05).__next__  # seconds: each reading is later, on any machine
    first = choose(net, Asked(2000), lambda count: images[:count], heard, ticks)
    known = {each.config: each for each in notes(net, (200, 300, 3)).recall()}
    assert heard.lines == [] and not any(each.failure for each in known.values())
    assert REFERENCE in known and len(known) > 1
    assert all(
        each.agreement > 0.9999 for each in known.values() if each.config.precision == "fp32"
    )
    assert first.verification == known[first.config]
    monkeypatch.setattr(choice._Trials, "_measure", None)  # would fail if it were called
    again = choose(net, Asked(2000), lambda count: images[:count])
    assert again.verification in known.values()
    labels = [Labeller(net, each.engine)(images[0])["labels"] for each in (first, again)]
    assert (labels[0] == labels[1]).mean() > 0.995


# What there is to choose from


def test_what_there_is_on_a_cpu_is_installed(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(engines, "is_installed", lambda engine: engine != "onnxruntime")
    monkeypatch.setattr(int8, "is_installed", lambda: True)
    found = configs("auto", "auto", CPU)
    assert found[0] == REFERENCE
    assert {config.engine for config in found} == {"torch", "openvino"}
    assert len(found) == len(set(found)) == 7
    openvino_int8 = EngineConfig("openvino", "int8")
    assert set(configs("openvino", "auto", CPU)) == {OPENVINO, OPENVINO_BF16, openvino_int8}
    assert configs("auto", "int8", CPU) == [openvino_int8]
    assert set(configs("auto", "fp32", CPU)) == {
        REFERENCE,
        OPENVINO,
        EngineConfig("torch", "fp32", True),
    }
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    assert {config.precision for config in configs("auto", "auto", CPU)} == {"fp32", "int8"}
    monkeypatch.setattr(int8, "is_installed", lambda: False)
    assert {config.precision for config in configs("auto", "auto", CPU)} == {"fp32"}
    assert EngineConfig("torch", "bf16") in configs(
        "auto", "bf16", CPU
    )  # slow, but it was asked for


def test_what_there_is_beside_a_cpu_is_torch_s(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    of_torch = [EngineConfig("torch", p, c) for p in ("bf16", "fp32") for c in (False, True)]
    assert sorted(configs("auto", "auto", torch.device("cuda"))) == of_torch
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert sorted(configs("auto", "auto", torch.device("cuda"))) == of_torch[2:]
    assert configs("auto", "auto", torch.device("mps")) == [REFERENCE]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("torhc", "auto", "auto"), "engine 'torhc' is none of auto, .*did you mean torch"),
        (("auto", "bf61", "auto"), "precision 'bf61' is none of auto, fp32, bf16, int8; .*bf16"),
        (("torch", "int8", "auto"), "engine torch knows no int8"),
        (("auto", "int8", "cuda"), "int8 works on the CPU only"),
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
    assert {config.engine for config in configs("auto", "auto", CPU)} == {"torch"}
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name != "onnx" or None)
    assert not is_installed("onnxruntime")  # which can't be fed without onnx


def test_converters_errors_become_one_line(monkeypatch):
    class Odd(nn.Module):
        def __init__(self, *_, **__):
            super().__init__()
            raise ValueError("Model wasn't converted:\n  aten::strange\n" + "at line 5\n" * 100)

    monkeypatch.setattr("fullconv.predict.engines.torch_engine.Torch", Odd)
    with pytest.raises(EngineError) as caught:
        build(ColourNet(), REFERENCE)
    message = str(caught.value)
    assert message.startswith("engine torch fp32 can't work out this net: Model wasn't converted: ")
    assert "\n" not in message and len(message) < 400
    assert caught.value.exit_code == 2
    assert one_line(KeyError()) == "KeyError"
