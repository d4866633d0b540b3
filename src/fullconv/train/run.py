"""A run: every net that one command trains, in one folder; begun, or continued after any end."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from fullconv.base.errors import FullconvError
from fullconv.base.processes import ALONE, Processes
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.runtime import pick_device
from fullconv.data.check import check_folder, require_several_classes
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder
from fullconv.data.info import COLOR
from fullconv.data.loading import cached_splits, default_workers, mixed_seed
from fullconv.net.fcn import FCN, load
from fullconv.net.preprocessing import Preprocessing
from fullconv.report.page import write_report
from fullconv.train import checkpoint
from fullconv.train.advice import hints
from fullconv.train.card import write_cards
from fullconv.train.evaluators import Calibration, Validation, ValidationLoss
from fullconv.train.lock import RunLock
from fullconv.train.loop import train
from fullconv.train.losses import class_weights
from fullconv.train.nets import grown_net, in_bands, in_ranges, require_finite, target_net
from fullconv.train.origin import Origin, require_same_classes
from fullconv.train.outcome import Outcome, Trained
from fullconv.train.record import Record
from fullconv.train.settings import TrainSettings
from fullconv.train.sharing import require_shareable
from fullconv.train.stage import Budget, Stage, TrainingData
from fullconv.train.state import Clock, TrainingState
from fullconv.train.summary import summarise


def run(
    out: Path,
    asked: Mapping[str, Any],
    *,
    resume: bool = False,
    reporter: Reporter = SILENT,
    clock: Clock = time.monotonic,
    processes: Processes = ALONE,
) -> Outcome:
    """Train all nets of a run into the folder `out`, or what is left of them, and report.

    Args:
        out: the run folder.
        asked: the fields of `TrainSettings` that the user gave; those not given are the defaults
            or, when a run is continued, its own.
        resume: whether to continue the run that is in `out`, if there is one.
        reporter: is told how it goes.
        clock: tells the time in seconds, by which a limited one is kept.
        processes: train together. All get the outcome; the first alone uses `out`, `reporter` and
            `clock`, and judges the data.

    Raises:
        FullconvError: the data or a setting is wrong, or `out` holds something already.
        WorkFailedError: see `train`.
        ToldElsewhereError: another process failed.
    """
    reporter, clock = processes.heard(reporter), processes.clock(clock)
    with RunLock(out) as lock:
        whole = Run.open(
            out, asked, lock, resume=resume, reporter=reporter, clock=clock, processes=processes
        )
        for stage in whole.stages():
            whole.trained[stage.name] = Trained.of(stage, train(stage))
            gc.collect()  # its net
        return processes.first(whole.concluded)


@dataclass
class Run:
    """The stages of a run, what they share, and what those achieved that have ended.

    Attributes:
        record: of the run folder.
        folder: the dataset.
        found: the fingerprints of its splits.
        data: as the nets see it.
        device: where they are trained.
        target: the net that was asked for, as it is before its training, until the first stage has
            taken it; None in a run that is continued.
        begun: when the stage to come began.
        reporter: is told how it goes.
        clock: tells the time, to all processes the same.
        processes: train together.
        trained: what the stages achieved, by name.
        anew: names of those whose best so far counts no longer, because val has changed.
    """

    record: Record
    folder: DatasetFolder
    found: tuple[Fingerprint, ...]
    data: TrainingData
    device: torch.device
    target: FCN | None
    begun: float
    reporter: Reporter
    clock: Clock
    processes: Processes = ALONE
    trained: dict[str, Trained] = field(default_factory=dict)
    anew: set[str] = field(default_factory=set)

    @classmethod
    def open(
        cls,
        out: Path,
        asked: Mapping[str, Any],
        lock: RunLock,
        *,
        resume: bool,
        reporter: Reporter,
        clock: Clock,
        processes: Processes = ALONE,
    ) -> Self:
        """Judge data and settings and, if they are sound, begin the run or prepare to continue it.

        Of several processes the first does so, and the others learn what it found.

        Raises:
            FullconvError: see `run`.
        """
        begun = clock()
        mine: dict[str, Any] = {"reporter": reporter, "clock": clock, "processes": processes}
        return processes.led(
            lambda: cls._led(out, asked, lock, begun, resume=resume, **mine),
            lambda led: (led.record, led.found, led.anew),
            lambda told: cls._followed(*told, begun, **mine),
        )

    @classmethod
    def _led(
        cls,
        out: Path,
        asked: Mapping[str, Any],
        lock: RunLock,
        begun: float,
        *,
        resume: bool,
        reporter: Reporter,
        clock: Clock,
        processes: Processes,
    ) -> Self:
        """Open a run in the first process, which tells the others."""
        record = Record.open(out, asked, lock, resume=resume, processes=processes)
        settings, target = record.settings, None
        device = processes.device(pick_device(settings.device))
        folder, judge = DatasetFolder(settings.data, settings.reader), _Judge(settings, reporter)
        if not record.nets:
            require_several_classes(folder)  # before a net is built, which takes seconds
            target = target_net(settings, folder, judge)
            folder.require_inputs(target.inputs)
            record.settle(target, judge(folder, tuple(target.inputs)))
            _see_in_ranges(target, folder, record.settings)
            require_shareable(target, settings.recipe, processes)
        folder = _seen_in_ranges(folder, record.settings)
        found = _fingerprints(record.settings, folder, judge, fresh=target is not None)
        data = _read_data(record.settings, folder, device, found, processes)
        if target is not None:  # what is wrong was found before anything is written
            for line in (
                *_about_ranges(data.found),
                *hints(settings, target, folder, data.found, device),
            ):
                reporter.say(f"note: {line}")
            last = settings.blueprint.stride
            strides = [tap.stride for tap in target.taps] if settings.staged else [last]
            record.fingerprint = {each.name: each.to_dict() for each in found}
            record.begin([f"fcn{stride}s" for stride in strides])
        whole = cls(record, folder, found, data, device, target, begun, reporter, clock, processes)
        if target is None:
            whole.compare()
            if record.moved:
                record.write()
        return whole

    @classmethod
    def _followed(
        cls,
        record: Record,
        found: tuple[Fingerprint, ...],
        anew: set[str],
        begun: float,
        *,
        reporter: Reporter,
        clock: Clock,
        processes: Processes,
    ) -> Self:
        """Open a run in another process than the first, which has told the rest."""
        settings = record.settings
        device = processes.device(pick_device(settings.device))
        folder = _seen_in_ranges(DatasetFolder(settings.data, settings.reader), settings)
        data = _read_data(settings, folder, device, found, processes)
        return cls(
            record, folder, found, data, device, None, begun, reporter, clock, processes, anew=anew
        )

    @property
    def origin(self) -> Origin:
        """What a training begins with that begins now."""
        data = self.data
        channels = {name: each.channels for name, each in data.train.inputs.items()}
        images = {
            split.name: [sample.name for sample in split.samples]
            for split in (data.train, data.val)
        }
        return Origin.of(self.record.settings, data.info, channels, images)

    def compare(self) -> None:
        """Compare data and settings with those that the run was begun with.

        Raises:
            FullconvError: a net would learn something else than it was begun for.
        """
        now, told = self.origin, False
        for name in self.record.names:
            folder = self.record.folder(name)
            last = folder / "last.pt"
            if not last.exists():
                continue
            noted = checkpoint.peek(last).get("origin")
            if noted:
                try:
                    before = Origin(**noted)
                    before.require_same(now, last, self.record.path, self.record.settings.data)
                except (FullconvError, TypeError):
                    checkpoint.load(last)  # what was read is perhaps not what was saved
                    raise
                if not told:  # else of the stage before, of which the same is to be said
                    before.tell_images(now, self.reporter)
                told = told or before.images != now.images
                if before.measures_otherwise(now):
                    self.anew.add(name)
            elif (folder / "config.json").exists():  # of an earlier version
                require_same_classes(folder, self.data.info, self.record.settings.data)

    def stages(self) -> Iterator[Stage]:
        """Yield what is left to be trained, each stage when the one before has ended."""
        for name in self.record.unfinished():
            seconds, share = self.record.share(name)
            first = name == self.record.names[0]
            yield Stage(
                name,
                self.data,
                self.record.settings.recipe,
                self.record.folder(name),
                self.device,
                self._start(name),
                Budget(
                    share,
                    seconds,
                    self.record.rate(name),
                    self.begun,
                    len(self.record.names) if first else 1,
                ),
                (Validation(), ValidationLoss(), Calibration()),
                asdict(self.origin),
                name in self.anew,
                note=partial(self._note, name),
                reporter=self.reporter,
                clock=self.clock,
                processes=self.processes,
            )
            self.begun = self.clock()

    def _note(self, name: str, state: TrainingState, finished: bool) -> None:
        """Note the plan of a net, and that its training has ended."""
        self.record.note(name, state, finished)
        self.processes.first(self.record.save)

    def concluded(self) -> Outcome:
        """Write cards and report of a run whose stages have all ended; return what it achieved."""
        record = self.record
        for name in record.names:
            if name not in self.trained:
                noted = record.nets[name]
                self.trained[name] = Trained.earlier(name, record.folder(name), noted)
        stages = tuple(self.trained[name] for name in record.names)
        outcome = Outcome(record.out, record.settings, tuple(self.folder.splits), stages)
        write_cards(outcome, self.folder.info)
        write_report(outcome.report, summarise(outcome, self.folder.info, self.data.val))
        return outcome

    def _start(self, name: str) -> Callable[[], FCN]:
        """Return what builds a net as it is before its own training, the same at each call.

        The first stage starts from what the settings name, a later one from the one before.
        """
        settings, stage = self.record.settings, self.record.names.index(name)

        def start() -> FCN:
            if stage:
                folder = self.record.folder(self.record.names[stage - 1])
                source = load(folder, trust=settings.trust)
                require_finite(source, str(folder))
            else:
                source = self.target or target_net(settings, self.folder)
                _see_in_ranges(source, self.folder, settings)
            self.target = None  # of a training to come only its own net stays in memory
            torch.manual_seed(mixed_seed(settings.recipe.seed, stage))
            if not settings.staged or source.stride == self.record.stride(name):
                return source
            return grown_net(source, self.record.stride(name), self.folder.info, settings.recipe)

        return start


def _see_in_ranges(net: FCN, folder: DatasetFolder, settings: TrainSettings) -> None:
    """Let a net expect the values that its inputs have, where they have a range of their own."""
    inputs = {name: folder.input(name) for name in net.inputs}
    net.preprocessing = in_bands(net.preprocessing, inputs, settings.spreads or {})
    net.preprocessing = in_ranges(net.preprocessing, inputs, settings.ranges or {})


def _about_ranges(found: Fingerprint) -> Iterator[str]:
    """Say which values files of more than 8 bits hold, and how a net sees them."""
    for name, each in found.ranges.items():
        low, high = each.ends
        seen = f"; the net sees {low:g}..{high:g} as 0..255" if name == COLOR else ""
        yield f"the values of {name} are {each}{seen}"


@dataclass
class _Judge:
    """Judges a dataset once, by its headers, and then its training masks; keeps what it found."""

    settings: TrainSettings
    reporter: Reporter
    found: dict[tuple[str, ...], tuple[Fingerprint, ...]] = field(default_factory=dict)

    def splits(self, inputs: tuple[str, ...]) -> tuple[Fingerprint, ...]:
        """Return the fingerprints of the splits, as headers tell them, for nets of `inputs`.

        Raises:
            FullconvError: the dataset is not sound.
        """
        if inputs not in self.found:
            report = check_folder(
                self.settings.data,
                self.settings.reader,
                quick=True,
                reporter=self.reporter,
                inputs=inputs,
            )
            report.require_sound()
            for warning in report.warnings:
                self.reporter.say(f"note: {warning}")
            self.found[inputs] = tuple(report.splits)
        return self.found[inputs]

    def __call__(self, folder: DatasetFolder, inputs: tuple[str, ...]) -> Fingerprint:
        """Return the fingerprint of the training images, with what is in their masks."""
        train_, *others = sorted(self.splits(inputs), key=lambda each: each.name != "train")
        split = folder.split("train", inputs)  # refused where there is none
        if not train_.labels:
            train_ = train_.with_pixels(split)
            self.found[inputs] = (train_, *others)
        return train_


def _seen_in_ranges(folder: DatasetFolder, settings: TrainSettings) -> DatasetFolder:
    """Return the dataset as it is read where inputs have a range of values of their own."""
    seen = Preprocessing(ranges=settings.ranges or {})
    return folder.with_reader(seen.reader(folder.reader))


def _fingerprints(
    settings: TrainSettings, folder: DatasetFolder, judge: _Judge, fresh: bool
) -> tuple[Fingerprint, ...]:
    """Return the fingerprints of the splits, with masks where they are needed.

    Args:
        settings: of the run, settled.
        folder: the dataset.
        judge: tells whether it is sound, and its fingerprint.
        fresh: whether masks are to be read for that in any case.
    """
    assert settings.inputs is not None
    found = judge.splits(settings.inputs)
    if fresh or settings.recipe.class_weights != "none":
        judge(folder, settings.inputs)
        found = judge.splits(settings.inputs)
    return found


def _read_data(
    settings: TrainSettings,
    folder: DatasetFolder,
    device: torch.device,
    found: Sequence[Fingerprint],
    processes: Processes,
) -> TrainingData:
    """Prepare to read what the nets see, and weigh the classes.

    Args:
        settings: of the run, settled.
        folder: the dataset.
        device: of the training.
        found: the fingerprints of its splits.
        processes: train together.
    """
    assert settings.inputs is not None
    workers, kind, sharing = settings.recipe.workers, settings.recipe.class_weights, processes.here
    workers = default_workers(device, sharing) if workers is None else workers
    train_, val = (folder.split(name, settings.inputs) for name in ("train", "val"))
    of_train = next(each for each in found if each.name == "train")
    weights = None
    if kind != "none":
        weights = [each.to(device) for each in class_weights(of_train, train_.heads, kind)]
    cached = cached_splits(train_, val, workers, found, sharing)
    return TrainingData(folder.info, *cached, of_train, weights, workers)
