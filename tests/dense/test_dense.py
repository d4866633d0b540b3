"""Convolutionalised classifiers against the classifiers themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import TIMM, TORCHVISION, Headed, NarrowVGG, Staged, classifier, marked, settled
from torch import nn
from torch.nn import functional as F

from fullconv import FullconvError, convolutionalize
from fullconv.dense.grids import NotConvolutionalError, layer_grids
from fullconv.dense.layers import dense_to_convolution
from fullconv.dense.tracing import UntraceableError

NATIVE = 224


def relative_error(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-2))


@pytest.fixture(scope="module", params=marked(TORCHVISION + TIMM))
def converted(request):
    """A classifier with what it was before the conversion, and the converted net."""
    net = classifier(request.param)
    before = copy.deepcopy(net.state_dict()), repr(net)
    return net, before, convolutionalize(net)


def test_equals_the_classifier_at_its_native_size(converted):
    net, _, dense = converted
    images = torch.randn(2, 3, NATIVE, NATIVE)
    with torch.no_grad():
        expected, actual = net(images), dense(images)
    assert actual.shape == (2, 1000, 1, 1)
    assert expected.std() > 1e-3, "a classifier that says the same of everything tests nothing"
    assert relative_error(actual[:, :, 0, 0], expected) < 1e-5


def test_larger_images_give_a_map_of_one_cell_more_a_stride(converted):
    _, _, dense = converted
    stride = next(reversed(layer_grids(dense).values())).vertical.stride
    with torch.no_grad():
        scores = dense(torch.randn(1, 3, NATIVE + 2 * stride, NATIVE + stride))
    assert scores.shape == (1, 1000, 3, 2)
    assert scores[..., 0, 0].ne(scores[..., 2, 1]).any()


def test_the_classifier_is_left_as_it_was(converted):
    net, (state, layers), dense = converted
    own = {id(parameter) for parameter in net.parameters()}
    storages = {parameter.data_ptr() for parameter in net.parameters()}
    assert not [p for p in dense.parameters() if id(p) in own or p.data_ptr() in storages]
    assert all(value.equal(state[name]) for name, value in net.state_dict().items())
    assert repr(net) == layers
    assert all(part.training is False for part in net.modules())


def test_weights_keep_their_names_and_number(converted):
    net, _, dense = converted
    own = {name: value.numel() for name, value in net.named_parameters()}
    auxiliary = {name for name in own if name.startswith("aux")}
    assert {name: p.numel() for name, p in dense.named_parameters()} == {
        name: size for name, size in own.items() if name not in auxiliary
    }


# Training mode ----------------------------------------------------------------------------------

MODES_QUICKLY = ("squeezenet1_0", "mobilenet_v2")
RANDOM_WHILE_TRAINING = [
    ("alexnet", {}),
    ("squeezenet1_0", {}),
    ("mobilenet_v2", {}),
    ("mobilenet_v3_large", {}),
    ("googlenet", {"aux_logits": False}),
    ("densenet121", {"drop_rate": 0.2}),
    ("efficientnet_b0", {}),
    ("convnext_tiny", {}),
    ("vgg16_bn", {}),
    ("timm:regnetx_002", {"drop_rate": 0.2, "drop_path_rate": 0.2}),
    ("timm:convnextv2_atto", {"drop_rate": 0.2, "drop_path_rate": 0.2}),
    ("timm:mobilenetv4_conv_small", {"drop_rate": 0.2, "drop_path_rate": 0.2}),
]


@pytest.mark.slow
@pytest.mark.parametrize("mode_of_conversion", ["train", "eval"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param(*case, id=case[0], marks=() if case[0] in MODES_QUICKLY else pytest.mark.slow)
        for case in RANDOM_WHILE_TRAINING
    ],
)
def test_both_modes_work_as_on_the_classifier(name, arguments, mode_of_conversion):
    """In training the same seed draws the same dropout, paths and statistics; in eval nothing."""
    net = classifier(name, **arguments)
    net.train(mode_of_conversion == "train")
    dense = convolutionalize(net)
    assert all(part.training is net.training for part in net.modules())
    assert dense.training is net.training
    images = torch.randn(2, 3, NATIVE, NATIVE)
    with torch.no_grad():
        if mode_of_conversion == "eval":
            assert dense(images).equal(dense(images))
        torch.manual_seed(1)
        expected = net.train()(images)
        torch.manual_seed(1)
        # Converted while training, it is in that mode without being told.
        actual = (dense if mode_of_conversion == "train" else dense.train())(images)
        assert relative_error(actual[:, :, 0, 0], expected) < 1e-5
        own = net.state_dict()
        for key, value in dense.state_dict().items():
            if "running" in key:
                torch.testing.assert_close(value, own[key], rtol=1e-4, atol=1e-5)
        assert dense(images).ne(dense(images)).any()
        dense.eval()
        assert dense(images).equal(dense(images))


def test_a_part_frozen_in_eval_mode_stays_so():
    net = settled(Headed(lambda s, x: s.layers[0](x.mean((2, 3))), nn.Linear(8, 4)), 32)
    net.train()
    net.body[3].eval()
    dense = convolutionalize(net, 32)
    norm = dense.get_submodule("body.3")
    statistics = norm.running_mean.clone()
    dense(torch.randn(2, 3, 32, 32))
    assert dense.training and not norm.training
    assert norm.running_mean.equal(statistics)


@pytest.mark.slow
def test_a_branch_on_training_around_layers_takes_the_evaluation_side():
    """GoogLeNet returns its auxiliary scores while it trains; the dense net never does."""
    net = classifier("googlenet").train()
    dense = convolutionalize(net)
    assert isinstance(dense.train()(torch.randn(2, 3, NATIVE, NATIVE)), torch.Tensor)
    assert not [name for name in dense.state_dict() if name.startswith("aux")]


# Padding-free classifiers: every cell is the classifier on a crop ---------------------------------


def linear(size):
    return nn.Linear(size, 4)


def pooled(pool):
    """A head that pools with `pool(net, map)` and then scores."""
    return lambda s, x: s.layers[-1](pool(s, x))


HEADS = {
    "view": (lambda s, x: s.layers[0](x.view(x.size(0), -1)), linear(392)),
    "view by shape": (lambda s, x: s.layers[0](x.view(x.shape[0], -1)), linear(392)),
    "view of known length": (lambda s, x: s.layers[0](x.view(-1, 392)), linear(392)),
    "reshape": (lambda s, x: s.layers[0](x.reshape(x.size(0), -1)), linear(392)),
    "flatten": (lambda s, x: s.layers[0](x.flatten(1)), linear(392)),
    "torch.flatten": (lambda s, x: s.layers[0](torch.flatten(x, start_dim=1)), linear(392)),
    "nn.Flatten": (lambda s, x: s.layers[1](s.layers[0](x)), nn.Flatten(), linear(392)),
    "nn.AdaptiveAvgPool2d": (
        pooled(lambda s, x: s.layers[0](x).flatten(1)),
        nn.AdaptiveAvgPool2d((1, 1)),
        linear(8),
    ),
    "nn.AdaptiveMaxPool2d": (
        pooled(lambda s, x: s.layers[0](x).flatten(1)),
        nn.AdaptiveMaxPool2d(1),
        linear(8),
    ),
    "F.adaptive_avg_pool2d": (
        pooled(lambda _, x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
        linear(8),
    ),
    "F.adaptive_max_pool2d": (
        pooled(lambda _, x: F.adaptive_max_pool2d(x, output_size=(1, 1)).flatten(1)),
        linear(8),
    ),
    "nn.AvgPool2d": (pooled(lambda s, x: s.layers[0](x).flatten(1)), nn.AvgPool2d(7), linear(8)),
    "F.avg_pool2d": (pooled(lambda _, x: F.avg_pool2d(x, 7).flatten(1)), linear(8)),
    "F.avg_pool2d of x.size()[2:]": (
        pooled(lambda _, x: F.avg_pool2d(x, x.size()[2:]).flatten(1)),
        linear(8),
    ),
    "F.max_pool2d of x.shape": (
        pooled(lambda _, x: F.max_pool2d(x, (x.shape[2], x.shape[3])).flatten(1)),
        linear(8),
    ),
    "mean": (pooled(lambda _, x: x.mean([2, 3])), linear(8)),
    "mean, axes from the end": (pooled(lambda _, x: x.mean((-1, -2))), linear(8)),
    "torch.mean, axes kept": (
        pooled(lambda _, x: torch.mean(x, dim=(2, 3), keepdim=True).flatten(1)),
        linear(8),
    ),
    "amax": (pooled(lambda _, x: x.amax((2, 3))), linear(8)),
    "mean of a row of cells": (pooled(lambda _, x: x.flatten(2).mean(-1)), linear(8)),
    "mean of a row of cells, axis kept": (
        pooled(lambda _, x: torch.mean(x.view(x.size(0), 8, -1), 2, True).squeeze(-1)),
        linear(8),
    ),
    "amax of a row of cells by nn.Flatten": (
        pooled(lambda s, x: s.layers[0](x).amax(2)),
        nn.Flatten(2),
        linear(8),
    ),
    "mean along one axis, then the other": (pooled(lambda _, x: x.mean(3).mean(2)), linear(8)),
    "mean along height, then width": (pooled(lambda _, x: x.mean(2).mean(-1)), linear(8)),
    "mean along one axis, then the other, axes kept": (
        pooled(lambda _, x: x.mean(2, keepdim=True).mean(3, keepdim=True).flatten(1)),
        linear(8),
    ),
    "mean along one axis, which is kept, then the other": (
        pooled(lambda _, x: x.mean(3, keepdim=True).mean(2).squeeze(-1)),
        linear(8),
    ),
    "squeeze": (pooled(lambda s, x: s.layers[0](x).squeeze()), nn.AdaptiveAvgPool2d(1), linear(8)),
    "squeeze twice": (
        pooled(lambda s, x: s.layers[0](x).squeeze(3).squeeze(2)),
        nn.AdaptiveAvgPool2d(1),
        linear(8),
    ),
    "adaptive pooling that changes nothing": (
        pooled(lambda s, x: s.layers[0](x).flatten(1)),
        nn.AdaptiveAvgPool2d(7),
        linear(392),
    ),
    "pooling after the last convolution": (
        lambda s, x: s.layers[1](F.relu(s.layers[0](x))).flatten(1),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
    ),
    "pooling, activation, then the batch size asked of the map before": (
        lambda s, x: F.relu(s.layers[1](s.layers[0](x))).view(x.size(0), 4),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
    ),
    "hidden layers": (
        lambda s, x: s.layers[2](
            F.dropout(s.layers[1](s.layers[0](x.flatten(1))), 0.5, s.training)
        ),
        nn.Linear(392, 16),
        nn.ReLU(inplace=True),
        linear(16),
    ),
    "hidden layers with batch norm": (
        lambda s, x: s.layers[2](s.layers[1](s.layers[0](x.flatten(1))).relu()),
        nn.Linear(392, 16),
        nn.BatchNorm1d(16),
        linear(16),
    ),
    "batch norm of pooled features": (
        lambda s, x: s.layers[1](s.layers[0](x.mean((2, 3)))),
        nn.BatchNorm1d(8),
        linear(8),
    ),
    "layer norm of pooled features": (
        lambda s, x: s.layers[1](s.layers[0](x.mean((2, 3)))),
        nn.LayerNorm(8),
        linear(8),
    ),
    "hidden layers with layer norm": (
        lambda s, x: s.layers[4](s.layers[3](s.layers[2](s.layers[1](s.layers[0](x.flatten(1)))))),
        nn.Linear(392, 16),
        nn.LayerNorm(16),
        nn.GELU(),
        nn.Linear(16, 16),
        linear(16),
    ),
    "functional dense layers": (
        lambda s, x: F.linear(
            F.relu(F.linear(x.mean((2, 3)), s.layers[0].weight)), s.matrix, s.vector
        ),
        nn.Linear(8, 8),
    ),
    "residual dense layers": (
        lambda s, x: s.layers[2](s.layers[0](v := x.mean((2, 3))) + s.layers[1](v)),
        nn.Identity(),
        nn.Linear(8, 8),
        linear(8),
    ),
    "two dense branches": (
        lambda s, x: s.layers[0](v := x.flatten(1)) * s.layers[1](v).sigmoid(),
        linear(392),
        linear(392),
    ),
    "softmax over the last axis": (
        lambda s, x: s.layers[1](s.layers[0](x.flatten(1))),
        linear(392),
        nn.Softmax(dim=-1),
    ),
    "F.log_softmax": (lambda s, x: F.log_softmax(s.layers[0](x.flatten(1)), dim=1), linear(392)),
    "softmax as a method": (lambda s, x: s.layers[0](x.mean((2, 3))).softmax(-1), linear(8)),
    "F.softmin": (lambda s, x: F.softmin(s.layers[0](x.mean((2, 3))), 1), linear(8)),
    "normalised features": (
        lambda s, x: s.layers[0](F.normalize(x.mean((2, 3)), dim=-1)),
        linear(8),
    ),
    "pointwise calls on vectors": (
        lambda s, x: s.layers[0](x.mean((2, 3)).square()).clip(-1, 1).log1p(),
        linear(8),
    ),
    "one class": (lambda s, x: s.layers[0](x.flatten(1)) / 2, nn.Linear(392, 1)),
}


@pytest.mark.parametrize("head", HEADS)
def test_each_cell_is_the_padding_free_classifier_on_its_crop(head):
    torch.manual_seed(0)
    make, *layers = HEADS[head]
    net = Headed(make, *layers)
    for part in layers:  # made when this file was read: make them anew from the seed
        getattr(part, "reset_parameters", lambda: None)()
    settled(net, 32)
    dense = convolutionalize(net, input_size=32)
    images = torch.randn(2, 3, 32 + 4 * 3 + 1, 32 + 4 * 5 + 2)
    with torch.no_grad():
        scores = dense(images)
        assert scores.shape[2:] == (4, 6)
        for row in range(4):
            for column in range(6):
                crop = images[:, :, 4 * row : 4 * row + 32, 4 * column : 4 * column + 32]
                assert relative_error(scores[:, :, row, column], net(crop)) < 1e-5


class FlatNet(nn.Module):
    """LeNet-like, without padding: stride 4, native 28 x 28, a hidden dense layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(256, 30), nn.ReLU(), nn.Linear(30, 10))

    def forward(self, images):
        return self.dense(self.features(images))


