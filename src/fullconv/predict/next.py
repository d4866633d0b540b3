"""Which images to label next, as a list and as a page: what every front end calls."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.files import write_text
from fullconv.base.images import ImageReader
from fullconv.base.pipeline import ahead
from fullconv.base.progress import SILENT, Progress, Reporter
from fullconv.base.remote import RemotePath, place
from fullconv.base.runtime import inference, pick_device
from fullconv.base.settings import read_yaml
from fullconv.data.folder import DatasetFolder
from fullconv.export.opened import is_export
from fullconv.net.certainty import UNSURE
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN, load
from fullconv.net.folder import CONFIG
from fullconv.net.head import probabilities
from fullconv.predict.jobs import Job, further_folders, plan
from fullconv.predict.memory import Memory
from fullconv.predict.ranking import Choice, Numbers, Seen, already_labelled, rank
from fullconv.predict.room import NoRoomError
from fullconv.predict.scenes import FileScene, photograph
from fullconv.predict.stream import MOST_WORDS, Failure, printable
from fullconv.report.chosen import Chosen, ChosenHead, ChosenImage, write_chosen

RECIPE = "recipe.yaml"  # of a run folder
TABLE, PAGE = "next.csv", "next.html"
READ_AHEAD = 2  # images


@dataclass(frozen=True)
class NextSettings:
    """What to choose from, and by what.

    Attributes:
        model: a model folder, a run folder, or a Hub id.
        inputs: files, folders and globs of images without labels.
        out: folder of the list and the page.
        count: how many to choose at most.
        data: dataset folder of what is labelled already, whose train counts; None: that which a
            run was trained on, if it is there, or nothing.
        further: ``NAME=DIR`` for each further input of the net.
        device: "auto", "cpu", "cuda" or "mps".
        reader: reads the images.
        trust: whether the model may cost what it may (see `fullconv.load`).
    """

    model: str
    inputs: tuple[str, ...]
    out: Path
    count: int = 50
    data: Path | None = None
    further: tuple[str, ...] = ()
    device: str = "auto"
    reader: ImageReader = ImageReader()
    trust: bool = False


@dataclass(frozen=True)
class Named:
    """A choice with the names of its image and class.

    Attributes:
        job: tells the image.
        choice: why it is chosen.
        rarest: the name of the rarest class that is predicted; of several heads "head: class".
    """

    job: Job
    choice: Choice
    rarest: str


@dataclass(frozen=True)
class Ranking:
    """What is to be labelled next.

    Attributes:
        chosen: the first one teaches most.
        images: how many there were to choose from, those that failed left out.
        labelled: how many images are labelled already.
        known: how many of the images are among those, and left out.
        failures: the images that could not be read or looked at.
        table: the list, as CSV.
        page: the pictures.
    """

    chosen: tuple[Named, ...]
    images: int
    labelled: int
    known: int
    failures: tuple[Failure, ...]
    table: Path
    page: Path


def run(settings: NextSettings, reporter: Reporter = SILENT) -> Ranking:
    """Rank images by what labelling them would teach a net, and write the list and the page.

    All images pass once; of each a vector of features is kept. Those that are chosen are read
    again for the page. Images that can't be read are told in a line each, and left out.

    Args:
        settings: what to do.
        reporter: is told how the work goes.

    Raises:
        FullconvError: the model, the data or an input isn't there or doesn't fit, no image can be
            read, or two images would share a file of a further input.
        OSError: the list or the page can't be written.
    """
    model, data = _found(settings)
    net = load(model, trust=settings.trust).to(pick_device(settings.device)).for_inference()
    jobs = _jobs(settings, tuple(net.inputs), reporter)
    reader = net.preprocessing.reader(settings.reader)
    with _looking(net, reader) as look:
        labelled = _labelled(look, data, reporter) if data is not None else []
        seen, failures = _seen(look, jobs, reporter)
        if not seen:
            raise FullconvError(f"{failures[0].reason} (and no other image can be read)")
        chosen = rank([each for _, each in seen], labelled, settings.count)
        names = _class_names(net)
        named = [Named(seen[each.at][0], each, names[each.rarest]) for each in chosen]
        known = already_labelled([each for _, each in seen], labelled).sum() if labelled else 0
        found = Ranking(
            tuple(named),
            len(seen),
            len(labelled),
            int(known),
            tuple(failures),
            settings.out / TABLE,
            settings.out / PAGE,
        )
        _write(found, look, reporter)
    return found


def _found(settings: NextSettings) -> tuple[str, Path | None]:
    """Return the model, of a run the last of its nets, and what is labelled already."""
    folder = Path(settings.model)
    if is_export(settings.model):
        raise FullconvError(f"{folder}: an export, which gives no features; give the model folder")
    if (folder / CONFIG).is_file() or not (folder / RECIPE).is_file():
        return settings.model, settings.data
    try:
        record = read_yaml((folder / RECIPE).read_bytes())
        nets, data = list(record["nets"]), place(record["data"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise FullconvError(
            f"{folder / RECIPE}: not the record of a run ({one_line(error)}); give a model folder"
        ) from error
    trained = [name for name in nets if (folder / name / CONFIG).is_file()]
    if not trained:
        raise FullconvError(f"{folder}: a run that has no model yet; give a model folder")
    there = isinstance(data, RemotePath) or (data / "dataset.yaml").is_file()
    own = data if there else None
    return str(folder / trained[-1]), settings.data or own


def _jobs(settings: NextSettings, inputs: Sequence[str], reporter: Reporter) -> tuple[Job, ...]:
    """Return the images to choose from; those that share a name have their whole paths as names.

    Raises:
        FullconvError: further inputs are found by that name, or as of `plan`.
    """
    further = further_folders(settings.further, inputs)
    jobs = plan(settings.inputs, settings.out, further=further, written=False, reporter=reporter)
    first: dict[str, Job] = {}
    for job in jobs:
        if (other := first.setdefault(job.name, job)) is not job and job.others:
            raise FullconvError(
                f"{other.source} and {job.source} would both have {job.name} of --input "
                f"{' and '.join(job.others)}; rank them in separate runs, or rename one"
            )
    times = Counter(job.name for job in jobs)
    return tuple(
        job if times[job.name] == 1 else replace(job, name=str(job.source)) for job in jobs
    )


@dataclass
class _Look:
    """A net that looks at one image at a time, and at the features on their way to its heads."""

    net: FCN
    reader: ImageReader
    memory: Memory = field(init=False)
    features: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = Memory(self.net)

    def scene(self, job: Job) -> FileScene:
        """Return the image of a job, read, if there is room for it.

        Raises:
            FullconvError: it can't be read, or is too large.
        """
        scene = FileScene(job, self.net.inputs, self.reader)
        try:
            whole = self.memory.work(scene.size).tiles is None
        except NoRoomError:
            whole = False
        if not whole:
            raise FullconvError(f"{job.source}: is too large to be seen whole; give parts of it")
        _ = scene.pixels
        return scene

    def coarse(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of an image, by head; its features are noted."""
        self.features.clear()
        with inference(self.net.device.type, bf16=False):
            return self.net.coarse_of_image(image)

    def __call__(self, image: Pixels) -> Seen:
        """Return what the net sees of an image H x W x C."""
        coarse = self.coarse(image)
        size, found = (image.shape[0], image.shape[1]), []
        for name, head in self.net.heads.items():
            cells = head.cells_of(coarse[name], size)
            found.append(_OfHead.of(probabilities(cells[None], head.temperature)[0]))
        means = [each.float().mean((0, 2, 3)) for each in self.features]
        pooled: Numbers = torch.cat(means).cpu().numpy()
        pooled /= max(float(np.linalg.norm(pooled)), 1e-12)

        def joined(shares: Iterable[Numbers]) -> Numbers:
            whole: Numbers = np.concatenate(list(shares))
            whole /= len(found)
            return whole

        return Seen(
            sum(each.unsure for each in found) / len(found),
            joined(each.unsure_mass for each in found),
            joined(each.mass for each in found),
            joined(each.predicted for each in found),
            pooled,
        )


