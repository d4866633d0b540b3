"""The ImageNet classifiers of the paper as Caffe has them, layer by layer and name by name.

Caffe rounds the size of a pooled map up, normalises responses across channels (LRN) after pooling,
and reads BGR bytes of which only a mean is subtracted. Layers bear Caffe's names, so that weights
are taken over by name; where one holds a slash ("inception_3a/1x1"), a module is nested instead.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fullconv.net.preprocessing import Preprocessing

IMAGENET_CLASSES = 1000
MEAN_COLOR = (104.00699, 116.66877, 122.67892)  # of ImageNet, as blue, green and red


def caffe_preprocessing(input_size: int) -> Preprocessing:
    """Return what Caffe's ImageNet classifiers expect: BGR bytes minus the mean colour."""
    ones = (1.0, 1.0, 1.0)
    return Preprocessing("BGR", scale=1.0, mean=MEAN_COLOR, std=ones, input_size=input_size)


class VGG16(nn.Sequential):
    """VGG's net D (Simonyan and Zisserman, 2014; ``VGG_ILSVRC_16_layers``), for 224x224 pixels."""

    input_size = 224

    def __init__(self, num_classes: int = IMAGENET_CLASSES) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
        for block, (width, convolutions) in enumerate(blocks, start=1):
            for index in range(1, convolutions + 1):
                layers[f"conv{block}_{index}"] = nn.Conv2d(channels, width, 3, padding=1)
                layers[f"relu{block}_{index}"] = nn.ReLU(inplace=True)
                channels = width
            layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        side = self.input_size // 2 ** len(blocks)
        super().__init__(layers | _dense_layers(channels * side * side, num_classes))


class CaffeNet(nn.Sequential):
    """Caffe's AlexNet (``bvlc_reference_caffenet``: pooling before normalisation), for 227x227."""

    input_size = 227

    def __init__(self, num_classes: int = IMAGENET_CLASSES) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, 96, 11, stride=4),
            relu1=nn.ReLU(inplace=True),
            pool1=_pool(),
            norm1=_response_normalisation(),
            conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
            relu2=nn.ReLU(inplace=True),
            pool2=_pool(),
            norm2=_response_normalisation(),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
            relu5=nn.ReLU(inplace=True),
            pool5=_pool(),
        )
        super().__init__(layers | _dense_layers(256 * 6 * 6, num_classes))


class GoogLeNet(nn.Sequential):
    """GoogLeNet (Szegedy et al., 2014; ``bvlc_googlenet``) without the heads of its training.

    Its 5x5 branches are 5x5 (torchvision's are 3x3), and it has no batch normalisation.
    """

    input_size = 224

    def __init__(self, num_classes: int = IMAGENET_CLASSES) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = _named("7x7_s2", nn.Conv2d(3, 64, 7, stride=2, padding=3))
        layers["pool1"] = nn.Sequential(
            OrderedDict({"3x3_s2": _pool(), "norm1": _response_normalisation()})
        )
        layers["conv2"] = nn.Sequential(
            OrderedDict(
                {
                    "3x3_reduce": nn.Conv2d(64, 64, 1),
                    "relu_3x3_reduce": nn.ReLU(inplace=True),
                    "3x3": nn.Conv2d(64, 192, 3, padding=1),
                    "relu_3x3": nn.ReLU(inplace=True),
                    "norm2": _response_normalisation(),
                }
            )
        )
        layers["pool2"] = nn.Sequential(OrderedDict({"3x3_s2": _pool()}))
        channels = 192
        for name, widths in INCEPTIONS.items():
            layers[f"inception_{name}"] = Inception(channels, widths)
            channels = widths.output
            if name in ("3b", "4e"):
                layers[f"pool{name[0]}"] = nn.Sequential(OrderedDict({"3x3_s2": _pool()}))
        layers["pool5"] = nn.Sequential(
            OrderedDict({"7x7_s1": nn.AvgPool2d(7, 1), "drop_7x7_s1": nn.Dropout(0.4)})
        )
        layers["flatten"] = nn.Flatten()
        layers["loss3"] = nn.Sequential(OrderedDict(classifier=nn.Linear(channels, num_classes)))
        super().__init__(layers)


@dataclass(frozen=True)
class InceptionWidths:
    """Channels of an inception module's branches: 1x1; 3x3 and 5x5 with their reductions; pool."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    @property
    def output(self) -> int:
        """Channels of the concatenated branches."""
        return self.one + self.three + self.five + self.pool


INCEPTIONS = {  # table 1 of Szegedy et al.
    "3a": InceptionWidths(64, 96, 128, 16, 32, 32),
    "3b": InceptionWidths(128, 128, 192, 32, 96, 64),
    "4a": InceptionWidths(192, 96, 208, 16, 48, 64),
    "4b": InceptionWidths(160, 112, 224, 24, 64, 64),
    "4c": InceptionWidths(128, 128, 256, 24, 64, 64),
    "4d": InceptionWidths(112, 144, 288, 32, 64, 64),
    "4e": InceptionWidths(256, 160, 320, 32, 128, 128),
    "5a": InceptionWidths(256, 160, 320, 32, 128, 128),
    "5b": InceptionWidths(384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches of windows 1, 3, 5 and a 3x3 pooling, concatenated."""

    def __init__(self, channels: int, widths: InceptionWidths) -> None:
        super().__init__()
        convolutions = {
            "1x1": nn.Conv2d(channels, widths.one, 1),
            "3x3_reduce": nn.Conv2d(channels, widths.three_reduce, 1),
            "3x3": nn.Conv2d(widths.three_reduce, widths.three, 3, padding=1),
            "5x5_reduce": nn.Conv2d(channels, widths.five_reduce, 1),
            "5x5": nn.Conv2d(widths.five_reduce, widths.five, 5, padding=2),
            "pool_proj": nn.Conv2d(channels, widths.pool, 1),
        }
        for name, convolution in convolutions.items():
            self.add_module(name, convolution)
        self.pool = nn.MaxPool2d(3, 1, padding=1, ceil_mode=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return N x (sum of the branches' channels) x H x W."""
        one = self._rectified("1x1", features)
        three = self._rectified("3x3", self._rectified("3x3_reduce", features))
        five = self._rectified("5x5", self._rectified("5x5_reduce", features))
        pooled = self._rectified("pool_proj", self.pool(features))
        return torch.cat((one, three, five, pooled), 1)

    def _rectified(self, name: str, features: Tensor) -> Tensor:
        return torch.relu(self.get_submodule(name)(features))


def _named(name: str, convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(OrderedDict({name: convolution, f"relu_{name}": nn.ReLU(inplace=True)}))


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _response_normalisation() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def _dense_layers(features: int, num_classes: int) -> OrderedDict[str, nn.Module]:
    """Return the three dense layers that VGG16 and CaffeNet end in."""
    return OrderedDict(
        flatten=nn.Flatten(),
        fc6=nn.Linear(features, 4096),
        relu6=nn.ReLU(inplace=True),
        drop6=nn.Dropout(0.5),
        fc7=nn.Linear(4096, 4096),
        relu7=nn.ReLU(inplace=True),
        drop7=nn.Dropout(0.5),
        fc8=nn.Linear(4096, num_classes),
    )
