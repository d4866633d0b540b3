"""What a classifier expects of its input; it travels with the weights everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How RGB bytes become a network's input: ``(bytes * scale - mean) / std`` per channel.

    Attributes:
        channels: order of the channels that the network expects.
        scale: factor on the bytes 0..255 (1/255 in torchvision, 1 in Caffe).
        mean, std: per channel, in the network's channel order, after scaling.
        input_size: side in pixels of the square images that the classifier was trained on.
    """

    channels: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    input_size: int = 224

    def __call__(self, images: Tensor) -> Tensor:
        """Convert uint8 RGB images (..., 3, H, W) to the network's float32 input, same shape."""
        import torch

        shape = (len(self.mean), 1, 1)
        factor = self.scale / torch.tensor(self.std, device=images.device)
        offset = torch.tensor(self.mean, device=images.device) / torch.tensor(
            self.std, device=images.device
        )
        values = images.float()
        if self.channels == "BGR":
            values = values.flip(-3)
        return values * factor.reshape(shape) - offset.reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that config.json and weight files carry."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from `to_dict`'s form; missing keys take the ImageNet defaults.

        Raises:
            ValueError: a value is of the wrong kind, or mean and std differ in length.
        """
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        rebuilt = TypeAdapter(cls).validate_python(known)
        if len(rebuilt.mean) != len(rebuilt.std):
            raise ValueError(f"{len(rebuilt.mean)} means for {len(rebuilt.std)} stds")
        return rebuilt
