"""The skip architecture: FCN-32s, 16s, 8s, 4s and 2s on any trunk (CVPR 2015, section 4)."""

from __future__ import annotations

import functools
from collections.abc import ItemsView, Mapping, Sequence, ValuesView
from dataclasses import replace
from fractions import Fraction
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fullconv.base.errors import FullconvError
from fullconv.base.images import to_rgb
from fullconv.base.palette import Colour
from fullconv.base.runtime import inference
from fullconv.dense.layers import own_copy
from fullconv.geometry import GeometryError, Grid, least_padding
from fullconv.net.arguments import COLOR_ONLY, Colours, Labelling, NetArguments, labellings
from fullconv.net.described import Labels, Pixels, Size
from fullconv.net.folder import (
    CONFIG,
    FORMAT,
    ModelConfig,
    read_config,
    read_state,
    stored_graphs,
    write_folder,
)
from fullconv.net.head import Head, Skips
from fullconv.net.hub import Hub, find_folder
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.rehearsal import Known, rehearse
from fullconv.net.surgery import inference_twin, with_parts
from fullconv.net.trunk import LateFusion, StrideError, Tap, Trunk
from fullconv.net.upscore import Upscore

if TYPE_CHECKING:
    from PIL.Image import Image

Scores = Tensor | dict[str, Tensor]  # the latter: of several heads, by name
Views = Sequence[Mapping[str, Tensor]]  # the coarse scores of each view of an image, by head


