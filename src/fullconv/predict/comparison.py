"""Several models or exports on one split, image by image: what every front end calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.runtime import pick_device
from fullconv.data.folder import DatasetFolder, LabelledImage, Split
from fullconv.export.opened import OpenedExport, is_export
from fullconv.measure.bootstrap import MEASURES, ImageCounts, Interval, Values, measures
from fullconv.measure.borders import BorderCounter
from fullconv.measure.evaluation import Evaluation, split_for
from fullconv.measure.metrics import ConfusionMatrix
from fullconv.net.fcn import FCN
from fullconv.net.fcn import load as load_net
from fullconv.net.folder import CONFIG, WEIGHTS
from fullconv.net.hub import find_folder
from fullconv.predict.scenes import photograph
from fullconv.report.comparison import Comparison, Contender
from fullconv.report.page import Example, NetResult, Report, ReportedHead

if TYPE_CHECKING:
    from fullconv.measure.evaluation import Label
    from fullconv.net.described import Described, Labels

SHOWN = 6  # images


@dataclass(frozen=True)
class CompareSettings:
    """What to compare, on what.

    Attributes:
        models: model folders, Hub ids and exported files; the first one is what the others are
            compared with.
        data: dataset folder.
        split: its split.
        device: where models work: "auto", "cpu", "cuda" or "mps". Exports work on the CPU.
        reader: reads images and masks.
        trust: whether the models may cost what they may (see `fullconv.load`).
    """

    models: tuple[str, ...]
    data: Path
    split: str = "test"
    device: str = "auto"
    reader: ImageReader = ImageReader()
    trust: bool = False


def run(settings: CompareSettings, reporter: Reporter = SILENT) -> Comparison:
    """Measure models on the same images, and find the images on which they differ most.

    Args:
        settings: what to do.
        reporter: is told how the work goes.

    Raises:
        FullconvError: a model, the dataset or the split isn't there, they don't fit each other, or
            an image or mask can't be read.
    """
    folder = DatasetFolder(settings.data, settings.reader)
    runners = [_Runner.of(name, folder, settings) for name in settings.models]
    first = runners[0]
    for other in runners[1:]:
        _require_same_heads(first, other)
    telling: list[tuple[float, Example]] = []
    with reporter.bar(len(first.split), f"compare {settings.split}") as bar:
        for index in range(len(first.split)):
            telling = [*telling, _compared(runners, index)]
            telling = sorted(telling, key=lambda each: -each[0])[:SHOWN]
            bar.advance()
    return _summed(settings, folder, runners, [example for _, example in telling])


@dataclass
class _Runner:
    """A model at work, and what was counted of it."""

    name: str
    net: Described
    label: Label
    split: Split
    kind: str
    size: int
    totals: dict[str, ConfusionMatrix] = field(default_factory=dict)
    counts: dict[str, ImageCounts] = field(default_factory=dict)
    borders: dict[str, BorderCounter] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, folder: DatasetFolder, settings: CompareSettings) -> _Runner:
        net, label, kind, size = _opened(name, settings)
        split = split_for(net, folder, settings.split)
        made = cls(name, net, label, split, kind, size)
        for (head, own), info in zip(net.heads.items(), split.heads.values(), strict=True):
            unscored = tuple(info.classes.index(each) for each in info.unscored)
            made.totals[head] = ConfusionMatrix(own.num_classes, unscored)
            made.counts[head] = ImageCounts()
            made.borders[head] = BorderCounter(own.num_classes, unscored)
        return made

    def sees_as(self, other: _Runner) -> bool:
        """Tell whether what another one read of an image serves this one."""
        same = list(self.net.inputs.items()) == list(other.net.inputs.items())
        return same and self.net.preprocessing.ranges == other.net.preprocessing.ranges

    def labelled(self, sample: LabelledImage) -> Mapping[str, Labels]:
        """Label an image, and count what came of it."""
        if not self.seconds:  # the first time takes longer
            self.label(sample.image)
        begun = time.perf_counter()
        found = self.label(sample.image)
        self.seconds.append(time.perf_counter() - begun)
        for head, truth in zip(self.totals, sample.labels, strict=True):
            own = ConfusionMatrix(self.totals[head].num_classes)
            own.update(truth, found[head])
            self.totals[head].counts += own.counts
            self.counts[head].add(own.counts)
            self.borders[head].update(truth, found[head])
        return found

    def result(self, name: str, split: str) -> NetResult:
        """Return its metrics."""
        heads = {head: each.metrics() for head, each in self.totals.items()}
        whole = Evaluation(split, heads, len(self.seconds), ())
        borders = {head: each.borders() for head, each in self.borders.items()}
        return NetResult(name, (), whole.to_dict(self.net), 0.0, 0, borders)


def _opened(name: str, settings: CompareSettings) -> tuple[Described, Label, str, int]:
    """Return what labels images, how, and of what kind and size in bytes its files are."""
    if is_export(name):
        export = OpenedExport(Path(name))
        files = [export.path, export.path.with_suffix(".bin")]
        kind = f"{export.runtime.split()[0]}, {export.about.precision}"
        return export, export.label, kind, _bytes(files)
    folder = find_folder(name)
    net: FCN = load_net(folder, trust=settings.trust)
    device = pick_device(settings.device)
    label = partial(net.to(device).for_inference().label)
    return net, label, f"torch, {device.type}", _bytes([folder / WEIGHTS, folder / CONFIG])


def _bytes(files: Sequence[Path]) -> int:
    return sum(each.stat().st_size for each in files if each.is_file())


def _require_same_heads(first: _Runner, other: _Runner) -> None:
    if list(first.totals) != list(other.totals):
        raise FullconvError(
            f"{other.name}: labels {', '.join(other.totals)}, but {first.name} "
            f"{', '.join(first.totals)}; compare models of the same heads"
        )


def _compared(runners: Sequence[_Runner], index: int) -> tuple[float, Example]:
    """Label an image by all; return how much they differ (or one alone errs), and the image."""
    read: list[tuple[_Runner, LabelledImage]] = []
    found = []
    for runner in runners:
        sample = next((each for other, each in read if runner.sees_as(other)), None)
        if sample is None:
            sample = runner.split[index]
            read.append((runner, sample))
        found.append(runner.labelled(sample))
    first, sample = read[0]
    truths = dict(zip(first.totals, sample.labels, strict=True))
    differing = labelled = 0
    for head, truth in truths.items():
        known = truth < first.totals[head].num_classes
        others = [truth] if len(found) == 1 else [each[head] for each in found[1:]]
        apart = np.logical_or.reduce([found[0][head] != each for each in others])
        differing += int(np.count_nonzero(apart & known))
        labelled += int(np.count_nonzero(known))
    share = differing / max(labelled, 1)
    what = "differ on" if len(found) > 1 else "errs on"
    photo = photograph(sample.image, dict(first.net.inputs), first.net.preprocessing)
    return share, Example(sample.name, f"{what} {share:.1%} of pixels", photo, truths, tuple(found))


def _summed(
    settings: CompareSettings,
    folder: DatasetFolder,
    runners: Sequence[_Runner],
    shown: Sequence[Example],
) -> Comparison:
    first, names = runners[0], _names(settings.models)
    splits = first.split.heads.values()
    report = Report(
        title=f"{' and '.join(names) if len(names) < 4 else f'{len(names)} models'} on "
        f"{folder.info.name}",
        intro=f"Measured on {settings.split}, {len(first.split)} images.",
        heads=tuple(
            ReportedHead(name, tuple(head.classes), tuple(head.palette), tuple(own.unscored))
            for (name, head), own in zip(first.net.heads.items(), splits, strict=True)
        ),
        ignore_index=first.net.ignore_index,
        nets=tuple(
            each.result(name, settings.split) for name, each in zip(names, runners, strict=True)
        ),
        examples=tuple(shown),
        facts=(
            ("data", f"{settings.data}, {settings.split}"),
            *((name, each.name) for name, each in zip(names, runners, strict=True)),
        ),
    )
    drawn = [_rounds(each) for each in runners]
    contenders = tuple(
        Contender(
            each.kind,
            1000 * float(np.median(each.seconds)),
            each.size,
            {
                head: {measure: Interval.of(own[head][measure]) for measure in MEASURES}
                for head in own
            },
            {head: Interval.of(own[head]["mean_iu"] - drawn[0][head]["mean_iu"]) for head in own},
        )
        for each, own in zip(runners, drawn, strict=True)
    )
    return Comparison(report, contenders)


def _rounds(runner: _Runner) -> dict[str, dict[str, Values]]:
    """Return the metrics of each head in each round of drawing images."""
    return {
        head: measures(counts.rounds(), runner.totals[head].unscored)
        for head, counts in runner.counts.items()
    }


def _names(models: Sequence[str]) -> list[str]:
    """Return short names of models: as many of each one's last parts as tell them apart."""
    parts = [Path(each).parts for each in models]
    for count in range(1, max(map(len, parts))):
        short = [str(Path(*each[-count:])) for each in parts]
        if len(set(short)) == len(short):
            return short
    return list(models)
