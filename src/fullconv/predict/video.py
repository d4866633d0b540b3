"""Films: each frame to a label image, and the film tinted by class, with its sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.files import replacing
from fullconv.data.info import COLOR
from fullconv.net.described import Pixels
from fullconv.predict.jobs import Job
from fullconv.predict.labelling import AnyLabeller, label_all
from fullconv.predict.pictures import overlay, save_label_image, save_scores
from fullconv.predict.room import Room
from fullconv.predict.stream import Failure, Summary

if TYPE_CHECKING:
    from fullconv.base.progress import Progress

FILM_SUFFIXES = frozenset(".3gp .avi .m4v .mkv .mov .mp4 .mpg .mpeg .ts .webm .wmv".split())
MISSING = 0.5  # seconds that may be missing at the end of a film before it is damage
BT709 = 1  # of FFmpeg's numbers for colour spaces, primaries and curves

Sound = Callable[[Any], None]


def is_film(path: str | Path) -> bool:
    """Tell whether a file is a film, by its name."""
    return Path(path).suffix.lower() in FILM_SUFFIXES


@dataclass(frozen=True)
class Films:
    """Films to label, as jobs whose names are those of their folders of label images.

    Attributes:
        jobs: one a film.
    """

    jobs: tuple[Job, ...]

    @property
    def frames(self) -> int:
        """About how many frames they have, as far as their headers tell."""
        total = 0
        for job in self.jobs:
            with suppress(FullconvError), _opened(job.path) as source:
                total += source.frames
        return total

    def first(self, count: int) -> list[Pixels]:
        """Return the first frame of each of `count` films, H x W x 3, of those that have one."""
        found = []
        for job in self.jobs[:count]:
            with suppress(FullconvError), _opened(job.path) as source:
                found.append(source.first)
        return found

    def make_folders(self) -> None:
        """Make the folders of all results.

        Raises:
            FullconvError: one can't be made.
        """
        for job in self.jobs:
            for labels, film, scores in _results(job):
                for folder in filter(None, (labels, film.parent, scores)):
                    try:
                        folder.mkdir(parents=True, exist_ok=True)
                    except OSError as error:
                        raise FullconvError(
                            f"{folder}: can't write there ({error.strerror}); choose another --out"
                        ) from error


def plan_films(
    inputs: Sequence[str],
    out: Path,
    *,
    scores: bool,
    heads: Sequence[str],
    net_inputs: Mapping[str, int],
) -> Films:
    """Settle where the results of films go.

    Args:
        inputs: their files, as typed.
        out: folder of all results.
        scores: whether probabilities are asked for.
        heads: names of the net's heads if it has several.
        net_inputs: channels by name; a film has but colours.

    Raises:
        FullconvError: an input is no film or isn't there, two results would have one name or one
            would overwrite a film, the net needs more than colours, or PyAV isn't installed.
    """
    for text in inputs:
        if not is_film(text):
            raise FullconvError(f"{text}: is no film; label images and films in separate runs")
        if not Path(text).is_file():
            raise FullconvError(f"{text}: no such file")
    if list(net_inputs) != [COLOR]:
        others = ", ".join(name for name in net_inputs if name != COLOR)
        raise FullconvError(f"{inputs[0]}: a film has colours only; the model needs {others}")
    _require_av(inputs[0])
    jobs = tuple(
        Job(Path(text), Path(text).stem, out, scores, tuple(heads))
        for text in dict.fromkeys(inputs)
    )
    first: dict[str, Job] = {}
    sources = {os.path.realpath(job.path) for job in jobs}
    for job in jobs:
        if (other := first.setdefault(job.name, job)) is not job:
            raise FullconvError(
                f"{other.source} and {job.source} would both be written to {out / job.name}; "
                "label them in separate runs, or rename one"
            )
        for _, film, _ in _results(job):
            if os.path.realpath(film) in sources:
                raise FullconvError(f"{film}: would be overwritten; choose another --out")
    return Films(jobs)


def label_films(label: AnyLabeller, films: Films, bar: Progress, *, memory: Room) -> Summary:
    """Label each frame of films, and write label images, overlay films and what else is asked for.

    Frames are taken from the film as they are needed: `workers` are in hand at a time, however
    long it is. What of a film can't be read is named in a line, and what was read of it before and
    after is kept; a film of which nothing can be labelled leaves no overlay.

    Returns:
        What came of it: its images are the frames that were labelled, and the failures.
    """
    pixels = {name: np.zeros(head.num_classes, np.int64) for name, head in label.net.heads.items()}
    unsure: dict[str, list[tuple[str, float]]] = {}
    failures: list[Failure] = []
    done = 0

    def fail(job: Job, reason: str) -> None:
        failures.append(Failure(job.source, reason))
        bar.say(reason)

    for job in films.jobs:
        try:
            for frame in _label(label, job, memory, fail, bar):
                done += 1
                for name, counts in frame.pixels.items():
                    pixels[name] += counts
                for name, share in frame.unsure.items():
                    unsure.setdefault(name, []).append((frame.name, share))
                bar.advance()
        except FullconvError as error:
            line = one_line(error)
            fail(job, line if line.startswith(str(job.source)) else f"{job.source}: {line}")
        except (OSError, _av().error.FFmpegError) as error:
            fail(job, f"{job.source}: can't write its results ({error.strerror or error})")
    return Summary(done + len(failures), len(failures), pixels, unsure, tuple(failures))


class _Done(NamedTuple):
    """What came of a frame, by head."""

    name: str
    pixels: dict[str, NDArray[np.int64]]
    unsure: dict[str, float]
    shown: dict[str, Any]  # frames to encode


def _label(
    label: AnyLabeller, job: Job, room: Room, fail: Callable[[Job, str], None], bar: Progress
) -> Iterator[_Done]:
    """Label a film; yield what came of each frame when it is written."""
    with ExitStack() as stack:
        source = stack.enter_context(_opened(job.path))
        size = source.first.shape[:2]
        writers = []
        for _, film, _ in _results(job):
            temporary = stack.enter_context(replacing(film))
            writers.append(stack.enter_context(_OverlayFilm(temporary, source, size)))
        for codec in writers[0].silent:
            bar.say(f"note: {job.source}: its sound ({codec}) is left out: an MP4 can't hold it")

        def sound(packet: Any) -> None:
            for writer in writers:
                writer.sound(packet)

        def work(frame: tuple[int, Any]) -> _Done:
            return _frame(label, job, room, *frame)

        read = enumerate(source.read(sound, lambda reason: fail(job, reason)), 1)
        nothing = True
        for done in label_all(work, read, label.engine):
            for writer, shown in zip(writers, done.shown.values(), strict=True):
                writer.frame(shown)
            nothing = False
            yield done
        if nothing:
            raise FullconvError(f"{job.source}: none of its frames can be read")


def _frame(label: AnyLabeller, job: Job, room: Room, number: int, frame: Any) -> _Done:
    """Take a frame from the decoder to its results."""
    net, image = label.net, _upright(frame)
    job = replace(job, name=f"{job.name}/{_number(number)}")
    size = (image.shape[0], image.shape[1])
    task = room.work(size)
    counts, shown = {}, {}
    with room.taken(task.need):
        views = label.views(image, task.tiles)
        labels = label.labels(views, size)
        for (name, head), results in zip(net.heads.items(), job.results, strict=True):
            own = labels[name]
            save_label_image(results.labels, own, head.palette, net.ignore_index)
            if results.scores is not None:
                bands = label.probability_bands(name, views, size)
                save_scores(results.scores, bands, size, head.num_classes)
            tinted = overlay(image, own, head.palette, net.ignore_index)
            shown[name] = _encodable(tinted, frame)
            counts[name] = np.bincount(own.ravel(), minlength=256)[: head.num_classes]
        return _Done(job.name, counts, label.unsure(views, size), shown)


class _Source:
    """An open film.

    Attributes:
        path: its file.
        container: PyAV's.
        stream: its first video stream.
        first: its first frame that can be decoded, upright, uint8 RGB, H x W x 3.
        aspect: width of a pixel of an upright frame in heights of one.
    """

    def __init__(self, path: Path, container: Any) -> None:
        """Decode the first frame that can be.

        Raises:
            FullconvError: there is none.
        """
        if not container.streams.video:
            raise FullconvError(f"{path}: has no pictures; name a film that has")
        self.path, self.container, self.stream = path, container, container.streams.video[0]
        self.stream.thread_type = "AUTO"
        frame = self._first()
        self.first: Pixels = _upright(frame)
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        across, _, down, _ = _turn(frame)
        self.aspect = 1 / aspect if abs(down) > abs(across) else aspect

    @property
    def frames(self) -> int:
        """About how many frames there are; 0: its header does not tell."""
        rate, duration = self.stream.average_rate, self.container.duration
        return self.stream.frames or round(float(rate or 0) * (duration or 0) / 1e6)

    def read(self, sound: Sound, damage: Callable[[str], None]) -> Iterator[Any]:
        """Yield the frames, in the order in which they are shown, at times since the film's start.

        Args:
            sound: is given the packets of sound on the way, at such times, too.
            damage: is told, in a line, what can't be read.
        """
        streams, good, count, end, heard = [self.stream, *self._sound], True, 0, 0.0, 0.0
        for packet in self._packets(streams, damage):
            if packet.dts is not None and packet.stream.type == "audio":
                self._since_start(packet)
                heard = max(heard, float(packet.dts * packet.time_base))
                sound(packet)
                continue
            try:
                for frame in packet.decode() if packet.stream.type == "video" else ():
                    self._since_start(frame)
                    good, count = True, count + 1
                    end = max(end, frame.time or 0.0)
                    yield frame
            except _av().error.FFmpegError as error:
                if good:
                    damage(
                        f"{self.path}: is damaged after frame {_number(count)} ({end:.2f} s): "
                        f"what can't be read there is missing ({error.strerror})"
                    )
                good = False
        whole, step = self._end(), 1 / float(self.stream.average_rate or 1)
        found = end if self.stream.duration is not None else max(end, heard)
        if whole - found - step > max(MISSING, step):
            damage(
                f"{self.path}: ends after frame {_number(count)} ({end:.2f} s), though it is of "
                f"{whole:.2f} s: the rest is missing"
            )

    @property
    def _sound(self) -> tuple[Any, ...]:
        return tuple(self.container.streams.audio)

    @property
    def _start(self) -> Fraction:
        """What the film's clock shows when it starts, in seconds: a recording's shows anything."""
        return Fraction(self.container.start_time or 0, 10**6)

    def _since_start(self, timed: Any) -> None:
        """Move a frame or a packet by what the clock shows at the start."""
        if start := round(self._start / timed.time_base):
            timed.pts = None if timed.pts is None else timed.pts - start
            timed.dts = None if timed.dts is None else timed.dts - start

    def _end(self) -> float:
        """Return when the pictures end by the header, or whatever does, in seconds; 0: unknown."""
        if self.stream.duration is not None:
            end = ((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base
        else:  # Matroska's, which says what its clock shows at the end
            end = Fraction(self.container.duration or 0, 10**6)
        return float(end - self._start)

    def _packets(self, streams: list[Any], damage: Callable[[str], None]) -> Iterator[Any]:
        """Yield the packets of some streams up to the end, or to what can't be read."""
        try:
            yield from self.container.demux(streams)
        except _av().error.FFmpegError as error:
            damage(f"{self.path}: is damaged ({error.strerror}): frames from there are missing")

    def _first(self) -> Any:
        """Return the first frame, past what can't be decoded, as `read` does."""
        reason = ""
        try:
            # Opened once more: to go back to the start would lose the first packets of sound.
            with _av().open(str(self.path)) as container:
                for packet in container.demux(video=0):
                    try:
                        for frame in packet.decode():
                            return frame
                    except _av().error.FFmpegError as error:
                        reason = reason or f" ({error.strerror})"
        except _av().error.FFmpegError as error:
            reason = reason or f" ({error.strerror})"
        raise FullconvError(f"{self.path}: none of its frames can be read{reason}")


