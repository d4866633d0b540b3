"""What a run is asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fullconv.base.images import MAX_PIXELS, ImageReader
from fullconv.base.remote import Place
from fullconv.papers.blueprint import DEFAULT_NET, DEFAULT_STRIDE, Blueprint
from fullconv.train.recipe import Recipe

# Of a run that is continued: where, not what.
MAY_CHANGE = ("data", "device", "max_pixels", "trust")


class TrainSettings(BaseModel):
    """What a run was asked for.

    Attributes:
        data: the dataset folder, or shards of one, here or at an address.
        model: fcn32s, fcn16s, fcn8s, fcn4s or fcn2s, or one of the paper's nets.
        staged: whether the coarser nets are trained before it.
        backbone: a classifier's name; None: the paper net's own, that of the model in `weights`,
            or else mobilenet_v2.
        weights: imagenet, none, a classifier's file (safetensors or caffemodel), a model, or one
            for each input: ``color=MODEL,hha=MODEL``.
        device: auto, cpu, cuda or mps.
        max_pixels: larger images are refused.
        inputs: what the nets see of each image, in their order; None, before the run has begun:
            the paper net's own, those of the model in `weights`, or else color.
        fusion: of several inputs, early or late; None, likewise: that of the same, or else early.
        ranges: by input, the values of files of more than 8 bits that the nets see as 0 and 255;
            None, before the run has begun: those that are measured.
        spreads: by input of bands, the mean and the standard deviation of each; None, likewise.
        trust: whether the models in `weights` may cost what they may (see `fullconv.load`).
        recipe: all other settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Place
    model: str = DEFAULT_NET
    staged: bool = False
    backbone: str | None = None
    weights: str = "imagenet"
    device: str = "auto"
    max_pixels: int = MAX_PIXELS
    inputs: tuple[str, ...] | None = None
    fusion: Literal["early", "late"] | None = None
    ranges: dict[str, tuple[float, float]] | None = None
    spreads: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] | None = None
    trust: bool = False
    recipe: Recipe = Recipe()

    @property
    def reader(self) -> ImageReader:
        """What reads the dataset's files."""
        return ImageReader(self.max_pixels)

    @property
    def blueprint(self) -> Blueprint:
        """What the model's name stands for."""
        return Blueprint.named(self.model)

    @property
    def stride(self) -> int:
        """The stride of the last net, unless the data call for a finer one."""
        return self.recipe.finest or self.blueprint.stride

    @property
    def may_be_finer(self) -> bool:
        """Whether the data may call for a finer net than the model's name tells."""
        decided = self.staged or self.recipe.finest is not None or self.blueprint.fixed
        return not decided and self.blueprint.stride <= DEFAULT_STRIDE
