"""Elided nets against the same nets as written: sizes, strides, heads, kinds of layers, engines."""

from __future__ import annotations

import copy
import functools
import warnings
from collections import OrderedDict
from operator import lt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import QUICK, TORCHVISION, classifier, narrow_caffe_vgg, random_scores
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fullconv
from fullconv import FCN, FullconvError
from fullconv.net.caffe_classifiers import Inception, InceptionWidths
from fullconv.net.rewrites.elision import elided, saved_multiply_adds
from fullconv.net.rewrites.elision.plan import ElisionPlan

SIZES = [(1, 1), (2, 31), (33, 47), (64, 96), (101, 58)]


def loud(net):
    """Give every convolution a bias that matters, and scores weights; to float64."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.bias, std=2.0)
            if part.weight.eq(0).all():
                nn.init.normal_(part.weight)
    return net.double().eval()


def response_normalisation():
    return nn.LocalResponseNorm(5, alpha=1e-3, beta=0.75, k=1.0)  # one that changes much


def narrow_caffenet(width=6):
    layers = OrderedDict(
        conv1=nn.Conv2d(3, width, 11, stride=4),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm1=response_normalisation(),
        conv2=nn.Conv2d(width, 2 * width, 5, padding=2, groups=2),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm2=response_normalisation(),
        conv3=nn.Conv2d(2 * width, width, 3, padding=1),
        relu3=nn.ReLU(inplace=True),
        conv4=nn.Conv2d(width, width, 3, padding=1, groups=2),
        relu4=nn.ReLU(inplace=True),
        conv5=nn.Conv2d(width, width, 3, padding=1, groups=2),
        relu5=nn.ReLU(inplace=True),
        pool5=nn.MaxPool2d(3, 2, ceil_mode=True),
        flatten=nn.Flatten(),
        fc6=nn.Linear(36 * width, 8),
        relu6=nn.ReLU(inplace=True),
        fc7=nn.Linear(8, 8),
        relu7=nn.ReLU(inplace=True),
        fc8=nn.Linear(8, 10),
    )
    return nn.Sequential(layers)


def narrow_googlenet():
    """The layers of GoogLeNet's first three strides, few channels wide, then to stride 32."""
    pool = functools.partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
    widths = InceptionWidths(3, 4, 5, 2, 3, 2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 7, stride=2, padding=3),
        nn.ReLU(inplace=True),
        pool(),
        response_normalisation(),
        nn.Conv2d(6, 6, 1),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        pool(),
        Inception(8, widths),
        Inception(13, widths),
        pool(),
        Inception(13, widths),
        pool(),
        nn.AvgPool2d(7, 1),
        nn.Flatten(),
        nn.Linear(13, 10),
    )


CLASSIFIERS = {"vgg": narrow_caffe_vgg, "caffenet": narrow_caffenet, "googlenet": narrow_googlenet}


@functools.cache
def net_of(kind, stride, **arguments):
    torch.manual_seed(0)
    return loud(FCN(CLASSIFIERS[kind](), stride, 3, padding=100, **arguments))


def images_for(net, size, batch=1, scale=100.0):
    dtype = next(net.parameters()).dtype
    return scale * torch.randn(batch, sum(net.inputs.values()), *size).to(dtype)


def assert_same(net, size, tolerance=1e-10, batch=1, scale=100.0):
    torch.manual_seed(sum(size))
    images = images_for(net, size, batch, scale)
    with torch.no_grad():
        expected, actual = net.by_head(net.coarse(images)), net.by_head(elided(net, size)(images))
    assert actual.keys() == expected.keys()
    for head, scores in expected.items():
        assert actual[head].shape == scores.shape
        assert (actual[head] - scores).abs().max() <= tolerance * scores.abs().max()