class _OverlayFilm:
    """A film that is being written as MP4: H.264, and the sound as it was, where MP4 knows it.

    Attributes:
        silent: codecs of the sound that it can't hold.
    """

    def __init__(self, path: Path, source: _Source, size: tuple[int, ...]) -> None:
        """Start it.

        Args:
            path: its file, whatever its suffix.
            source: whose times, shape of pixels and sound it takes.
            size: height and width of its frames, before they are made even.
        """
        av, stream = _av(), source.stream
        self._file = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._video = self._file.add_stream(
            "libx264", rate=stream.average_rate, options={"preset": "veryfast", "crf": "20"}
        )
        self._video.height, self._video.width = (side + side % 2 for side in size)
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        context.time_base = self._base = stream.time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # 16 to 235, as players expect
        if source.aspect != 1:
            context.sample_aspect_ratio = source.aspect
        self._step = max(1, round(1 / float((stream.average_rate or 25) * stream.time_base)))
        self._last: int | None = None
        self._sound, self.silent = {}, list[str]()
        for each in source.container.streams.audio:
            try:
                self._sound[each.index] = self._file.add_stream_from_template(each)
            except ValueError:  # no such codec in an MP4
                self.silent.append(each.codec_context.name)

    def __enter__(self) -> _OverlayFilm:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._file.mux(self._video.encode(None))
        self._file.close()

    def frame(self, frame: Any) -> None:
        """Write a frame, at its own time."""
        last = self._last
        late = frame.pts is None or (last is not None and frame.pts <= last)
        pts = (0 if last is None else last + self._step) if late else frame.pts
        frame.pts, frame.time_base, self._last = pts, self._base, pts
        if (frame.height, frame.width) != (self._video.height, self._video.width):
            frame = frame.reformat(self._video.width, self._video.height)
        self._file.mux(self._video.encode(frame))

    def sound(self, packet: Any) -> None:
        """Copy a packet of sound."""
        if (stream := self._sound.get(packet.stream.index)) is not None:
            own = packet.stream
            packet.stream = stream
            self._file.mux(packet)
            packet.stream = own


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    """Open a film.

    Raises:
        FullconvError: it can't be read, or has no pictures.
    """
    try:
        container = _av().open(str(path))
    except (_av().error.FFmpegError, OSError) as error:
        raise FullconvError(f"{path}: can't be read as a film ({error.strerror})") from error
    with container:
        yield _Source(path, container)


