"""Trunks: which layers are tapped, where their cells lie, and what they yield."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import Headed, NarrowVGG, Staged, classifier, marked, settled
from torch import nn
from torch.nn import functional as F

from fullconv import FullconvError
from fullconv.geometry import Grid
from fullconv.net.trunk import Trunk

# net: (stride, offset of its centres, receptive field) of each default tap, coarsest first.
# Receptive fields as published (404 and 355: the paper's Table 1; ResNet18's 435) or by the
# recurrence r += (k - 1) * stride; SqueezeNet and GoogLeNet pool with ceil and without padding.
FACTS = {
    "vgg16": [(32, 15.5, 404), (16, 7.5, 100), (8, 3.5, 44), (4, 1.5, 16)],
    "vgg16_bn": [(32, 15.5, 404), (16, 7.5, 100), (8, 3.5, 44), (4, 1.5, 16)],
    "alexnet": [(32, 15, 355), (16, 15, 67), (8, 7, 19), (4, 3, 11)],
    "squeezenet1_0": [(16, 17, 155), (8, 9, 107), (4, 5, 35)],
    "googlenet": [(32, 22, 379), (16, 14, 235), (8, 6, 59), (4, 2, 19)],
    "resnet18": [(32, 0, 435), (16, 0, 211), (8, 0, 99), (4, 0, 43)],
    "mobilenet_v2": [(32, 0, 491), (16, 0, 267), (8, 0, 59), (4, 0, 19)],
    "mobilenet_v3_large": [(32, 0, 595), (16, 0, 275), (8, 0, 99), (4, 0, 19)],
    "efficientnet_b0": [(32, 0, 851), (16, 0, 339), (8, 0, 67), (4, 0, 19)],
    "densenet121": [(32, 14, 2071), (16, 6, 1031), (8, 2, 255), (4, 0, 59)],
    "regnet_y_400mf": [(32, 0, 575), (16, 0, 223), (8, 0, 47), (4, 0, 7)],
    "shufflenet_v2_x1_0": [(32, 0, 527), (16, 0, 303), (8, 0, 63), (4, 0, 7)],
    "convnext_tiny": [(32, 15.5, 1688), (16, 7.5, 1096), (8, 3.5, 224), (4, 1.5, 76)],
}
EXCITED = ("mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf")


@pytest.fixture(scope="module", params=marked(tuple(FACTS)))
def trunk(request):
    net = classifier(request.param)
    return request.param, net, Trunk(copy.deepcopy(net), 4, 224, {})


def test_known_grids(trunk):
    name, _, made = trunk
    assert made.coarsest is made.taps[0]
    for axis in ("vertical", "horizontal"):
        grids = [getattr(tap, axis) for tap in made.taps]
        assert [(g.stride, g.offset, g.receptive_field) for g in grids] == FACTS[name]
        assert made.taps[0].vertical.bounded is (name not in EXCITED)


def test_covering_sizes_are_the_least(trunk):
    """No image is padded by a pixel more than its coarsest cells need."""
    _, _, made = trunk
    grid = made.coarsest.vertical
    for size in range(1, 100):
        wanted = -(-size // grid.stride)
        least = next(s for s in range(size, 10_000) if grid.cells(s) >= wanted)
        assert grid.covering_size(size) == least


def test_features_have_the_size_that_geometry_says(trunk):
    _, _, made = trunk
    for height, width in ((97, 64), (130, 225)):
        padded = [made.coarsest.vertical.covering_size(n) for n in (height, width)]
        with torch.no_grad():
            features = made(torch.randn(1, 3, *padded))
        for tap, feature in zip(made.taps, features, strict=True):
            cells = tap.vertical.cells(padded[0]), tap.horizontal.cells(padded[1])
            assert feature.shape == (1, tap.channels, *cells)


def test_features_are_those_of_the_classifiers_own_layers(trunk):
    """Compared, by hooks on the classifier, wherever the tapped layer is a module of it.

    The taps come after nothing that was changed (hidden dense layers and the last pooling).
    """
    _, net, made = trunk
    own = dict(net.named_modules())
    kept = {}
    layers = [tap.layer for tap in made.taps[1:] if tap.layer in own]
    hooks = [
        own[layer].register_forward_hook(
            lambda _, __, value, layer=layer: kept.setdefault(layer, []).append(value.clone())
        )
        for layer in layers
    ]
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        net(images)
        features = made(images)
    for hook in hooks:
        hook.remove()
    for tap, feature in zip(made.taps[1:], features[1:], strict=True):
        if tap.layer in layers:
            # A module may run twice under one name (a block's ReLU): the tap is its last call.
            torch.testing.assert_close(feature, kept[tap.layer][-1], rtol=1e-4, atol=1e-5)


def test_layers_keep_the_classifiers_names(trunk):
    _, net, made = trunk
    assert set(made.layers.state_dict()) < set(net.state_dict())


def test_the_papers_skips_of_vgg_are_its_poolings():
    made = Trunk(NarrowVGG().eval(), 4, 224, {})
    assert [tap.layer for tap in made.taps[1:]] == ["features.23", "features.16", "features.9"]
    assert all(isinstance(NarrowVGG().features[i], nn.MaxPool2d) for i in (23, 16, 9))


def test_alexnet_is_tapped_at_its_poolings():
    made = Trunk(classifier("alexnet"), 8, 224, {})
    assert [(tap.stride, tap.layer) for tap in made.taps[1:]] == [
        (16, "features.5"),
        (8, "features.2"),
    ]


def test_hidden_dense_layers_stay_as_convolutions_that_keep_the_map():
    """VGG's fc6 pads by 3, so that a 224 x 224 image has 7 x 7 cells of fc7, not one."""
    net = settled(NarrowVGG(), 224)
    made = Trunk(copy.deepcopy(net), 32, 224, {})
    fc6 = made.layers.get_submodule("classifier.0")
    assert fc6.kernel_size == (7, 7) and fc6.padding == (3, 3)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        (features,) = made(images)
        assert features.shape[2:] == (7, 7)
        centre = net.classifier[:6](net.features(images).flatten(1))
        torch.testing.assert_close(features[:, :, 3, 3], centre)


