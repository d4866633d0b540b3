"""Scores of an image that is given from the top on, a strip of rows at a time.

Layers slide over rows: those of the next strip see but the last few of this one. So the trunk is
cut where all paths meet (at cut points) into parts, and each part keeps of what goes into it the
rows that it will see again. However tall an image is, and however far a score sees: little more
than the strip is ever held, and little is worked out twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fullconv.base.runtime import inference
from fullconv.dense.grids import LayerGrid, layer_grids
from fullconv.dense.layers import keep
from fullconv.dense.tracing import cut_points
from fullconv.geometry import Grid
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN, as_tensor
from fullconv.net.trunk import Trunk

WORTH = 8  # times as many rows as a part works out again are worth a step of it


@dataclass(frozen=True)
class _End:
    """A value that a part of a trunk gives.

    Attributes:
        grid: of its rows on those that go into the part.
        whole: of its rows on those of the image as the trunk sees it.
        tap: which tap of the net it is; None: it goes into the next part.
    """

    grid: Grid
    whole: Grid
    tap: int | None


@dataclass(frozen=True)
class _Part:
    """A part of a trunk, from one cut point to the next.

    Attributes:
        layers: from rows N x C x h x w to those of each end.
        ends: what they give.
    """

    layers: fx.GraphModule
    ends: tuple[_End, ...]

    @property
    def stride(self) -> int:
        """Rows between those of its coarsest end."""
        return max(end.grid.stride for end in self.ends)

    @property
    def worth(self) -> int:
        """How many new rows are worth a step: of fewer, too much would be worked out again."""
        again = max(end.grid.receptive_field - end.grid.stride for end in self.ends)
        return WORTH * max(0, again)

    @property
    def least(self) -> int:
        """How many rows its layers need at least."""
        return max(end.grid.receptive_field for end in self.ends)


@dataclass
class _Rows:
    """Those rows of a value that are at hand.

    What outlives a strip is kept in a place of its own that is made once. Scattered among what the
    layers of a strip take, it would leave gaps there that fit nothing of the next one.

    Attributes:
        first: the number of the first one.
        values: N x C x rows x w; None: there are none so far.
    """

    first: int = 0
    values: Tensor | None = None
    _place: Tensor | None = None

    @property
    def count(self) -> int:
        """How many are at hand."""
        return 0 if self.values is None else self.values.shape[2]

    @property
    def stop(self) -> int:
        """How many there have been."""
        return self.first + self.count

    def add(self, rows: Tensor) -> None:
        """Add the next ones, for one step."""
        self.values = rows if self.values is None else torch.cat((self.values, rows), 2)

    def append(self, rows: Tensor) -> None:
        """Add the next ones where the others are kept."""
        stop = self.count + rows.shape[2]
        if self._place is None or self._place.shape[2] < stop:
            before, self._place = self.values, _room(rows, stop + stop // 2)
            if before is not None:
                self._place[:, :, : self.count] = before
        self._place[:, :, self.count : stop] = rows
        self.values = self._place[:, :, :stop]

    def keep(self, first: int) -> None:
        """Give up those before one, and keep the others."""
        if self.values is None:
            return
        gone = min(max(first - self.first, 0), self.count)
        rest, self.first = self.values[:, :, gone:], self.first + gone
        if self._place is None or self._place.shape[2] < rest.shape[2]:
            self._place = _room(rest, rest.shape[2])
        self.values = self._place[:, :, : rest.shape[2]]
        if rest.untyped_storage() is self._place.untyped_storage():
            rest = rest.clone()
        self.values.copy_(rest)

    def window(self, first: int, count: int) -> Tensor:
        """Return a copy of some rows; zeros stand for those that have not come yet."""
        assert self.values is not None and first >= self.first
        rows = self.values[:, :, first - self.first :][:, :, :count]
        return F.pad(rows, (0, 0, 0, count - rows.shape[2]))


def _room(rows: Tensor, count: int) -> Tensor:
    """Return room for so many rows like these."""
    last = rows.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        (*rows.shape[:2], count, rows.shape[3]),
        dtype=rows.dtype,
        device=rows.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


class Strips:
    """A net that works by strips; it has nothing of an image (see `Strip`).

    Attributes:
        net: for inference.
        parts: of its trunk.
        bf16: whether convolutions are worked out in bfloat16.
    """

    def __init__(self, net: FCN, parts: Sequence[_Part], *, bf16: bool) -> None:
        self.net, self.parts, self.bf16 = net, tuple(parts), bf16

    @classmethod
    def of(cls, net: FCN, *, bf16: bool = False) -> Strips | None:
        """Cut a net for inference into parts.

        Returns:
            None where that can't be: the net has several trunks, enlarges images, depends on the
            whole of them, or has branches that do not agree about every number of rows.
        """
        if not isinstance(net.trunk, Trunk) or net.magnified is not None:
            return None
        if not (net.vertical.bounded and net.horizontal.bounded):
            return None
        if net.taps[0].vertical.disagrees:
            return None
        parts = list(_parts(net.trunk.layers))
        return cls(net, [part for part in parts if part], bf16=bf16) if all(parts) else None

    @property
    def step(self) -> int:
        """Pixels of which each strip but the last of an image must have a multiple of rows."""
        return self.net.vertical.grids[0].stride


def _parts(layers: fx.GraphModule) -> Iterator[_Part | None]:
    """Yield the parts of a trunk, in order; None for what a part would need of an earlier one."""
    grids = layer_grids(layers)
    image, *_, output = layers.graph.nodes
    taps = cast("tuple[fx.Node, ...]", output.args[0])
    for start, following in pairwise((image, *_boundaries(layers, grids, taps), None)):
        ends: list[tuple[fx.Node, int | None]] = [(following, None)] if following else []
        ends += [
            (tap, number)
            for number, tap in enumerate(taps)
            if start < tap and (following is None or not following < tap)
        ]
        part = _between(layers, start, [node for node, _ in ends])
        places = [(_rows(grids[node]), tap) for node, tap in ends]
        own = _rows(grids[start])
        found = tuple(_End(grid.on(own), grid, tap) for grid, tap in places)
        yield None if part is None else _Part(part, found)


def _boundaries(
    layers: fx.GraphModule, grids: dict[fx.Node, LayerGrid], taps: Sequence[fx.Node]
) -> list[fx.Node]:
    """Return where to cut: of the cut points on each grid, one of the fewest channels."""
    last = max(taps)
    found: dict[tuple[int, int, int], fx.Node] = {}
    for node in cut_points(layers.graph, to_the_last=True):
        grid = grids[node].vertical
        if grid is None or grids[node].layout != "NCHW" or not node < last or grid == Grid():
            continue
        place = grid.stride, grid.first, grid.last
        if place not in found or _channels(node) <= _channels(found[place]):
            found[place] = node
    return list(found.values())


def _channels(node: fx.Node) -> int:
    return int(node.meta["shape"][1])


def _rows(place: LayerGrid) -> Grid:
    assert place.vertical is not None
    return place.vertical


def _between(
    layers: fx.GraphModule, start: fx.Node, ends: Sequence[fx.Node]
) -> fx.GraphModule | None:
    """Return what leads from one value to others; None where other values go in, too."""
    wanted, asked = set[fx.Node](), list(ends)
    while asked:
        node = asked.pop()
        if node.op == "placeholder" and node != start:
            return None
        if node != start and node not in wanted:
            wanted.add(node)
            asked += node.all_input_nodes
    graph = fx.Graph()
    rows = graph.placeholder("rows")
    copies = {start: rows}
    for node in layers.graph.nodes:
        if node in wanted:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[end] for end in ends))
    part = fx.GraphModule(layers, graph)
    keep(part, next(iter(part.graph.nodes)))
    part.recompile()
    return part


class Strip:
    """An image that comes strip by strip, as far as it has come; and its scores."""

    def __init__(self, strips: Strips, height: int) -> None:
        """Begin an image of a height in pixels."""
        parts, net = strips.parts, strips.net
        self.strips, self._height, self._come = strips, height, 0
        self._seen = net.seen_size((height, 1))[0]
        self._held, self._stepped = [_Rows() for _ in parts], [0 for _ in parts]
        self._given = [[0 for _ in part.ends] for part in parts]
        self._scores = {name: [_Rows() for _ in net.taps] for name in net.heads}

    def add(self, pixels: Pixels, *, at_once: bool = False) -> None:
        """Take the next rows of the image, rows x W x channels.

        Args:
            pixels: as they are stored; their number is a multiple of `Strips.step`, unless they
                are the last ones.
            at_once: whether to work out all scores that these rows allow. Else some wait until
                more of their kind can be worked out together.
        """
        net = self.strips.net
        self._come += len(pixels)
        with inference(net.device.type, bf16=self.strips.bf16):
            seen = net.seen_of_pixels(as_tensor(pixels).to(net.device)[None])
            if self._come < self._height:  # what pads the image comes at its end
                seen = seen[:, :, : len(pixels) // net.arguments.reduce]
            rows: Tensor | None = seen
            del seen
            for index in range(len(self.strips.parts)):
                rows = self._passed_on(index, rows, at_once=at_once)

    def _passed_on(self, index: int, rows: Tensor | None, *, at_once: bool) -> Tensor | None:
        """Give rows to a part; return those that go into the next one."""
        part, held, given = self.strips.parts[index], self._held[index], self._given[index]
        if rows is not None:
            held.add(rows)
        last = held.stop == (self._seen if not index else self._total(index - 1, 0))
        enough = held.stop - held.first >= part.least
        worth = at_once or held.stop - self._stepped[index] >= part.worth
        if held.values is None or not (last or (enough and worth)):
            held.keep(0)
            return None
        self._stepped[index] = held.stop
        totals = [self._total(index, end) for end in range(len(part.ends))]
        ready = [
            total if last else min(end.grid.complete(held.stop), total)
            for end, total in zip(part.ends, totals, strict=True)
        ]
        if ready == given:
            held.keep(0)
            return None
        passed = None
        for number, values in enumerate(part.layers(held.values)):
            end = part.ends[number]
            before = held.first // end.grid.stride
            made = values[:, :, given[number] - before : ready[number] - before]
            if end.tap is None:
                passed = made if made.shape[2] else None
            elif made.shape[2]:
                self._score(end.tap, made)
        given[:] = ready
        held.keep(self._needed(part, given))
        return passed

    def _total(self, index: int, end: int) -> int:
        return self.strips.parts[index].ends[end].whole.cells(self._seen)

    def _needed(self, part: _Part, given: Sequence[int]) -> int:
        """Return from which row on a part sees what goes into it: a cell of all of its ends."""
        sees = (
            end.grid.stride * cell + end.grid.first
            for end, cell in zip(part.ends, given, strict=True)
        )
        return max(0, min(sees)) // part.stride * part.stride

    def _score(self, tap: int, features: Tensor) -> None:
        for name, head in self.strips.net.heads.items():
            self._scores[name][tap].append(head.scored(head.strides[tap], features))

    def coarse(self, rows: range, later: int) -> dict[str, Tensor]:
        """Return the coarse scores of a tile as wide as the image, 1 x C x h x w by head.

        Args:
            rows: of pixels, which have come; the first is a multiple of `Strips.step`. Scores that
                see beyond them are of no account, as at a tile's end.
            later: the first row of the next such tile.
        """
        net, found = self.strips.net, dict[str, Tensor]()
        size = net.vertical.covering_size(len(rows))
        with inference(net.device.type, bf16=self.strips.bf16):
            for name, head in net.heads.items():
                scores = list(zip(net.vertical.grids, self._scores[name], strict=True))
                windows = [
                    held.window(rows.start // grid.stride, grid.cells(size))
                    for grid, held in scores
                ]
                found[name] = head.fused(windows)
                for grid, held in scores:
                    held.keep(later // grid.stride)
        return found
