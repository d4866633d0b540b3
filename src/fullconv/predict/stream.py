"""Labelling any number of images: reading, the net and writing overlap, in bounded memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.files import write_text
from fullconv.base.images import ImageReader
from fullconv.data.folder import gaps_in
from fullconv.net.described import Described, Pixels
from fullconv.predict.jobs import ImageFile, Job
from fullconv.predict.labelling import AnyLabeller, label_all
from fullconv.predict.pictures import save_label_image, save_overlay, save_scores
from fullconv.predict.room import NoRoomError, Room, Work
from fullconv.predict.scenes import FileScene, photograph, range_remarks

if TYPE_CHECKING:
    from fullconv.base.progress import Progress
    from fullconv.predict.seams import Seams

ALMOST_ALL = 0.999
SAMPLE_PIXELS = 4 << 20
MOST_WORDS = 2000  # characters of a line


class Failure(NamedTuple):
    """An input of which nothing came.

    Attributes:
        source: the file.
        reason: a line that names it.
    """

    source: ImageFile
    reason: str


class Done(NamedTuple):
    """What came of an image, by the name of each head.

    Attributes:
        pixels: how many of them each class got.
        unsure: the share of its labels that are unsure, where that is known.
        remarks: what of its files was not read, or is unlike what the net was trained on.
    """

    pixels: dict[str, NDArray[np.int64]]
    unsure: dict[str, float]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """What came of a stream.

    Attributes:
        images: how many inputs there were.
        failed: how many of them failed.
        pixels: by the name of each head, how many pixels each class got.
        unsure: likewise, the name of each image (as its results are called) and which share of its
            labels is unsure, 0..1 (see `Head.unsure_share`); without those that failed. Empty where
            nobody knows.
        failures: those, in order.
    """

    images: int
    failed: int
    pixels: Mapping[str, NDArray[np.int64]]
    unsure: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def __add__(self, other: Summary) -> Summary:
        """Return what came of both."""
        return Summary(
            self.images + other.images,
            self.failed + other.failed,
            {name: count + other.pixels[name] for name, count in self.pixels.items()},
            {
                name: (*self.unsure.get(name, ()), *other.unsure.get(name, ()))
                for name in dict.fromkeys((*self.unsure, *other.unsure))
            },
            (*self.failures, *other.failures),
        )

    def dominant(self, head: str) -> int | None:
        """Return the class that more than 99.9% of all pixels got, if there is one."""
        pixels = self.pixels[head]
        most = int(pixels.argmax())
        return most if pixels[most] > ALMOST_ALL * pixels.sum() else None

    def mean_unsure(self, head: str) -> float:
        """Return which share of an image's labels is unsure on average; there must be images."""
        shares = [share for _, share in self.unsure[head]]
        return sum(shares) / len(shares)

    def most_unsure(self, head: str, count: int = 5) -> list[tuple[str, float]]:
        """Return name and share of those images that have most unsure labels, but not of none."""
        ranked = sorted(self.unsure[head], key=lambda each: (-each[1], each[0]))
        return [each for each in ranked[:count] if each[1] > 0]


def first_images(
    jobs: Sequence[Job],
    inputs: Mapping[str, int],
    count: int,
    reader: ImageReader = ImageReader(),
    memory: Room | None = None,
) -> list[Pixels]:
    """Read the first images that can be read, as samples of the others: `count` at most.

    There are fewer if they are large; and only a few files are tried. Images for several of which
    at once there is no room in `memory` are no samples.
    """
    images: list[Pixels] = []
    for job in jobs[: 2 * count]:
        if len(images) == count or sum(image[..., 0].size for image in images) >= SAMPLE_PIXELS:
            break
        with suppress(FullconvError):  # which will be told in the file's turn
            scene = FileScene(job, inputs, reader)
            if memory is None or memory.has_room(scene.size):
                images.append(scene.pixels)
    return images


def label_files(
    label: AnyLabeller,
    jobs: Sequence[Job],
    bar: Progress,
    *,
    memory: Room,
    reader: ImageReader = ImageReader(),
    seams: Seams | None = None,
) -> Summary:
    """Label the image of each job and write its outputs.

    Each of several threads takes an image from its file to its results, so that the threads of an
    engine rarely wait. An input that can't be read, labelled or written is named in one line by
    ``bar.say``, and the others are done nevertheless. What of a file is not read, such as bands
    beyond colours, is told of the first such image. `bar` advances by one per input.

    As many images are in hand as `memory` has room for; those that are too large for it go by
    exact tiles, and if that can't be are refused. `seams` tells what approximate tiles cost.
    """
    do = labelling(label, memory, reader, seams)

    def results() -> Iterator[Done | str]:
        for result in label_all(lambda job: attempt(do, job), jobs, label.engine):
            yield result
            bar.advance()

    return gathered(jobs, results(), label.net, bar.say)


