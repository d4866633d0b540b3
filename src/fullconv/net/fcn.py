"""The skip architecture: FCN-32s, 16s, 8s, 4s and 2s on any trunk (CVPR 2015, section 4)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fullconv.base.errors import FullconvError
from fullconv.base.files import is_plain_name
from fullconv.base.palette import Colour, default_palette
from fullconv.geometry import GeometryError, Grid, least_padding
from fullconv.net.head import Head, Joints
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.surgery import with_parts
from fullconv.net.trunk import LateFusion, Tap, Trunk
from fullconv.net.upscore import Upscore

if TYPE_CHECKING:
    from PIL.Image import Image

ONLY_HEAD = "labels"
COLOR = {"color": 3}
MOST_REDUCTION = 16

Scores = Tensor | dict[str, Tensor]  # the latter: of several heads, by name


class Sight(NamedTuple):
    """How many times larger, or smaller, than it is a net's trunk sees an image."""

    magnify: int = 1
    reduce: int = 1

    def __str__(self) -> str:
        """Tell it, of images."""
        if self.reduce > 1:
            return f"reduced to 1/{self.reduce}"
        return f"magnified x{self.magnify}" if self.magnify > 1 else "as they are"


class FCN(nn.Module):
    """A fully convolutional network that scores every pixel.

    The trunk's coarsest features are scored by a 1x1 convolution; at each finer stride the scores
    are upscored by two, and a skip's scores are added; at the net's stride the coarse scores are
    upscored to the image. Scores start at zero, upscores as bilinear interpolation.

    ``forward`` is ``upsample(coarse(x))``. In evaluation mode any size from 1x1 up works.

    Attributes:
        heads: what scores the trunk's features, by name; an ordinary net has one, "labels". Its
            `classes`, `palette`, `num_classes`, `scores` and `upscores` are also the net's.
        ignore_index: the label id that training and metrics leave out.
        inputs: channels of each input by name; they are concatenated in this order.
        preprocessing: what `forward` expects of all channels.
        magnified: the upscore of the image itself, or None.
        arguments: those of `FCN` that rebuild the net but for its classes and preprocessing.
    """

    def __init__(
        self,
        trunk: str | nn.Module,
        stride: int,
        num_classes: int | None = None,
        *,
        heads: Mapping[str, int | Sequence[str]] | None = None,
        weights: str | Path | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Colour] | Mapping[str, Sequence[Colour]] | None = None,
        ignore_index: int = 255,
        preprocessing: Preprocessing | None = None,
        inputs: Mapping[str, int] | None = None,
        fusion: Literal["early", "late"] = "early",
        skips: Mapping[int, str] | None = None,
        skip_scales: Mapping[int, float] | None = None,
        padding: int | None = None,
        magnify: int = 1,
        reduce: int = 1,
        learn_upscores: bool = True,
        learn_last_upscore: bool = False,
    ) -> None:
        """Build the net.

        Args:
            trunk: a torchvision classifier's name, ``timm:NAME``, ``caffe:NAME``, or any
                classifier that `convolutionalize` takes (which is copied); or a trunk that was
                made before, of the same stride, inputs, fusion, skips and padding.
            stride: of the coarse scores: 32, 16, 8, 4 or 2, if the trunk has it.
            num_classes: number of scores a pixel, 1 to 255.
            heads: in its place, for several labellings at once (SIFT Flow's semantic and
                geometric one): of each the number or the names of its classes, by its name.
            weights: for a named trunk: None (random), "imagenet", or a weights file.
            classes: their names; "class 0" and so on by default.
            palette: their RGB colours (with `heads`, by head); by default ones that are easy to
                tell apart.
            ignore_index: the label id that training and metrics leave out.
            preprocessing: what the trunk expects; by default what its weights say (of channels
                beyond the colours: the mean of those).
            inputs: channels of each input by name, ``{"color": 3}`` by default.
            fusion: of several inputs: "early" gives the trunk more channels, "late" gives each
                input a trunk, whose scores are averaged (paper, section 5, RGB-HHA).
            skips: names of layers to score at given strides, instead of the default ones.
            skip_scales: constant factors on skips' features by stride, which let all strides be
                learnt at once in the paper's nets ("voc-fcn8s-atonce").
            padding: of the first convolution, in pixels: 100 in the paper's nets. Hidden dense
                layers are not padded then, and scores fade to zero beyond the padded frame, as
                in Caffe. None: layers keep their own padding, and scores are complete up to the
                border because edge cells are replicated.
            magnify: how many times larger than it is the trunk sees the image, bilinearly: 1, 2
                or more, up to half the stride. Strides count pixels of what it sees. It serves
                small images and small things; the work grows with its square.
            reduce: how many times smaller than it is the trunk sees the image, as means of so many
                pixels a side: 1 to 16. Strides count pixels of what it sees, likewise. It serves
                large photographs of large things; the work shrinks with its square.
            learn_upscores: whether training changes the inner upscores.
            learn_last_upscore: whether it changes the last one too.

        Raises:
            FullconvError: an unknown trunk, or one without such a stride; wrong numbers of
                classes or colours; weights or a padding that don't fit.
        """
        super().__init__()
        classifier, expected = _classifier(trunk, weights)
        self.inputs = dict(inputs or COLOR)
        _require_names("input", self.inputs)
        if COLOR.keys() & self.inputs and next(iter(self.inputs)) not in COLOR:
            raise FullconvError("the input color must come first: pretrained filters are for it")
        self.ignore_index = ignore_index
        self.preprocessing = preprocessing or _for_channels(expected, sum(self.inputs.values()))
        if len(self.preprocessing.mean) != sum(self.inputs.values()):
            raise FullconvError(
                f"preprocessing of {len(self.preprocessing.mean)} channels for "
                f"{sum(self.inputs.values())}"
            )
        self.arguments: dict[str, Any] = {
            "trunk": trunk if isinstance(trunk, str) else None,
            "stride": stride,
            "inputs": self.inputs,
            "fusion": fusion,
            "skips": dict(skips or {}),
            "skip_scales": dict(skip_scales or {}),
            "padding": padding,
            "magnify": magnify,
            "reduce": reduce,
            "learn_upscores": learn_upscores,
            "learn_last_upscore": learn_last_upscore,
        }

        def build(classifier: nn.Module, channels: int) -> Trunk:
            size = self.preprocessing.input_size
            return Trunk(classifier, stride, size, skips or {}, channels=channels, padding=padding)

        self.trunk = _trunk(build, classifier, self.inputs, fusion)
        _require_scales(self.taps, skip_scales or {})
        _require_magnification(magnify, stride, padded=padding is not None)
        _require_reduction(self.arguments)
        joints = self._joints(magnify, reduce)
        self.vertical, self.horizontal = joints.vertical, joints.horizontal
        self.magnified = _magnification(joints, sum(self.inputs.values()))
        _require_fit(joints)
        self.stride = self.taps[-1].stride
        if self.stride != stride:
            raise FullconvError(f"the trunk's finest stride is {self.stride}, not {stride}")
        self.heads = nn.ModuleDict(
            {
                name: Head(
                    joints,
                    names,
                    colours,
                    learn_upscores=learn_upscores,
                    learn_last_upscore=learn_last_upscore,
                )
                for name, names, colours in _labellings(num_classes, heads, classes, palette)
            }
        )

    @property
    def sight(self) -> Sight:
        """How large the trunk sees images."""
        return Sight(self.arguments["magnify"], self.arguments["reduce"])

    def _joints(self, magnify: int, reduce: int) -> Joints:
        """Derive how scores are joined if the trunk sees images so much larger or smaller."""
        inputs = tuple(self.inputs) if isinstance(self.trunk, LateFusion) else ()
        edge: Literal["replicate", "zero"] = (
            "replicate" if self.arguments["padding"] is None else "zero"
        )
        scales = self.arguments["skip_scales"]
        return Joints.of(self.taps, edge, inputs, scales, magnify=magnify, reduce=reduce)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The scored layers, coarsest first."""
        return self.trunk.taps

    @property
    def trunks(self) -> dict[str, Trunk]:
        """The trunk of each input in a late fusion; else the only one, by the name ""."""
        if isinstance(self.trunk, Trunk):
            return {"": self.trunk}
        return {name: cast(Trunk, trunk) for name, trunk in self.trunk.named_children()}

    @property
    def head(self) -> Head:
        """The only head. Raises FullconvError where there are several."""
        if len(self.heads) > 1:
            raise FullconvError(
                f"this net has the heads {', '.join(self.heads)}: ask one of net.heads"
            )
        return self.labelled()[0][1]

    @property
    def num_classes(self) -> int:
        """Number of scores a pixel, of the only head."""
        return self.head.num_classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the only head's classes, index = label id."""
        return self.head.classes

    @property
    def palette(self) -> tuple[Colour, ...]:
        """An RGB colour for each of the only head's classes."""
        return self.head.palette

    @property
    def scores(self) -> nn.ModuleDict:
        """The only head's 1x1 convolutions, by the stride of their features."""
        return self.head.scores

    @property
    def upscores(self) -> nn.ModuleDict:
        """The only head's upscores, by "from-to" strides."""
        return self.head.upscores

    def forward(self, images: Tensor) -> Scores:
        """Score every pixel.

        Args:
            images: preprocessed N x C x H x W, C being 3 or the channels of all inputs.

        Returns:
            N x classes x H x W scores (not probabilities); of several heads, by name.
        """
        return self.upsample(self.coarse(images), (images.shape[-2], images.shape[-1]))

    def coarse(self, images: Tensor) -> Scores:
        """Return the fused scores N x classes x h x w at the net's stride (see `forward`)."""
        features = self.trunk(self._seen(images))
        return self._each(lambda head, _: head.coarse(features))

    @overload
    def upsample(self, coarse: Tensor, size: tuple[int, int]) -> Tensor: ...

    @overload
    def upsample(self, coarse: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]: ...

    def upsample(self, coarse: Scores, size: tuple[int, int]) -> Scores:
        """Upscore coarse scores to an image of `size` (H, W) pixels (see `forward`)."""
        scores = self.by_head(coarse)
        return self._each(lambda head, name: head.upsample(scores[name], size))

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) at which the trunk sees images of `size`: resized, and padded."""
        covering = self.vertical.covering_size(size[0]), self.horizontal.covering_size(size[1])
        height, width = (-(-length // self.sight.reduce) for length in covering)
        return height, width

    def for_reduced(self) -> FCN:
        """Return this net for images that were reduced before; it shares all that is learnt.

        It is the net itself unless that reduces images.
        """
        if self.sight.reduce == 1:
            return self
        joints = self._joints(magnify=1, reduce=1)
        heads = {name: head.rejoined(joints) for name, head in self.labelled()}
        net = with_parts(self, heads=nn.ModuleDict(heads))
        net.arguments = {**self.arguments, "reduce": 1}
        net.vertical, net.horizontal = joints.vertical, joints.horizontal
        return net

    def labelled(self) -> list[tuple[str, Head]]:
        """Return the heads with their names."""
        return [(name, cast(Head, head)) for name, head in self.heads.items()]

    def by_head(self, scores: Scores) -> dict[str, Tensor]:
        """Return scores by the name of their head, also where there is only one."""
        return dict.fromkeys(self.heads, scores) if isinstance(scores, Tensor) else scores

    def _each(self, work: Callable[[Head, str], Tensor]) -> Scores:
        """Return a result of each head by its name, or that of the only one."""
        results = {name: work(head, name) for name, head in self.labelled()}
        return results if len(results) > 1 else next(iter(results.values()))

    def _seen(self, images: Tensor) -> Tensor:
        """Return the images as the trunk sees them.

        They are magnified or reduced, if the net does so, then padded right and bottom with zeros,
        the mean colour, until every pixel has a coarse cell.
        """
        if self.magnified is not None:
            height, width = (length * self.magnified.factor for length in images.shape[-2:])
            images = self.magnified(images, (height, width)).to(images.dtype)
        images = _reduced(images, self.sight.reduce)
        if self.vertical.edge == "zero":  # the first convolution's padding sees to it
            return images
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

    def predict(
        self, image: str | PathLike[str] | Image | NDArray[Any]
    ) -> NDArray[np.uint8] | dict[str, NDArray[np.uint8]]:
        """Label every pixel of an image.

        Args:
            image: a file's path, a PIL image, or a uint8 array H x W x 3 (RGB). A net of several
                inputs takes an array H x W x C of all their channels in order (float32 where one
                holds distances in millimetres).

        Returns:
            uint8 array H x W of class ids; of several heads, one by the name of each.

        Raises:
            FullconvError: the file can't be read, or the array is of another shape or kind.
        """
        from fullconv.base.images import ImageReader, to_rgb
        from fullconv.predict.labels import label_image

        if isinstance(image, np.ndarray):
            pixels = image
        elif len(self.inputs) > 1:
            raise FullconvError(
                f"this net needs {', '.join(self.inputs)}: give one array of all their channels"
            )
        elif isinstance(image, (str, PathLike)):
            reader = ImageReader()
            pixels = (reader.image if self.inputs == COLOR else reader.input)(Path(image))
        else:
            pixels = to_rgb(image)
        channels = sum(self.inputs.values())
        if pixels.ndim != 3 or pixels.shape[2] != channels or not _is_pixels(pixels, self):
            raise FullconvError(
                f"an image array must be uint8, H x W x {channels}; this is {pixels.dtype}, "
                f"{pixels.shape}"
            )
        return label_image(self, pixels)

    def save_pretrained(
        self, folder: str | PathLike[str], metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Write a model folder: model.safetensors and config.json (see `model_folder.save`)."""
        from fullconv.net.folder import save

        save(self, Path(folder), metrics)

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str]) -> FCN:
        """Read a model folder or Hub id (see `model_folder.load`)."""
        from fullconv.net.folder import load

        return load(folder)


