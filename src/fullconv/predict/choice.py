"""Which engine and precision to label images with: measured once, then remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fullconv.net.fcn import Labels, Pixels
from fullconv.predict.engines import Engine, EngineError, Way, build, told, ways
from fullconv.predict.labeller import Labeller, label_all
from fullconv.predict.remembered import Measured, Memory

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

REFERENCE = Way("torch")
LEAST_AGREEMENT = {"fp32": 0.9999, "bf16": 0.995}  # share of labels that are the reference's
AT_ONCE = 4  # images worked on side by side: more would cost memory
SAMPLES = 4  # images that ways are measured on
LONG = 0.5  # seconds; where an image takes the reference so long, it is worked on alone
ROUNDS = 0.3  # seconds that samples are labelled again and again to measure a way
# What it costs to try a way: seconds, as a rule, to get it ready, and some images' time; and how
# many times that the work that is left must cost for it to be tried.
TRIAL = {"torch": 0.5, "openvino": 1.5, "onnxruntime": 1.5}
COMPILING = 60.0
TRIAL_IMAGES = 3
REPAYS = 2.0


class Chosen(NamedTuple):
    """What to label with.

    Attributes:
        way: how it works.
        engine: ready to work.
        measured: what the way was found to be worth; None if it was taken unmeasured.
    """

    way: Way
    engine: Engine
    measured: Measured | None = None


def choose(
    net: FCN,
    images: int,
    first: Callable[[int], Sequence[Pixels]],
    *,
    engine: str = "auto",
    precision: str = "auto",
    say: Callable[[str], None] = print,
) -> Chosen:
    """Choose the way to label a run's images that is done soonest, getting ready included.

    Ways are measured on the run's first images, where the work is long enough to repay that, and
    the results are remembered of this net on this machine; while nothing is known, torch works in
    float32. Left out is a way that fails, and one of whose labels too few are those of torch in
    float32 (unless bf16 was asked for by name).

    Args:
        net: the net, on the device where it is to work.
        images: how many there are.
        first: gives so many of them, or fewer if there are no more.
        engine: one of `ENGINES` that passed `check`.
        precision: one of `PRECISIONS` that did.
        say: is told in a line what failed.

    Raises:
        EngineError: no way that was asked for can work out this net; the message says why.
    """
    options = ways(engine, precision, next(net.parameters()).device)
    plain = next((way for way in options if way.engine == "torch"), options[0])
    samples = first(SAMPLES) if options != [plain] or plain.engine != "torch" else []
    if len(options) == 1 or not samples:
        return Chosen(plain, build(net, plain, samples, min(images, AT_ONCE)))
    trials = _Trials(net, images, samples, say)
    trials.measure([REFERENCE, *options])
    least = {**LEAST_AGREEMENT, precision: 0.0} if precision == "bf16" else LEAST_AGREEMENT
    for found in trials.soonest():
        if found.way in options and found.agreement >= least[found.way.precision]:
            try:
                return Chosen(found.way, trials.engine(found.way), found)
            except EngineError as error:
                say(str(error))
    return Chosen(plain, trials.engine(plain))


class _Trials:
    """The ways to label a run's images that are known from earlier runs or measured in this one.

    Attributes:
        known: what each is worth.
    """

    def __init__(
        self, net: FCN, images: int, samples: Sequence[Pixels], say: Callable[[str], None]
    ) -> None:
        self._net, self._images, self._samples, self._say = net, images, samples, say
        self._memory = Memory(net, samples[0].shape, samples[0].dtype.name)
        self.known = {each.way: each for each in self._memory.recall()}
        self._takes_long = REFERENCE in self.known and self.known[REFERENCE].seconds > LONG
        self._engines: dict[Way, Engine] = {}
        self._expected: list[dict[str, Labels]] = []

    def engine(self, way: Way) -> Engine:
        """Return a way's engine, built only once."""
        if way not in self._engines:
            at_once = 1 if self._takes_long else min(self._images, AT_ONCE)
            self._engines[way] = build(self._net, way, self._samples, at_once)
        return self._engines[way]

    def measure(self, options: Sequence[Way]) -> None:
        """Measure what isn't known, the reference first, and may repay it; remember that."""
        before = dict(self.known)
        for way in options:
            if way not in self.known and self._may_repay(way):
                self.known[way] = self._measured(way)
        if self.known != before:
            self._memory.keep(self.known.values())

    def soonest(self) -> list[Measured]:
        """Return what works, in the order in which it would be done."""

        def seconds(found: Measured) -> float:
            return found.seconds * self._images + (0 if found.way in self._engines else found.build)

        return sorted((each for each in self.known.values() if not each.failure), key=seconds)

    def _may_repay(self, way: Way) -> bool:
        working = [each.seconds for each in self.known.values() if not each.failure]
        if self._images <= REPAYS * TRIAL_IMAGES or not (working or way == REFERENCE):
            return False
        best = min(working) if working else self._reference_seconds()
        trial = COMPILING if way.compiled else TRIAL[way.engine]
        return self._images * best > REPAYS * (trial + TRIAL_IMAGES * best)

    def _reference_seconds(self) -> float:
        """Return about how long the reference takes for an image, 0 if it is beyond it."""
        seconds = 0.0
        with suppress(RuntimeError, MemoryError):
            label = Labeller(self._net, self.engine(REFERENCE))
            for _ in range(2):  # the first time takes longer
                begun = time.perf_counter()
                label(self._samples[0])
                seconds = time.perf_counter() - begun
                if seconds > LONG:
                    self._takes_long, self._samples = True, self._samples[:2]
                    break
        return seconds

    def _measured(self, way: Way) -> Measured:
        begun = time.perf_counter()
        try:
            label = Labeller(self._net, self.engine(way))
            labels = [label(self._samples[0])]
            ready = time.perf_counter()
            labels += label_all(label, self._samples[1:], label.engine)
            count = len(self._samples) - 1
            while time.perf_counter() - ready < ROUNDS:
                count += len(list(label_all(label, self._samples, label.engine)))
            seconds = (time.perf_counter() - ready) / count
        except Exception as error:  # whatever it is, another way can do the work
            self._say(f"{way} is left out: {told(error)}")
            return Measured(way=way, failure=told(error))
        return Measured(
            way=way, build=ready - begun, seconds=seconds, agreement=self._agreement(way, labels)
        )

    def _agreement(self, way: Way, labels: list[dict[str, Labels]]) -> float:
        """Return the share of the samples' labels that are those of the reference."""
        if not self._expected:
            label = Labeller(self._net, self.engine(REFERENCE))
            self._expected = labels if way == REFERENCE else [*map(label, self._samples)]
        same = [
            (own == expected[head]).ravel()
            for mine, expected in zip(labels, self._expected, strict=True)
            for head, own in mine.items()
        ]
        return float(np.concatenate(same).mean())
