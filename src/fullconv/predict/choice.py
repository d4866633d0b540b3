"""Which engine to label images with: measured once, then noted beside the model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.base.progress import SILENT, Reporter
from fullconv.export.int8 import CALIBRATION
from fullconv.export.verification import LabelAll, Notes, verify
from fullconv.export.verified import REFERENCE, EngineConfig, Verification
from fullconv.net.described import Labels, Pixels
from fullconv.predict.engines import build, configs
from fullconv.predict.engines.errors import EngineError
from fullconv.predict.labeller import Labeller
from fullconv.predict.labelling import label_all

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.predict.engines.engine import Engine

LEAST_AGREEMENT = {
    "fp32": 0.9999,
    "bf16": 0.995,
    "int8": 0.995,
}  # share of labels that are the reference's
AT_ONCE = 4  # images worked on side by side: more would cost memory
SAMPLES = 4  # images that engines are measured on
LONG = 0.5  # seconds; where an image takes the reference so long, it is worked on alone
# What it costs to try an engine: seconds, as a rule, to get it ready, and some images' time; and
# how many times that the work that is left must cost for it to be tried.
TRIAL = {"torch": 0.5, "openvino": 1.5, "onnxruntime": 1.5}
COMPILING, QUANTISING = 60.0, 20.0
TRIAL_IMAGES = 3
REPAYS = 2.0


@dataclass(frozen=True)
class Choice:
    """What to label with.

    Attributes:
        config: what was chosen.
        engine: ready to work.
        verification: what it was found to be worth; None if it was taken unmeasured.
    """

    config: EngineConfig
    engine: Engine
    verification: Verification | None = None


@dataclass(frozen=True)
class Asked:
    """What there is to choose from, and for what.

    Attributes:
        images: how many there are to label.
        engine: one of `ENGINES` that passed `check`.
        precision: one of `PRECISIONS` that did.
        folder: the net's model folder, if it has one: there it is noted what was measured.
        at_once: how many images may be worked on side by side.
        compiled: whether torch may compile the net, anew for each of some sizes of images.
    """

    images: int
    engine: str = "auto"
    precision: str = "auto"
    folder: Path | None = None
    at_once: int = AT_ONCE
    compiled: bool = True

    @property
    def least_agreement(self) -> dict[str, float]:
        """What share of an engine's labels must be the reference's, by its precision."""
        by_name = {self.precision: 0.0} if self.precision in ("bf16", "int8") else {}
        return LEAST_AGREEMENT | by_name

    @property
    def samples(self) -> int:
        """How many images to measure engines on, or to calibrate int8 on."""
        return CALIBRATION if self.precision == "int8" else SAMPLES


def choose(
    net: FCN,
    asked: Asked,
    first: Callable[[int], Sequence[Pixels]],
    reporter: Reporter = SILENT,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Choose the engine by which a run's images are done soonest, getting ready included.

    Engines are measured on the run's first images, where the work is long enough to repay that, and
    the results are noted of this net on this machine; while nothing is known, torch works in
    float32. Left out is an engine that fails, and one of whose labels too few are those of torch in
    float32 (unless bf16 or int8 was asked for by name).

    Args:
        net: the net, on the device where it is to work.
        asked: what there is to choose from.
        first: gives so many of the run's images, or fewer if there are no more.
        reporter: is told in a line what failed.
        clock: tells seconds.

    Raises:
        EngineError: no engine that was asked for can work out this net; the message says why.
    """
    there = configs(asked.engine, asked.precision, net.device)
    options = [config for config in there if asked.compiled or not config.compiled]
    plain = next((config for config in options if config.engine == "torch"), options[0])
    samples = first(asked.samples) if options != [plain] or plain.engine != "torch" else []
    if len(options) == 1 or not samples:
        return Choice(plain, build(net, plain, samples, min(asked.images, asked.at_once)))
    trials = _Trials(net, asked, samples, reporter, clock)
    trials.measure([REFERENCE, *options])
    for found in trials.soonest():
        if found.config in options and trials.agrees(found):
            try:
                return Choice(found.config, trials.engine(found.config), found)
            except EngineError as error:
                reporter.warn(str(error))
    return Choice(plain, trials.engine(plain))


