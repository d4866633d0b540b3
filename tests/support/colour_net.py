"""A net whose answer is known: a pixel's class is its strongest channel, of red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from fullconv.geometry import Alignment
from fullconv.net.preprocessing import Preprocessing


@dataclass(frozen=True)
class PixelHead:
    """What evaluation and prediction ask of a head whose coarse scores are those of pixels."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    temperature: float = 1.0

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def upsample(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        return coarse[:, :, : size[0], : size[1]]

    def labels(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        return self.upsample(coarse, size).argmax(1).byte()


class ColourNet(nn.Module):
    """Has what evaluation and prediction ask of an FCN; its scores are the preprocessed pixels."""

    classes = ("red", "green", "blue")
    palette = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    heads = {"labels": PixelHead(classes, palette)}  # noqa: RUF012
    inputs = {"color": 3}  # noqa: RUF012
    ignore_index = 255
    vertical = horizontal = SimpleNamespace(
        edge="replicate", alignments=(Alignment(factor=1, shift=Fraction(0), kernel=1, crop=0),)
    )
    preprocessing = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.eye_(self.score.weight[:, :, 0, 0])
        self.dropout = nn.Dropout(0.9)  # wrecks the answer unless the mode is eval

    def labelled(self) -> list[tuple[str, PixelHead]]:
        return list(self.heads.items())

    def by_head(self, scores: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(self.heads, scores) if isinstance(scores, Tensor) else scores

    def coarse(self, x: Tensor) -> Tensor:
        return self.dropout(self.score(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.coarse(x)


class FarColourNet(ColourNet):
    """Has two heads and two inputs: colours as above, and whether a pixel is over a metre away."""

    heads = {  # noqa: RUF012
        "sem": ColourNet.heads["labels"],
        "geo": PixelHead(("near", "far"), ((9, 9, 9), (99, 99, 99))),
    }
    inputs = {"color": 3, "depth": 1}  # noqa: RUF012
    preprocessing = Preprocessing(
        scale=1.0, mean=(0.0, 0.0, 0.0, 6.907755), std=(1.0,) * 4, logarithmic=(3,)
    )

    def coarse(self, x: Tensor) -> dict[str, Tensor]:
        far = self.dropout(x[:, 3:])
        return {"sem": super().coarse(x[:, :3]), "geo": torch.cat([-far, far], 1)}