class AllConvolutional(nn.Module):
    """Ends in a convolution and a global pooling, as SqueezeNet: stride 8, native 45 x 45."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2),  # 21
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),  # 10
            nn.Conv2d(8, 8, 2, stride=2),  # 5
            nn.Hardswish(),
            nn.Conv2d(8, 10, 3),  # 3
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, images):
        return self.layers(images)


class Averaging(nn.Module):
    """Pools by mean([2, 3]); dilation, groups, concatenation. Stride 6, native 41 x 41."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=3)  # 13
        self.left = nn.Conv2d(8, 8, 3, stride=2, dilation=2, groups=4)  # 5
        self.right = nn.AvgPool2d(5, 2)  # 5
        self.score = nn.Linear(16, 10)

    def forward(self, images):
        stem = self.stem(images)
        return self.score(torch.cat([self.left(stem).relu(), self.right(stem)], 1).mean([2, 3]))


@pytest.mark.parametrize(
    ("kind", "native", "stride"), [(FlatNet, 28, 4), (AllConvolutional, 45, 8), (Averaging, 41, 6)]
)
def test_whole_padding_free_classifiers_slide(kind, native, stride):
    torch.manual_seed(0)
    net = settled(kind(), native)
    dense = convolutionalize(net, native)
    rows, columns = 3, 4
    images = torch.randn(1, 3, native + stride * (rows - 1), native + stride * (columns - 1))
    with torch.no_grad():
        scores = dense(images)
        assert scores.shape == (1, 10, rows, columns)
        for i in range(rows):
            for j in range(columns):
                crop = images[..., stride * i :, stride * j :][..., :native, :native]
                assert relative_error(scores[..., i, j], net(crop)) < 1e-5


