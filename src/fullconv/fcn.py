"""The skip architecture: FCN-32s, 16s, 8s and 4s on any trunk (CVPR 2015, section 4)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fullconv.classifiers import build_classifier
from fullconv.errors import FullconvError
from fullconv.geometry import Grid, align
from fullconv.palette import Colour, default_palette
from fullconv.preprocessing import Preprocessing
from fullconv.trunk import Tap, Trunk
from fullconv.upsample import Upscore

if TYPE_CHECKING:
    from PIL.Image import Image


class FCN(nn.Module):
    """A fully convolutional network that scores every pixel.

    The trunk's coarsest features are scored by a 1x1 convolution; at each finer stride the scores
    are upscored by two, and a skip's scores are added; at the net's stride the coarse scores are
    upscored to the image. Scores start at zero, upscores as bilinear interpolation.

    ``forward`` is ``upsample(coarse(x))``. In evaluation mode any size from 1x1 up works.

    Attributes:
        classes: names, index = label id.
        palette: an RGB colour a class.
        ignore_index: the label id that training and metrics leave out.
        preprocessing: what `forward` expects of its input.
        scores: the 1x1 convolutions, by the stride of their features.
        upscores: by "from-to" strides, "8-1" being the last one of an FCN-8s.
    """

    def __init__(
        self,
        trunk: str | nn.Module,
        stride: int,
        num_classes: int,
        *,
        weights: str | Path | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Colour] | None = None,
        ignore_index: int = 255,
        preprocessing: Preprocessing | None = None,
        skips: Mapping[int, str] | None = None,
        learn_upscores: bool = True,
        learn_last_upscore: bool = False,
    ) -> None:
        """Build the net.

        Args:
            trunk: a torchvision classifier's name, ``timm:NAME``, or any classifier that
                `convolutionalize` takes (which is copied).
            stride: of the coarse scores: 32, 16, 8 or 4, if the trunk has it.
            num_classes: number of scores a pixel, 1 to 255.
            weights: for a named trunk: None (random), "imagenet", or a safetensors file.
            classes: their names; "class 0" and so on by default.
            palette: their RGB colours; by default ones that are easy to tell apart.
            ignore_index: the label id that training and metrics leave out.
            preprocessing: what the trunk expects; by default what its weights say.
            skips: names of layers to score at given strides, instead of the default ones.
            learn_upscores: whether training changes the inner upscores.
            learn_last_upscore: whether it changes the last one too.

        Raises:
            FullconvError: an unknown trunk, or one without such a stride; wrong numbers of
                classes or colours; weights that don't fit.
        """
        super().__init__()
        classifier, expected = _classifier(trunk, weights)
        self.preprocessing = preprocessing or expected
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.classes, self.palette = _names_and_colours(num_classes, classes, palette)
        self.arguments: dict[str, Any] = {
            "trunk": trunk if isinstance(trunk, str) else None,
            "stride": stride,
            "num_classes": num_classes,
            "skips": {str(at): name for at, name in (skips or {}).items()},
            "learn_upscores": learn_upscores,
            "learn_last_upscore": learn_last_upscore,
        }
        self.trunk = Trunk(classifier, stride, self.preprocessing.input_size, skips or {})
        self.stride = self.taps[-1].stride
        self.scores = nn.ModuleDict(
            {str(tap.stride): _zero_score(tap.channels, num_classes) for tap in self.taps}
        )
        self.upscores = nn.ModuleDict()
        for tap, finer in zip(self.taps, (*self.taps[1:], None), strict=True):
            learn = learn_last_upscore if finer is None else learn_upscores
            name = f"{tap.stride}-{finer.stride if finer else 1}"
            self.upscores[name] = _upscore(num_classes, tap, finer, learn)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The scored layers, coarsest first."""
        return self.trunk.taps

    def forward(self, images: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            images: preprocessed N x 3 x H x W.

        Returns:
            N x classes x H x W scores (not probabilities).
        """
        return self.upsample(self.coarse(images), (images.shape[-2], images.shape[-1]))

    def coarse(self, images: Tensor) -> Tensor:
        """Return the fused scores N x classes x h x w at the net's stride."""
        features = self.trunk(self._covered(images))
        fused: Tensor = self.scores[str(self.taps[0].stride)](features[0])
        for coarser, tap, feature in zip(self.taps, self.taps[1:], features[1:], strict=False):
            skip = self.scores[str(tap.stride)](feature)
            upscore = self.upscores[f"{coarser.stride}-{tap.stride}"]
            fused = upscore(fused, (skip.shape[-2], skip.shape[-1])) + skip
        return fused

    def upsample(self, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        """Upscore coarse scores to an image of `size` (H, W) pixels."""
        scores: Tensor = self.upscores[f"{self.stride}-1"](coarse, size)
        return scores

    def _covered(self, images: Tensor) -> Tensor:
        """Pad right and bottom with zeros, the mean colour, until every pixel has a coarse cell."""
        coarsest = self.taps[0]
        bottom, right = (
            _margin(grid, length)
            for grid, length in zip(
                (coarsest.vertical, coarsest.horizontal), images.shape[-2:], strict=True
            )
        )
        if isinstance(bottom, int) and isinstance(right, int) and bottom == right == 0:
            return images
        return F.pad(images, (0, right, 0, bottom))

    def predict(self, image: str | PathLike[str] | Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label every pixel of an image.

        Args:
            image: a file's path, a PIL image, or a uint8 array H x W x 3 (RGB).

        Returns:
            uint8 array H x W of class ids.

        Raises:
            FullconvError: the file can't be read, or the array isn't uint8 H x W x 3.
        """
        from fullconv.data.images import read_image, to_rgb
        from fullconv.predict.labels import label_image

        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise FullconvError(
                    f"an image array must be uint8, H x W x 3; this is {image.dtype}, {image.shape}"
                )
            pixels = image
        elif isinstance(image, (str, PathLike)):
            pixels = read_image(Path(image))
        else:
            pixels = to_rgb(image)
        return label_image(self, pixels)

    def save_pretrained(
        self, folder: str | PathLike[str], metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Write a model folder: model.safetensors and config.json (see `model_folder.save`)."""
        from fullconv.model_folder import save

        save(self, Path(folder), metrics)

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str]) -> FCN:
        """Read a model folder or Hub id (see `model_folder.load`)."""
        from fullconv.model_folder import load

        return load(folder)


def _classifier(
    trunk: str | nn.Module, weights: str | Path | None
) -> tuple[nn.Module, Preprocessing]:
    if isinstance(trunk, str):
        return build_classifier(trunk, weights)
    if weights is not None:
        raise FullconvError("weights are for a trunk given by name; a module brings its own")
    return copy.deepcopy(trunk), Preprocessing()


def _names_and_colours(
    num_classes: int, classes: Sequence[str] | None, palette: Sequence[Colour] | None
) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    if not 1 <= num_classes <= 255:
        raise FullconvError(f"num_classes must be 1 to 255, not {num_classes}")
    names = tuple(classes or (f"class {index}" for index in range(num_classes)))
    colours = tuple(palette or default_palette(num_classes))
    for what, given in (("class names", names), ("colours", colours)):
        if len(given) != num_classes:
            raise FullconvError(f"{len(given)} {what} for {num_classes} classes")
    return names, colours


def _zero_score(channels: int, num_classes: int) -> nn.Conv2d:
    score = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(score.weight)
    assert score.bias is not None
    nn.init.zeros_(score.bias)
    return score


def _upscore(num_classes: int, tap: Tap, finer: Tap | None, learn: bool) -> Upscore:
    vertical = align(tap.vertical, finer.vertical if finer else Grid())
    horizontal = align(tap.horizontal, finer.horizontal if finer else Grid())
    return Upscore(num_classes, vertical, horizontal, learn=learn)


def _margin(grid: Grid, length: int) -> int:
    """Return what is missing from `length` (which may be symbolic) to `grid`'s covering size."""
    whole = (length + grid.stride - 1) // grid.stride * grid.stride
    if grid.shortfall <= 1 - grid.stride:  # the grid covers every size
        return 0
    if grid.shortfall >= 0:
        return whole + grid.shortfall - length
    return torch.sym_max(0, whole + grid.shortfall - length)  # type: ignore[return-value]
