"""Random views of an image and its labels, by torchvision's transforms, both moved together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

MEAN_COLOR = (124, 116, 104)  # ImageNet's: about zero after most preprocessing


class RandomScaleCrop(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Enlarges by a random factor and takes a random crop; both at once, so no pixel is wasted.

    The region that the crop shows is cut out first and only then resized. Where the enlarged image
    is smaller than the crop, it lies somewhere in it, amid mean colour and ignored labels.

    Args:
        crop: height and width of the result in pixels.
        scale: smallest and largest enlargement; its logarithm is uniform between them.
        ignore_index: label of what lies outside the image.
    """

    def __init__(
        self, crop: tuple[int, int], scale: tuple[float, float], ignore_index: int = 255
    ) -> None:
        super().__init__()
        self.crop, self.scale, self.ignore_index = crop, scale, ignore_index

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
        """Cut, resize and pad an Image (bilinear) or Mask (nearest, never a mixture of labels)."""
        mask = isinstance(inpt, tv_tensors.Mask)
        region, size = F.crop(inpt, *params["region"]), params["size"]
        if mask:  # torchvision's own mask kernel is half a pixel off when it enlarges
            plain = region.as_subclass(Tensor)[None]
            plain = F.resize_image(plain, size, InterpolationMode.NEAREST_EXACT)
            region = tv_tensors.wrap(plain[0], like=inpt)
        elif size == [1, 1]:  # torch's bilinear kernel for bytes fails at this
            region = F.resize(region, size, InterpolationMode.NEAREST_EXACT)
        else:
            region = F.resize(region, size, antialias=True)
        fill = self.ignore_index if mask else list(MEAN_COLOR)
        return F.pad(region, params["padding"], fill=fill) if any(params["padding"]) else region


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
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.0,
    color: float = 0.0,
    ignore_index: int = 255,
) -> v2.Transform:
    """Return the transform of (Image 3xHxW, Mask HxW), both uint8, to a pair of the size `crop`.

    It draws from torch's global generator.

    Args:
        crop: height and width in pixels.
        scale: smallest and largest enlargement.
        flip: probability of a left-right flip.
        color: strength of the change of brightness, contrast and saturation, 0 (none) to 1.
        ignore_index: label of what lies outside the image.
    """
    steps: list[v2.Transform] = [RandomScaleCrop(crop, scale, ignore_index)]
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if color:
        steps.append(v2.ColorJitter(color, color, color))  # a hue shift costs ten times as much
    return v2.Compose(steps)


def default_crop(height: int, width: int, most_pixels: int = 640 * 640) -> tuple[int, int]:
    """Return the training crop for images of a typical size.

    About the native size, in its proportions where that exceeds `most_pixels`; multiples of 32
    except for sides below 32.
    """
    shrink = min(1.0, math.sqrt(most_pixels / (height * width)))
    sides = (max(int(side * shrink), 1) for side in (height, width))
    rows, columns = (side // 32 * 32 if side >= 32 else side for side in sides)
    return rows, columns