def _classifier(
    trunk: str | nn.Module, weights: str | Path | None
) -> tuple[nn.Module, Preprocessing]:
    if isinstance(trunk, str):
        from fullconv.net.classifiers import build_classifier

        return build_classifier(trunk, weights)
    if weights is not None:
        raise FullconvError("weights are for a trunk given by name; a module brings its own")
    made = isinstance(trunk, Trunk | LateFusion)
    return trunk if made else copy.deepcopy(trunk), Preprocessing()


def _for_channels(expected: Preprocessing, channels: int) -> Preprocessing:
    """Extend what a classifier of colours expects to other numbers of channels."""
    if channels == len(expected.mean):
        return expected
    mean, std = (
        (*values, *[sum(values) / len(values)] * channels)[:channels]
        for values in (expected.mean, expected.std)
    )
    return replace(expected, mean=mean, std=std)


def _trunk(
    build: Callable[[nn.Module, int], Trunk],
    classifier: nn.Module,
    inputs: Mapping[str, int],
    fusion: Literal["early", "late"],
) -> Trunk | LateFusion:
    if isinstance(classifier, Trunk | LateFusion):
        return classifier
    if fusion == "early":
        return build(classifier, sum(inputs.values()))
    if len(inputs) < 2:
        raise FullconvError("late fusion is of several inputs; name them")
    trunks = {name: build(copy.deepcopy(classifier), n) for name, n in inputs.items()}
    return LateFusion(trunks, inputs)