# The same scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kind", "stride"),
    [("vgg", 32), ("vgg", 16), ("vgg", 8), ("caffenet", 32), ("googlenet", 32)],
)
def test_scores_are_those_of_the_net_as_written(kind, stride, size):
    net = net_of(kind, stride)
    assert_same(net, size, batch=2)
    assert saved_multiply_adds(net, size) > 0


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["vgg", "caffenet", "googlenet"]),
    size=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    scale=st.sampled_from([1.0, 1e4]),
)
def test_scores_at_any_size(kind, size, scale):
    assert_same(net_of(kind, 8 if kind == "vgg" else 32), size, scale=scale)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_every_remainder_of_the_strides(kind):
    for remainder in range(32):
        assert_same(net_of(kind, 8 if kind == "vgg" else 32), (33 + remainder, 150 - remainder))


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 4, "skip_scales": {16: 0.01, 8: 0.0001}},
        {"heads": {"sem": 4, "geo": 2}},
        {"num_classes": 4, "inputs": {"color": 3, "depth": 1}},
        {"heads": {"sem": 4, "geo": 2}, "inputs": {"color": 3, "hha": 3}, "fusion": "late"},
    ],
)
def test_scales_heads_inputs_and_fusions(arguments):
    torch.manual_seed(0)
    net = FCN(narrow_caffe_vgg(4), 8, padding=100, **arguments)
    for trunk in net.trunks.values():  # which a late fusion begins with are alike
        nn.init.kaiming_normal_(trunk.layers.conv1_1.weight)
    for size in ((1, 1), (40, 53)):
        assert_same(loud(net), size, batch=2)


@pytest.mark.parametrize("padding", [97, 131, 260])
def test_other_paddings(padding):
    torch.manual_seed(0)
    assert_same(loud(FCN(narrow_caffe_vgg(4), 8, 3, padding=padding)), (37, 50))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TORCHVISION],
)
def test_any_trunk(name):
    """Residuals, dense blocks, batch statistics, squeezes: what can't be elided runs as written."""
    net = random_scores(FCN(classifier(name), 16, 3, padding=113)).double().eval()
    assert saved_multiply_adds(net, (40, 33)) > 0
    for size in ((40, 33), (7, 80)):
        assert_same(net, size, scale=3.0)


class Doubled(nn.Conv2d):
    """A convolution that is more than one."""

    def forward(self, features):
        return super().forward(features.abs()) + 1


class Halved(nn.Conv2d):
    """A convolution by a weight that is computed."""

    def forward(self, features):
        return nn.functional.conv2d(features, self.weight / 2, self.bias, padding=1)


@pytest.mark.parametrize(
    ("layer", "is_elided"),
    [
        (nn.Conv2d(4, 4, 3, padding="same", dilation=2), True),
        (nn.Conv2d(4, 4, 3, stride=2, bias=False), True),
        (nn.Conv2d(4, 4, 1, stride=2, padding=1), True),
        (nn.Conv2d(4, 4, (5, 2), stride=2, padding=(2, 1)), True),
        (nn.AvgPool2d(3, 1, padding=1), True),
        (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), True),
        (nn.MaxPool2d(3, 1, padding=1, dilation=2), True),
        (nn.MaxPool2d(2, 2, padding=1), True),
        (nn.Softmax2d(), True),
        (nn.PReLU(4), True),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), False),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), False),
        (Doubled(4, 4, 3, padding=1), True),
        (Halved(4, 4, 3, padding=1), False),
        (nn.LPPool2d(2, 3, 1), False),
        (nn.InstanceNorm2d(4), False),
        (nn.ReflectionPad2d(1), False),
    ],
)
def test_layers_of_other_kinds(layer, is_elided):
    torch.manual_seed(0)
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 4, 5, stride=2),
        relu1=nn.ReLU(inplace=True),
        layer=copy.deepcopy(layer),
        conv2=nn.Conv2d(4, 4, 3, padding=1),
        relu2=nn.ReLU(inplace=True),
        wide=nn.Conv2d(4, 4, 3, padding=60, dilation=60),  # wider than the net's padding
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dense=nn.Linear(4, 3),
    )
    stride = 4 if getattr(layer, "stride", 1) in (2, (2, 2)) else 2
    net = FCN(nn.Sequential(layers), stride, 3, padding=100)
    nn.init.normal_(net.scores[str(stride)].weight)
    net.double().eval()
    elided_names = [node.name for node in ElisionPlan.of(net.trunk.layers, (40, 51)).values]
    assert elided_names[:2] == ["conv1", "relu1"] and "wide" not in elided_names
    assert ("layer" in elided_names) == ("conv2" in elided_names) == is_elided
    for size in ((1, 1), (40, 51), (41, 50)):
        assert_same(net, size, scale=3.0)