def _upright(frame: Any) -> NDArray[np.uint8]:
    """Return a frame as it is meant to be shown: uint8 RGB, H x W x 3."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    across, along, down, upright = _turn(frame)
    if abs(down) > abs(across):
        pixels, across, upright = pixels.swapaxes(0, 1), down, along
    return np.ascontiguousarray(pixels[:: -1 if upright < 0 else 1, :: -1 if across < 0 else 1])


def _turn(frame: Any) -> tuple[int, int, int, int]:
    """Return across, along, down, upright of a frame: where a pixel is meant to be shown.

    That is at x' = across x + down y, y' = along x + upright y.
    """
    found = next((each for each in frame.side_data if each.type.name == "DISPLAYMATRIX"), None)
    if found is None:
        return 1, 0, 0, 1
    across, along, _, down, upright = map(int, np.frombuffer(bytes(found), "=i4")[:5])
    return across, along, down, upright


def _encodable(pixels: NDArray[np.uint8], source: Any) -> Any:
    """Return pixels as a frame to encode, of even sides, at the time of its source."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    frame = _av().VideoFrame.from_ndarray(pixels, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=BT709)
    frame.pts = source.pts
    return frame


def _results(job: Job) -> list[tuple[Path, Path, Path | None]]:
    """Return where a film's label images, overlay and probabilities go, by head."""
    return [
        (
            results.labels.parent / job.name,
            results.overlay.parent / f"{job.name}.mp4",
            results.scores.parent / job.name if results.scores is not None else None,
        )
        for results in job.results
    ]


def _number(number: int) -> str:
    return f"{number:06d}"


def _require_av(film: str) -> None:
    try:
        _av()
    except ImportError as error:
        raise FullconvError(f"{film}: films need PyAV: pip install 'fullconv[video]'") from error


def _av() -> Any:
    import av

    return av
