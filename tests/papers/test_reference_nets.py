"""The paper's nets: what each is made of, and that heads, inputs and fusions compute what they say.

Weights and scores are compared with Caffe's own arithmetic in test_parity.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.models as tv
from nets import narrow_caffe_vgg, unset
from PIL import Image
from torch import nn
from torch.nn import functional as F

import fullconv
from fullconv import FCN, FullconvError
from fullconv.geometry import GeometryError, Window, least_padding
from fullconv.net.caffe_classifiers import VGG16, CaffeNet, GoogLeNet
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.upscore import bilinear_kernel
from fullconv.papers.blueprint import PAPER_NETS, Blueprint

# name: classes by head, kernels, crops of enlarged maps, crops of skips, trunks (fcn-facts)
S32, S16, S8 = ([64], [19], [0]), ([4, 32], [0, 27], [5, 0]), ([4, 4, 16], [0, 0, 31], [5, 9, 0])
FACTS = {
    "voc-fcn32s": ({"labels": 21}, S32, 1),
    "voc-fcn16s": ({"labels": 21}, S16, 1),
    "voc-fcn8s": ({"labels": 21}, S8, 1),
    "voc-fcn8s-atonce": ({"labels": 21}, S8, 1),
    "voc-fcn-alexnet": ({"labels": 21}, ([63], [18], [0]), 1),
    "voc-fcn-googlenet": ({"labels": 21}, ([63], [98], [0]), 1),
    "siftflow-fcn32s": ({"sem": 33, "geo": 3}, S32, 1),
    "siftflow-fcn16s": ({"sem": 33, "geo": 3}, S16, 1),
    "siftflow-fcn8s": ({"sem": 33, "geo": 3}, S8, 1),
    "pascalcontext-fcn32s": ({"labels": 60}, S32, 1),
    "pascalcontext-fcn16s": ({"labels": 60}, S16, 1),
    "pascalcontext-fcn8s": ({"labels": 60}, S8, 1),
    "nyud-fcn32s-color": ({"labels": 40}, S32, 1),
    "nyud-fcn32s-hha": ({"labels": 40}, S32, 1),
    "nyud-fcn32s-color-d": ({"labels": 40}, S32, 1),
    "nyud-fcn32s-color-hha": ({"labels": 40}, S32, 2),
}


def narrow(stride, num_classes=None, **arguments):
    """Return a paper net on the narrow VGG16 in float64, with random scores."""
    torch.manual_seed(0)
    net = FCN(
        narrow_caffe_vgg(), stride, num_classes, padding=100, learn_upscores=False, **arguments
    )
    for head in net.heads.values():
        for part in head.scores.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return net.double().eval()


def by_hand(state, images, prefix="trunk.layers."):
    """Return pool3, pool4 and fc7 of the paper's VGG16 nets, layer by layer from the facts."""

    def conv(name, features, padding):
        weight, bias = state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"]
        return F.relu(F.conv2d(features, weight, bias, padding=padding))

    pools, features = {}, images
    for block, repeats in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, repeats + 1):
            padding = 100 if (block, index) == (1, 1) else 1
            features = conv(f"conv{block}_{index}", features, padding)
        features = pools[block] = F.max_pool2d(features, 2, 2, ceil_mode=True)
    return pools[3], pools[4], conv("fc7", conv("fc6", features, 0), 0)


def scored(state, stride, features, head="labels", trunk=""):
    prefix = f"heads.{head}.scores.{stride}{trunk}"
    return F.conv2d(features, state[f"{prefix}.weight"], state[f"{prefix}.bias"])


def enlarged(scores, kernel, factor):
    weight = bilinear_kernel(kernel, kernel).double().expand(scores.shape[1], 1, -1, -1)
    return F.conv_transpose2d(scores, weight, stride=factor, groups=scores.shape[1])


def cut(scores, offset, like):
    height, width = like.shape[-2:]
    return scores[..., offset : offset + height, offset : offset + width]