class Branching(nn.Module):
    """Layers joined by a function of (self, map at stride 4), the dense layer last."""

    def __init__(self, join):
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 4, 3, 4), nn.ReLU(inplace=True)
        self.one, self.three = nn.Conv2d(4, 4, 1, 2), nn.Conv2d(4, 4, 3, 2, 1)
        self.same, self.dense = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)
        self.join = join

    def forward(self, images):
        return self.dense(self.join(self, self.first(images)).mean((2, 3)))


@pytest.mark.parametrize(
    "join",
    {
        "a layer used twice": lambda self, x: self.same(self.same(x.sigmoid())) + x,
        "a layer's input overwritten": lambda self, x: (
            self.same(self.relu(y := self.same(x.sigmoid()))) + y
        ),
        "a map cropped for one reader": lambda self, x: (
            self.three(y := self.same(x)) + self.one(y.sigmoid())
        ),
        "a map's own size": lambda self, x: self.same(
            self.same(x).sigmoid().view(x.size(0), 4, x.size(2), x.size(3))
        ),
        "pieces": lambda self, x: self.same(
            torch.cat([(halves := self.same(x).chunk(2, 1))[1], halves[0]], 1)
        ),
        "a squeeze": lambda self, x: self.same(x * self.same(x).mean((2, 3), keepdim=True)),
        "parts that no window reads": lambda self, x: self.one(self.same(x)[:, :4]),
    }.items(),
    ids=lambda item: item[0],
)
def test_values_with_several_readers(join):
    torch.manual_seed(0)
    name, function = join
    stride = 8 if name in ("a map cropped for one reader", "parts that no window reads") else 4
    net = loud(FCN(Branching(function), stride, 3, padding=100))
    assert saved_multiply_adds(net, (29, 34)) > 0
    for size in ((29, 34), (4, 7)):
        assert_same(net, size, scale=3.0)


@pytest.mark.slow
def test_the_papers_net():
    torch.manual_seed(0)
    net = fullconv.paper("voc-fcn8s").eval()
    for score in net.scores.values():
        nn.init.normal_(score.weight, std=0.01)
    for part in net.trunk.modules():
        if isinstance(part, nn.Conv2d):  # as loud as an image
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.normal_(part.bias, std=20.0)
    assert_same(net, (97, 140), tolerance=1e-5)
    # of 181 milliard multiply-adds 127 remain
    assert saved_multiply_adds(net, (500, 500)) == pytest.approx(53.8e9, rel=1e-2)


# Less work ---------------------------------------------------------------------------------------


def test_cells_that_see_an_image_of_500_pixels():
    """By hand: a pixel p is at cell p + 99 of conv1_1, in frames of 698; pooling rounds up."""
    plan = ElisionPlan.of(net_of("vgg", 8).trunk.layers, (500, 500))
    rows, columns = plan.axes
    seeing = {node.name: rows.seeing(node) for node in plan.values}
    assert seeing["conv1_1"] == range(98, 600)  # 99 - 1 to 598 + 1
    assert seeing["conv1_2"] == range(97, 601)
    assert seeing["pool1"] == range(48, 301)  # of 349
    assert seeing["pool2"] == range(23, 152)  # two more either side: 46 to 302, of 175
    assert seeing["pool3"] == range(10, 78)  # three more: 20 to 154, of 88
    assert seeing["pool4"] == range(3, 41)  # three more: 7 to 80, of 44
    steady = {node.name: rows.steady[node] for node in plan.values}
    assert steady["conv1_2"] == range(1, 697)
    assert steady["pool4"] == range(3, 41)  # 0 to 2 and 41 to 43 see the border
    assert plan.values[-1].name == "pool4"  # each further cell would see both
    for node in plan.values:
        assert rows.held[node] == columns.held[node]
        extra = len(rows.held[node]) - len(rows.seeing(node))
        assert 0 <= extra <= 2