def test_dense_layer_as_convolution_by_definition():
    """Output o of the linear layer is the sum over c, y, x of W[o, (c, y, x)] * map[c, y, x]."""
    layer = nn.Linear(2 * 3 * 4, 5)
    convolution = dense_to_convolution(layer, (3, 4))
    assert convolution.weight.shape == (5, 2, 3, 4)
    image = torch.randn(2, 3, 4)
    expected = [
        sum(
            layer.weight[o, c * 12 + y * 4 + x] * image[c, y, x]
            for c in range(2)
            for y in range(3)
            for x in range(4)
        )
        + layer.bias[o]
        for o in range(5)
    ]
    torch.testing.assert_close(convolution(image[None])[0, :, 0, 0], torch.stack(expected))


def test_frozen_layers_stay_frozen():
    net = FlatNet()
    net.dense[1].weight.requires_grad_(False)
    dense = convolutionalize(net, 28)
    assert not dense.get_parameter("dense.1.weight").requires_grad
    assert dense.get_parameter("dense.3.weight").requires_grad


def test_adaptive_pooling_to_several_cells_keeps_its_native_window():
    """As AlexNet trained on larger images: pooled to 2 x 2, then a dense layer reads the 2 x 2."""
    net = settled(
        Headed(
            pooled(lambda s, x: s.layers[0](x[:, :, :, :]).flatten(1)),
            nn.AdaptiveAvgPool2d(2),
            linear(32),
        ),
        39,  # 9 x 9 cells would not divide; 40 x 40 pixels give 9
    )
    with pytest.raises(NotConvolutionalError, match=r"layers\.0.*\(9, 9\) to \(2, 2\)"):
        convolutionalize(net, 39)
    dense = convolutionalize(net, 36)  # 8 x 8 cells: windows of 4 x 4
    images = torch.randn(1, 3, 36 + 16, 36)
    with torch.no_grad():
        scores = dense(images)
        assert scores.shape == (1, 4, 2, 1)  # the windows move by their own size
        torch.testing.assert_close(scores[..., 0, 0], net(images[:, :, :36]))
        torch.testing.assert_close(scores[..., 1, 0], net(images[:, :, 16:]))


