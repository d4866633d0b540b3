"""What an image takes of memory that a net labels: whole, by tiles or by strips."""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import torch

from fullconv.net.described import Size
from fullconv.net.layer_memory import area, bytes_a_pixel, strip_bytes
from fullconv.predict.room import (
    DECODING,
    FIXED,
    RAISE,
    SPLIT,
    WRITING,
    NoRoomError,
    Room,
    Tiling,
    Work,
)
from fullconv.predict.tiles import Reach, Span, Tiles, least_tile

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.net.strips import Strips

DEVICE_SHARE = 0.7  # of what is free on a GPU, likewise
WHOLE = 1 << 25  # pixels; larger images go by tiles even where they would fit
TILE = 1 << 30  # bytes that the layers of a tile take
STRIPS_SPLIT = 1.75  # likewise, of strips, whose blocks grow and shrink
CACHED = 64 << 20  # bytes of decoded blocks that GDAL keeps
WINDOW_ROW = 2  # bytes a pixel of a row of tiles: labels, and those compressed
WINDOWS = 4  # tiles' pixels at a time: one at work, two ahead, one as it was stored
SURELY = 4096  # bytes a pixel that no net takes; images so small are not looked at more closely
MOST_COLUMNS = 16  # in which strips go side by side; narrower ones cost much in margins
STRIPS = (8, 4, 2)  # times as high as a cell of the coarsest stride, at best first
ROW = 512  # pixels of a row of tiles by strips, after each of which labels are written


