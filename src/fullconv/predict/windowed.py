"""Rasters of any size, by rows of exact tiles: nothing of the whole is ever in memory.

A row of tiles gives some rows of coarse scores. Labels are worked out of these, up to the pixels
that need the next ones; the last few rows of scores wait for them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.base.errors import FullconvError
from fullconv.base.pipeline import ahead
from fullconv.base.portions import bits_of
from fullconv.net.certainty import UNSURE, top_probabilities
from fullconv.net.head import Head
from fullconv.predict.geotiff import (
    CERTAIN,
    UNKNOWN,
    write_label_raster,
    write_probability_raster,
)
from fullconv.predict.jobs import TIF, Job
from fullconv.predict.journal import Arrays, Journal
from fullconv.predict.memory import Memory
from fullconv.predict.passes import Arriving, ByStrips, ByTiles, Pass, Piece
from fullconv.predict.pictures import bands, save_overlay
from fullconv.predict.rasters import (
    RasterScene,
    block_cache,
    in_passes,
    require_rasterio,
    require_windows,
    size_of,
    takes_windows,
)
from fullconv.predict.room import Work
from fullconv.predict.scenes import photograph
from fullconv.predict.stream import Done
from fullconv.predict.tiles import Span, read

if TYPE_CHECKING:
    from fullconv.base.images import ImageReader
    from fullconv.base.progress import Progress, Reporter
    from fullconv.net.described import Pixels
    from fullconv.net.fcn import FCN
    from fullconv.predict.labeller import Labeller

OVERLAY_SIDE = 4096  # pixels that an overlay has at most
SAMPLE = 1024  # pixels a side of a window that engines are measured on
SMALL_FILE = 16 << 20  # bytes; an image in such a file that is no TIFF is held whole


def needs_windows(
    path: Path, inputs: Mapping[str, int], memory: Memory, reader: ImageReader
) -> bool:
    """Tell whether an image is more than memory holds, or a TIFF of more pixels than are allowed.

    Where rasterio is missing, or the net can't label windows, nothing is read by them.

    Args:
        path: of the file; one that can't be read is no such image.
        inputs: of the net.
        memory: for images.
        reader: reads images that are held whole.
    """
    is_tiff = path.suffix.lower() in TIF
    if not takes_windows(inputs, reader) or not find_spec("rasterio") or not memory.divides:
        return False
    try:
        if not is_tiff and path.stat().st_size < SMALL_FILE:
            return False
        size = size_of(path, reader)
    except (FullconvError, OSError):
        return False
    if size[0] * size[1] > reader.max_pixels:
        return is_tiff
    return not (memory.holds(size) or in_passes(path))


def windows_in(job: Job, reader: ImageReader) -> int:
    """Return how many images of `SAMPLE` x `SAMPLE` pixels a raster stands for; 1 at least."""
    with suppress(FullconvError):  # which will be told in the file's turn
        height, width = size_of(job.path, reader)
        return max(1, height * width // SAMPLE**2)
    return 1


def first_windows(jobs: Sequence[Job], reader: ImageReader) -> list[Pixels]:
    """Read a window of the first raster that can be read, from its middle, as a sample of tiles."""
    for job in jobs:
        with suppress(FullconvError):
            scene = RasterScene(job.path, reader)
            height, width = (min(each, SAMPLE) for each in scene.size)
            top, left = (scene.size[0] - height) // 2, (scene.size[1] - width) // 2
            try:
                return [scene.read(range(top, top + height), range(left, left + width)).copy()]
            finally:
                scene.close()
    return []


def label_raster(
    job: Job,
    label: Labeller,
    *,
    asked: str,
    memory: Memory,
    reader: ImageReader,
    reporter: Reporter,
) -> Done:
    """Label a raster by rows of tiles, and write label rasters and overlays.

    What is done is kept beside the results, so that the same command goes on with it.

    Args:
        job: names the files.
        label: the net and its engine.
        asked: which engine was asked for; what another one has done is not gone on with.
        memory: for images.
        reader: says what values mean.
        reporter: is told how the work goes.

    Raises:
        FullconvError: it can't be read, or there is no room for its tiles; the message names it.
        OSError: a result can't be written.
    """
    require_rasterio()
    require_windows(label.net.inputs, reader)
    scene = RasterScene(job.path, reader)
    try:
        work = memory.windowed(
            scene.size,
            from_the_top=scene.from_the_top,
            cache=scene.cache,
            strips=label.engine.strips,
        )
        with memory.taken(work.need), block_cache(scene.cache):
            sweep = _Sweep(label, asked, scene, work, scores=job.with_scores)
            return _labelled(job, sweep, reporter)
    finally:
        scene.close()


def _labelled(job: Job, sweep: _Sweep, reporter: Reporter) -> Done:
    scene, tiles, net = sweep.scene, sweep.tiles, sweep.label.net
    first = job.results[0].labels
    journal = Journal.opened(first.with_name(f".{first.name}.partial"), _key(job, sweep))
    done = len(journal)
    if done:
        reporter.say(f"{job.source}: goes on after {done} of {len(tiles.rows)} rows of tiles")
    across = len(tiles.columns)
    with reporter.bar(len(tiles), job.name, unit="tiles", done=done * across) as bar:
        for found in sweep.rows(journal[done - 1] if done else None, done, bar):
            journal.add(found)
    pixels, unsure = {}, {}
    for (name, head), results in zip(net.heads.items(), job.results, strict=True):
        parts = (_unpacked(record[f"labels {name}"], scene.size[1]) for record in journal)
        write_label_raster(
            results.labels,
            parts,
            scene.size,
            head.classes,
            head.palette,
            ignore_index=net.ignore_index,
            place=scene.place,
        )
        if results.scores is not None:
            parts = (_unpacked(each[f"sure {name}"], scene.size[1]) for each in journal)
            write_probability_raster(results.scores, parts, scene.size, place=scene.place)
        photo, labels = (
            np.concatenate([record[key] for record in journal])
            for key in ("photo", f"small {name}")
        )
        save_overlay(results.overlay, photo, labels, head.palette, net.ignore_index)
        pixels[name] = np.sum([record[f"pixels {name}"] for record in journal], axis=0)
        share = np.sum([record[f"unsure {name}"] for record in journal], axis=0)
        unsure[name] = float(share[0] / share[1])
    journal.remove()
    remarks = [*scene.remarks]
    if not tiles.exact:
        remarks.append("its tiles are approximate, as --tile or --margin ask for it")
    return Done(pixels, unsure, tuple(remarks))


class _Sweep:
    """Labels a raster from the top on, a row of tiles at a time."""

    def __init__(
        self, label: Labeller, asked: str, scene: RasterScene, work: Work, *, scores: bool
    ) -> None:
        assert work.tiles is not None
        self.label, self.asked, self.scene, self.tiles = label, asked, scene, work.tiles
        self.scores = scores
        self.strip, self.net, views = work.strip, label.net, 1 + label.tta
        self.step = -(-max(scene.size) // OVERLAY_SIDE)
        self._pass: Pass = ByTiles(label.engine, work.tiles, views)
        if work.strip and label.engine.strips:
            self._pass = ByStrips(label.engine.strips, work.tiles, work.strip, views)

    def rows(self, last: Arrays | None, first: int, bar: Progress) -> Iterator[Arrays]:
        """Yield what is to be noted of each row of tiles.

        Args:
            last: what was noted of the last one that is done.
            first: the first that isn't.
            bar: advances by one a tile.
        """
        held = _Held.noted(last, self.net, self.label.tta) if last is not None else _Held(0, 0, [])
        pieces = self._pass.pieces(first)
        arriving = ahead(lambda piece: (piece, read(self.scene, *piece)), pieces, 1)
        for index in range(first, len(self.tiles.rows)):
            found: dict[str, NDArray[Any]] = {}
            held = self._scored(index, held, arriving, found, bar)
            stop = self._ready(index)
            with torch.inference_mode():
                self._label(held, stop, found)
                held = self._rest(held, stop)
            found |= held.arrays()
            yield found

    def _scored(
        self,
        index: int,
        held: _Held,
        arriving: Arriving,
        found: dict[str, NDArray[Any]],
        bar: Progress,
    ) -> _Held:
        """Return the scores at hand and those of a row of tiles; note what is found meanwhile."""
        down = self.tiles.rows[index]
        before = down.cells.start - held.first
        shape = (before + len(down.cells), self.tiles.columns[-1].cells.stop)
        views: list[dict[str, Tensor]] = [{} for _ in range(1 + self.label.tta)]
        sure = {name: np.zeros(2, np.int64) for name in self.net.heads}
        photo = self._empty_photo(index)
        arriving = map(partial(self._shown, photo, index), arriving)
        for column, number, by_head in self._pass.scores(index, arriving):
            across, view = self.tiles.columns[column], views[number]
            for name, scores in by_head.items():
                if name not in view:
                    view[name] = scores.new_empty(*scores.shape[:2], *shape)
                    if before:
                        view[name][..., :before, :] = held.views[number][name]
                taken = scores[..., down.taken, across.taken]
                view[name][..., before:, across.cells.start : across.cells.stop] = taken
                sure[name] += self._unsure(self.net.heads[name], down, across, taken)
            if number == len(views) - 1:
                bar.advance()
        found["photo"] = photo
        found |= {f"unsure {name}": counts for name, counts in sure.items()}
        return _Held(held.first, held.done, views)

    def _ready(self, index: int) -> int:
        """Return how many rows of pixels need no row of tiles after this one."""
        height, alignment = self.scene.size[0], self.net.vertical.alignments[-1]
        if index == len(self.tiles.rows) - 1:
            return height
        missing = self.tiles.rows[index].cells.stop
        return bisect_left(range(height), missing, key=lambda row: alignment.cells_read(row)[1])

    def _label(self, held: _Held, stop: int, found: dict[str, NDArray[Any]]) -> None:
        """Work out the labels of the pixels that have all their scores."""
        shape = (stop - held.done, self.scene.size[1])
        labels = {name: np.empty(shape, np.uint8) for name in self.net.heads}
        sure = {name: np.empty(shape, np.uint8) for name in self.net.heads if self.scores}
        for part in bands(shape) if stop > held.done else ():
            rows = range(held.done + part.start, held.done + part.stop)
            valid = self.scene.valid(rows, range(shape[1]))
            for name, own in labels.items():
                own[part] = self._labels_of(held, name, rows)
                if valid is not None:
                    own[part][~valid] = self.net.ignore_index
            for name, own in sure.items():
                self._put_probabilities(own[part], held, name, rows)
                if valid is not None:
                    own[part][~valid] = UNKNOWN
        small = slice(-held.done % self.step, None, self.step)
        for name, own in sure.items():
            found[f"sure {name}"] = _packed(own)
        for name, own in labels.items():
            count = self.net.heads[name].num_classes
            found[f"labels {name}"] = _packed(own)
            found[f"small {name}"] = own[small, :: self.step].copy()
            found[f"pixels {name}"] = np.bincount(own.ravel(), minlength=256)[:count]

    def _labels_of(self, held: _Held, name: str, rows: range) -> NDArray[np.uint8]:
        views, top = self._cells_of(held, name, rows)
        size = (top + len(rows), self.scene.size[1])
        return self.net.heads[name].labels_of_views(views, size)[top:]

    def _put_probabilities(
        self, out: NDArray[np.uint8], held: _Held, name: str, rows: range
    ) -> None:
        """Put the probabilities of the labels of some rows into `out`, `CERTAIN` for 1."""
        views, top = self._cells_of(held, name, rows)
        row, size = -top, (top + len(rows), self.scene.size[1])
        for band in self.net.heads[name].probability_bands(views, size):
            best = (CERTAIN * band.amax(0)).round().byte().cpu().numpy()
            below = row + len(best)
            if below > 0:
                out[max(row, 0) : below] = best[max(-row, 0) :]
            row = below

    def _cells_of(self, held: _Held, name: str, rows: range) -> tuple[list[Tensor], int]:
        """Return the scores that rows of pixels need, and how many rows they begin above these."""
        alignment, first = self.net.vertical.alignments[-1], self._first_cell(rows.start)
        cells = slice(first - held.first, alignment.cells_read(rows[-1])[1] - held.first + 1)
        views = [view[name][..., cells, :] for view in held.views]
        return views, rows.start - first * alignment.factor

    def _first_cell(self, row: int) -> int:
        """Return the row of coarse scores from which a map is labelled as the whole one is."""
        alignment = self.net.vertical.alignments[-1]
        return min(max(alignment.cells_read(row)[0], 0), row // alignment.factor)

    def _rest(self, held: _Held, stop: int) -> _Held:
        """Return the scores that rows from `stop` on need."""
        if stop == self.scene.size[0]:
            return _Held(0, stop, [])
        first = self._first_cell(stop)
        rest = [
            {name: each[..., first - held.first :, :].clone() for name, each in view.items()}
            for view in held.views
        ]
        return _Held(first, stop, rest)

    def _unsure(self, head: Head, down: Span, across: Span, scores: Tensor) -> NDArray[np.int64]:
        """Count the cells that pixels read: how many are unsure, and all."""
        inside = []
        for alignment, span, size in zip(
            head.last_alignments, (down, across), self.scene.size, strict=True
        ):
            first, last = alignment.cells_read(0)[0], alignment.cells_read(size - 1)[1]
            cells = range(max(first, span.cells.start), min(last + 1, span.cells.stop))
            inside.append(slice(cells.start - span.cells.start, cells.stop - span.cells.start))
        cells_read = scores[0, :, inside[0], inside[1]].float().cpu().numpy()
        if not cells_read.size:
            return np.zeros(2, np.int64)
        top = top_probabilities(cells_read, head.temperature)
        return np.array([top.size - np.count_nonzero(top >= UNSURE), top.size])

    def _fresh(self, index: int) -> range:
        """Return the rows of pixels that a row of tiles is the first to read."""
        return range(self._pass.stop(index - 1) if index else 0, self._pass.stop(index))

    def _empty_photo(self, index: int) -> NDArray[np.uint8]:
        rows = _multiples(self._fresh(index), self.step)
        return np.empty((len(rows), -(-self.scene.size[1] // self.step), 3), np.uint8)

    def _shown(
        self, photo: NDArray[np.uint8], index: int, came: tuple[Piece, Pixels]
    ) -> tuple[Piece, Pixels]:
        """Put what is shown of a window into the smaller photograph of a row of tiles."""
        piece, pixels = came
        if not piece.mirrored:
            fresh = self._fresh(index)
            rows, columns = (
                np.array(_multiples(range(max(own.start, begin), own.stop), self.step), np.intp)
                for own, begin in ((piece.rows, fresh.start), (piece.columns, 0))
            )
            places = rows // self.step - -(-fresh.start // self.step), columns // self.step
            seen = rows - piece.rows.start, columns - piece.columns.start
            if rows.size and columns.size:
                few = pixels[np.ix_(*seen)]
                photo[np.ix_(*places)] = photograph(few, self.net.inputs, self.net.preprocessing)
        return came


@dataclass(frozen=True)
class _Held:
    """Coarse scores that are at hand, of the whole width.

    Attributes:
        first: the first row of them, in the whole image's.
        done: how many rows of pixels are labelled.
        views: the scores, of each view by head.
    """

    first: int
    done: int
    views: list[dict[str, Tensor]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return it as what a journal notes."""
        scores = {
            f"scores {number} {name}": each.float().cpu().numpy()
            for number, view in enumerate(self.views)
            for name, each in view.items()
        }
        return {"at": np.array([self.first, self.done]), **scores}

    @classmethod
    def noted(cls, record: Arrays, net: FCN, tta: bool) -> _Held:
        """Return what a journal noted."""
        first, done = record["at"].tolist()
        views = [
            {
                name: torch.from_numpy(record[f"scores {number} {name}"]).to(net.device)
                for name in net.heads
                if f"scores {number} {name}" in record
            }
            for number in range(1 + tta)
        ]
        return cls(first, done, views)


def _multiples(pixels: range, step: int) -> range:
    return range(-(-pixels.start // step) * step, pixels.stop, step)


def _packed(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(values.data, 1), np.uint8)


def _unpacked(packed: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(packed.data), np.uint8).reshape(-1, width)


def _key(job: Job, sweep: _Sweep) -> str:
    """Return a digest of all that labels depend on."""
    net, about = sweep.net, job.path.stat()
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        for some in bits_of(value):
            digest.update(some)
    told = {
        "source": [str(job.path.resolve()), about.st_size, about.st_mtime_ns],
        "net": [repr(net.arguments), repr([head.labelling for head in net.heads.values()])],
        "preprocessing": repr(net.preprocessing),
        "ignore": net.ignore_index,
        "engine": sweep.asked,
        "tta": sweep.label.tta,
        "scores": sweep.scores,
        "tiles": repr(sweep.tiles),
        "strip": sweep.strip,
        "version": version("fullconv"),
    }
    digest.update(json.dumps(told).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