class _OfHead(NamedTuple):
    """What `Seen` has of one head."""

    unsure: float
    unsure_mass: Numbers
    mass: Numbers
    predicted: Numbers

    @classmethod
    def of(cls, found: Tensor) -> _OfHead:
        """Return that of probabilities, C x h x w."""
        flat = found.float().flatten(1).cpu()
        top, label = flat.max(0)
        unsure = (top < UNSURE).float()
        count = flat.shape[1]
        predicted = torch.bincount(label, minlength=len(flat)).float() / count
        mass, unsure_mass = flat.mean(1), flat @ unsure / count
        shares = (each.numpy() for each in (unsure_mass, mass, predicted))
        return cls(float(unsure.mean()), *shares)


@contextmanager
def _looking(net: FCN, reader: ImageReader) -> Iterator[_Look]:
    """Yield a net that looks, while its trunk's coarsest features are noted."""
    look = _Look(net, reader)

    def note(_: Any, __: Any, features: Sequence[Tensor | tuple[Tensor, ...]]) -> None:
        coarsest = features[0]
        look.features[:] = [coarsest] if isinstance(coarsest, Tensor) else coarsest

    handle = net.trunk.register_forward_hook(note)
    try:
        yield look
    finally:
        handle.remove()


def _labelled(look: _Look, data: Path, reporter: Reporter) -> list[Seen]:
    """Look at what is labelled already: train, and what is held out of it."""
    folder = DatasetFolder(data, look.reader)
    folder.require_inputs(look.net.inputs)
    names = ("train", "val") if folder.held_out else ("train",)
    splits = [folder.split(name, tuple(look.net.inputs)) for name in names if name in folder.splits]
    seen = []
    with reporter.bar(sum(map(len, splits)), "look at what is labelled") as bar:
        for split in splits:
            for sample in ahead(split.__getitem__, range(len(split)), READ_AHEAD):
                seen.append(look(sample.image))
                bar.advance()
    return seen


