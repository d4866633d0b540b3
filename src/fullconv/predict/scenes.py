"""Images that can be read by windows; and what a person is shown of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.base.images import Encoded, Header, ImageReader, fetched
from fullconv.base.remote_files import Remote
from fullconv.base.stored import require_picture
from fullconv.data.folder import require_same_size
from fullconv.data.info import COLOR
from fullconv.net.described import Described, Pixels, Size
from fullconv.net.preprocessing import Preprocessing
from fullconv.predict.jobs import Job

GEOREFERENCE = "its georeference is not kept in a PNG: --format tif keeps it"


class Scene(Protocol):
    """An image to label, whose pixels are read when they are needed."""

    @property
    def size(self) -> Size:
        """Height and width in pixels."""

    def read(self, rows: range, columns: range) -> Pixels:
        """Return successive rows and columns, of all channels that the net takes.

        Raises:
            FullconvError: they can't be read; the message names the image.
        """


@dataclass(frozen=True)
class PixelScene:
    """An image in memory.

    Attributes:
        pixels: H x W x channels of all inputs.
    """

    pixels: Pixels

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def read(self, rows: range, columns: range) -> Pixels:
        """Return successive rows and columns (see `Scene`)."""
        return self.pixels[rows.start : rows.stop, columns.start : columns.stop]


@dataclass(frozen=True)
class FileScene:
    """The files of an image's inputs, one a channel or three; they are decoded whole, once.

    The input "color" is read as RGB. Of any other 16-bit grey keeps its values (distances), as in
    dataset folders.

    Attributes:
        job: names the files.
        inputs: the net's: channels by name.
        reader: reads the files.
    """

    job: Job
    inputs: Mapping[str, int]
    reader: ImageReader

    @cached_property
    def file(self) -> Path | Encoded:
        """The file of the first input; what lies elsewhere is fetched, once."""
        source = self.job.source
        return fetched(source) if isinstance(source, Remote) else source

    @cached_property
    def header(self) -> Header:
        """What the header of the first input tells, which is read once."""
        return self.reader.header(self.file)

    @property
    def size(self) -> Size:
        """Height and width in pixels, from the header of the first input."""
        if not self.header.stored.every_band:
            require_picture(self.file, self.header.stored, self.reader.span)
        return self.header.stored.size

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is not read of the first input, in words."""
        remarks = self.header.remarks(as_image=next(iter(self.inputs)) == COLOR)
        return (*remarks, *[GEOREFERENCE] * self.header.stored.georeferenced)

    def read(self, rows: range, columns: range) -> Pixels:
        """Return successive rows and columns (see `Scene`)."""
        return self.pixels[rows.start : rows.stop, columns.start : columns.stop]

    @cached_property
    def pixels(self) -> Pixels:
        """The inputs' channels one after the other, H x W x C: float32 if some has 16 bits.

        Raises:
            FullconvError: a file is missing or can't be read, or differs in size from the first;
                the message names the image.
        """
        paths = [self.file, *(_only_file(self.job, name) for name in list(self.inputs)[1:])]
        parts: list[Pixels] = []
        for path, (name, channels) in zip(paths, self.inputs.items(), strict=True):
            parts.append(read_input(path, name, channels, self.reader))
            require_same_size((path, parts[-1].shape[:2]), (paths[0], parts[0].shape[:2]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 2)


def read_input(path: Path | Encoded, name: str, channels: int, reader: ImageReader) -> Pixels:
    """Read the file of one input of a net, H x W x channels.

    Raises:
        FullconvError: it can't be read, or has other channels; the message names it.
    """
    pixels: Pixels = reader.image(path) if name == COLOR else reader.input(path)
    if pixels.shape[2] != channels:
        kind = {1: "16-bit grey, one channel", 3: "3 channels of 8 bits"}.get(
            pixels.shape[2], f"{pixels.shape[2]} bands"
        )
        raise FullconvError(
            f"{path}: is read as {kind}, but the model's input {name!r} has {channels}"
        )
    return pixels


def range_remarks(scene: FileScene, net: Described) -> Iterator[str]:
    """Say which further inputs lose values, and which are unlike those the net was trained on."""
    others = (files[0] for files in scene.job.others.values())
    stored = (scene.header.stored, *(scene.reader.describe(path) for path in others))
    for each in stored[1:]:
        yield from each.input_remarks
    yield from net.preprocessing.remarks(scene.pixels, net.inputs, [each.bits for each in stored])


def photograph(
    image: Pixels, inputs: Mapping[str, int], preprocessing: Preprocessing | None = None
) -> NDArray[np.uint8]:
    """Return what a person is shown of an image: uint8 RGB, H x W x 3.

    That is its input "color" or, of a net without, the first one; distances as grey from the
    least to the greatest, and of bands those that the dataset says.

    Args:
        image: H x W x channels of all inputs.
        inputs: channels by name, in that order.
        preprocessing: of the net; tells bands from other inputs. None: there are no bands.
    """
    shown = COLOR if COLOR in inputs else next(iter(inputs))
    names = list(inputs)
    first = sum(inputs[name] for name in names[: names.index(shown)])
    if preprocessing is not None and shown in preprocessing.bands:
        return preprocessing.shown(image, first)
    pixels = image[..., first : first + inputs[shown]]
    if pixels.shape[2] == 3:
        return pixels.astype(np.uint8, copy=False)
    least, greatest = float(pixels.min()), float(pixels.max())
    grey = (pixels[..., :1] - least) / max(greatest - least, 1.0) * 255
    return grey.astype(np.uint8).repeat(3, 2)


def _only_file(job: Job, name: str) -> Path:
    """Return the one file of a further input."""
    found = job.others[name]
    if not found:
        raise FullconvError(
            f"{job.source}: its {name} is missing: add an image {job.name} to the folder of "
            f"--input {name}"
        )
    if len(found) > 1:
        both = " and ".join(str(path) for path in found[:2])
        raise FullconvError(f"{job.source}: {both} may both be its {name}; remove one")
    return found[0]