def labelling(
    label: AnyLabeller,
    room: Room,
    reader: ImageReader = ImageReader(),
    seams: Seams | None = None,
) -> Callable[[Job], Done]:
    """Return what takes the image of a job from its file to its results; any thread may ask.

    It waits until there is room for the image. `seams` tells what approximate tiles cost.
    """
    own = label.net.preprocessing.reader(reader)

    def do(job: Job) -> Done:
        scene = FileScene(job, label.net.inputs, own)
        work = room.work(scene.size)
        with room.taken(work.need):
            return _do(scene, label, work, seams)

    return do


def attempt(do: Callable[[Job], Done], job: Job) -> Done | str:
    """Return what comes of a job or, where nothing does, the reason in a line."""
    try:
        return do(job)
    except NoRoomError as error:
        return f"{job.source}: {error}"
    except FullconvError as error:
        return one_line(error, MOST_WORDS)
    except OSError as error:
        return f"{job.source}: can't write its results ({error.strerror or one_line(error)})"
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        return f"{job.source}: too large for the memory; make it smaller"


def gathered(
    jobs: Sequence[Job],
    results: Iterable[Done | str],
    net: Described,
    say: Callable[[str], None],
) -> Summary:
    """Sum up what comes of jobs, and say what failed, and once what is to be known.

    Args:
        jobs: in order.
        results: of each what came of it, or why nothing did.
        net: what they are labelled by.
        say: tells a line.
    """
    failures, told = list[Failure](), set[str]()
    pixels = {name: np.zeros(head.num_classes, np.int64) for name, head in net.heads.items()}
    unsure: dict[str, list[tuple[str, float]]] = {}
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, str):
            failures.append(Failure(job.source, result))
            say(result)
            continue
        for remark in (each for each in result.remarks if each not in told):
            told.add(remark)
            say(f"note: {job.source}: {remark} (told of the first such image)")
        for name, counts in result.pixels.items():
            pixels[name] += counts
        for name, share in result.unsure.items():
            unsure.setdefault(name, []).append((job.name, share))
    return Summary(len(jobs), len(failures), pixels, unsure, tuple(failures))


def write_unsure(summary: Summary, out: Path) -> None:
    """Write unsure.csv into `out`, of several heads into the folder of each: image, unsure.

    Raises:
        OSError: it can't be written.
    """
    for head, shares in summary.unsure.items():
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("image", "unsure"))
        writer.writerows((printable(name), f"{share:.4f}") for name, share in shares)
        folder = out / head if len(summary.unsure) > 1 else out
        write_text(folder / "unsure.csv", table.getvalue())


def printable(name: str) -> str:
    """Return a file's name with bytes that are no text, if it has such, as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _do(scene: FileScene, label: AnyLabeller, work: Work, seams: Seams | None) -> Done:
    """Take an image from its file to its results; return what came of it."""
    net, image, job = label.net, scene.pixels, scene.job
    views, size = label.views(image, work.tiles), (image.shape[0], image.shape[1])
    labels = label.labels(views, size)
    if (gaps := gaps_in(image)) is not None:
        for each in labels.values():
            each[gaps] = net.ignore_index
    shown = photograph(image, net.inputs, net.preprocessing)
    counts = {}
    for (name, head), results in zip(net.heads.items(), job.results, strict=True):
        own = labels[name]
        save_label_image(results.labels, own, head.palette, net.ignore_index)
        save_overlay(results.overlay, shown, own, head.palette, net.ignore_index)
        if results.scores is not None:
            bands = label.probability_bands(name, views, size)
            save_scores(results.scores, bands, size, head.num_classes)
        counts[name] = np.array(Image.fromarray(own).histogram()[: head.num_classes])
    remarks = [*scene.remarks, *range_remarks(scene, net)]
    if seams is not None and work.tiles is not None and not work.tiles.exact:
        remarks.append(seams.remark(scene, work.tiles))
    return Done(counts, label.unsure(views, size), tuple(remarks))


def is_lack_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out, which torch's allocators report as RuntimeErrors."""
    return isinstance(error, MemoryError) or "alloc" in str(error)