def _seen(
    look: _Look, jobs: Sequence[Job], reporter: Reporter
) -> tuple[list[tuple[Job, Seen]], list[Failure]]:
    """Look at all images; what can't be read is told."""

    def read(job: Job) -> FileScene | str:
        try:
            return look.scene(job)
        except FullconvError as error:
            return one_line(error, MOST_WORDS)

    seen, failures = list[tuple[Job, Seen]](), list[Failure]()
    with reporter.bar(len(jobs), "look at images") as bar:
        for job, scene in zip(jobs, ahead(read, jobs, READ_AHEAD), strict=True):
            if isinstance(scene, str):
                failures.append(Failure(job.source, scene))
                reporter.warn(scene)
            else:
                seen.append((job, look(scene.pixels)))
            bar.advance()
    return seen, failures


def _class_names(net: FCN) -> list[str]:
    several = len(net.heads) > 1
    return [
        f"{head}: {name}" if several else name
        for head, own in net.heads.items()
        for name in own.classes
    ]


def _write(found: Ranking, look: _Look, reporter: Reporter) -> None:
    """Write the list, then the page."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("image", "score", "unsure", "rarest_class", "rarest_share", "distance"))
    for each in found.chosen:
        image, why = printable(str(each.job.source)), each.choice
        numbers = [why.score, why.unsure, why.rarest_share, why.distance]
        score, unsure, share, distance = (f"{number:.4f}" for number in numbers)
        writer.writerow((image, score, unsure, each.rarest, share, distance))
    write_text(found.table, table.getvalue())
    heads = tuple(
        ChosenHead(name, head.classes, head.palette) for name, head in look.net.heads.items()
    )
    with reporter.bar(len(found.chosen), "draw") as bar:
        images = _all_drawn(found.chosen, look, bar)
        counts = found.images, found.labelled, len(found.chosen)
        write_chosen(found.page, Chosen(heads, *counts, images))


def _all_drawn(chosen: Sequence[Named], look: _Look, bar: Progress) -> Iterator[ChosenImage]:
    for each in chosen:
        yield _drawn(each, look)
        bar.advance()


def _drawn(named: Named, look: _Look) -> ChosenImage:
    """Read a chosen image again, and return what the page shows of it."""
    image = look.scene(named.job).pixels
    size, views = (image.shape[0], image.shape[1]), [look.coarse(image)]
    with inference(look.net.device.type, bf16=False):
        labels = look.net.labels(views, size)
        unsure = {
            name: np.concatenate(
                [
                    (band.max(0).values < UNSURE).cpu().numpy()
                    for band in head.probability_bands([views[0][name]], size)
                ]
            )
            for name, head in look.net.heads.items()
        }
    why = named.choice
    return ChosenImage(
        printable(named.job.name),
        why.unsure,
        named.rarest,
        why.rarest_share,
        why.distance,
        photograph(image, look.net.inputs, look.net.preprocessing),
        labels,
        unsure,
    )