def _require_scales(taps: Sequence[Tap], scales: Mapping[int, float]) -> None:
    """Refuse factors on what is no skip of the net, and factors that lose it."""
    skips = [tap.stride for tap in taps[1:]]
    for stride, scale in scales.items():
        if stride not in skips:
            raise FullconvError(f"skip_scales: the net has no skip at stride {stride}")
        if not 0 < scale < math.inf:
            raise FullconvError(f"skip_scales: {scale} is no positive factor")


def most_magnification(stride: int) -> int:
    """Return how many times larger than an image its trunk may see it, if a net has this stride.

    The net's cells are then two of the image's pixels wide, as an FCN-2s's are on the image itself.
    """
    return stride // 2


def _require_magnification(magnify: int, stride: int, *, padded: bool) -> None:
    """Refuse factors that the net's stride, or its padding, does not go with."""
    most = 1 if padded else most_magnification(stride)
    allowed = [factor for factor in range(1, most + 1) if most % factor == 0]
    if magnify not in allowed:
        where = "with a padding of the first convolution" if padded else f"at stride {stride}"
        raise FullconvError(
            f"magnify must be {' or '.join(map(str, allowed))} {where}, not {magnify}"
        )


def _require_reduction(arguments: Mapping[str, Any]) -> None:
    """Refuse factors that make no sense, or not with other arguments of a net."""
    factor = arguments["reduce"]
    if factor not in range(1, MOST_REDUCTION + 1):
        raise FullconvError(f"reduce must be 1 to {MOST_REDUCTION}, not {factor}")
    if factor == 1:
        return
    if arguments["magnify"] > 1:
        raise FullconvError("magnify or reduce: a net sees images larger or smaller, not both")
    if arguments["padding"] is not None:
        raise FullconvError("reduce must be 1 with a padding of the first convolution")
    if arguments["learn_last_upscore"]:
        raise FullconvError("reduce must be 1 where the last upscore is learnt")
    if arguments["inputs"] != COLOR:
        raise FullconvError(f"reduce must be 1 for the inputs {', '.join(arguments['inputs'])}")


