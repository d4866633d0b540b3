"""Transplants: what is copied, what isn't, and that stages start from the one before exactly."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from nets import NarrowVGG, classifier, lively, random_scores, settled
from torch import nn

from fullconv import FCN, convolutionalize
from fullconv.base.errors import FullconvError
from fullconv.net.surgery import expand_score, transplant, with_channels


def nets(trunk, *strides, classes=4):
    """Return FCNs at each stride with equal trunks of different weights."""
    made = []
    for seed, stride in enumerate(strides):
        torch.manual_seed(seed)
        for part in trunk.modules():
            getattr(part, "reset_parameters", lambda: None)()
        made.append(random_scores(FCN(settled(trunk), stride, classes)).eval())
    return made


def test_stage_from_the_one_before_by_name():
    coarse, fine = nets(NarrowVGG(), 32, 16)
    own = {name: value.clone() for name, value in fine.state_dict().items()}
    done = transplant(coarse, fine)
    donors = coarse.state_dict()
    now = fine.state_dict()
    assert set(done.copied) == {n for n in donors if n.startswith("trunk.")} | {
        "heads.labels.scores.32.weight",
        "heads.labels.scores.32.bias",
    }
    assert set(done.missing) == {
        "heads.labels.scores.16.weight",
        "heads.labels.scores.16.bias",
        "heads.labels.upscores.32-16.weight",
        "heads.labels.upscores.16-1.weight",
    }
    assert done.misfit == ()
    assert all(now[name].equal(donors[name]) for name in done.copied)
    assert all(now[name].equal(own[name]) for name in done.missing)
    assert {*done.copied, *done.missing} == set(now)


def test_other_classes_are_a_misfit_and_stay():
    ours, theirs = nets(NarrowVGG(), 32)[0], nets(NarrowVGG(), 32, classes=7)[0]
    before = ours.scores["32"].weight.clone()
    done = transplant(theirs, ours)
    assert {
        "heads.labels.scores.32.weight",
        "heads.labels.scores.32.bias",
        "heads.labels.upscores.32-1.weight",
    } == set(done.misfit)
    assert ours.scores["32"].weight.equal(before)
    assert "trunk.layers.features.0.weight" in done.copied


def test_a_dense_layer_fits_the_convolution_it_becomes():
    """Caffe's surgery: O x (C H W) -> O x C x H x W by flat memory."""
    net = settled(NarrowVGG(), 224)
    dense = convolutionalize(NarrowVGG())
    done = transplant(net, dense)
    assert not done.missing and not done.misfit
    weight = net.classifier[0].weight
    copied = dense.get_parameter("classifier.0.weight")
    assert copied.shape == (16, 8, 7, 7)
    assert copied[3, 2, 5, 1] == weight[3, 2 * 49 + 5 * 7 + 1]
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(dense.eval()(images)[:, :, 0, 0], net(images))


def test_transplant_by_prefix():
    """Caffe's transplant by suffix: a color net and an HHA net fill the two trunks of a fusion."""
    color, hha = nets(NarrowVGG(), 32, 32)
    fused = FCN(NarrowVGG(), 32, 4, inputs={"color": 3, "hha": 3}, fusion="late")
    for name, source in (("color", color), ("hha", hha)):
        done = transplant(
            source,
            fused,
            {
                "trunk.": f"trunk.{name}.",
                "heads.labels.scores.32.": f"heads.labels.scores.32.{name}.",
            },
        )
        assert set(done.copied) == {
            n for n in fused.state_dict() if f".{name}." in n or "upscores" in n
        }
    now = fused.state_dict()
    for name, source in (("color", color), ("hha", hha)):
        for part, value in source.trunk.state_dict().items():
            assert now[f"trunk.{name}.{part}"].equal(value)
        assert now[f"heads.labels.scores.32.{name}.weight"].equal(source.scores["32"].weight)


def test_of_several_prefixes_the_longest_holds():
    source, target = nn.Module(), nn.Module()
    source.a = nn.ModuleDict({"b": nn.Linear(2, 2)})
    target.x = nn.ModuleDict({"b": nn.Linear(2, 2)})
    target.y = nn.Linear(2, 2)
    done = transplant(source, target, {"a.": "x.", "a.b.": "y."})
    assert done.copied == ("y.weight", "y.bias") and target.y.weight.equal(source.a.b.weight)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_other_input_channels(channels):
    layer = nn.Conv2d(3, 5, 3, 2, 1)
    adapted = with_channels(layer, channels)
    mean = layer.weight.mean(1)
    kept = 3 if channels >= 3 else 0
    assert adapted.weight[:, :kept].equal(layer.weight[:, :kept])
    for channel in range(kept, channels):
        torch.testing.assert_close(adapted.weight[:, channel], mean)
    assert adapted.bias.equal(layer.bias)
    assert adapted(torch.randn(1, channels, 9, 9)).shape == layer(torch.randn(1, 3, 9, 9)).shape
    with pytest.raises(FullconvError, match=r"grouped convolution .* give it the 4 that it has"):
        with_channels(nn.Conv2d(4, 4, 3, groups=2), 6)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_input_channels_are_where_the_others_were_in_their_precision(kind):
    layer = nn.Conv2d(3, 5, 3, dtype=kind)
    adapted = with_channels(layer, 4)
    assert adapted.weight.dtype == adapted.bias.dtype == kind
    assert adapted.weight[:, :3].equal(layer.weight)
    assert with_channels(layer.to("meta"), 4).weight.is_meta
    net = FCN(NarrowVGG().to(kind), 8, 2, inputs={"color": 3, "depth": 1}).eval()
    assert net(torch.zeros(1, 4, 20, 30, dtype=kind)).dtype == kind


