"""What a classifier expects of its input; it travels with the weights everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.settings import first_mistake
from fullconv.base.stored import RGB, ValueRange
from fullconv.data.info import COLOR

if TYPE_CHECKING:
    from torch import Tensor

FAR = 0.5  # share of pixels beyond what a net was trained on
MOST_SIDE = 4096  # pixels of a classifier's native image
DARK, BRIGHT = 24, 0.001  # of 255; and the share of pixels that reach it even in dark images


@dataclass(frozen=True)
class Preprocessing:
    """How stored values become a network's input: ``(values * scale - mean) / std`` per channel.

    The values are RGB bytes as a rule. A net of several inputs has their channels one after the
    other, the three colours first if they are among them.

    Attributes:
        channels: order that the network expects of the first three channels.
        scale: factor on the values (on bytes 1/255 in torchvision, 1 in Caffe).
        mean, std: one a channel, in the network's channel order, after scaling.
        input_size: side in pixels of the square images that the classifier was trained on.
        logarithmic: the channels whose values, if above 1, are first replaced by their natural
            logarithm, and by 0 otherwise: depth in millimetres, which is 0 where unknown.
        ranges: by input, the least and the greatest value that files of more than 8 bits had in
            training. Of "color" they are seen as 0 and 255 (see `reader`).
        bands: names of the channels of an input that holds bands, by the input's name. Their values
            are kept; what is no number (no data) becomes 0 in the end, as the mean does.
        show: numbers, from 1, of the bands that a person is shown as red, green and blue.
    """

    channels: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    input_size: int = 224
    logarithmic: tuple[int, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    show: tuple[int, ...] = ()

    def reader(self, reader: ImageReader = ImageReader()) -> ImageReader:
        """Return a reader that sees images as the net was trained to; `reader` tells all else."""
        known = self.ranges.get(COLOR)
        span = ValueRange(*known) if known else reader.span
        return replace(reader, span=span, every_band=bool(self.bands))

    def shown(self, image: NDArray[Any], first: int = 0) -> NDArray[np.uint8]:
        """Return the bands of an image that are shown, as uint8 RGB, H x W x 3.

        Means are grey, and what is two and a half deviations from them black or white; so the
        same values look the same in every image. What is no number is black.

        Args:
            image: H x W x channels of all inputs.
            first: the channel with which the bands begin.
        """
        places = [first + at - 1 for at in self.show or (1,)]
        mean, std = np.array(self.mean)[places], np.array(self.std)[places]
        seen = (image[..., places] * self.scale - mean) / std
        grey: NDArray[np.uint8] = np.nan_to_num((seen / 5 + 0.5).clip(0, 1) * 255).astype(np.uint8)
        return grey if len(places) == len(RGB) else grey[..., :1].repeat(len(RGB), 2)

    def remarks(
        self, image: NDArray[Any], inputs: Mapping[str, int], bits: Sequence[int]
    ) -> Iterator[str]:
        """Say which inputs of an image hold values far from those that the net was trained on.

        Only files of more than 8 bits are judged, by what the net sees of them.

        Args:
            image: H x W x channels of all inputs.
            inputs: channels by name, in that order.
            bits: of a value in the file of each.
        """
        first = 0
        for (name, channels), deep in zip(inputs.items(), bits, strict=True):
            seen = image[..., first : first + channels]
            first += channels
            low, high = self.ranges.get(name, (0, 2.0**deep - 1))
            if deep > 8 and self._is_far(name, seen, low, high):
                yield (
                    f"its values ({name}) are far from {low:g}..{high:g}, which the model was made "
                    "for: its labels may be wrong"
                )

    def _is_far(self, name: str, seen: NDArray[Any], low: float, high: float) -> bool:
        if name != COLOR:
            return name in self.ranges and bool(np.mean((seen < low) | (seen > high)) > FAR)
        # 0..255 stand for them
        beyond = np.mean(seen == 255) > FAR or (low and np.mean(seen == 0) > FAR)
        return bool(beyond or np.mean(seen >= DARK) < BRIGHT)

    def __call__(self, images: Tensor) -> Tensor:
        """Convert images (..., C, H, W) to the network's float32 input of the same shape.

        Args:
            images: uint8, or float32 where bytes don't suffice; colours as RGB, C as many as
                there are means.
        """
        import torch

        shape = (len(self.mean), 1, 1)
        factor = self.scale / torch.tensor(self.std, device=images.device)
        offset = torch.tensor(self.mean, device=images.device) / torch.tensor(
            self.std, device=images.device
        )
        values = images.float()
        if self.logarithmic:
            logarithmic = [index in self.logarithmic for index in range(len(self.mean))]
            chosen = torch.tensor(logarithmic, device=images.device).reshape(shape)
            values = torch.where(chosen, values.clamp(min=1).log(), values)
        if self.channels == "BGR":
            colours, others = values[..., :3, :, :].flip(-3), values[..., 3:, :, :]
            values = torch.cat((colours, others), -3) if others.shape[-3] else colours
        seen = values * factor.reshape(shape) - offset.reshape(shape)
        return seen.nan_to_num(0.0) if self.bands else seen

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that config.json and weight files carry."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        values["ranges"] = {name: list(ends) for name, ends in self.ranges.items()}
        values["bands"] = {name: list(own) for name, own in self.bands.items()}
        for key in ("logarithmic", "ranges", "bands", "show"):  # which few nets need
            if not values[key]:
                del values[key]
        return values

    def require_sound(self) -> None:
        """Raise FullconvError for values that `from_dict` refuses: no file could carry them."""
        try:
            Preprocessing.from_dict(self.to_dict())
        except ValidationError as error:
            raise FullconvError(f"preprocessing: {first_mistake(error)}") from None
        except ValueError as error:
            raise FullconvError(f"preprocessing: {error}") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from `to_dict`'s form; missing keys take the ImageNet defaults.

        Raises:
            ValueError: a value is of the wrong kind or not finite, mean and std differ in length,
                a std, the scale or the input size is not positive, the input size is above 4096, a
                logarithmic channel is none, or a range does not rise, or a shown band is none.
        """
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        rebuilt = TypeAdapter(cls).validate_python(known)
        count = len(rebuilt.mean)
        if count != len(rebuilt.std):
            raise ValueError(f"{count} means for {len(rebuilt.std)} stds")
        if not all(map(math.isfinite, (rebuilt.scale, *rebuilt.mean, *rebuilt.std))):
            raise ValueError("a mean, std or scale that is not finite")
        if min(rebuilt.scale, rebuilt.input_size, *rebuilt.std) <= 0:
            raise ValueError("a std, scale or input_size that is not positive")
        if rebuilt.input_size > MOST_SIDE:  # a stranger's: images of this size are made to try nets
            raise ValueError(f"an input_size of {rebuilt.input_size}: at most {MOST_SIDE} are read")
        if not set(rebuilt.logarithmic) <= set(range(count)):
            raise ValueError(f"logarithmic channels {rebuilt.logarithmic} of {count}")
        for ends in rebuilt.ranges.values():
            ValueRange(*ends)
        if len(rebuilt.show) not in (0, 1, len(RGB)) or not set(rebuilt.show) <= set(
            range(1, 1 + max(map(len, rebuilt.bands.values()), default=0))
        ):
            raise ValueError(f"shown bands {rebuilt.show} are not one or three of {rebuilt.bands}")
        return rebuilt