class Memory(Room):
    """Divides memory among the images that a net labels (see `Room`)."""

    def __init__(
        self,
        net: FCN,
        budget: int | None = None,
        *,
        tta: bool = False,
        tiling: Tiling = Tiling(),
    ) -> None:
        """Look how much memory there is.

        Args:
            net: what labels, on the device where it works.
            budget: see `Room`.
            tta: whether images are mirrored, too.
            tiling: what is asked of tiles.
        """
        super().__init__(budget)
        self._net, self._views, self._tiling = net, 1 + tta, tiling
        self._reach = Reach(tiling.margin, sliding=tiling.most is not None)
        self._of_strips = dict[tuple[int, tuple[Span, ...]], tuple[float, float]]()

    def work(self, size: Size) -> Work:
        """Return how an image of a size (H, W) is to be labelled.

        Raises:
            NoRoomError: there is not enough memory, in a line that tells how much it takes.
        """
        pixels = size[0] * size[1]
        if self._tiling.most is not None:
            return self._asked(size, self._tiling.most)
        room = self._room(pixels)
        if pixels <= WHOLE and (room is None or pixels * SURELY <= room // 16):
            return Work(None, self._need(pixels, min(pixels * SURELY, TILE)))
        whole = self._layers(size)
        if pixels <= WHOLE and (room is None or whole <= room):
            return Work(None, self._need(pixels, whole))
        tiles = self._tiles(size, TILE if room is None else min(TILE, room))
        if tiles is not None:
            return Work(tiles, self._need(pixels, self._layers(tiles.largest)))
        if room is None or whole <= room:
            return Work(None, self._need(pixels, whole))
        approximate = "make it smaller, raise --memory, or ask for approximate tiles by --tile"
        raise self._refusal(
            size, self._need(pixels, whole), RAISE if self._bounded else approximate
        )

    @property
    def divides(self) -> bool:
        """Whether images can be divided into tiles, as far as that is asked for."""
        return self._bounded or self._reach.sliding

    def holds(self, size: Size) -> bool:
        """Tell whether an image of a size fits, by tiles or whole."""
        try:
            return self.work(size).need <= self._most
        except NoRoomError:
            return False

    def windowed(
        self,
        size: Size,
        *,
        from_the_top: bool = False,
        cache: int = CACHED,
        strips: Strips | None = None,
    ) -> Work:
        """Return how an image is labelled by rows of tiles of which nothing else is held.

        Args:
            size: height and width in pixels.
            from_the_top: whether all of the pixels of a row of tiles are held, too.
            cache: bytes of the file's blocks that are kept.
            strips: the net, where it can work by strips; tiles that were asked for don't.

        Raises:
            NoRoomError: there is not enough memory, in a line that tells how much it takes.
        """
        if strips is not None and self._tiling == Tiling():
            work = self._by_strips(size, strips, cache, from_the_top=from_the_top)
            if work is not None:
                return work
        need = 0
        for share in (1, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1):
            most = int(share * min(TILE, self._most / SPLIT))
            asked = self._tiling.most
            tiles = (
                Tiles.sized(self._net, size, asked, self._reach)
                if asked
                else self._tiles(size, most)
            )
            if tiles is None:
                break
            need = cache + self._need_of_row(tiles, from_the_top)
            if asked or need <= self._most:
                return Work(tiles, need)
        least = f"; a row of tiles takes {need / 1e9:.1f} GB" if need else ""
        raise NoRoomError(
            f"no tiles of {size[1]} x {size[0]} pixels fit in {self._most / 1e9:.1f} GB{least}; "
            "raise --memory, or give a --tile or a --margin"
        )

    def _by_strips(
        self, size: Size, strips: Strips, cache: int, *, from_the_top: bool
    ) -> Work | None:
        """Return how an image is labelled by strips, in as few columns as there is room for."""
        rows = least_tile(self._net.vertical, size[0])
        columns = least_tile(self._net.horizontal, size[1])
        for count in range(1, MOST_COLUMNS + 1):
            width = -(-size[1] // count) + (columns if count > 1 else 0)
            tiles = Tiles.sized(self._net, size, (rows + ROW, width))
            for times in STRIPS if tiles else ():
                assert tiles is not None
                strip = times * strips.step
                need = cache + self._need_of_strips(tiles, strips, strip, from_the_top=from_the_top)
                if need <= self._most:
                    return Work(tiles, need, strip)
        return None

    def _need_of_strips(
        self, tiles: Tiles, strips: Strips, strip: int, *, from_the_top: bool
    ) -> int:
        """Return the bytes at the peak while a row of tiles is labelled by strips."""
        width = tiles.columns[-1].pixels.stop
        wider = sum(len(span.pixels) for span in tiles.columns)
        own = max(len(span.cells) for span in tiles.rows) * self._net.stride
        row = self._scores(own * width) + WINDOW_ROW * own * width
        row += self._image(strip * width) * (2 if from_the_top else 0)
        layers = 0.0
        if self._net.device.type == "cpu":
            held, at_work = self._bytes_of_strips(strips, tiles, strip)
            padding = 2 * (self._net.arguments.padding or 0)
            held *= self._views * (wider + padding * len(tiles.columns))
            layers = held + at_work * (tiles.largest[1] + padding)
        pieces = WINDOWS * self._image(strip * tiles.largest[1])
        return int(FIXED + STRIPS_SPLIT * (row + layers + pieces))

    def _bytes_of_strips(self, strips: Strips, tiles: Tiles, strip: int) -> tuple[float, float]:
        """Return `strip_bytes`, which is the same for tiles of any width."""
        known = strip, tiles.rows
        if known not in self._of_strips:
            rows = [span.pixels for span in tiles.rows]
            self._of_strips[known] = strip_bytes(strips, rows, strip)
        return self._of_strips[known]

    def _need_of_row(self, tiles: Tiles, from_the_top: bool) -> int:
        """Return the bytes at the peak while a row of tiles is labelled."""
        width = tiles.columns[-1].pixels.stop
        rows = max(len(span.pixels) for span in tiles.rows)
        row = self._scores(rows * width) + WINDOW_ROW * rows * width
        row += self._image(rows * width) * (2 if from_the_top else 0)
        area = tiles.largest[0] * tiles.largest[1]
        on_cpu = self._net.device.type == "cpu"
        layers = self._layers(tiles.largest) if on_cpu else 0
        return int(SPLIT * (FIXED + row + layers + WINDOWS * self._image(area)))

    def holds_layers(self, size: Size) -> bool:
        """Tell whether the layers of an image of a size fit into half of the memory."""
        return self._layers(size) <= self._most / 2

    @property
    def _bounded(self) -> bool:
        return self._net.vertical.bounded and self._net.horizontal.bounded

    def _asked(self, size: Size, most: Size) -> Work:
        """Return how an image is labelled by tiles of a size that was asked for."""
        pixels = size[0] * size[1]
        if size[0] <= most[0] and size[1] <= most[1]:
            return Work(None, self._need(pixels, self._layers(size)))
        tiles = Tiles.sized(self._net, size, most, self._reach)
        if tiles is not None:
            return Work(tiles, self._need(pixels, self._layers(tiles.largest)))
        height = least_tile(self._net.vertical, size[0], self._reach)
        width = least_tile(self._net.horizontal, size[1], self._reach)
        raise NoRoomError(
            f"tiles of {most[0]}x{most[1]} pixels are too small: what a score sees takes "
            f"{height}x{width} of them; give a larger --tile, or a --margin of fewer pixels"
        )

    def _need(self, pixels: int, layers: int) -> int:
        """Return the bytes at the peak, be that while an image is read, labelled or written."""
        image = self._image(pixels)
        layers = layers if self._net.device.type == "cpu" else 0
        labelling = image + self._scores(pixels) + max(layers, WRITING * pixels)
        return int(SPLIT * (FIXED + max(DECODING * image // 3, labelling)))

    def _room(self, pixels: int) -> int | None:
        """Return the bytes that there are for the layers beside an image and its scores."""
        if self._net.device.type == "cuda":
            return int(DEVICE_SHARE * torch.cuda.mem_get_info(self._net.device)[0])
        if self.free is None:
            return None
        room = self.free / SPLIT - FIXED - self._image(pixels) - self._scores(pixels)
        return max(0, int(room))

    def _image(self, pixels: int) -> int:
        channels = sum(self._net.inputs.values())
        return pixels * channels * (1 if self._net.inputs == {"color": 3} else 4)

    def _scores(self, pixels: int) -> int:
        """Return the bytes of the coarse scores, of both views, and of a copy of one."""
        classes = sum(head.num_classes for head in self._net.heads.values())
        axes = self._net.vertical, self._net.horizontal
        pixels_a_cell = prod(axis.alignments[-1].factor for axis in axes)
        return pixels * 4 * classes * (1 + self._views) // pixels_a_cell

    def _layers(self, size: Size) -> int:
        """Return the bytes that the layers take of an image, or a tile, of a size."""
        return int(self._bytes_a_pixel * area(self._net, size))

    @cached_property
    def _bytes_a_pixel(self) -> float:
        return bytes_a_pixel(self._net)

    def _tiles(self, size: Size, room: int) -> Tiles | None:
        """Divide an image so that the layers of each tile take up to `room`."""
        padding = 2 * (self._net.arguments.padding or 0)
        side = int((room / self._bytes_a_pixel) ** 0.5) - padding
        return Tiles.of(self._net, size, side * side, self._reach) if side > 0 else None
