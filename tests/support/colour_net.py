"""A net whose answer is known: a pixel's class is its strongest channel, of red, green and blue."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from fullconv import FCN
from fullconv.geometry import Alignment
from fullconv.net.arguments import NetArguments
from fullconv.net.fcn import Heads
from fullconv.net.head import Head
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.upscore import Upscore

EXACT = Alignment(factor=1, shift=Fraction(0), kernel=1, crop=0)
CLASSES = ("red", "green", "blue")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


class PixelHead(Head):
    """A head whose coarse scores are those of pixels."""

    def __init__(self, classes=CLASSES, palette=PALETTE, temperature: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.classes, self.palette, self.temperature = classes, palette, temperature
        self.strides = (1,)
        self.scores = nn.ModuleDict()
        self.upscores = nn.ModuleDict({"1-1": Upscore(len(classes), EXACT, EXACT, learn=True)})

    def upsample(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        return coarse[:, :, : size[0], : size[1]]

    def labels(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        return self.upsample(coarse, size).argmax(1).byte()


class ColourNet(FCN):
    """An FCN without a trunk; its scores are the preprocessed pixels."""

    def __init__(self, heads=None, preprocessing=None, inputs=None) -> None:
        nn.Module.__init__(self)
        self.arguments = NetArguments(stride=2, inputs=inputs or {"color": 3})
        self.ignore_index = 255
        self.preprocessing = preprocessing or Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
        self.vertical = self.horizontal = SimpleNamespace(edge="replicate", alignments=(EXACT,))
        self.magnified = None
        self.heads = Heads(heads or {"labels": PixelHead()})
        self.score = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.eye_(self.score.weight[:, :, 0, 0])
        self.dropout = nn.Dropout(0.9)  # wrecks the answer unless the mode is eval

    def coarse_by_head(self, images: Tensor) -> dict[str, Tensor]:
        return self.by_head(self.coarse(images))

    def coarse(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        return self.dropout(self.score(images))


class FarColourNet(ColourNet):
    """Has two heads and two inputs: colours as above, and whether a pixel is over a metre away."""

    def __init__(self) -> None:
        super().__init__(
            {"sem": PixelHead(), "geo": PixelHead(("near", "far"), ((9, 9, 9), (99, 99, 99)))},
            Preprocessing(
                scale=1.0, mean=(0.0, 0.0, 0.0, 6.907755), std=(1.0,) * 4, logarithmic=(3,)
            ),
            {"color": 3, "depth": 1},
        )

    def coarse(self, images: Tensor) -> dict[str, Tensor]:
        far = self.dropout(images[:, 3:])
        return {"sem": super().coarse(images[:, :3]), "geo": torch.cat([-far, far], 1)}