def test_a_last_max_pooling_on_one_cell_stays_a_layer():
    """A VGG for 32 x 32 images ends in a 2 x 2 max pooling of a 2 x 2 map: no global pooling."""
    net = NarrowVGG().eval()
    net.avgpool = nn.Identity()
    net.classifier = nn.Linear(8, 10)
    dense = convolutionalize(net, 32)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(dense(images)[:, :, 0, 0], net(images))
        assert dense(torch.randn(1, 3, 96, 64)).shape == (1, 10, 3, 2)


# Inside: what slides and what depends on the whole image ------------------------------------------


class DropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        return x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.5)) / 0.5


def squeeze_and_excite(s, x):
    """As in the original's ports: flatten, dense layers, view."""
    n, c, _, _ = x.size()
    weights = torch.sigmoid(s.layers[1](s.layers[0](x).view(n, c))).view(n, c, 1, 1)
    return x * weights.expand_as(x)


def efficient_channel_attention(s, x):
    y = s.layers[0](x).squeeze(-1).transpose(-1, -2)
    return x * torch.sigmoid(s.layers[1](y).transpose(-1, -2).unsqueeze(-1)).expand_as(x)


def shuffle(_, x):
    n, c, h, w = x.size()
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def swapped(_, x):
    left, right = x.chunk(2, dim=1)
    return torch.cat([right, left], 1)


