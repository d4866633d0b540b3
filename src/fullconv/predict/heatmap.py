"""A map of one class over a photograph, from a classifier or model to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.base.files import replacing
from fullconv.base.images import ImageReader
from fullconv.base.runtime import pick_device
from fullconv.export.opened import is_export
from fullconv.net.arguments import COLOR_ONLY
from fullconv.net.classifiers import build_classifier
from fullconv.net.fcn import load
from fullconv.net.heat import (
    IMAGENET,
    MOST_SCALE,
    SCALES,
    DenseClassifier,
    Heat,
    heat_of_net,
    imagenet_classes,
    matching,
)
from fullconv.report.heat import heat_picture

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP"}
ARRAY = ".npy"


@dataclass(frozen=True)
class HeatmapSettings:
    """What to look for, in what, and by what.

    Attributes:
        model: a model folder, a Hub id, or a classifier's name.
        image: the file.
        classes: names, or parts of them, or ids; their probabilities are added.
        out: the file to write: a picture, or the map itself as .npy.
        weights: of a classifier: "imagenet", or a file.
        scales: at which a classifier looks at the image, in native sizes of its shorter side.
        device: where a model works: "auto", "cpu", "cuda" or "mps".
        reader: reads the image.
        trust: whether the model may cost what it may (see `fullconv.load`).
    """

    model: str
    image: Path
    classes: tuple[str, ...]
    out: Path
    weights: str = "imagenet"
    scales: tuple[float, ...] = SCALES
    device: str = "auto"
    reader: ImageReader = ImageReader()
    trust: bool = False


@dataclass(frozen=True)
class Heatmap:
    """What was found.

    Attributes:
        classes: names of those whose probabilities were added.
        heat: float32 H x W of the image.
    """

    classes: tuple[str, ...]
    heat: Heat

    @property
    def peak(self) -> tuple[float, int, int]:
        """The highest probability, and its row and column."""
        row, column = np.unravel_index(self.heat.argmax(), self.heat.shape)
        return float(self.heat[row, column]), int(row), int(column)


def run(settings: HeatmapSettings) -> Heatmap:
    """Draw where in an image some classes are.

    Args:
        settings: what to do.

    Raises:
        FullconvError: the model, the image or a class isn't there, or the model needs more than an
            image of colours.
        OSError: the file can't be written.
    """
    kind = settings.out.suffix.lower()
    if kind != ARRAY and kind not in PICTURES:
        raise FullconvError(f"{settings.out}: give a name in {', '.join((*PICTURES, ARRAY))}")
    if not all(0 < scale <= MOST_SCALE for scale in settings.scales) or not settings.scales:
        raise FullconvError(f"scales are above 0 and at most {MOST_SCALE:g}")
    found, image = _of_model(settings) if _is_model(settings.model) else _of_classifier(settings)
    with replacing(settings.out) as temporary, temporary.open("wb") as file:
        if kind == ARRAY:
            np.save(file, found.heat)
        else:
            heat_picture(image, found.heat, _caption(found)).save(file, PICTURES[kind], quality=92)
    return found


def _is_model(model: str) -> bool:
    return is_export(model) or Path(model).exists() or "/" in model


def _of_classifier(settings: HeatmapSettings) -> tuple[Heatmap, NDArray[np.uint8]]:
    classifier, preprocessing = build_classifier(settings.model, settings.weights)
    dense = DenseClassifier(classifier, preprocessing)
    names = (
        imagenet_classes()
        if dense.num_classes == IMAGENET
        else tuple(f"class {label}" for label in range(dense.num_classes))
    )
    chosen = _chosen(settings.classes, names)
    image = settings.reader.image(settings.image)
    heat = dense.heat(image, chosen, settings.scales)
    return Heatmap(tuple(names[label] for label in chosen), heat), image


def _of_model(settings: HeatmapSettings) -> tuple[Heatmap, NDArray[np.uint8]]:
    if is_export(settings.model):
        raise FullconvError(
            f"{settings.model}: an export; give the model folder or a classifier's name"
        )
    net = load(settings.model, trust=settings.trust)
    if net.inputs != COLOR_ONLY:
        raise FullconvError(
            f"{settings.model}: sees {', '.join(net.inputs)}; a heat map is of one image of colours"
        )
    head, chosen = _head_with(settings.classes, {n: h.classes for n, h in net.heads.items()})
    image = net.preprocessing.reader(settings.reader).image(settings.image)
    heat = heat_of_net(net.to(pick_device(settings.device)), image, head, chosen)
    return Heatmap(tuple(net.heads[head].classes[label] for label in chosen), heat), image


def _head_with(
    wanted: tuple[str, ...], heads: dict[str, tuple[str, ...]]
) -> tuple[str, tuple[int, ...]]:
    """Return the first head that knows the classes, and their ids."""
    refusals = []
    for head, names in heads.items():
        try:
            return head, _chosen(wanted, names)
        except FullconvError as error:
            refusals.append(error)
    raise refusals[0]


def _chosen(wanted: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(sorted({label for each in wanted for label in matching(each, names)}))


def _caption(found: Heatmap) -> str:
    return f"{', '.join(found.classes)}: probability up to {found.peak[0]:.2f}"
