"""What is asked of a prediction, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.base.images import ImageReader
from fullconv.predict.room import Tiling

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

FORMATS = ("png", "tif")


@dataclass(frozen=True)
class PredictSettings:
    """What to label, by what, and how.

    Attributes:
        model: a model folder, a Hub id, an exported file, or a net.
        inputs: files, folders and globs of images; or films.
        out: folder of all results.
        further: ``NAME=DIR`` for each further input of the net.
        engine: "auto", "torch", "openvino" or "onnxruntime".
        precision: "auto", "fp32", "bf16", or "int8", which is calibrated on the first images.
        device: "auto", "cpu", "cuda" or "mps"; of a net, where it is.
        scores: whether to write each pixel's probabilities, too; of rasters those of the labels.
        tta: whether to look at each image's mirror, too.
        reader: reads the images.
        memory: bytes that images may take; None: half of what is free.
        tiling: what is asked of tiles, by which images go that are too large.
        format: of label images: "png", or "tif" (GeoTIFF, read and written by windows); PNGs that
            could not be held in memory become GeoTIFFs anyway.
        trust: whether the model may cost what it may (see `fullconv.load`).
        cold: whether the process has just begun, and would wait for torch: few images are labelled
            without it then, by a graph that an earlier run kept (see `fullconv.predict.kept`).
    """

    model: str | Path | FCN
    inputs: tuple[str, ...]
    out: Path
    further: tuple[str, ...] = ()
    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    scores: bool = False
    tta: bool = False
    reader: ImageReader = ImageReader()
    memory: int | None = None
    tiling: Tiling = Tiling()
    format: str = "png"
    trust: bool = False
    cold: bool = False