SIZES = [(1, 1), (33, 47), (64, 70)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scales", [None, {16: 0.01, 8: 0.0001}])
def test_8s_and_at_once_by_hand(size, scales):
    net = narrow(8, 5, skip_scales=scales)
    images = torch.randn(2, 3, *size).double() * 50
    state = net.state_dict()
    pool3, pool4, fc7 = by_hand(state, images)
    at = scales or {16: 1, 8: 1}
    fused = enlarged(scored(state, 32, fc7), 4, 2)
    fused = fused + cut(scored(state, 16, at[16] * pool4), 5, fused)
    fused = enlarged(fused, 4, 2)
    fused = fused + cut(scored(state, 8, at[8] * pool3), 9, fused)
    expected = cut(enlarged(fused, 16, 8), 31, images)
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(net.coarse(images), fused, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_two_heads_share_a_trunk(size):
    net = narrow(16, heads={"sem": 6, "geo": ("sky", "horizontal", "vertical")})
    images = torch.randn(1, 3, *size).double() * 50
    state = net.state_dict()
    _, pool4, fc7 = by_hand(state, images)
    with torch.no_grad():
        scores, coarse = net(images), net.coarse(images)
    assert list(scores) == list(coarse) == ["sem", "geo"]
    for head in ("sem", "geo"):
        fused = enlarged(scored(state, 32, fc7, head), 4, 2)
        fused = fused + cut(scored(state, 16, pool4, head), 5, fused)
        expected = cut(enlarged(fused, 32, 16), 27, images)
        torch.testing.assert_close(scores[head], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(coarse[head], fused, rtol=1e-10, atol=1e-10)
    assert net.heads["geo"].classes == ("sky", "horizontal", "vertical")
    assert net.heads["sem"].classes[5] == "class 5"
    for attribute in ("classes", "palette", "num_classes", "scores", "upscores"):
        with pytest.raises(FullconvError, match="heads sem, geo"):
            getattr(net, attribute)


def test_an_only_head_of_another_name():
    net = narrow(16, heads={"sem": 3})
    images = torch.randn(1, 3, 40, 50).double()
    with torch.no_grad():
        scores = net(images)
        assert scores.shape == (1, 3, 40, 50)
        assert net.upsample({"sem": net.coarse(images)}, (40, 50)).equal(scores)
    assert net.num_classes == 3 and "heads.sem.scores.32.weight" in net.state_dict()


def test_late_fusion_averages_the_scores_of_two_trunks():
    net = narrow(32, 4, inputs={"color": 3, "hha": 3}, fusion="late")
    state = net.state_dict()
    nn.init.normal_(net.trunk.hha.layers.conv1_1.weight)  # both began as copies of one classifier
    images = torch.randn(1, 6, 40, 50).double() * 50
    halves = []
    for name, part in zip(("color", "hha"), images.split(3, 1), strict=True):
        _, _, fc7 = by_hand(state, part, f"trunk.{name}.layers.")
        halves.append(scored(state, 32, fc7, trunk=f".{name}"))
    expected = cut(enlarged(0.5 * halves[0] + 0.5 * halves[1], 64, 32), 19, images)
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected, rtol=1e-10, atol=1e-10)


def test_late_fusion_with_skips_and_scales():
    net = narrow(16, 4, inputs={"a": 3, "b": 3}, fusion="late", skip_scales={16: 0.5})
    nn.init.normal_(net.trunk.a.layers.conv1_1.weight)
    state, images = net.state_dict(), torch.randn(1, 6, 40, 50).double() * 50
    fused, skip = 0, 0
    for name, part in zip("ab", images.split(3, 1), strict=True):
        _, pool4, fc7 = by_hand(state, part, f"trunk.{name}.layers.")
        fused = fused + scored(state, 32, fc7, trunk=f".{name}") / 2
        skip = skip + scored(state, 16, pool4 * 0.5, trunk=f".{name}") / 2
    fused = enlarged(fused, 4, 2)
    expected = fused + cut(skip, 5, fused)
    with torch.no_grad():
        torch.testing.assert_close(net.coarse(images), expected, rtol=1e-10, atol=1e-10)


def test_early_fusion_starts_depth_at_the_mean_of_the_colours():
    trunk = narrow_caffe_vgg()
    before = trunk.conv1_1.weight.clone()
    net = FCN(trunk, 32, 4, inputs={"color": 3, "depth": 1}, padding=100)
    first = net.trunk.layers.conv1_1
    assert first.weight.shape == (8, 4, 3, 3) and first.padding == (100, 100)
    assert first.weight[:, :3].equal(before)
    torch.testing.assert_close(first.weight[:, 3], before.mean(1))
    assert first.bias.equal(trunk.conv1_1.bias)
    assert len(net.preprocessing.mean) == len(net.preprocessing.std) == 4


@pytest.mark.parametrize("kind", ["two heads", "one named head", "late", "early", "at once"])
def test_model_folders_of_such_nets(kind, tmp_path):
    arguments = {
        "one named head": {"stride": 16, "heads": {"sem": ("a", "b")}},
        "two heads": {"stride": 16, "heads": {"sem": ("a", "b"), "geo": 3}},
        "late": {"stride": 32, "num_classes": 3, "inputs": {"x": 3, "y": 3}, "fusion": "late"},
        "early": {"stride": 32, "num_classes": 3, "inputs": {"color": 3, "depth": 1}},
        "at once": {"stride": 8, "num_classes": 3, "skip_scales": {16: 0.01, 8: 0.0001}},
    }[kind]
    net = narrow(**arguments).float()
    net.save_pretrained(tmp_path)
    again = fullconv.load(tmp_path, classifier=narrow_caffe_vgg())
    assert again.arguments == net.arguments and again.inputs == net.inputs
    assert [(n, h.classes, h.palette) for n, h in again.heads.items()] == [
        (n, h.classes, h.palette) for n, h in net.heads.items()
    ]
    images = torch.randn(1, sum(net.inputs.values()), 30, 41)
    with torch.no_grad():
        expected, actual = net.by_head(net(images)), again.by_head(again(images))
    assert all(actual[name].equal(expected[name]) for name in expected)
    assert not any(
        p.requires_grad for p in again.heads.parameters() if p.ndim == 4 and p.shape[-1] > 1
    )


def test_predicting_with_several_heads_and_inputs():
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    net = narrow(32, heads={"sem": 6, "geo": 3}).float()
    labels = net.predict(pixels)
    with torch.no_grad():
        scores = net(net.preprocessing(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    assert list(labels) == ["sem", "geo"]
    for name, found in labels.items():
        assert found.dtype == np.uint8 and (found == scores[name][0].argmax(0).numpy()).all()
    two = narrow(32, 6, inputs={"color": 3, "depth": 1}).float()
    with pytest.raises(FullconvError, match=r"H x W x 4; this is uint8, \(37, 50, 3\)"):
        two.predict(pixels)
    assert two.predict(np.zeros((37, 50, 4), np.float32)).shape == (37, 50)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_loses_a_skip_is_refused(scale):
    with pytest.raises(FullconvError, match="is no positive factor"):
        FCN(narrow_caffe_vgg(), 16, 3, skip_scales={16: scale})


def test_predicting_from_distances_alone(tmp_path):
    net = narrow(32, 4, inputs={"depth": 1}).float()
    millimetres = np.random.default_rng(0).integers(0, 9000, (37, 50), dtype=np.uint16)
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    labels = net.predict(millimetres[..., None].astype(np.float32))
    assert labels.shape == (37, 50) and (net.predict(tmp_path / "depth.png") == labels).all()
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "color.png")
    with pytest.raises(FullconvError, match="H x W x 1; this is uint8"):
        net.predict(tmp_path / "color.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 3, "padding": 96}, "pad by 97 at least"),
        ({"num_classes": 3, "padding": 60}, "inside the image: it must be padded by more"),
        ({"num_classes": 3, "padding": 100, "fusion": "late"}, "late fusion is of several inputs"),
        ({}, "give num_classes, or heads"),
        ({"num_classes": 3, "heads": {"a": 2}}, "heads tell numbers and names"),
        ({"heads": {}}, "heads tell numbers and names"),
        ({"heads": {"/tmp/evil": 2, "b": 3}}, "head '/tmp/evil': a name holds letters"),
        ({"num_classes": 3, "inputs": {"a.b": 3}}, "input 'a.b': a name holds letters"),
        ({"heads": {"type": 2, "b": 3}}, "head 'type': torch's modules use this name"),
        ({"num_classes": 3, "inputs": {"a": 3, "taps": 3}}, "input 'taps': torch's modules"),
        ({"num_classes": 3, "inputs": {"depth": 1, "color": 3}}, "color must come first"),
        ({"num_classes": 3, "skip_scales": {16: 0.1}}, "no skip at stride 16"),
        ({"num_classes": 3, "skip_scales": {3: 0.1}}, "no skip at stride 3"),
        (
            {
                "num_classes": 3,
                "inputs": {"color": 3, "depth": 1},
                "preprocessing": Preprocessing(),
            },
            "preprocessing of 3 channels for 4",
        ),
        ({"heads": {"a": 0}}, "num_classes must be 1 to 255, not 0"),
        ({"heads": {"a": 2}, "palette": {"a": [(0, 0, 0)]}}, "1 colours for 2 classes"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises((FullconvError, GeometryError), match=message):
        FCN(narrow_caffe_vgg(), 32, **arguments)


def test_padding_needs_one_convolution_that_reads_the_image():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 4, 3, 2)
            self.dense = nn.Linear(4, 2)

        def forward(self, images):
            return self.dense((self.a(images) + self.b(images)).mean((2, 3)))

    with pytest.raises(FullconvError, match="only where one convolution does"):
        FCN(Twice(), 2, 3, padding=100)


# The nets by name --------------------------------------------------------------------------------


def test_every_net_is_there():
    assert set(PAPER_NETS) == set(FACTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_a_net_by_its_name(name):
    classes, (kernels, crops, skip_crops), trunks = FACTS[name]
    net = unset(lambda: fullconv.paper(name))
    assert {which: head.num_classes for which, head in net.heads.items()} == classes
    for chain in (net.vertical, net.horizontal):
        assert [step.kernel for step in chain.alignments] == kernels
        assert [step.crop for step in chain.alignments] == crops
        assert [step.finer_crop for step in chain.alignments] == skip_crops
        assert all(chain.fits(size) for size in range(1, 2001))
    assert len(net.trunks) == trunks
    upscores = [p for n, p in net.named_parameters() if "upscores" in n]
    assert upscores and not any(p.requires_grad for p in upscores)
    assert all(s.eq(0).all() for n, s in net.named_parameters() if ".scores." in n)
    own = sum(p.numel() for n, p in net.named_parameters() if n.startswith("trunk."))
    expected = {"caffe:vgg16": 134.26e6, "caffe:caffenet": 56.87e6, "caffe:googlenet": 5.97e6}
    assert own / trunks == pytest.approx(expected[Blueprint.of_paper(name).backbone], rel=1e-3)
    ones = [d for d in net.trunk.modules() if isinstance(d, nn.Dropout)]
    assert ones  # elementwise; not Dropout2d, which ports have used
    assert len(net.preprocessing.mean) == sum(net.inputs.values())
    assert net.preprocessing.scale == 1


def test_an_unknown_name_is_told():
    with pytest.raises(FullconvError, match=r"called 'voc-fcn8'; did you mean .*voc-fcn8s"):
        fullconv.paper("voc-fcn8")


def test_what_the_nets_see_of_their_inputs():
    """BGR less the mean; HHA as it is stored; the logarithm of millimetres."""
    bytes_ = torch.tensor([10.0, 20.0, 30.0]).reshape(3, 1, 1)
    voc = Blueprint.of_paper("voc-fcn8s").preprocessing(bytes_).flatten().tolist()
    assert voc == pytest.approx([30 - 104.00699, 20 - 116.66877, 10 - 122.67892], rel=1e-6)
    hha = Blueprint.of_paper("nyud-fcn32s-hha").preprocessing(bytes_).flatten().tolist()
    assert hha == pytest.approx([10 - 132.431, 20 - 94.076, 30 - 118.477], rel=1e-6)
    four = torch.cat((bytes_, torch.tensor([[[2550.0]]])))
    depth = Blueprint.of_paper("nyud-fcn32s-color-d").preprocessing(four).flatten().tolist()
    assert depth[:3] == pytest.approx([30 - 116.190, 20 - 97.203, 10 - 92.318], rel=1e-6)
    assert depth[3] == pytest.approx(np.log(2550) - 7.844, abs=1e-6)
    six = Blueprint.of_paper("nyud-fcn32s-color-hha").preprocessing(torch.cat((bytes_, bytes_)))
    assert six.flatten().tolist()[3:] == pytest.approx(hha)


# Caffe's classifiers -----------------------------------------------------------------------------


@pytest.mark.slow
def test_vgg16_is_torchvisions_layer_by_layer():
    torch.manual_seed(0)
    theirs = tv.vgg16(weights=None).eval()
    ours = VGG16().eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.slow
def test_googlenet_has_22_layers_and_the_published_receptive_field():
    """907 with the final 7x7 pooling, which the paper counts and drops; 6 M parameters."""
    net = FCN(GoogLeNet(), 32, 21, padding=100)
    (tap,) = net.taps
    assert tap.vertical.receptive_field == 715
    assert tap.vertical.through(Window(7)).receptive_field == 907
    assert tap.channels == 1024
    assert least_padding([tap.vertical]) == 18
    path = ["conv1.7x7_s2", "conv2.3x3_reduce", "conv2.3x3"]
    deepest = len(path) + 2 * 9 + 1  # two convolutions in each of nine inceptions, one dense layer
    assert deepest == 22
    names = dict(GoogLeNet().named_parameters())
    assert names["inception_4d.5x5.weight"].shape == (64, 32, 5, 5)
    assert names["loss3.classifier.weight"].shape == (1000, 1024)
    assert sum(p.numel() for p in names.values()) == 6_998_552  # bvlc_googlenet's main path


def test_caffenet_pools_before_it_normalises():
    net = CaffeNet().eval()
    layers = list(net._modules)
    assert layers[:4] == ["conv1", "relu1", "pool1", "norm1"]
    with torch.no_grad():
        assert net(torch.randn(1, 3, 227, 227)).shape == (1, 1000)
        x = torch.rand(1, 7, 3, 3) * 50
        window = F.pad(x.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
        expected = x / (1 + 1e-4 / 5 * window) ** 0.75  # Caffe's LRN across channels
        torch.testing.assert_close(net.norm1(x), expected)
    assert net.conv2.groups == net.conv4.groups == net.conv5.groups == 2
    assert sum(p.numel() for p in net.parameters()) == 60_965_224
