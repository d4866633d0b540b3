"""Blueprints: what the name of a net stands for.

FCN-32s, 16s, 8s, 4s and 2s go on any backbone. The nets of the paper and of the authors'
repository, by their own names, have a backbone of Caffe's and everything else fixed; each is an
ordinary `FCN`, and what makes it the paper's are its arguments. Crops, kernels and sizes follow
from geometry (facts: fcn.berkeleyvision.org, the nets' ``net.py`` and ``solve.py``; CVPR 2015;
PAMI 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fullconv.base.errors import FullconvError, nearest
from fullconv.base.palette import Colour, voc_palette
from fullconv.net.arguments import COLOR_ONLY, ONLY_HEAD
from fullconv.net.caffe_classifiers import MEAN_COLOR
from fullconv.net.fcn import FCN, load
from fullconv.net.preprocessing import Preprocessing
from fullconv.papers.classes import GEOMETRY, NYUD, PASCAL_CONTEXT, SIFT_FLOW, VOC

DEFAULT_STRIDE = 8
DEFAULT_NET = f"fcn{DEFAULT_STRIDE}s"
DEFAULT_BACKBONE = "mobilenet_v2"
DEFAULT_RECIPE = "default"

AT_ONCE_SCALES = {16: 0.01, 8: 0.0001}
NYUD_COLOR, NYUD_HHA = (116.190, 97.203, 92.318), (132.431, 94.076, 118.477)
NYUD_LOG_DEPTH = 7.844
PADDING = 100  # of the first convolution, in pixels; 97 is the least for VGG16, 99 for AlexNet

# As torchvision's Weights objects: where the authors published what they trained.
RELEASED = "http://dl.caffe.berkeleyvision.org/"


@dataclass(frozen=True)
class Blueprint:
    """What a net's name stands for.

    Attributes:
        name: "fcn8s" and so on, or that of a net in the authors' repository (FCN-GoogLeNet was
            never released there).
        stride: of the coarse scores, in pixels.
        backbone: the classifier that the net is made of.
        fixed: whether backbone, inputs, fusion and preprocessing are the net's own, as those of the
            paper's nets are. It sees images as large as they are then. Otherwise each is a
            default, in place of which another may be asked for.
        heads: names of the classes by head; the only one's name is "labels". Empty: the data's.
        inputs: channels of each input by name.
        fusion: of several inputs.
        skip_scales: constant factors on the features of skips, by stride.
        padding: of the first convolution, in pixels; None: layers keep their own.
        learn_upscores: whether training changes the inner upscores.
        preprocessing: what the net expects; None: what the backbone's weights do.
        released: address of the authors' trained weights, or None.
    """

    name: str
    stride: int
    backbone: str = DEFAULT_BACKBONE
    fixed: bool = False
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=COLOR_ONLY.copy)
    fusion: Literal["early", "late"] = "early"
    skip_scales: Mapping[int, float] = field(default_factory=dict)
    padding: int | None = None
    learn_upscores: bool = True
    preprocessing: Preprocessing | None = None
    released: str | None = None

    @classmethod
    def named(cls, name: str) -> Blueprint:
        """Return the blueprint of a net.

        Raises:
            FullconvError: no net is called so.
        """
        if name in PAPER_NETS:
            return PAPER_NETS[name]
        if name not in NETS:
            raise FullconvError(
                f"model {name!r} is none of {', '.join(NETS)}, nor one of the paper's nets"
                f"{nearest(name, (*NETS, *PAPER_NETS))}"
            )
        return NETS[name]

    @classmethod
    def of_paper(cls, name: str) -> Blueprint:
        """Return the blueprint of one of the paper's nets.

        Raises:
            FullconvError: none is called so.
        """
        if name not in PAPER_NETS:
            raise FullconvError(
                f"no net of the paper is called {name!r}"
                f"{nearest(name, PAPER_NETS) or '; there are ' + ', '.join(PAPER_NETS)}"
            )
        return PAPER_NETS[name]

    @classmethod
    def on(cls, backbone: str) -> Blueprint:
        """Return the first of the paper's nets that are made of a backbone, "caffe:vgg16" say."""
        return next(net for net in PAPER_NETS.values() if net.backbone == backbone)

    @property
    def recipe(self) -> str:
        """The name of the recipe that trains the net, if no other is asked for."""
        return self.name if self.fixed else DEFAULT_RECIPE

    @property
    def stages(self) -> tuple[Blueprint, ...]:
        """The nets of a staged training, coarsest first, this one last.

        A net without coarser ones, or whose skips are scaled so that it trains at once, is alone.
        A backbone may lack some of the coarser strides.
        """
        coarser = () if self.skip_scales else (n for n in self._alike() if n.stride > self.stride)
        return (*coarser, self)

    @property
    def in_stages(self) -> Blueprint:
        """The same net without scaled skips, which trains in stages; itself, if it has none."""
        return next(net for net in self._alike() if net.stride == self.stride)

    @property
    def finer(self) -> Blueprint | None:
        """The net with the next finer stride that takes the same backbones; None: there is none."""
        return next((net for net in self._alike() if net.stride < self.stride), None)

    def build(
        self,
        heads: Mapping[str, int | Sequence[str]] | None = None,
        *,
        weights: str | Path | None = None,
        palette: Mapping[str, Sequence[Colour]] | None = None,
        **others: Any,
    ) -> FCN:
        """Build the net, with scores at zero and upscores that interpolate.

        Args:
            heads: number or names of the classes by head, instead of the blueprint's.
            weights: of the backbone: None (random), "imagenet", or a file.
            palette: colours of the classes by head, where others than the customary ones.
            others: further arguments of `FCN`, or other values for those of the blueprint.

        Raises:
            FullconvError: see `FCN`.
        """
        heads = heads or self.heads
        given = {
            "heads": heads,
            "weights": weights,
            "palette": {**self._palette(heads), **(palette or {})},
        }
        return FCN(**{**self.arguments(), **given, **others})

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `FCN` that make the net, but for its classes."""
        return {
            "trunk": self.backbone,
            "stride": self.stride,
            "inputs": self.inputs,
            "fusion": self.fusion,
            "skip_scales": self.skip_scales,
            "padding": self.padding,
            "learn_upscores": self.learn_upscores,
            "preprocessing": self.preprocessing,
        }

    def _palette(self, heads: Mapping[str, int | Sequence[str]]) -> dict[str, tuple[Colour, ...]]:
        """Return the colours of a fixed net's heads that have customary ones: VOC's classes."""
        voc = {name for name, classes in heads.items() if self.fixed and classes == VOC}
        return dict.fromkeys(voc, voc_palette(len(VOC)))

    def _alike(self) -> list[Blueprint]:
        """Return the nets that differ from this one in their stride alone, coarsest first.

        Scaled skips don't count as a difference; nets that have them are left out.
        """

        def apart_from_stride(net: Blueprint) -> tuple[Any, ...]:
            return net.backbone, net.fixed, net.heads, net.inputs, net.fusion, net.preprocessing

        nets = (*NETS.values(), *PAPER_NETS.values())
        own = apart_from_stride(self)
        alike = [net for net in nets if apart_from_stride(net) == own and not net.skip_scales]
        return sorted(alike, key=lambda net: -net.stride)


def paper(name: str, weights: str | Path | None = None) -> FCN:
    """Build one of the paper's nets by the name that it has in the authors' repository.

    ``forward`` takes the preprocessed batch: BGR less the mean, several inputs concatenated along
    channels in the order color, depth or color, hha (`net.preprocessing` makes it of RGB bytes and
    millimetres). It returns scores at the input's size, for the two-headed nets of SIFT Flow
    ``{"sem": ..., "geo": ...}``. Trained weights are read by ``fullconv convert``.

    Args:
        name: such as "voc-fcn8s"; see `PAPER_NETS`.
        weights: of the trunk's classifier: None (random), "imagenet", or a file.

    Raises:
        FullconvError: there is no such net, or the weights can't be had.
    """
    return Blueprint.of_paper(name).build(weights=weights)


def net_of(name: str, free: str = DEFAULT_NET, classes: int = 21, *, trust: bool = False) -> FCN:
    """Load or build the net that a name of any kind stands for.

    Args:
        name: a model (a folder or a Hub id), a net of the paper, or a backbone.
        free: with a backbone, the net to put on it: fcn32s to fcn2s.
        classes: with a backbone, how many the net has.
        trust: whether a model may cost what it may (see `load`).

    Raises:
        FullconvError: the name is none of these, or the net can't be had.
    """
    import torchvision.models
    from torchvision.models import list_models

    if name in PAPER_NETS:
        return PAPER_NETS[name].build()
    if Path(name).exists() or "/" in name:
        return load(name, trust=trust)
    known = (*PAPER_NETS, *list_models(module=torchvision.models))
    if name not in known and ":" not in name and (close := nearest(name, known)):
        raise FullconvError(f"unknown net or backbone {name!r}{close}")
    return Blueprint.named(free).build({ONLY_HEAD: classes}, trunk=name)


def _published(
    name: str,
    stride: int,
    heads: Mapping[str, tuple[str, ...]],
    mean: tuple[float, ...] = MEAN_COLOR,
    *,
    backbone: str = "caffe:vgg16",
    channels: Literal["RGB", "BGR"] = "BGR",
    logarithmic: tuple[int, ...] = (),
    released: str | None = None,
    **others: Any,
) -> Blueprint:
    """Return the blueprint of a net of the paper.

    Args:
        name: of the net.
        stride: of its coarse scores.
        heads: names of the classes by head.
        mean: of each input channel, in the order that the net expects.
        backbone: the classifier that it is made of.
        channels: that order, of the first three.
        logarithmic: the input channels that are distances, whose logarithm the net sees.
        released: the name of the authors' file of weights, without its ending.
        others: what else a `Blueprint` has.
    """
    input_size = 227 if backbone == "caffe:caffenet" else 224
    ones = (1.0,) * len(mean)
    expected = Preprocessing(channels, 1.0, mean, ones, input_size, logarithmic=logarithmic)
    return Blueprint(
        name,
        stride,
        backbone,
        True,
        heads,
        padding=PADDING,
        learn_upscores=False,
        preprocessing=expected,
        released=f"{RELEASED}{released}.caffemodel" if released else None,
        **others,
    )


def _voc() -> list[Blueprint]:
    heads = {ONLY_HEAD: VOC}
    name, scales = "voc-fcn8s-atonce", AT_ONCE_SCALES
    return [
        *(
            _published(f"voc-fcn{stride}s", stride, heads, released=f"fcn{stride}s-heavy-pascal")
            for stride in (32, 16, 8)
        ),
        _published(name, 8, heads, skip_scales=scales, released="fcn8s-atonce-pascal"),
        _published(
            "voc-fcn-alexnet", 32, heads, backbone="caffe:caffenet", released="fcn-alexnet-pascal"
        ),
        # "Coming soon" in the repository, and never there. The paper says: 22 convolutional
        # layers, the final average pooling dropped. Its padding is not told: that of the others.
        _published("voc-fcn-googlenet", 32, heads, backbone="caffe:googlenet"),
    ]


def _staged(
    family: str, heads: Mapping[str, tuple[str, ...]], mean: tuple[float, ...]
) -> list[Blueprint]:
    """Return the 32s, 16s and 8s of a dataset."""
    names = {stride: f"{family}-fcn{stride}s" for stride in (32, 16, 8)}
    return [
        _published(name, stride, heads, mean, released=f"{name}-heavy")
        for stride, name in names.items()
    ]


def _nyud() -> list[Blueprint]:
    def net(kind: str, mean: tuple[float, ...], **others: Any) -> Blueprint:
        name = f"nyud-fcn32s-{kind}"
        return _published(name, 32, {ONLY_HEAD: NYUD}, mean, released=f"{name}-heavy", **others)

    color_depth, color_hha = {"color": 3, "depth": 1}, {"color": 3, "hha": 3}
    return [
        net("color", NYUD_COLOR),
        net("hha", NYUD_HHA, channels="RGB", inputs={"hha": 3}),
        net("color-d", (*NYUD_COLOR, NYUD_LOG_DEPTH), inputs=color_depth, logarithmic=(3,)),
        net("color-hha", (*NYUD_COLOR, *NYUD_HHA), inputs=color_hha, fusion="late"),
    ]


NETS: Mapping[str, Blueprint] = {
    f"fcn{stride}s": Blueprint(f"fcn{stride}s", stride) for stride in (32, 16, 8, 4, 2)
}
PAPER_NETS: Mapping[str, Blueprint] = {
    net.name: net
    for net in (
        *_voc(),
        *_staged("siftflow", {"sem": SIFT_FLOW, "geo": GEOMETRY}, (114.578, 115.294, 108.353)),
        *_staged("pascalcontext", {ONLY_HEAD: PASCAL_CONTEXT}, (104.007, 116.669, 122.679)),
        *_nyud(),
    )
}
