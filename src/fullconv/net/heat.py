"""Where in an image a class is: the map of its probability, of a classifier or of a net."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fullconv.base.errors import FullconvError, nearest
from fullconv.base.runtime import inference
from fullconv.dense.grids import layer_grids
from fullconv.dense.layers import densify, own_copy
from fullconv.dense.tracing import trace
from fullconv.geometry import Grid
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN
from fullconv.net.preprocessing import Preprocessing

Heat = NDArray[np.float32]  # H x W probabilities, 0..1

SCALES = (1.0, 1.5, 2.0, 3.0)
IMAGENET = 1000
MOST_SIDES = 16  # how many times the native size the longer side of an image may be
MOST_SCALE = 8.0
EVIDENCE = 3  # how many times smaller than a native image the place is that evidence comes from


class DenseClassifier:
    """A classifier that was convolutionalised, and tells the classes of every part of an image.

    Its final pooling, which asks the whole image, becomes a mean over a third of its native window
    a side: enough for evidence, and little enough to tell where it is.

    Attributes:
        num_classes: that it knows.
        input_size: the side in pixels of its native images.
    """

    def __init__(self, classifier: nn.Module, preprocessing: Preprocessing) -> None:
        """Make it dense; what is given is left as it is.

        Raises:
            FullconvError: it can't slide over an image, or yields no map of scores.
        """
        self._preprocessing = preprocessing
        self.input_size = preprocessing.input_size
        self._dense = trace(own_copy(classifier), self.input_size).eval()
        densify(self._dense, self.input_size, pooling="drop", hidden="same")
        output = next(iter(reversed(self._dense.graph.nodes))).args[0]
        place = layer_grids(self._dense).get(output) if isinstance(output, fx.Node) else None
        if place is None or not (place.vertical and place.horizontal and place.layout == "NCHW"):
            raise FullconvError(f"{type(classifier).__name__} yields no map of class scores")
        self._grids = place.vertical, place.horizontal
        _, self.num_classes, *native = output.meta["shape"]
        self._window = tuple(2 * (side // (2 * EVIDENCE)) + 1 for side in native)

    def heat(
        self, image: NDArray[np.uint8], classes: Sequence[int], scales: Sequence[float] = SCALES
    ) -> Heat:
        """Return how probable it is, at each pixel, that one of some classes is there.

        Args:
            image: uint8 H x W x 3 (RGB).
            classes: their ids; their probabilities are added.
            scales: sizes at which it looks at the image, as the shorter side in native sizes; the
                means of what it sees are returned. A large one finds small things, and details.

        Returns:
            float32 H x W, 0..1.
        """
        maps = [self._heat_at(image, list(classes), scale) for scale in scales]
        mean: Heat = np.mean(maps, axis=0, dtype=np.float32)
        return mean

    def _heat_at(self, image: NDArray[np.uint8], classes: list[int], scale: float) -> Heat:
        height, width = image.shape[:2]
        factor = scale * self.input_size / min(height, width)
        factor = min(factor, MOST_SIDES * self.input_size / max(height, width))
        size = [max(1, round(side * factor)) for side in (height, width)]
        resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
        with inference():
            scores = self._dense(self._padded(self._preprocessing(pixels)))
            gathered = F.avg_pool2d(
                scores, self._window, 1, [side // 2 for side in self._window], False, False
            )
            cells = gathered.softmax(1)[0, classes].sum(0).numpy()
        for axis, (grid, here, there) in enumerate(
            zip(self._grids, (height, width), size, strict=True)
        ):
            cells = _placed(cells, grid, here, Fraction(there, here), axis)
        found: Heat = cells.clip(0, 1).astype(np.float32)
        return found

    def _padded(self, values: Tensor) -> Tensor:
        """Repeat the edges of an image that is smaller than a native one, right and below."""
        missing = [max(0, self.input_size - side) for side in values.shape[-2:]]
        return F.pad(values, (0, missing[1], 0, missing[0]), mode="replicate")


def heat_of_net(net: FCN, image: Pixels, head: str, classes: Sequence[int]) -> Heat:
    """Return the calibrated probability, at each pixel, that one of a head's classes is there.

    Args:
        net: as it is.
        image: H x W x channels of all inputs.
        head: its name.
        classes: their ids; their probabilities are added.

    Returns:
        float32 H x W, 0..1.
    """
    net, size = net.for_inference(), (image.shape[0], image.shape[1])
    with inference(net.device.type):
        coarse = net.coarse_of_image(image)[head]
        bands = net.heads[head].probability_bands([coarse], size)
        rows = [_summed(band, list(classes)) for band in bands]
    return np.concatenate(rows)


def _summed(band: Tensor, classes: list[int]) -> Heat:
    """Return the sum of some classes of probabilities [1 x] C x rows x W."""
    found: Heat = band.reshape(band.shape[-3:])[classes].sum(0).float().cpu().numpy()
    return found


def _placed(cells: NDArray[Any], grid: Grid, length: int, factor: Fraction, axis: int) -> Heat:
    """Interpolate cells linearly at each pixel of an axis, the outermost being repeated.

    Args:
        cells: of the image as it was seen.
        grid: where they lie on that.
        length: pixels of the image itself.
        factor: how many times larger it was seen.
        axis: of the cells.
    """
    seen = (np.arange(length) + 0.5) * float(factor) - 0.5
    last = cells.shape[axis] - 1
    place = ((seen - float(grid.offset)) / grid.stride).clip(0, last)
    before = np.minimum(place.astype(np.int64), max(last - 1, 0))
    share = (place - before).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    low, high = (cells.take(np.minimum(at, last), axis) for at in (before, before + 1))
    between: Heat = low * (1 - share) + high * share
    return between


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's thousand classes, as torchvision has them."""
    from torchvision.models import SqueezeNet1_1_Weights

    return tuple(SqueezeNet1_1_Weights.DEFAULT.meta["categories"])


def matching(wanted: str, names: Sequence[str]) -> tuple[int, ...]:
    """Return the classes that somebody means by a name.

    Those of this very name, if there are any; else those in whose names it stands as a word; else
    those in whose names it stands at all. Case, blanks and hyphens don't matter. A number is an id.

    Raises:
        FullconvError: there are none; the message names the nearest.
    """
    if wanted.strip().isdecimal():
        label = int(wanted)
        if label < len(names):
            return (label,)
        raise FullconvError(f"class {label}: there are 0 to {len(names) - 1}")
    asked = _folded(wanted)
    folded = [_folded(name) for name in names]
    tight = asked.replace(" ", "")
    for fits in (
        lambda name: name.replace(" ", "") == tight,
        lambda name: f" {asked} " in f" {name} ",
        lambda name: tight in name.replace(" ", ""),
    ):
        found = tuple(label for label, name in enumerate(folded) if tight and fits(name))
        if found:
            return found
    raise FullconvError(f"no class is called {wanted!r}{nearest(asked, folded)}")


def _folded(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))
