"""The nets of the paper and of the authors' repository, by their own names, as data.

Each is an ordinary `FCN` on one of Caffe's classifiers; what makes it the paper's are its
arguments. Crops, kernels and sizes follow from geometry (facts: fcn.berkeleyvision.org, the nets'
``net.py`` and ``solve.py``; CVPR 2015; PAMI 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fullconv.base.errors import FullconvError, nearest
from fullconv.base.palette import Colour, voc_palette
from fullconv.net.caffe_classifiers import MEAN_COLOR
from fullconv.net.fcn import COLOR, FCN, ONLY_HEAD
from fullconv.net.preprocessing import Preprocessing
from fullconv.papers.classes import GEOMETRY, NYUD, PASCAL_CONTEXT, SIFT_FLOW, VOC

AT_ONCE_SCALES = {16: 0.01, 8: 0.0001}
NYUD_COLOR, NYUD_HHA = (116.190, 97.203, 92.318), (132.431, 94.076, 118.477)
NYUD_LOG_DEPTH = 7.844
PADDING = 100  # of the first convolution, in pixels; 97 is the least for VGG16, 99 for AlexNet

# As torchvision's Weights objects: where the authors published what they trained.
RELEASED = "http://dl.caffe.berkeleyvision.org/"


@dataclass(frozen=True)
class PaperNet:
    """One net of the paper.

    Attributes:
        name: of the net in the authors' repository (FCN-GoogLeNet was never released there).
        trunk: the classifier that it is made of.
        stride: of its coarse scores.
        heads: names of the classes by head; the only one's name is "labels".
        mean: of each input channel, in the order that the net expects.
        channels: that order, of the first three.
        inputs: channels of each input by name.
        fusion: of several inputs.
        skip_scales: constant factors on the features of skips, by stride.
        logarithmic: the input channels that are distances, whose logarithm the net sees.
        released: address of the authors' trained weights, or None.
    """

    name: str
    trunk: str
    stride: int
    heads: Mapping[str, tuple[str, ...]]
    mean: tuple[float, ...] = MEAN_COLOR
    channels: Literal["RGB", "BGR"] = "BGR"
    inputs: Mapping[str, int] = field(default_factory=COLOR.copy)
    fusion: Literal["early", "late"] = "early"
    skip_scales: Mapping[int, float] = field(default_factory=dict)
    logarithmic: tuple[int, ...] = ()
    released: str | None = None

    def build(
        self,
        heads: Mapping[str, tuple[str, ...]] | None = None,
        *,
        weights: str | Path | None = None,
        **others: Any,
    ) -> FCN:
        """Build the net, with scores at zero and frozen upscores.

        Args:
            heads: names of the classes by head, instead of the paper's.
            weights: of the trunk's classifier: None (random), "imagenet", or a file.
            others: further arguments of `FCN`, or other values for those of the paper.
        """
        labelled = heads or self.heads
        common = {"heads": labelled, "palette": self.palette(labelled), "weights": weights}
        return FCN(**{**self.arguments(), **common, **others})

    def palette(self, heads: Mapping[str, Sequence[str]]) -> dict[str, tuple[Colour, ...]]:
        """Return the colours of heads that have customary ones: VOC's classes."""
        voc = voc_palette(len(VOC))
        return {name: voc for name, classes in heads.items() if tuple(classes) == VOC}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `FCN` that make the net, but for its classes."""
        return {
            "trunk": self.trunk,
            "stride": self.stride,
            "inputs": self.inputs,
            "fusion": self.fusion,
            "skip_scales": self.skip_scales,
            "padding": PADDING,
            "learn_upscores": False,
            "preprocessing": self.preprocessing,
        }

    @property
    def preprocessing(self) -> Preprocessing:
        """What the net expects: bytes, or the logarithm of millimetres, less a mean."""
        input_size = 227 if self.trunk == "caffe:caffenet" else 224
        ones = (1.0,) * len(self.mean)
        return Preprocessing(
            self.channels, 1.0, self.mean, ones, input_size, logarithmic=self.logarithmic
        )


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
    return paper_net(name).build(weights=weights)


def paper_net(name: str) -> PaperNet:
    """Return what makes the net `name`; raises FullconvError where there is no such net."""
    if name not in PAPER_NETS:
        raise FullconvError(
            f"no net of the paper is called {name!r}"
            f"{nearest(name, PAPER_NETS) or '; there are ' + ', '.join(PAPER_NETS)}"
        )
    return PAPER_NETS[name]


def _voc() -> list[PaperNet]:
    heads = {ONLY_HEAD: VOC}
    return [
        *(
            PaperNet(
                f"voc-fcn{stride}s",
                "caffe:vgg16",
                stride,
                heads,
                released=f"{RELEASED}fcn{stride}s-heavy-pascal.caffemodel",
            )
            for stride in (32, 16, 8)
        ),
        PaperNet(
            "voc-fcn8s-atonce",
            "caffe:vgg16",
            8,
            heads,
            skip_scales=AT_ONCE_SCALES,
            released=f"{RELEASED}fcn8s-atonce-pascal.caffemodel",
        ),
        PaperNet(
            "voc-fcn-alexnet",
            "caffe:caffenet",
            32,
            heads,
            released=f"{RELEASED}fcn-alexnet-pascal.caffemodel",
        ),
        # "Coming soon" in the repository, and never there. The paper says: 22 convolutional
        # layers, the final average pooling dropped. Its padding is not told: that of the others.
        PaperNet("voc-fcn-googlenet", "caffe:googlenet", 32, heads),
    ]


def _staged(
    family: str, heads: Mapping[str, tuple[str, ...]], mean: tuple[float, ...]
) -> list[PaperNet]:
    """Return the 32s, 16s and 8s of a dataset."""
    return [
        PaperNet(
            f"{family}-fcn{stride}s",
            "caffe:vgg16",
            stride,
            heads,
            mean,
            released=f"{RELEASED}{family}-fcn{stride}s-heavy.caffemodel",
        )
        for stride in (32, 16, 8)
    ]


def _nyud() -> list[PaperNet]:
    heads = {ONLY_HEAD: NYUD}

    def net(kind: str, mean: tuple[float, ...], **others: Any) -> PaperNet:
        name = f"nyud-fcn32s-{kind}"
        released = f"{RELEASED}{name}-heavy.caffemodel"
        return PaperNet(name, "caffe:vgg16", 32, heads, mean, released=released, **others)

    color_depth, color_hha = {"color": 3, "depth": 1}, {"color": 3, "hha": 3}
    return [
        net("color", NYUD_COLOR),
        net("hha", NYUD_HHA, channels="RGB", inputs={"hha": 3}),
        net("color-d", (*NYUD_COLOR, NYUD_LOG_DEPTH), inputs=color_depth, logarithmic=(3,)),
        net("color-hha", (*NYUD_COLOR, *NYUD_HHA), inputs=color_hha, fusion="late"),
    ]


PAPER_NETS: Mapping[str, PaperNet] = {
    net.name: net
    for net in (
        *_voc(),
        *_staged("siftflow", {"sem": SIFT_FLOW, "geo": GEOMETRY}, (114.578, 115.294, 108.353)),
        *_staged("pascalcontext", {ONLY_HEAD: PASCAL_CONTEXT}, (104.007, 116.669, 122.679)),
        *_nyud(),
    )
}