@pytest.mark.slow
def test_squeezenet_starts_at_16():
    with pytest.raises(
        FullconvError, match="SqueezeNet has no layer at stride 32; it has 16, 8, 4"
    ):
        Trunk(classifier("squeezenet1_0"), 32, 224, {})


def test_a_trunk_is_cut_off_after_the_coarsest_stride_that_is_asked_for():
    for coarsest, strides in ((32, [16, 8]), (16, [16, 8]), (8, [8])):
        made = Trunk(classifier("squeezenet1_0"), 8, 224, {}, coarsest=coarsest)
        assert [tap.stride for tap in made.taps] == strides


def test_training_mode_passes_through():
    made = Trunk(classifier("mobilenet_v2").train(), 8, 224, {})
    images = torch.randn(2, 3, 96, 96)
    norm = next(part for part in made.modules() if isinstance(part, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    made(images)
    assert made.training and norm.running_mean.ne(before).any()
    before = norm.running_mean.clone()
    made.eval()(images)
    assert norm.running_mean.equal(before)


class SamePadded(nn.Conv2d):
    """Pads so that there is a cell for each started stride, as TensorFlow does."""

    scaled = 1

    def forward(self, images):
        missing = [
            max((-(-length // step) - 1) * step + size - length, 0)
            for length, step, size in zip(
                images.shape[-2:], self.stride, self.kernel_size, strict=True
            )
        ]
        (above, beside), weight = (each // 2 for each in missing), self.weight
        margins = (beside, missing[1] - beside, above, missing[0] - above)
        weight = weight if self.scaled == 1 else self.scaled * weight
        padded = nn.functional.pad(images, margins)
        return nn.functional.conv2d(padded, weight, self.bias, self.stride, groups=self.groups)


def same_padded_classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        SamePadded(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        SamePadded(8, 8, 5, 2, groups=8, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def test_convolutions_that_pad_by_the_image_s_size_are_plain_layers_again():
    network = same_padded_classifier()
    names, images = list(network[:4].state_dict()), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network[:4](images)
    made = Trunk(network, 4, 64, {})
    first, second = (part for part in made.modules() if isinstance(part, nn.Conv2d))
    assert type(first) is type(second) is nn.Conv2d
    assert (second.groups, second.stride, second.bias) == (8, (2, 2), None)
    assert not any(node.op == "get_attr" for node in made.layers.graph.nodes)
    assert [name.removeprefix("layers.") for name in made.state_dict()] == names
    with torch.no_grad():
        assert torch.equal(made(images)[0], expected)


def test_a_convolution_by_a_weight_that_is_computed_stays_a_call():
    network = same_padded_classifier()
    network[3].scaled = 2
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network[:4](images)
        made = Trunk(network, 4, 64, {})
        assert torch.equal(made(images)[0], expected)
    assert sum(isinstance(part, nn.Conv2d) for part in made.modules()) == 1


# Named skips --------------------------------------------------------------------------------------


def test_named_skips_override_the_default():
    made = Trunk(NarrowVGG().eval(), 8, 224, {16: "features.29", 8: "features.22"})
    # conv5_3's and conv4_3's activations: the last layers before pool5 and pool4.
    assert [tap.layer for tap in made.taps[1:]] == ["features.29", "features.22"]


def test_named_skips_are_checked():
    with pytest.raises(
        FullconvError, match=r"no cut point 'features\.99' .*did you mean features\.9"
    ):
        Trunk(NarrowVGG(), 8, 224, {16: "features.99"})
    with pytest.raises(
        FullconvError, match=r"'features\.9' was asked for at stride 16 but lies at 4"
    ):
        Trunk(NarrowVGG(), 8, 224, {16: "features.9"})
    with pytest.raises(FullconvError, match=r"no cut point 'layer3\.0\.conv1'"):
        Trunk(classifier("resnet18"), 8, 224, {16: "layer3.0.conv1"})  # a shortcut goes around it


@pytest.mark.parametrize(
    "activation",
    [
        lambda s, x: s.layers[0](x),
        lambda _, x: nn.functional.relu(x, inplace=True),
        lambda _, x: nn.functional.relu(x, True),
        lambda _, x: nn.functional.relu_(x),
        lambda _, x: x.relu_(),
        lambda _, x: x.clamp_(0, 0.1),
        lambda s, x: s.layers[1](x, 3),
    ],
    ids=["module", "function", "positional", "function_", "method_", "clamp_", "augmented"],
)
def test_a_layer_in_place_does_not_overwrite_what_a_skip_reads(activation):
    """A skip from a convolution before an activation in place yields the convolution's values."""

    class AddInPlace(nn.Module):
        def forward(self, x, number):
            x += number
            return x

    def middle(s, x):
        return activation(s, s.layers[2](x))

    net = Staged(middle, nn.ReLU(inplace=True), AddInPlace(), nn.Conv2d(8, 8, 1)).eval()
    made = Trunk(copy.deepcopy(net), 4, 32, {4: "layers.2"})
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = net.layers[2](net.first(images))
        coarse, skip = made(images)
        torch.testing.assert_close(skip, expected)
        torch.testing.assert_close(coarse, net.last(activation(net, expected.clone())))


# Trunks that can't be ----------------------------------------------------------------------------


def test_strides_must_agree_between_the_axes():
    net = Staged(lambda s, x: s.layers[0](x), nn.Conv2d(8, 8, 3, (2, 1), 1)).eval()
    with pytest.raises(FullconvError, match="strides differ between height and width"):
        Trunk(net, 4, 32, {})


def test_a_classifier_of_features_of_the_whole_image():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(3, 4)

        def forward(self, images):
            return self.score((images.mean((2, 3), keepdim=True) * images).amax((2, 3)).relu())

    made = Trunk(Bag().eval(), 1, 32, {})
    assert made.coarsest.vertical == Grid(bounded=False)
    with pytest.raises(FullconvError, match="Bag has no layer at stride 8; it has 1"):
        Trunk(Bag().eval(), 8, 32, {})


def test_a_dense_layer_without_cells_is_told_of():
    def two_poolings(net, maps):
        return net.layers[0](torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))

    reason = (
        "Headed has no layer at stride 4; it has 2 before layer body.2, which was taken for the "
        "last one, since layer layers.0 reads what describes the whole image"
    )
    with pytest.raises(FullconvError, match=reason):
        Trunk(Headed(two_poolings, nn.Linear(16, 4)).eval(), 4, 32, {})


class LogProbabilities(nn.Module):
    def forward(self, scores):
        return F.log_softmax(scores, dim=1)


def test_a_classifier_that_ends_in_log_softmax_is_tapped_as_without_it():
    plain, ending = classifier("resnet18"), classifier("resnet18")
    ending.fc = nn.Sequential(ending.fc, LogProbabilities())
    assert Trunk(ending, 4, 224, {}).taps == Trunk(plain, 4, 224, {}).taps
