"""Classifiers for tests: the libraries' own with weights that matter, and small plain ones."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from fullconv.net.caffe_classifiers import VGG16

TORCHVISION = (
    "alexnet",
    "vgg16",
    "vgg16_bn",
    "squeezenet1_0",
    "googlenet",
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "convnext_tiny",
)
TIMM = ("timm:regnetx_002", "timm:mobilenetv4_conv_small", "timm:convnextv2_atto")
QUICK = ("alexnet", "squeezenet1_0", "resnet18")


def marked(names: tuple[str, ...]) -> list[object]:
    """Return test parameters, marked slow where they aren't quick."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def classifier(name: str, **arguments: object) -> nn.Module:
    """Build a library's classifier in evaluation mode, with every kind of weight made to matter."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        timm = pytest.importorskip("timm")
        net = timm.create_model(name.removeprefix("timm:"), **arguments)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GoogLeNet's initialisation
            net = tv.get_model(name, weights=None, **arguments)
        if isinstance(net, tv.VGG | tv.AlexNet):
            net.classifier = _few_units(net.classifier)
    return settled(net)


def _few_units(dense: nn.Sequential) -> nn.Sequential:
    """Return the layers with few hidden units: of VGG's half a gigabyte they are nine tenths.

    Where cells lie and how layers are named depends on none of them.
    """
    layers = list(dense)
    linears = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    widths = [layers[linears[0]].in_features, *[64] * (len(linears) - 1), 1000]
    for index, taken, given in zip(linears, widths, widths[1:], strict=False):
        layers[index] = nn.Linear(taken, given)
    return nn.Sequential(*layers)


def unset(make: Callable[[], nn.Module]) -> nn.Module:
    """Return what is made, weights as memory held them: for geometry alone, of the largest nets."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        return make()


def settled(net: nn.Module, size: int = 64) -> nn.Module:
    """Randomise constant parameters and batch statistics, keeping activations of ordinary size.

    Initialisations leave scales at 1, shifts at 0, layer scales at 1e-6 and statistics at 0 and 1:
    a layer that was lost, or given another's parameters, would not show.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() and parameter.eq(parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        net.train()(torch.randn(4, 3, size, size))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.running_mean is not None:
                norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.bias)
                norm.running_var *= torch.empty_like(norm.bias).uniform_(0.7, 1.4)
    return net.eval()


def random_scores(net: nn.Module) -> nn.Module:
    """Give a net's score layers weights other than zero."""
    for score in net.scores.values():
        nn.init.normal_(score.weight, std=score.in_channels**-0.5)
        nn.init.normal_(score.bias, std=0.1)
    return net


def lively(net: nn.Module, size: int = 128) -> nn.Module:
    """Standardise a net's coarsest scores on noise, so that no class wins everywhere."""
    score, feature = net.scores[str(net.taps[0].stride)], []
    hook = score.register_forward_hook(lambda _, __, value: feature.append(value))
    with torch.no_grad():
        net(torch.randn(2, 3, size, size))
        deviation, mean = torch.std_mean(feature[0], (0, 2, 3))
        score.weight /= deviation[:, None, None, None]
        score.bias.sub_(mean).div_(deviation)
    hook.remove()
    return net


class Headed(nn.Module):
    """Two padding-free convolutions of stride 2, and a head given as a function of (self, map).

    The native 32 x 32 image becomes an 8 x 7 x 7 map; the stride is 4.
    """

    def __init__(self, head: object, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.layers = nn.ModuleList(layers)
        self.vector = nn.Parameter(torch.randn(4))
        self.matrix = nn.Parameter(torch.randn(4, 8))
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self, self.body(images))


class Staged(nn.Module):
    """A classifier with a map at stride 4, a middle given as a function of (self, map), and more.

    The native 32 x 32 image becomes 8 x 8 cells of 8 channels, then 4 x 4, pooled to 4 scores.
    """

    def __init__(self, middle: object, *layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.layers = nn.ModuleList(layers)
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.dense = nn.Linear(8, 4)
        self.embedding = nn.Parameter(torch.randn(1, 8, 8, 8))
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.middle = middle

    def forward(self, images: Tensor) -> Tensor:
        return self.dense(self.last(self.middle(self, self.first(images))).mean((2, 3)))


class NarrowVGG(tv.VGG):
    """VGG16's layers, few channels wide: its geometry, quickly."""

    def __init__(self, width: int = 8) -> None:
        nn.Module.__init__(self)
        layers: list[nn.Module] = []
        before = 3
        for repeats in (2, 2, 3, 3, 3):
            for _ in range(repeats):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(width * 49, 16),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(16, 16),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(16, 10),
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):  # as torchvision does, lest the signal dies out
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def narrow_caffe_vgg(width: int = 8) -> nn.Module:
    """Return Caffe's VGG16, few channels wide."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for block, repeats in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, repeats + 1):
            layers[f"conv{block}_{index}"] = nn.Conv2d(before, width, 3, padding=1)
            layers[f"relu{block}_{index}"] = nn.ReLU(inplace=True)
            before = width
        layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
    layers["flatten"] = nn.Flatten()
    layers["fc6"], layers["relu6"] = nn.Linear(49 * width, 2 * width), nn.ReLU(inplace=True)
    layers["drop6"] = nn.Dropout()
    layers["fc7"], layers["relu7"] = nn.Linear(2 * width, 2 * width), nn.ReLU(inplace=True)
    layers["drop7"] = nn.Dropout()
    layers["fc8"] = nn.Linear(2 * width, 10)
    net = VGG16.__new__(VGG16)  # its kind decides which skips are the default
    nn.Sequential.__init__(net, layers)
    for part in net.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight)
            nn.init.normal_(part.bias, std=0.1)
    return net
