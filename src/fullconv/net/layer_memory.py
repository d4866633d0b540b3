"""What the layers of a net take of memory, counted while it is run."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fullconv.net.described import Size
from fullconv.net.fcn import FCN
from fullconv.net.strips import Strip, Strips

SMALL = 128  # pixels a side, of an image that stands for all
WIDTH = 1024  # pixels, of an image that stands for wider ones
SOME = 3  # rows of tiles that stand for all
ATEN = torch.ops.aten
NORMS = (ATEN.native_batch_norm, ATEN.cudnn_batch_norm, ATEN.miopen_batch_norm)


def layer_bytes(net: FCN, size: Size) -> int:
    """Return how many bytes the layers of a net hold at once, at the worst, of an image.

    Args:
        net: any.
        size: of the image, height and width in pixels.
    """
    return int(bytes_a_pixel(net) * area(net, size))


def bytes_a_pixel(net: FCN) -> float:
    """Return how many bytes the layers of a net hold at once for each pixel of its `area`.

    A small black image is labelled; what is counted are the tensors that live at the same time.
    Without data torch would do the same by its compiler, whose import alone takes longer; so its
    convolutions are left out, and batch normalisations, which engines fold into these.
    """
    size, twin = (SMALL, SMALL), net.for_inference()
    image = torch.zeros(1, *size, sum(net.inputs.values()), dtype=torch.uint8, device=net.device)
    with torch.no_grad(), _Live() as live:
        twin.coarse_of_pixels(image)
    return float(live.most / area(net, size))


def area(net: FCN, size: Size) -> int:
    """Return how many pixels the layers see of an image, the padding around it included."""
    padding = 2 * (net.arguments.padding or 0)
    return (size[0] + padding) * (size[1] + padding)


def strip_bytes(strips: Strips, tiles: Sequence[range], height: int) -> tuple[float, float]:
    """Return how many bytes a column of pixels takes that goes through a net by strips.

    Args:
        strips: the net.
        tiles: the rows of pixels of an image's tiles, which begin at multiples of ``strips.step``.
        height: of a strip.

    Returns:
        What is held from strip to strip at the worst, and what is taken besides at work. Columns
        that a net pads the image with count as pixels.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    begin, held, end = 0, 0, tiles[-1].stop
    image, net = Strip(strips, end), strips.net
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
        for tile, following in islice(pairwise((*tiles, tiles[-1])), SOME):
            stop = min(-(-tile.stop // strips.step) * strips.step, end)
            for top in range(begin, stop, height):
                shape = min(height, stop - top), WIDTH, sum(net.inputs.values())
                image.add(np.zeros(shape, np.uint8), at_once=top + shape[0] == stop)
                held = max(held, live.now)
            begin = stop
            image.coarse(tile, following.start)
    width = WIDTH + 2 * (net.arguments.padding or 0)
    return held / width, (live.most - held) / width


def _size_after(
    features: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Return the size, N x C x H x W, of what a convolution gives."""
    sides = zip(features.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return (
        features.shape[0],
        weight.shape[0],
        *((size + 2 * pad - gap * (side - 1) - 1) // by + 1 for size, side, by, pad, gap in sides),
    )


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive.

    Attributes:
        now: at this moment.
        most: at once, so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self.now: int = 0
        self._known = weakref.WeakSet[Any]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Have torch not import its compiler, which takes seconds, just to keep it out of here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, or make room for what it would give, and count that."""
        if func.overloadpacket in NORMS:
            features = args[0]
            return (features, *(features.new_empty(0) for _ in func._schema.returns[1:]))
        if func.overloadpacket is ATEN.convolution and not args[6]:  # transposed
            result = args[0].new_empty(_size_after(*args[:6]))
        else:
            result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def _free(self, count: int) -> None:
        self.now -= count