def test_fewer_channels_keep_the_colours():
    layer = nn.Conv2d(4, 5, 3)
    assert with_channels(layer, 3).weight.equal(layer.weight[:, :3])


def test_expand_score_keeps_the_old_classes():
    old, new = nets(NarrowVGG(), 16)[0], FCN(NarrowVGG(), 16, 6)
    expand_score(old.head.state_dict(), new.head, [0, 1, 2, 3, None, None])
    for stride in ("32", "16"):
        assert new.scores[stride].weight[:4].equal(old.scores[stride].weight)
        assert new.scores[stride].bias[:4].equal(old.scores[stride].bias)
        assert new.scores[stride].weight[4:].eq(0).all() and new.scores[stride].bias[4:].eq(0).all()
    transplant(old.trunk, new.trunk)
    images = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(new.eval()(images)[:, :4], old(images))


def test_expand_score_by_another_order():
    old, new = nets(NarrowVGG(), 32)[0], FCN(NarrowVGG(), 32, 3)
    expand_score(old.head.state_dict(), new.head, [2, None, 0])
    weight = old.scores["32"].weight
    assert new.scores["32"].weight[[0, 2]].equal(weight[[2, 0]])
    assert new.scores["32"].weight[1].eq(0).all()


def test_values_are_copied_not_shared():
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    transplant(source, target)
    with torch.no_grad():
        source.weight.zero_()
    assert target.weight.abs().sum() > 0


def test_buffers_and_precision_follow():
    source, target = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3)
    source.running_mean.fill_(2.5)
    source.num_batches_tracked.fill_(7)
    transplant(source, target)
    assert target.running_mean.tolist() == [2.5] * 3 and target.running_mean.dtype == torch.float
    assert target.num_batches_tracked == 7


def test_equal_numbers_of_values_in_other_output_channels_do_not_fit():
    source, target = nn.Linear(6, 4, bias=False), nn.Linear(4, 6, bias=False)
    assert transplant(source, target).misfit == ("weight",)


# A fuse whose skip scores are zero adds exactly nothing -------------------------------------------


def zeroed(net, *strides):
    for stride in strides:
        nn.init.zeros_(net.scores[str(stride)].weight)
        nn.init.zeros_(net.scores[str(stride)].bias)
    return net


def staged(trunk, *strides):
    """Return nets, each transplanted from the one before, with new scores at zero."""
    made = [lively(random_scores(FCN(trunk, strides[0], 5)).eval())]
    for stride in strides[1:]:
        made.append(FCN(trunk, stride, 5).eval())
        transplant(made[-2], made[-1])
    return made


QUICK = [
    pytest.param(lambda: settled(NarrowVGG()), id="narrow vgg"),
    pytest.param(lambda: classifier("resnet18"), id="resnet18"),
    pytest.param(lambda: classifier("mobilenet_v2"), id="mobilenet_v2"),
]
SLOW = [
    pytest.param(lambda name=name: classifier(name), id=name, marks=pytest.mark.slow)
    for name in ("alexnet", "googlenet", "densenet121", "convnext_tiny", "mobilenet_v3_large")
]


@pytest.mark.slow
@pytest.mark.parametrize("trunk", QUICK + SLOW)
def test_zero_skips_add_exactly_nothing(trunk):
    """Each new stage equals, to the bit, its own upscores applied to the stage's before."""
    nets = staged(trunk(), 32, 16, 8)
    images = torch.randn(2, 3, 75, 142)
    for coarser, finer in pairwise(nets):
        last, new = finer.taps[-2:]
        padded = [
            getattr(finer.taps[0], axis).covering_size(n)
            for axis, n in (("vertical", 75), ("horizontal", 142))
        ]
        size = new.vertical.cells(padded[0]), new.horizontal.cells(padded[1])
        with torch.no_grad():
            upscored = finer.upscores[f"{last.stride}-{new.stride}"](coarser.coarse(images), size)
            assert finer.coarse(images).equal(upscored)
            expected = finer.upscores[f"{new.stride}-1"](upscored, (75, 142))
            assert finer(images).equal(expected)
            assert expected.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_new_stage_scores_as_the_one_before_on_aligned_grids(name):
    """With odd kernels, two bilinear steps are one: within 1e-5, up to the border."""
    coarse, fine, finest = staged(classifier(name), 32, 16, 8)
    assert all(step.weight.shape[-1] % 2 for step in finest.upscores.values())
    for size in ((64, 96), (75, 142), (33, 31)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = coarse(images)
            scale = expected.abs().max()
            assert (fine(images) - expected).abs().max() < 1e-5 * scale
            assert (finest(images) - expected).abs().max() < 1e-5 * scale


def agreement(one, other, images):
    with torch.no_grad():
        return float((one(images).argmax(1) == other(images).argmax(1)).float().mean())


def test_a_new_stage_labels_nearly_as_the_one_before_on_half_cell_grids(record_property):
    """VGG's geometry: x2 then x16 is not x32, so some labels at the seams differ."""
    torch.manual_seed(0)
    coarse, fine = staged(settled(NarrowVGG()), 32, 16)
    share = agreement(coarse, fine, torch.randn(2, 3, 320, 320))
    record_property("equal labels", share)
    assert 0.95 < share < 1


@pytest.mark.slow
def test_vgg16_of_16s_labels_nearly_as_its_32s(record_property):
    coarse, fine = staged(classifier("vgg16"), 32, 16)
    share = agreement(coarse, fine, torch.randn(1, 3, 320, 320))
    record_property("equal labels", share)
    print(f"VGG16: {share:.2%} of the labels of a new 16s are its 32s's")
    assert share > 0.95