def _magnification(joints: Joints, channels: int) -> Upscore | None:
    """Return what enlarges the image before the trunk sees it, or None."""
    vertical, horizontal = joints.vertical.magnification, joints.horizontal.magnification
    if vertical.factor == 1:
        return None
    return Upscore(channels, vertical, horizontal, learn=False)


def _require_fit(joints: Joints) -> None:
    """Refuse a padding that leaves some images without scores up to their border."""
    for chain in {joints.vertical, joints.horizontal}:
        if chain.edge == "zero" and not chain.always_fits:
            raise GeometryError(
                "with this padding some images are larger than their scores; pad by "
                f"{least_padding(chain.grids)} at least"
            )


def _labellings(
    num_classes: int | None,
    heads: Mapping[str, int | Sequence[str]] | None,
    classes: Sequence[str] | None,
    palette: Sequence[Colour] | Mapping[str, Sequence[Colour]] | None,
) -> list[tuple[str, tuple[str, ...], tuple[Colour, ...]]]:
    """Return name, classes and colours of each head."""
    if heads is None:
        if num_classes is None or isinstance(palette, Mapping):
            raise FullconvError("give num_classes, or heads and their palettes by name")
        return [(ONLY_HEAD, *_names_and_colours(num_classes, classes, palette))]
    if num_classes is not None or classes is not None or not heads:
        raise FullconvError("heads tell numbers and names of classes: give nothing besides")
    _require_names("head", heads)
    palettes = palette if isinstance(palette, Mapping) else {}
    made = []
    for name, given in heads.items():
        count, names = (given, None) if isinstance(given, int) else (len(given), given)
        made.append((name, *_names_and_colours(count, names, palettes.get(name))))
    return made