class Heads(nn.ModuleDict):
    """The heads of a net by name, in order."""

    def __getitem__(self, name: str) -> Head:
        return cast(Head, super().__getitem__(name))

    def values(self) -> ValuesView[Head]:
        """Return the heads."""
        return cast("ValuesView[Head]", super().values())

    def items(self) -> ItemsView[str, Head]:
        """Return names and heads."""
        return cast("ItemsView[str, Head]", super().items())


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
        preprocessing: what `forward` expects of all channels.
        magnified: the upscore of the image itself, or None.
        vertical: where scores lie and how they are joined, along H.
        horizontal: the same, along W.
        arguments: those of `FCN` that rebuild the net but for its classes and preprocessing.
    """

    def __init__(
        self,
        trunk: str | nn.Module,
        stride: int,
        num_classes: int | None = None,
        *,
        heads: Mapping[str, int | Sequence[str] | Labelling] | None = None,
        weights: str | Path | None = None,
        classes: Sequence[str] | None = None,
        palette: Colours | Mapping[str, Colours] | None = None,
        ignore_index: int = 255,
        preprocessing: Preprocessing | None = None,
        coarsest: int | None = None,
        inputs: Mapping[str, int] | None = None,
        fusion: Literal["early", "late"] = "early",
        skips: Mapping[int, str] | None = None,
        skip_scales: Mapping[int, float] | None = None,
        padding: int | None = None,
        scale: Fraction | int = 1,
        magnify: int = 1,
        reduce: int = 1,
        learn_upscores: bool = True,
        learn_last_upscore: bool = False,
    ) -> None:
        """Build the net.

        Args:
            trunk: a torchvision classifier's name, ``timm:NAME``, ``caffe:NAME``, or any
                classifier that `convolutionalize` takes (which is copied); or a trunk that was
                made before, of the same strides, inputs, fusion, skips and padding.
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
            coarsest: the coarsest stride that is scored; layers of coarser ones are left out. None:
                the trunk's own, 32 as a rule.
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
            scale: how many times larger than it is the trunk sees the image. Above 1, up to half
                the stride, it is enlarged bilinearly, which serves small images and small things;
                1/2 to 1/16 mean that it sees means of so many pixels a side, which serves large
                photographs of large things. Strides count pixels of what the trunk sees; the work
                grows with the square.
            magnify: a scale above 1, said so.
            reduce: one over a scale below 1.
            learn_upscores: whether training changes the inner upscores.
            learn_last_upscore: whether it changes the last one too.

        Raises:
            FullconvError: an unknown trunk, or one without such a stride; wrong classes or colours,
                or numbers of them; weights, a preprocessing or a padding that don't fit.
        """
        super().__init__()
        classifier, expected = _classifier(trunk, weights)
        self.arguments = NetArguments.of(
            trunk=trunk if isinstance(trunk, str) else None,
            stride=stride,
            coarsest=coarsest,
            inputs=dict(inputs or COLOR_ONLY),
            fusion=fusion,
            skips=dict(skips or {}),
            skip_scales=dict(skip_scales or {}),
            padding=padding,
            scale=scale,
            magnify=magnify,
            reduce=reduce,
            learn_upscores=learn_upscores,
            learn_last_upscore=learn_last_upscore,
        )
        labelled = labellings(num_classes, heads, classes, palette)
        self.ignore_index = ignore_index
        channels = sum(self.inputs.values())
        self.preprocessing = preprocessing or _for_channels(expected, channels)
        if len(self.preprocessing.mean) != channels:
            means = len(self.preprocessing.mean)
            raise FullconvError(f"preprocessing of {means} channels for {channels}")
        self.preprocessing.require_sound()
        self.trunk = _trunk(classifier, self.arguments, self.preprocessing.input_size)
        joined = self._joined()
        self.stride = self.taps[-1].stride
        self.vertical, self.horizontal = joined.vertical, joined.horizontal
        self.magnified = _magnification(joined, channels)
        self.heads = Heads({name: self._head(joined, each) for name, each in labelled.items()})
        self._follow_trunk()

    def _follow_trunk(self) -> None:
        """Put what is new where the classifier is, in its precision."""
        like = next((each for each in self.trunk.parameters() if each.is_floating_point()), None)
        for part in filter(None, (self.heads, self.magnified)):
            made = next(part.parameters())
            if like is not None and not (like.is_meta or made.is_meta):
                part.to(like.device, like.dtype)

    def _joined(self) -> Skips:
        """Derive how scores are joined; refuse arguments that don't fit the trunk."""
        for stride in self.arguments.skip_scales:
            if stride not in [tap.stride for tap in self.taps[1:]]:
                raise FullconvError(f"skip_scales: the net has no skip at stride {stride}")
        joined, asked = self._skips(self.scale), self.arguments.stride
        _require_fit(joined)
        if self.taps[-1].stride != asked:
            raise StrideError(f"the trunk's finest stride is {self.taps[-1].stride}, not {asked}")
        first, most = self.taps[0].stride, self.arguments.coarsest
        if most is not None and first > most:
            raise StrideError(f"the trunk's coarsest stride is {first}, not {most}")
        return joined

    def _head(self, joined: Skips, labelling: Labelling) -> Head:
        return Head(
            joined,
            labelling,
            learn_upscores=self.arguments.learn_upscores,
            learn_last_upscore=self.arguments.learn_last_upscore,
        )

    def _skips(self, scale: Fraction) -> Skips:
        """Derive how scores are joined if the trunk sees images at `scale`."""
        inputs = tuple(self.inputs) if isinstance(self.trunk, LateFusion) else ()
        edge: Literal["replicate", "zero"] = (
            "replicate" if self.arguments.padding is None else "zero"
        )
        return Skips.of(self.taps, edge, inputs, self.arguments.skip_scales, scale)

    @property
    def inputs(self) -> dict[str, int]:
        """Channels of each input by name; they are concatenated in this order."""
        return self.arguments.inputs

    @property
    def scale(self) -> Fraction:
        """How many times larger than it is the trunk sees an image: 4, 2, 1, 1/2 and so on."""
        return self.arguments.scale

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
        return next(iter(self.heads.values()))

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
        return unwrapped(self.coarse_by_head(images))

    @overload
    def upsample(self, coarse: Tensor, size: Size) -> Tensor: ...

    @overload
    def upsample(self, coarse: dict[str, Tensor], size: Size) -> dict[str, Tensor]: ...

    def upsample(self, coarse: Scores, size: Size) -> Scores:
        """Upscore coarse scores to an image of `size` (H, W) pixels (see `forward`)."""
        scores = self.by_head(coarse)
        return unwrapped(
            {name: head.upsample(scores[name], size) for name, head in self.heads.items()}
        )

    def coarse_by_head(self, images: Tensor) -> dict[str, Tensor]:
        """Return what `coarse` does by the name of its head, also where there is only one."""
        features = self.trunk(self._seen(images))
        return {name: head.coarse(features) for name, head in self.heads.items()}

    def coarse_of_pixels(self, images: Tensor) -> dict[str, Tensor]:
        """Return the coarse scores of images as they are stored, by head.

        Training aside, this is the one way from an image to its scores: evaluation, prediction,
        engines and exports take it.

        Args:
            images: N x H x W x channels of all inputs, uint8 or float32; colours are RGB in 0..255.

        Returns:
            N x classes x h x w of each head, in the net's own precision.
        """
        return self.coarse_by_head(self._preprocessed(images))

    def seen_of_pixels(self, images: Tensor) -> Tensor:
        """Return images as they are stored (see above) as the trunk sees them: N x C x H x W."""
        return self._seen(self._preprocessed(images))

    def _preprocessed(self, images: Tensor) -> Tensor:
        values = self.preprocessing(images.permute(0, 3, 1, 2))
        return values if values.dtype == self.dtype else values.to(self.dtype)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) at which the trunk sees images of `size`: resized, and padded."""
        covering = self.vertical.covering_size(size[0]), self.horizontal.covering_size(size[1])
        height, width = (-(-length // self.arguments.reduce) for length in covering)
        return height, width

    def coarse_of_image(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of one image H x W x C, where the net is (see above)."""
        return self.coarse_of_pixels(as_tensor(image).to(self.device)[None])

    @property
    def dtype(self) -> torch.dtype:
        """The type in which scores are summed."""
        return next(iter(self.heads.values())).last_upscore.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return next((each.device for each in self.parameters()), torch.device("cpu"))

    def for_reduced(self) -> FCN:
        """Return this net for images that were reduced before; it shares all that is learnt.

        It is the net itself unless that reduces images.
        """
        if self.arguments.reduce == 1:
            return self
        joined = self._skips(Fraction(1))
        net = with_parts(
            self, heads=Heads({name: head.rejoined(joined) for name, head in self.heads.items()})
        )
        net.arguments = self.arguments.changed(scale=Fraction(1))
        net.vertical, net.horizontal = joined.vertical, joined.horizontal
        return net

    def for_inference(self) -> FCN:
        """Return the net in evaluation mode, without changing this one, in whatever mode it is.

        It is this one if no part of it trains; else a twin that shares all weights.
        """
        return inference_twin(self) if any(each.training for each in self.modules()) else self

    def by_head(self, scores: Scores) -> dict[str, Tensor]:
        """Return scores by the name of their head, also where there is only one."""
        return dict.fromkeys(self.heads, scores) if isinstance(scores, Tensor) else scores

    def _seen(self, images: Tensor) -> Tensor:
        """Return the images as the trunk sees them.

        They are magnified or reduced, if the net does so, then padded right and bottom with zeros,
        the mean colour, until every pixel has a coarse cell.
        """
        if self.magnified is not None:
            height, width = (length * self.magnified.factor for length in images.shape[-2:])
            images = self.magnified(images, (height, width)).to(images.dtype)
        images = _reduced(images, self.arguments.reduce)
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
        labels = self.label(self._pixels(image))
        return labels if len(labels) > 1 else next(iter(labels.values()))

    def _pixels(self, image: str | PathLike[str] | Image | NDArray[Any]) -> Pixels:
        """Return what `predict` is given as an array that the net takes."""
        if isinstance(image, np.ndarray):
            pixels = image
        elif len(self.inputs) > 1:
            raise FullconvError(
                f"this net needs {', '.join(self.inputs)}: give one array of all their channels"
            )
        elif isinstance(image, (str, PathLike)):
            reader = self.preprocessing.reader()
            pixels = (reader.image if self.inputs == COLOR_ONLY else reader.input)(Path(image))
        elif hasattr(image, "getbands"):
            pixels = to_rgb(image, self.preprocessing.reader())
        else:
            raise FullconvError(
                f"an image is a path, a PIL image or a NumPy array, not a {type(image).__name__}"
            )
        channels = sum(self.inputs.values())
        fits = pixels.ndim == 3 and pixels.shape[2] == channels and pixels.size
        if not (fits and _is_pixels(pixels, self)):
            raise FullconvError(
                f"an image array must be uint8, H x W x {channels}; this is {pixels.dtype}, "
                f"{pixels.shape}"
            )
        return pixels

    def label(self, image: Pixels, *, bf16: bool = False, tta: bool = False) -> dict[str, Labels]:
        """Return the class of each pixel of an image, H x W, by head.

        The net works where it is, and stays as it is.

        Args:
            image: H x W x channels of all inputs, uint8 or float32; colours are RGB in 0..255.
            bf16: whether to work in bfloat16.
            tta: whether to look at the image's mirror, too (see `head`).
        """
        net = self.for_inference()
        with inference(self.device.type, bf16=bf16):
            views = [net.coarse_of_image(view) for view in views_of(image, tta=tta)]
            return net.labels(views, (image.shape[0], image.shape[1]))

    def labels(self, views: Views, size: Size) -> dict[str, Labels]:
        """Return the class of each of H x W pixels, by head, of one or two views' coarse scores."""
        return {
            name: head.labels_of_views([view[name] for view in views], size)
            for name, head in self.heads.items()
        }

    def unsure_shares(self, views: Views, size: Size) -> dict[str, float]:
        """Return the share of an image's labels that are unsure, 0..1, by head."""
        return {
            name: head.unsure_share([view[name] for view in views], size)
            for name, head in self.heads.items()
        }

    def save_pretrained(
        self, folder: str | PathLike[str], metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Write a model folder: model.safetensors and config.json.

        Args:
            folder: made if need be; files that stand there are replaced only by whole ones.
            metrics: noted in config.json; NumPy's numbers are numbers.

        Raises:
            OSError: the folder can't be written, or the disk is full; what stood there stays.
            ValueError: `metrics` is not JSON (NaN isn't).
        """
        config = ModelConfig(
            format=FORMAT,
            net=self.arguments,
            heads={name: head.labelling for name, head in self.heads.items()},
            ignore_index=self.ignore_index,
            preprocessing=self.preprocessing.to_dict(),
            metrics=dict(metrics or {}),
            graph=stored_graphs(self.trunks),
        )
        write_folder(Path(folder), config, self.state_dict())
        Known(config.to_dict()["graph"]).note()

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike[str],
        classifier: nn.Module | None = None,
        *,
        trust: bool = False,
        revision: str | None = None,
        token: str | None = None,
    ) -> FCN:
        """Read a model folder or a model of the Hub (see `load`)."""
        return load(model, classifier, trust=trust, revision=revision, token=token)

    def push_to_hub(
        self,
        model: str,
        *,
        commit_message: str = "Upload a model of fullconv",
        private: bool | None = None,
        branch: str | None = None,
        token: str | None = None,
        licence: str | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> str:
        """Put the net on the Hugging Face Hub, with a model card of what it knows of itself.

        The model folder of a training has a card that tells more: push that, by
        ``fullconv push``.

        Args:
            model: the id that it gets, "owner/name"; made if it isn't there.
            commit_message: of the one commit.
            private: whether only its owner sees it; None: as it is, or as the owner's new ones are.
            branch: where the commit goes; None: the main branch. It is made if it isn't there.
            token: of the user; None: that which ``hf auth login`` or HF_TOKEN gave.
            licence: the Hub's word for the licence, such as "apache-2.0".
            metrics: what the net achieved, as in metrics.json.

        Returns:
            The address of the commit.

        Raises:
            WorkFailedError: the Hub can't be reached, or refuses.
            ValueError: `metrics` is not JSON (NaN isn't).
        """
        with TemporaryDirectory(prefix="fullconv-") as folder:
            self.save_pretrained(folder, metrics)
            return Hub(token).push(
                Path(folder),
                model,
                message=commit_message,
                private=private,
                branch=branch,
                licence=licence,
            )


def load(
    model: str | PathLike[str],
    classifier: nn.Module | None = None,
    *,
    trust: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> FCN:
    """Read a net from a model folder, or from a model of the Hugging Face Hub.

    As a rule the folder holds the trunk's layers, and the net needs neither its classifier nor the
    library that this is from.

    Args:
        model: a folder, or a Hub id "owner/name" (or "owner/name@revision") where no such folder
            exists.
        classifier: to build the trunk from, in place of what the folder says: for a net that was
            built on a user's own module with layers of the user's own, which the folder can't hold.
        trust: load it also if it costs more than any known classifier does.
        revision: of a model of the Hub: a branch, tag or commit; None: the main branch.
        token: for the Hub; None: that which ``hf auth login`` or HF_TOKEN gave.

    Returns:
        The net on the CPU, in evaluation mode.

    Raises:
        FullconvError: something is missing or altered, or the Hub can't be reached; the message
            names the file.
    """
    folder = find_folder(str(model), Hub(token), revision)
    config = read_config(folder)
    if config.net.trunk is None and not config.graph and classifier is None:
        raise FullconvError(
            f"{folder}: this net was built on a module of the user's own; pass it: "
            "fullconv.load(folder, classifier=module)"
        )
    try:
        net = (
            _rebuilt(config) if classifier is None and config.graph else _built(config, classifier)
        )
    except (FullconvError, ValueError) as error:
        raise FullconvError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from error
    own = net.state_dict()
    empty = any(value.is_meta for value in own.values())
    state = read_state(folder, own)
    if empty:
        _rehearse(net, Known(config.to_dict()["graph"]), folder, trust=trust)
    net.load_state_dict(state, assign=empty)
    return net.eval()


def _rehearse(net: FCN, known: Known, folder: Path, *, trust: bool) -> None:
    """Run stored trunks once without data: strangers' layers may be of any size."""
    if known:
        return
    try:
        for trunk in net.trunks.values():
            rehearse(trunk.layers, trust=trust)
    except FullconvError as error:
        raise FullconvError(f"{folder / CONFIG}: {error}") from error
    if not trust:
        known.note()


def _rebuilt(config: ModelConfig) -> FCN:
    """Build a folder's net on "meta", without data, from what is stored of its trunk."""
    try:
        with torch.device("meta"):
            return _built(config, config.stored_trunk())
    except FullconvError:
        raise
    except Exception as error:  # forged data may fail anywhere
        raise FullconvError(f"its graph is no trunk's ({type(error).__name__})") from error


def _built(config: ModelConfig, trunk: nn.Module | None) -> FCN:
    net = FCN(
        cast("str | nn.Module", config.net.trunk if trunk is None else trunk),
        **config.net.keywords(),
        heads=config.heads,
        ignore_index=config.ignore_index,
        preprocessing=Preprocessing.from_dict(config.preprocessing),
    )
    if isinstance(trunk, Trunk | LateFusion):
        net.arguments = config.net  # which knows the name of the classifier that the trunk was
    return net


def unwrapped(by_head: dict[str, Tensor]) -> Scores:
    """Return scores as users have them: by head, or those of the only one."""
    return by_head if len(by_head) > 1 else next(iter(by_head.values()))


def views_of(image: Pixels, *, tta: bool) -> list[Pixels]:
    """Return what a net is to see of an image H x W x C: it and, if `tta`, its mirror."""
    return [image, image[:, ::-1].copy()] if tta else [image]


def as_tensor(image: Pixels) -> Tensor:
    """Return an image as a tensor, without a copy where torch takes the array as it is."""
    plain = image.flags.c_contiguous and image.flags.writeable and min(image.strides) > 0
    return torch.from_numpy(image if plain else image.copy())


def _classifier(
    trunk: str | nn.Module, weights: str | Path | None
) -> tuple[nn.Module, Preprocessing]:
    if isinstance(trunk, str):
        from fullconv.net.classifiers import build_classifier

        return build_classifier(trunk, weights)
    if weights is not None:
        raise FullconvError("weights are for a trunk given by name; a module brings its own")
    made = isinstance(trunk, Trunk | LateFusion)
    return trunk if made else own_copy(trunk), Preprocessing()


def _for_channels(expected: Preprocessing, channels: int) -> Preprocessing:
    """Extend what a classifier of colours expects to other numbers of channels."""
    if channels == len(expected.mean):
        return expected
    mean, std = (
        (*values, *[sum(values) / len(values)] * channels)[:channels]
        for values in (expected.mean, expected.std)
    )
    return replace(expected, mean=mean, std=std)


def _trunk(classifier: nn.Module, arguments: NetArguments, input_size: int) -> Trunk | LateFusion:
    """Make the trunk, or one for each input in a late fusion; one that was made is taken."""
    if isinstance(classifier, Trunk | LateFusion):
        return classifier

    def build(classifier: nn.Module, channels: int) -> Trunk:
        return Trunk(
            classifier,
            arguments.stride,
            input_size,
            arguments.skips,
            coarsest=arguments.coarsest,
            channels=channels,
            padding=arguments.padding,
        )

    inputs = arguments.inputs
    if arguments.fusion == "early":
        return build(classifier, sum(inputs.values()))
    trunks = {name: build(own_copy(classifier), n) for name, n in inputs.items()}
    return LateFusion(trunks, inputs)


def _magnification(joined: Skips, channels: int) -> Upscore | None:
    """Return what enlarges the image before the trunk sees it, or None."""
    vertical, horizontal = joined.vertical.magnification, joined.horizontal.magnification
    if vertical.factor == 1:
        return None
    return Upscore(channels, vertical, horizontal, learn=False)


def _require_fit(joined: Skips) -> None:
    """Refuse nets that leave some images without scores up to their border."""
    for geometry in {joined.vertical, joined.horizontal}:
        if geometry.always_fits:
            continue
        if geometry.edge == "zero":
            raise GeometryError(
                "with this padding some images are larger than their scores; pad by "
                f"{least_padding(geometry.grids)} at least"
            )
        raise GeometryError(
            f"the layer at stride {joined.taps[-1].stride} is not padded, and its cells end before "
            "some images do; take a coarser stride"
        )


def _is_pixels(image: NDArray[Any], net: FCN) -> bool:
    """Tell whether an array is bytes or, where an input may be distances or bands, float32."""
    measured = 1 in net.inputs.values() or bool(net.preprocessing.bands)
    return image.dtype == np.uint8 or (measured and image.dtype == np.float32)


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
    if grid.covers_all:
        return 0
    covering = whole + grid.shortfall
    if grid.needs > grid.stride + grid.shortfall:  # else the least image has what layers need
        covering = _at_least(grid.needs, covering)
    missing = covering - length
    missing = missing if grid.shortfall >= 0 else _at_least(0, missing)
    return missing + _disagreement(grid, length + missing) if grid.disagrees else missing


def _disagreement(grid: Grid, length: Any) -> Any:
    """Return what is missing from a length to the least at which a trunk's branches agree."""
    period = grid.agreement.period
    beyond = [(rest + period - length % period) % period for rest in grid.agreement.rests]
    least = torch.minimum if isinstance(length, Tensor) else torch.sym_min
    return functools.reduce(least, beyond)


def _at_least(least: int, value: Any) -> Any:
    """Return the larger of both; the value is one of a length's (see `_margin`)."""
    return value.clamp(min=least) if isinstance(value, Tensor) else torch.sym_max(least, value)
