"""One image through a net: scores, and the class of each pixel.

By test-time augmentation an image has two views, itself and its left-right mirror, and each pixel
the class whose probability is the highest on their average. The probabilities are averaged pixel by
pixel, the mirror's turned back, since the coarse cells of both need not lie on the same pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.base.modes import evaluating
from fullconv.base.precision import full_float32
from fullconv.measure.calibration import UNSURE, probabilities, top_probabilities

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.net.head import Head

Pixels = NDArray[np.uint8 | np.float32]
Labels = NDArray[np.uint8]
Size = tuple[int, int]
Views = Sequence[Mapping[str, Tensor]]  # the coarse scores of each view of an image, by head

BAND = 1 << 22  # scores of pixels that there are at a time: 16 MiB of float32, as a rule


@contextmanager
def inference(net: FCN, *, bf16: bool = False) -> Iterator[None]:
    """Put `net` in eval mode without gradients, in bfloat16 or true float32, in the body.

    Each of its modules gets back the mode it had, frozen ones among training ones included.
    """
    kind = next((p.device.type for p in net.parameters()), "cpu")
    with (
        evaluating(net),
        torch.inference_mode(),
        full_float32(enabled=not bf16),
        torch.autocast(kind, torch.bfloat16, enabled=bf16),
    ):
        yield


def coarse_scores(net: FCN, image: Pixels) -> dict[str, Tensor]:
    """Return the coarse scores of an image, 1 x C x h x w on the net's device, by head.

    To be called within `inference`.

    Args:
        net: the net.
        image: H x W x channels of all its inputs, uint8 or float32; colours are RGB in 0..255.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    own = torch.from_numpy(image.copy())  # torch minds read-only arrays and negative strides
    return net.by_head(net.coarse(net.preprocessing(own.to(device).permute(2, 0, 1)[None])))


def views_of(image: Pixels, *, tta: bool) -> list[Pixels]:
    """Return what a net is to see of an image H x W x C: it and, if `tta`, its mirror."""
    return [image, np.ascontiguousarray(image[:, ::-1])] if tta else [image]


def labels_of(net: FCN, views: Views, size: Size) -> dict[str, Labels]:
    """Return the class of each pixel, H x W, by head.

    Args:
        net: the net.
        views: the coarse scores of one view or two. Of a single one, labels are worked out without
            full-resolution scores where that can be (see `Head.labels`).
        size: height and width of the image.
    """

    def best(name: str, head: Head) -> Tensor:
        if len(views) == 1:
            return head.labels(views[0][name], size)[0]
        bands = probability_bands(net, name, views, size)
        return torch.cat([band.max(0).indices.byte() for band in bands])

    return {name: best(name, head).cpu().numpy() for name, head in net.labelled()}


def probability_bands(net: FCN, head: str, views: Views, size: Size) -> Iterator[Tensor]:
    """Yield the calibrated probabilities of each pixel from the top, a band of rows at a time.

    So memory is bounded, however large the image and many the classes.

    Args:
        net: the net.
        head: whose they are.
        views: the coarse scores of one view or two, over which they are averaged.
        size: height and width of the image.

    Yields:
        float32, classes x rows x W.
    """
    own, (height, width) = dict(net.labelled())[head], size
    step = max(BAND // (own.num_classes * width), net.vertical.alignments[-1].factor)
    for top in range(0, height, step):
        rows = range(top, min(top + step, height))
        scores = [scores_within(net, own, view[head], rows, range(width)) for view in views]
        each = [probabilities(of_view, own.temperature)[0] for of_view in scores]
        yield each[0] if len(each) == 1 else (each[0] + each[1].flip(-1)) / 2


def scores_within(net: FCN, head: Head, coarse: Tensor, rows: range, columns: range) -> Tensor:
    """Return the scores of a part of an image, those that `Head.upsample` gives all of it.

    Args:
        net: whose `head` it is.
        head: enlarges the scores.
        coarse: scores of the whole image, 1 x C x h x w.
        rows: successive ones, of pixels.
        columns: likewise.

    Returns:
        1 x C x rows x columns.
    """
    starts, cells = [], []
    chains = net.vertical, net.horizontal
    read = _cells_read(net, coarse, rows, columns)
    for chain, pixels, own in zip(chains, (rows, columns), read, strict=True):
        factor = chain.alignments[-1].factor
        first = min(own.start, pixels.start // factor)  # cells before are not read
        cells.append(slice(first, own.stop))
        starts.append(pixels.start - first * factor)
    (down, across), (top, left) = cells, starts
    scores = head.upsample(coarse[..., down, across], (top + len(rows), left + len(columns)))
    return scores[..., top:, left:]


def unsure_shares(net: FCN, views: Views, size: Size) -> dict[str, float]:
    """Return the share of an image's labels that are unsure, 0..1, by head.

    Unsure is what has a calibrated probability below `UNSURE`. It is looked for among the coarse
    cells that the image's pixels read, not among pixels, whose scores would cost more than labels.

    Args:
        net: the net.
        views: the coarse scores of one view or two, whose cells all count.
        size: height and width of the image.
    """
    shares, pixels = {}, (range(size[0]), range(size[1]))
    for name, head in net.labelled():
        tops = []
        for view in views:
            cells = view[name][(0, ..., *_cells_read(net, view[name], *pixels))]
            tops.append(top_probabilities(cells.float().cpu().numpy(), head.temperature).ravel())
        sure = np.concatenate(tops) >= UNSURE
        shares[name] = 1 - float(sure.mean())
    return shares


def head_labels(
    net: FCN, image: Pixels, *, bf16: bool = False, tta: bool = False
) -> dict[str, Labels]:
    """Return what `label_image` does by the name of its head, also where there is only one.

    With `tta` by the probabilities of the image and of its mirror.
    """
    with inference(net, bf16=bf16):
        views = [coarse_scores(net, view) for view in views_of(image, tta=tta)]
        return labels_of(net, views, (image.shape[0], image.shape[1]))


def label_image(net: FCN, image: Pixels, *, bf16: bool = False) -> Labels | dict[str, Labels]:
    """Return the class id of each pixel of an image.

    Works on the net's own device, in eval mode; the net's mode is restored afterwards.

    Args:
        net: the net.
        image: H x W x channels of all its inputs, uint8 or float32; colours are RGB in 0..255.
        bf16: whether to work in bfloat16.

    Returns:
        HxW uint8; of several heads, one such array by the name of each.
    """
    labels = head_labels(net, image, bf16=bf16)
    return labels if len(labels) > 1 else next(iter(labels.values()))


def _cells_read(net: FCN, coarse: Tensor, rows: range, columns: range) -> tuple[slice, slice]:
    """Return which coarse cells, down and across, a part of the image reads; one at least."""
    read = []
    for chain, pixels, count in zip(
        (net.vertical, net.horizontal), (rows, columns), coarse.shape[-2:], strict=True
    ):
        alignment = chain.alignments[-1]
        (first, _), (_, last) = (alignment.cells_read(pixels[end]) for end in (0, -1))
        first = min(max(first, 0), count - 1)
        read.append(slice(first, min(max(first, last), count - 1) + 1))
    return read[0], read[1]