def _require_names(what: str, names: Iterable[str]) -> None:
    """Refuse names that cannot be part of a path, or that a torch module has for itself."""
    module = nn.ModuleDict()
    for name in names:
        if not is_plain_name(name):
            raise FullconvError(
                f"{what} {name!r}: a name holds letters, digits, _ and - only, a letter first"
            )
        if hasattr(module, name) or name in LateFusion.OWN_NAMES:
            raise FullconvError(f"{what} {name!r}: torch's modules use this name; choose another")


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


def _is_pixels(image: NDArray[Any], net: FCN) -> bool:
    """Tell whether an array is bytes or, where an input may be distances, float32."""
    distances = 1 in net.inputs.values()
    return image.dtype == np.uint8 or (distances and image.dtype == np.float32)


def _reduced(images: Tensor, factor: int) -> Tensor:
    """Return the means of `factor` x `factor` pixels, edge pixels being repeated for the last."""
    if factor == 1:
        return images
    bottom, right = (-length % factor for length in images.shape[-2:])
    return F.avg_pool2d(F.pad(images, (0, right, 0, bottom), mode="replicate"), factor)


def _margin(grid: Grid, length: Any) -> Any:
    """Return what is missing from a length to `grid`'s covering size.

    Both are integers, or symbols for `torch.export`, or tensors for `torch.jit.trace`.
    """
    whole = (length + grid.stride - 1) // grid.stride * grid.stride
    if grid.shortfall <= 1 - grid.stride:  # the grid covers every size
        return 0
    if grid.shortfall >= 0:
        return whole + grid.shortfall - length
    missing = whole + grid.shortfall - length
    return missing.clamp(min=0) if isinstance(missing, Tensor) else torch.sym_max(0, missing)
