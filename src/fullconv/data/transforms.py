"""Random views of an image and its labels, by torchvision's transforms, both moved together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from fullconv.data.info import COLOR

MOST_PIXELS = 640 * 640  # that a net sees at once in training, if nobody says otherwise
LEAST_REDUCED = 768 * 768  # pixels that are left of an image that is reduced
SMALL = 768 * 768  # pixels that small images may have once they are magnified
TINY = 448 * 448  # likewise of images smaller than those that trunks learnt from
LEAST_SHOWN, LEAST_SEEN = 48, 96  # pixels on a side of a crop, and of it as the net sees it
COARSEST_STRIDE = 32  # of any trunk
MEAN_COLOR = (124, 116, 104)  # ImageNet's: about zero after most preprocessing
MIDDLE, UNMEASURED = 128, 0  # of other bytes, such as HHA; of distances: nothing was measured

_PLAIN = {COLOR: 3}


class RandomScaleCrop(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Enlarges by a random factor and takes a random crop; both at once, so no pixel is wasted.

    The region that the crop shows is cut out first and only then resized. Where the enlarged image
    is smaller than the crop, it lies somewhere in it, amid ignored labels and, by input, mean
    colour, the middle of the bytes' range, or distance 0. Labels and distances are never mixed.

    Args:
        crop: height and width of the result in pixels.
        scale: smallest and largest enlargement; its logarithm is uniform between them.
        ignore_index: label of what lies outside the image.
        inputs: the channels that an image has of each input: 1 where they are distances.
    """

    def __init__(
        self,
        crop: tuple[int, int],
        scale: tuple[float, float],
        ignore_index: int = 255,
        inputs: Mapping[str, int] = _PLAIN,
    ) -> None:
        super().__init__()
        self.crop, self.scale, self.ignore_index = crop, scale, ignore_index
        self.channels = list(inputs.values())
        self.fill = [value for input_ in inputs.items() for value in _neutral(*input_)]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the enlargement, the region of the image and its place in the crop."""
        low, high = self.scale
        factor = low * (high / low) ** float(torch.rand(()))
        height, width = F.get_size(flat_inputs[0])
        top, rows, above, below = _place(height, self.crop[0], factor)
        left, columns, before, after = _place(width, self.crop[1], factor)
        return {
            "region": (top, left, rows, columns),
            "size": [self.crop[0] - above - below, self.crop[1] - before - after],
            "padding": [before, above, after, below],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut, resize and pad an Image C,H,W or a Mask K,H,W."""
        mask = isinstance(inpt, tv_tensors.Mask)
        region, size = F.crop(inpt, *params["region"]), params["size"]
        if mask:
            region = tv_tensors.wrap(_nearest(region, size), like=inpt)
        elif len(self.channels) == 1:
            region = _resized(region, size)
        else:
            parts = region.split(self.channels)
            region = tv_tensors.wrap(torch.cat([_resized(each, size) for each in parts]), like=inpt)
        fill = self.ignore_index if mask else self.fill
        return F.pad(region, params["padding"], fill=fill) if any(params["padding"]) else region


def _neutral(name: str, channels: int) -> tuple[int, ...]:
    """Return what lies outside the image in the channels of an input."""
    if name == COLOR and channels == len(MEAN_COLOR):
        return MEAN_COLOR
    return (UNMEASURED if channels == 1 else MIDDLE,) * channels


def _resized(image: Tensor, size: list[int]) -> Tensor:
    """Resize the channels of one input, bilinearly except where they are distances."""
    if image.shape[0] == 1 or size == [1, 1]:  # torch's bilinear kernel for bytes fails at the last
        return _nearest(image, size)
    resized: Tensor = F.resize(image, size, antialias=True)
    return resized


def _nearest(image: Tensor, size: list[int]) -> Tensor:
    """Resize without mixing; torchvision's own mask kernel is half a pixel off when it enlarges."""
    plain = image.as_subclass(Tensor)
    resized: Tensor = F.resize_image(plain, size, InterpolationMode.NEAREST_EXACT)
    return resized


