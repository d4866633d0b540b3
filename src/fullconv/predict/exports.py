"""Exported files in place of a net behind an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.export.opened import SUFFIXES, OpenedExport
from fullconv.net.fcn import Labels, Pixels, Views
from fullconv.net.head import BAND, UNSURE, Size, probabilities
from fullconv.predict.engines.engine import LARGE
from fullconv.predict.tiles import Tiles

AT_ONCE = 4  # images worked on side by side


class ExportLabeller:
    """Labels images with an export, as `Labeller` does with a net; any thread may ask.

    Its views are what the export gives: labels, scores or probabilities of every pixel.

    Attributes:
        net: the export.
        tta: False: an export sees an image as it is.
    """

    def __init__(self, export: OpenedExport) -> None:
        self.net, self.tta = export, False

    @property
    def engine(self) -> OpenedExport:
        """What works on images side by side."""
        return self.net

    def views(self, image: Pixels, tiles: Tiles | None = None) -> Views:
        """Return what the export gives for an image H x W x C, by head; tiles there are none."""
        assert tiles is None
        found = self.net.outputs(image[None])
        return [{name: torch.from_numpy(each) for name, each in found.items()}]

    def views_of_batch(self, images: Sequence[Pixels]) -> list[Views]:
        """Return the views of images of one size and type, worked out together."""
        found = self.net.outputs(np.stack(images))
        return [
            [{name: torch.from_numpy(each[at : at + 1]) for name, each in found.items()}]
            for at in range(len(images))
        ]

    def labels(self, views: Views, size: Size) -> dict[str, Labels]:  # noqa: ARG002
        """Return the class id of each pixel, uint8 H x W, by head."""
        (view,) = views
        return {name: _labels(each[0].numpy()) for name, each in view.items()}

    def unsure(self, views: Views, size: Size) -> dict[str, float]:
        """Return the share of pixels whose labels are unsure, by head; none of mere labels."""
        if self.net.about.output == "labels":
            return {}
        shares = {}
        for name in self.net.heads:
            unsure = sum(
                int((band.max(0) < UNSURE).sum()) for band in self._bands(name, views, size)
            )
            shares[name] = unsure / (size[0] * size[1])
        return shares

    def probability_bands(
        self, head: str, views: Views, size: Size
    ) -> Iterator[NDArray[np.float16]]:
        """Yield each class's calibrated probability at each pixel, C x rows x W from the top."""
        for band in self._bands(head, views, size):
            yield band.astype(np.float16)

    def _bands(self, name: str, views: Views, size: Size) -> Iterator[NDArray[np.float32]]:
        (view,) = views
        head, whole = self.net.heads[name], view[name]
        step = max(1, BAND // (head.num_classes * size[1]))
        for top in range(0, size[0], step):
            band = whole[:, :, top : top + step]
            if self.net.about.output == "scores":
                band = probabilities(band, head.temperature)
            yield band[0].numpy()


def opened_for(known: OpenedExport, images: int, first: Pixels | None) -> OpenedExport:
    """Return an export ready for some images side by side, if they are many and not large.

    Args:
        known: opened for one image at a time.
        images: how many there are.
        first: one of them.
    """
    large = first is not None and first.shape[0] * first.shape[1] >= LARGE
    at_once = 1 if large else min(images, AT_ONCE, torch.get_num_threads())
    return OpenedExport(known.path, at_once=at_once) if at_once > 1 else known


def require_of_export(
    about: OpenedExport, *, engine: str, precision: str, device: str, tta: bool, scores: bool
) -> None:
    """Refuse what an export can't do, whose graph is what it is.

    Raises:
        FullconvError: the message says what to do instead.
    """
    path, own = about.path, SUFFIXES[about.path.suffix.lower()]
    if engine not in ("auto", own):
        raise FullconvError(f"{path}: is run by {own}; leave out --engine {engine}")
    if precision not in ("auto", about.about.precision):
        raise FullconvError(
            f"{path}: is of precision {about.about.precision}; leave out --precision {precision}"
        )
    if device not in ("auto", "cpu"):
        raise FullconvError(f"{path}: exports work on the CPU here; use --device cpu")
    if tta:
        raise FullconvError(f"{path}: an export knows no --tta; give the model folder instead")
    if scores and about.about.output == "labels":
        raise FullconvError(
            f"{path}: gives labels only; for --scores export the model with --output probabilities"
        )


def _labels(found: NDArray[Any]) -> Labels:
    labels: Labels = found if found.ndim == 2 else found.argmax(0).astype(np.uint8)
    return labels