def test_no_window_lies_in_a_convolutions_own_padding_alone():
    """For such padding oneDNN has no kernel of matrix tiles; the rest is no zeros to be merged."""
    layers = list(elided(net_of("vgg", 8), (500, 500)).modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert {layer.padding for layer in convolutions if layer.kernel_size == (3, 3)} >= {(2, 2)}
    for layer in convolutions:
        assert all(map(lt, layer.padding, layer.kernel_size)), layer
    apart = [layer for layer in layers if isinstance(layer, nn.ConstantPad2d) and layer.value]
    assert sum(sum(layer.padding) for layer in apart) == 4 + 2 + 2 + 4  # conv1_2, 2_1, 3_1, 4_3


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_multiply_adds_that_are_saved(kind):
    net, size = net_of(kind, 8 if kind == "vgg" else 32), (33, 61)
    faster = elided(net, size)

    def count(run):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(images_for(net, size))
        return counter.get_total_flops() // 2

    assert count(net.coarse) - count(faster) == saved_multiply_adds(net, size) > 0


def test_nothing_to_elide():
    net = random_scores(FCN(narrow_caffe_vgg(4), 8, 3)).double().eval()
    assert saved_multiply_adds(net, (40, 50)) == 0
    assert elided(net, (40, 50)).net.trunk.layers is net.trunk.layers
    assert_same(net, (40, 50))


# Good manners ------------------------------------------------------------------------------------


def test_the_net_stays_as_it_was_and_its_weights_are_shared():
    net, size = net_of("vgg", 8), (40, 51)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layers, code = net.trunk.layers, net.trunk.layers.code
    images = images_for(net, size)
    kept = images.clone()
    faster = elided(net, size)
    with torch.no_grad():
        assert faster(images).equal(faster(images))
    assert images.equal(kept)
    assert net.trunk.layers is layers and layers.code == code
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    own = {value.data_ptr() for value in net.parameters()}
    added = [p for p in faster.parameters() if p.data_ptr() not in own]
    assert len(added) == 9 and all(p.ndim == 1 and not p.requires_grad for p in added)


def test_mode_and_autocast_of_the_net_do_not_matter():
    torch.manual_seed(0)
    net = loud(FCN(narrow_caffe_vgg(4), 8, 3, padding=100)).float()
    images = images_for(net, (40, 51))
    with torch.no_grad():
        expected = net.coarse(images)
        net.train()
        with torch.autocast("cpu", torch.bfloat16):
            faster = elided(net, (40, 51))
        assert all(part.training for part in net.modules())
        assert torch.allclose(faster.eval()(images), expected, rtol=1e-5, atol=1e-4)


def test_images_of_another_size_are_refused():
    with pytest.raises(FullconvError, match=r"images of \(40, 51\), not \(40, 52\), pixels"):
        elided(net_of("vgg", 8), (40, 51))(torch.zeros(1, 3, 40, 52).double())


@pytest.mark.slow
def test_bfloat16_loses_no_more_than_as_written():
    torch.manual_seed(0)
    net = loud(FCN(narrow_caffe_vgg(16), 8, 3, padding=100)).float()
    faster = elided(net, (90, 120))
    images = images_for(net, (90, 120), batch=4)
    with torch.no_grad():
        exact = net.coarse(images)
        with torch.autocast("cpu", torch.bfloat16):
            plain, quick = (run(images).float() for run in (net.coarse, faster))
    assert (quick - exact).norm() <= 1.1 * (plain - exact).norm()


# Engines -----------------------------------------------------------------------------------------


def narrow_float_net():
    torch.manual_seed(0)
    net = loud(FCN(narrow_caffe_vgg(4), 8, 3, padding=100)).float()
    return net, elided(net, (40, 51)).eval(), images_for(net, (40, 51))


@pytest.mark.slow
def test_it_exports():
    net, faster, images = narrow_float_net()
    with torch.no_grad():
        exported = torch.export.export(faster, (images,)).module()
        assert torch.allclose(exported(images), net.coarse(images), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_it_compiles_in_one_piece():
    net, faster, images = narrow_float_net()
    with torch.no_grad():
        compiled = torch.compile(faster, fullgraph=True)
        assert torch.allclose(compiled(images), net.coarse(images), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_openvino_runs_it():
    openvino = pytest.importorskip("openvino")
    net, faster, images = narrow_float_net()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(faster, example_input=images, input=[1, 3, 40, 51])
        expected = net.coarse(images)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    scores = torch.from_numpy(compiled({0: images.numpy()})[0])
    assert torch.allclose(scores, expected, rtol=1e-4, atol=1e-3)