class _Trials:
    """The engines that are known from earlier runs, or measured in this one.

    Attributes:
        known: what each is worth.
    """

    def __init__(
        self,
        net: FCN,
        asked: Asked,
        samples: Sequence[Pixels],
        reporter: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self._net, self._asked, self._samples = net, asked, samples
        self._reporter, self._clock = reporter, clock
        self._notes = Notes(net, samples[0].shape, samples[0].dtype.name, asked.folder)
        self.known = {each.config: each for each in self._notes.recall()}
        self._takes_long = REFERENCE in self.known and self.known[REFERENCE].seconds > LONG
        self._engines: dict[EngineConfig, Engine] = {}
        self._expected = functools.cache(self._labels_of_reference)

    def engine(self, config: EngineConfig) -> Engine:
        """Return an engine, built only once."""
        if config not in self._engines:
            at_once = 1 if self._takes_long else min(self._asked.images, self._asked.at_once)
            self._engines[config] = build(self._net, config, self._samples, at_once)
        return self._engines[config]

    def measure(self, options: Sequence[EngineConfig]) -> None:
        """Measure what isn't known, the reference first, and may repay it; note that."""
        before = dict(self.known)
        for config in options:
            if config not in self.known and self._may_repay(config):
                self._measure(config)
        if self.known != before:
            self._notes.keep(self.known.values())

    def agrees(self, found: Verification) -> bool:
        """Tell whether enough labels are those of the reference."""
        return found.agreement >= self._asked.least_agreement[found.config.precision]

    def soonest(self) -> list[Verification]:
        """Return what works, in the order in which it would be done."""

        def seconds(found: Verification) -> float:
            ready = found.config in self._engines
            return found.seconds * self._asked.images + (0 if ready else found.build)

        return sorted((each for each in self.known.values() if not each.failure), key=seconds)

    def _may_repay(self, config: EngineConfig) -> bool:
        working = [each.seconds for each in self.known.values() if not each.failure]
        images = self._asked.images
        if images <= REPAYS * TRIAL_IMAGES or not (working or config == REFERENCE):
            return False
        best = min(working) if working else self._reference_seconds()
        trial = COMPILING if config.compiled else TRIAL[config.engine]
        trial += QUANTISING * (config.precision == "int8")
        return images * best > REPAYS * (trial + TRIAL_IMAGES * best)

    def _reference_seconds(self) -> float:
        """Return about how long the reference takes for an image, 0 if it is beyond it."""
        seconds = 0.0
        with suppress(RuntimeError, MemoryError):
            label = Labeller(self._net, self.engine(REFERENCE))
            for _ in range(2):  # the first time takes longer
                begun = self._clock()
                label(self._samples[0])
                seconds = self._clock() - begun
                if seconds > LONG:
                    self._takes_long, self._samples = True, self._samples[:2]
                    break
        return seconds

    def _measure(self, config: EngineConfig) -> None:
        """Measure an engine; of all that were, only the best one stays in memory."""

        def start() -> LabelAll:
            label = Labeller(self._net, self.engine(config))
            return lambda images: label_all(label, images, label.engine)

        found = verify(config, start, self._samples, self._expected, self._clock)
        self.known[config] = found
        if found.failure:
            self._reporter.warn(f"{config} is left out: {found.failure}")
        best = next((each.config for each in self.soonest() if self.agrees(each)), None)
        self._engines = {each: self._engines[each] for each in self._engines if each == best}

    def _labels_of_reference(self) -> list[dict[str, Labels]]:
        label = Labeller(self._net, self.engine(REFERENCE))
        return [label(sample) for sample in self._samples]