class ColorChange(v2.ColorJitter):  # type: ignore[misc]  # torchvision has no types
    """A `ColorJitter` of some channels of an image, whatever its dtype: RGB in 0..255.

    Args:
        first: the first of the three channels.
        strength: of the change of brightness, contrast and saturation, 0 (none) to 1.
    """

    def __init__(self, first: int, strength: float) -> None:
        super().__init__(strength, strength, strength)  # a hue shift costs ten times as much
        self.first = first

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change the colours of an Image; a Mask stays."""
        if isinstance(inpt, tv_tensors.Mask):
            return inpt
        if inpt.shape[0] == len(MEAN_COLOR):
            return super().transform(inpt, params)
        before, color, after = inpt.as_subclass(Tensor).split(
            [self.first, 3, inpt.shape[0] - self.first - 3]
        )
        changed = super().transform(tv_tensors.Image(color.round().byte()), params)
        return tv_tensors.wrap(torch.cat([before, changed.to(inpt.dtype), after]), like=inpt)


def _place(length: int, crop: int, factor: float) -> tuple[int, int, int, int]:
    """Draw, along one side, the start and length of the region and the padding on both ends."""
    region = crop / factor
    if region <= length:
        taken = max(round(region), 1)
        return _draw(length - taken), taken, 0, 0
    padding = crop - max(round(length * factor), 1)
    before = _draw(padding)
    return 0, length, before, padding - before


def _draw(most: int) -> int:
    """Draw a whole number from 0 to `most`."""
    return int(torch.randint(most + 1, ()))


def training_transform(
    crop: tuple[int, int] | None,
    scale: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.0,
    color: float = 0.0,
    *,
    reduce: int = 1,
    ignore_index: int = 255,
    inputs: Mapping[str, int] = _PLAIN,
) -> v2.Transform:
    """Return the transform of a pair (Image C,H,W uint8 or float32, Mask K,H,W uint8).

    It draws from torch's global generator.

    Args:
        crop: height and width of the region that is shown, in the images' own pixels, but for its
            enlargement; None: images stay whole, as they are.
        scale: smallest and largest enlargement; nothing where `crop` is None.
        flip: probability of a left-right flip.
        color: strength of the change of brightness, contrast and saturation, 0 (none) to 1, of the
            input "color".
        reduce: how many times smaller the result is than the crop.
        ignore_index: label of what lies outside the image.
        inputs: the channels that an image has of each input, in order.
    """
    steps: list[v2.Transform] = []
    if crop is not None:
        rows, columns = (max(side // reduce, 1) for side in crop)
        low, high = (factor / reduce for factor in scale)
        steps.append(RandomScaleCrop((rows, columns), (low, high), ignore_index, inputs))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if color and inputs.get(COLOR) == len(MEAN_COLOR):
        names = list(inputs)
        first = sum(inputs[name] for name in names[: names.index(COLOR)])
        steps.append(ColorChange(first, color))
    return v2.Compose(steps or [v2.Identity()])


def default_crop(
    height: int, width: int, magnify: int = 1, reduce: int = 1, *, finer: int = 1
) -> tuple[int, int]:
    """Return the training crop for images of a typical size, in their own pixels.

    About the native size, in its proportions where the net sees more than `MOST_PIXELS` of it.
    Where small or thin things call for finer cells, a half or a quarter of each side, by the larger
    of the factors that make cells finer, magnification and finer strides, though not below
    `LEAST_SHOWN` nor, as the net sees it, `LEAST_SEEN`: what is small is known by what is near, and
    for the same work more steps see more places. Multiples of 32 of the pixels that the net sees,
    except for sides below that.

    Args:
        height: of the images in pixels.
        width: likewise.
        magnify: how many times larger than they are the net sees images.
        reduce: how many times smaller.
        finer: how many times finer than its model's name tells its strides make its cells.
    """
    shrink = min(1.0, reduce * math.sqrt(MOST_PIXELS / (height * width)))
    sides = [max(int(side * shrink), 1) for side in (height, width)]
    part = max(magnify, finer)
    if part > 1:
        least = max(LEAST_SHOWN, LEAST_SEEN // magnify)
        sides = [max(side // part, min(side, least)) for side in sides]
    unit = max(COARSEST_STRIDE * reduce // magnify, 1)
    rows, columns = (side // unit * unit if side >= unit else side for side in sides)
    return rows, columns


def default_magnification(height: int, width: int, most: int, pixels: int = SMALL) -> int:
    """Return how many times larger images of a typical size may become: a power of two.

    Small images show small things, and what a trunk learnt from photographs it learnt from larger
    ones.

    Args:
        height: of the images in pixels.
        width: likewise.
        most: the largest factor that the net allows.
        pixels: which a magnified image must not exceed.
    """
    factor = 1
    while 2 * factor <= most and (2 * factor) ** 2 * height * width <= pixels:
        factor *= 2
    return factor


def default_reductions(height: int, width: int) -> list[int]:
    """Return how many times smaller a net may see images of a typical size: 1, then powers of two.

    What is large on a photograph of many pixels is larger than all that a trunk learnt from; of it
    `LEAST_REDUCED` pixels are to be left.

    Args:
        height: of the images in pixels.
        width: likewise.
    """
    most = math.isqrt(height * width // LEAST_REDUCED)
    return [1 << power for power in range(max(most, 1).bit_length())]
