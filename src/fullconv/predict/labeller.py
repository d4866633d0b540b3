"""A net behind an engine: from an image to the class of each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.net.described import Labels, Pixels, Size
from fullconv.net.fcn import Views, views_of
from fullconv.predict.scenes import PixelScene

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.predict.engines.engine import Engine
    from fullconv.predict.tiles import Tiles


class Labeller:
    """Labels images with a net through an engine; any thread may ask.

    Attributes:
        net: the net.
        engine: what works out its coarse scores.
        tta: whether it looks at each image's mirror, too, in twice the time.
    """

    def __init__(self, net: FCN, engine: Engine, *, tta: bool = False) -> None:
        """Put `engine`, which was built of `net`, to work."""
        self.net, self.engine, self.tta = net, engine, tta

    def __call__(self, image: Pixels) -> dict[str, Labels]:
        """Return the class id of each pixel, HxW uint8, by head (see `Engine` for the image)."""
        return self.labels(self.views(image), (image.shape[0], image.shape[1]))

    def views(self, image: Pixels, tiles: Tiles | None = None) -> Views:
        """Return the coarse scores of an image and, if it looks at that, of its mirror.

        Args:
            image: H x W x channels (see `Engine`).
            tiles: how it is divided; None: it is not.
        """
        if tiles is None:
            return [self.engine(view) for view in views_of(image, tta=self.tta)]
        scene = PixelScene(image)
        return [
            tiles.coarse(scene, self.engine, mirrored=mirrored)
            for mirrored in (False, True)[: 1 + self.tta]
        ]

    def views_of_batch(self, images: Sequence[Pixels]) -> list[Views]:
        """Return the views of images of one size and type, worked out together."""
        seen = zip(*(views_of(image, tta=self.tta) for image in images), strict=True)
        return [list(views) for views in zip(*map(self.engine.of_batch, seen), strict=True)]

    @torch.inference_mode()
    def labels(self, views: Views, size: Size) -> dict[str, Labels]:
        """Return the class id of each of H x W pixels, by head, of coarse scores."""
        return self.net.labels(views, size)

    @torch.inference_mode()
    def unsure(self, views: Views, size: Size) -> dict[str, float]:
        """Return the share of unsure labels, by head (see `Head.unsure_share`)."""
        return self.net.unsure_shares(views, size)

    def probability_bands(
        self, head: str, views: Views, size: Size
    ) -> Iterator[NDArray[np.float16]]:
        """Yield each class's calibrated probability at each pixel, C x rows x W from the top.

        That of several views is their average.
        """
        with torch.inference_mode():
            own = [view[head] for view in views]
            for band in self.net.heads[head].probability_bands(own, size):
                yield band.half().cpu().numpy()