def conv(*arguments, **options):
    return nn.Conv2d(8, 8, *arguments, **options)


# name: (middle, layers, whether cells of the last map see only part of the image)
MIDDLES = {
    "squeeze and excitation": (
        squeeze_and_excite,
        [nn.AdaptiveAvgPool2d(1), nn.Linear(8, 8)],
        False,
    ),
    "squeeze by F.avg_pool2d": (
        lambda s, x: x * s.layers[0](F.avg_pool2d(x, x.size()[2:])).sigmoid(),
        [conv(1)],
        False,
    ),
    "channel attention": (
        efficient_channel_attention,
        [nn.AdaptiveAvgPool2d(1), nn.Conv1d(1, 1, 3, padding=1)],
        False,
    ),
    "channel shuffle": (shuffle, [], True),
    "channels swapped": (lambda _, x: torch.cat([x[:, 4:], x[:, :4]], 1), [], True),
    "channels chunked": (swapped, [], True),
    "spatial attention": (
        lambda s, x: (
            x
            * s.layers[0](
                torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
            ).sigmoid()
        ),
        [nn.Conv2d(2, 1, 3, padding=1)],
        True,
    ),
    "layer scale": (lambda s, x: x * s.scale, [], True),
    "stochastic depth": (
        lambda s, x: x + s.layers[1](s.layers[0](x)),
        [conv(3, 1, 1), DropPath()],
        True,
    ),
    "channels last": (
        lambda s, x: s.layers[1](s.layers[0](x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        [nn.LayerNorm(8), nn.Linear(8, 8)],
        True,
    ),
    "group norm": (lambda s, x: s.layers[0](x), [nn.GroupNorm(2, 8)], False),
    "instance norm as a function": (lambda _, x: F.instance_norm(x), [], False),
    "reflection": (
        lambda s, x: s.layers[0](F.pad(x, (1, 1, 1, 1), mode="reflect")),
        [conv(3)],
        True,
    ),
    "replication": (
        lambda s, x: s.layers[1](s.layers[0](x)),
        [nn.ReplicationPad2d(1), conv(3)],
        True,
    ),
    "circular padding": (
        lambda s, x: s.layers[0](x),
        [conv(3, 1, 1, padding_mode="circular")],
        False,
    ),
    "batch statistics": (
        lambda s, x: s.layers[0](x),
        [nn.BatchNorm2d(8, track_running_stats=False)],
        False,
    ),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_layers_inside_a_classifier(middle):
    torch.manual_seed(0)
    make, layers, bounded = MIDDLES[middle]
    net = Staged(make, *layers).eval()
    dense = convolutionalize(net, 32)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(dense(images)[:, :, 0, 0], net(images), atol=1e-6, rtol=1e-5)
        assert dense(torch.randn(1, 3, 64, 40)).shape == (1, 4, 5, 2)
    last = next(reversed(layer_grids(dense).values()))
    assert last.vertical.bounded is last.horizontal.bounded is bounded


POINTWISE = (
    *(torch.square, torch.log1p, torch.erf, torch.reciprocal, torch.nan_to_num),
    *(F.softsign, F.logsigmoid, F.tanhshrink, F.softshrink, F.hardshrink, F.rrelu),
    lambda x: F.threshold(x, 0.6, 0.2),
    lambda x: x.clip(0.5, 0.7) * (x > 0.6),
    lambda x: (x + 1).exp_(),
)


@pytest.mark.parametrize("function", POINTWISE)
def test_pointwise_functions(function):
    torch.manual_seed(0)
    net = Staged(lambda _, x: function(x + 0.5)).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        actual = convolutionalize(net, 32)(images)[:, :, 0, 0]
        torch.testing.assert_close(actual, net(images), atol=1e-6, rtol=1e-5)


# Refusals: one line that names the layer and says why --------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_b_32", r"layer reshape: a view from \(2, 768, 7, 7\) to \(2, 768, 49\) mixes up"),
        ("swin_t", "layer shifted_window_attention: shifted_window_attention.. does not slide"),
        pytest.param(
            "maxvit_t", "layer reshape_1: a view from .* mixes up", marks=pytest.mark.slow
        ),
    ],
)
def test_transformers_are_refused(name, reason):
    import torchvision

    net = torchvision.models.get_model(name, weights=None)
    with pytest.raises(NotConvolutionalError, match=reason) as refusal:
        convolutionalize(net)
    assert "only networks of convolutions, pooling and pointwise layers" in str(refusal.value)
    assert "\n" not in str(refusal.value)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(3, 4)

    def forward(self, images):
        pooled = images.mean((2, 3))
        return self.score(pooled) if pooled.sum() > 0 else -self.score(pooled)


REFUSED = {
    "control flow on data": (
        Branching(),
        UntraceableError,
        "Branching can't be traced: .*control flow",
    ),
    "position embedding": (
        Staged(lambda s, x: x + s.embedding),
        NotConvolutionalError,
        r"layer add: .*fixed shape \(1, 8, 8, 8\)",
    ),
    "view to a fixed size": (
        Staged(lambda _, x: x.view(-1, 8, 8, 8)),
        NotConvolutionalError,
        r"layer view: a view to the fixed size \(8, 8\)",
    ),
    "softmax along the width": (
        Staged(lambda s, x: s.layers[0](x) * x, nn.Softmax(-1)),
        NotConvolutionalError,
        r"layer layers\.0: a Softmax runs along an image axis",
    ),
    "upsampling": (
        Staged(
            lambda s, x: x + s.layers[1](s.layers[0](x)),
            nn.AvgPool2d(2),
            nn.Upsample(scale_factor=2),
        ),
        NotConvolutionalError,
        r"layer layers\.1: Upsample does not slide",
    ),
    "roll": (
        Staged(lambda _, x: x.roll(1, 2)),
        NotConvolutionalError,
        r"layer roll: roll\(\) does not",
    ),
    "part of the image": (
        Staged(lambda _, x: x[:, :, 1:]),
        NotConvolutionalError,
        "part of the image",
    ),
    "mean along one axis": (
        Staged(lambda _, x: x * x.mean(2, keepdim=True)),
        NotConvolutionalError,
        "layer mean: a reduction over some of the image's axes",
    ),
    "attention": (
        Staged(
            lambda s, x: (
                s.layers[0](*[x.flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2).view(x.shape)
            ),
            nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        NotConvolutionalError,
        "layer flatten: a view",
    ),
    "bias that is a bare parameter": (
        Headed(lambda s, x: s.layers[0](x.flatten(1)) + s.vector, linear(392)),
        NotConvolutionalError,
        r"layer add: .*fixed shape \(4,\)",
    ),
    "product with a matrix": (
        Headed(lambda s, x: x.mean((2, 3)) @ s.matrix.T),
        NotConvolutionalError,
        r"layer matmul: matmul\(\) can't work on a map",
    ),
    "layer norm of a flattened map": (
        Headed(lambda s, x: s.layers[1](s.layers[0](x.flatten(1))), nn.LayerNorm(392), linear(392)),
        NotConvolutionalError,
        r"layer layers\.0: it normalises a flattened map as one vector",
    ),
    "batch norm of a flattened map": (
        Headed(
            lambda s, x: s.layers[1](s.layers[0](x.flatten(1))), nn.BatchNorm1d(392), linear(392)
        ),
        NotConvolutionalError,
        r"layer layers\.0: it normalises a flattened map as one vector",
    ),
    "F.normalize of a flattened map": (
        Headed(lambda s, x: s.layers[0](F.normalize(x.flatten(1))), linear(392)),
        NotConvolutionalError,
        r"layer normalize: it normalises a flattened map as one vector",
    ),
    "softmax of a batch": (
        Headed(lambda s, x: s.layers[0](x.flatten(1)).softmax(0), linear(392)),
        NotConvolutionalError,
        r"layer softmax: it normalises along axis 0, not along the channels",
    ),
    "nn.Softmax of a batch": (
        Headed(lambda s, x: s.layers[1](s.layers[0](x.flatten(1))), linear(392), nn.Softmax(0)),
        NotConvolutionalError,
        r"layer layers\.1: it normalises along axis 0, not along the channels",
    ),
    "two kinds of reduction": (
        Headed(lambda s, x: s.layers[0](x.amax(3).mean(2)), linear(8)),
        NotConvolutionalError,
        "layer amax: a reduction over some of the image's axes",
    ),
    "a layer for vectors alone": (
        Headed(lambda s, x: s.layers[1](s.layers[0](x.flatten(1))), nn.Dropout1d(), linear(392)),
        NotConvolutionalError,
        "its layers can't work on maps: dropout1d",
    ),
    "flattened in another order": (
        Headed(lambda s, x: s.layers[0](x.permute(0, 2, 3, 1).flatten(1)), linear(392)),
        NotConvolutionalError,
        r"layer layers\.0: it needs the layout NCHW and gets NHWC",
    ),
    "two poolings joined": (
        Headed(
            lambda s, x: s.layers[0](torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)),
            nn.Linear(16, 4),
        ),
        NotConvolutionalError,
        "does not end in a map of scores",
    ),
    "a dict of scores": (
        Headed(lambda s, x: {"out": s.layers[0](x.flatten(1))}, linear(392)),
        NotConvolutionalError,
        "must return one tensor",
    ),
    "fails on its own": (
        Headed(lambda s, x: s.layers[0](x.flatten(1)), linear(391)),
        UntraceableError,
        "Headed can't be traced: .*",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_layer_and_the_reason(case):
    net, kind, reason = REFUSED[case]
    with pytest.raises(kind, match=reason) as refusal:
        convolutionalize(net.eval(), 32)
    assert isinstance(refusal.value, FullconvError)
    assert "\n" not in str(refusal.value) and "0x" not in str(refusal.value)
