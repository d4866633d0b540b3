"""The skip architecture on every classifier: sizes, shifts, receptive fields, one graph."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nets import (
    TIMM,
    TORCHVISION,
    NarrowVGG,
    Staged,
    classifier,
    lively,
    marked,
    random_scores,
    settled,
)
from PIL import Image
from torch import nn

from fullconv import FCN, FullconvError, Preprocessing, load
from fullconv.geometry import Grid, Window, merge
from fullconv.net.fcn import _margin

SMALL = Preprocessing(input_size=32)


@functools.cache
def quick_net(name, stride, **options):
    torch.manual_seed(0)
    trunk = settled(NarrowVGG()) if name == "narrow vgg" else classifier(name)
    return lively(random_scores(FCN(trunk, stride, 3, **options)).eval())


@pytest.fixture(scope="module", params=marked(TORCHVISION + TIMM))
def nets(request):
    """An FCN at every stride that the classifier has, with random scores."""
    trunk = classifier(request.param)
    coarsest = 16 if request.param == "squeezenet1_0" else 32
    strides = [stride for stride in (32, 16, 8, 4) if stride <= coarsest]
    return {stride: random_scores(FCN(trunk, stride, 3)).eval() for stride in strides}


# Sizes ----------------------------------------------------------------------------------------


def assert_scores_every_pixel(net, height, width):
    with torch.no_grad():
        scores = net(torch.randn(1, 3, height, width))
    assert scores.shape == (1, 3, height, width)
    assert scores.isfinite().all()
    assert scores.ne(0).all(), "a pixel that no cell reaches would score exactly zero"


@pytest.mark.slow
def test_output_has_the_size_of_the_input_at_every_stride(nets):
    for net in nets.values():
        for size in ((1, 1), (1, 40), (37, 2), (31, 33), (65, 48)):
            assert_scores_every_pixel(net, *size)


@pytest.mark.slow
@given(
    st.sampled_from(
        [("narrow vgg", 8), ("resnet18", 8), ("squeezenet1_0", 4), ("mobilenet_v2", 4)]
    ),
    st.integers(1, 100),
    st.integers(1, 100),
)
@example(("squeezenet1_0", 4), 1, 1)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_size_on_quick_nets(net, height, width):
    assert_scores_every_pixel(quick_net(*net), height, width)


@pytest.mark.slow
@given(st.integers(1, 70), st.integers(1, 70))
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_size_on_all_nets(nets, height, width):
    for net in nets.values():
        assert_scores_every_pixel(net, height, width)


def reflecting_net(layer, **options):
    """A net of stride 4 whose map at stride 4 is padded by its own cells."""
    torch.manual_seed(0)
    trunk = settled(Staged(lambda net, maps: net.layers[0](maps), layer), 32)
    return random_scores(FCN(trunk, 4, 3, preprocessing=SMALL, **options)).eval()


# layer: the image's least side that its trunk takes
REFLECTING = {
    nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"): 5,
    nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect"): 9,
    nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect", dilation=2): 9,
    nn.Conv2d(8, 8, 5, padding=2, padding_mode="circular"): 5,
    nn.Sequential(nn.ReflectionPad2d((0, 3, 1, 1)), nn.Conv2d(8, 8, (3, 4))): 13,
}


@pytest.mark.parametrize("layer", REFLECTING)
def test_images_too_small_for_a_reflection_are_padded(layer):
    net, least = reflecting_net(layer), REFLECTING[layer]
    for size in ((1, 1), (3, 40), (40, 4), (least - 1, least), (least, least - 1)):
        assert_scores_every_pixel(net, *size)
    with torch.no_grad():
        net.trunk(torch.zeros(1, 3, least, least))
        with pytest.raises(RuntimeError, match=r"[Pp]adding"):
            net.trunk(torch.zeros(1, 3, least, least - 1))
    assert net.seen_size((least, least + 1)) == (least, least + 1), "images that fit stay"
    assert net.seen_size((1, 1))[1] == least


@pytest.mark.parametrize("scale", [{"magnify": 2}, {"reduce": 2}])
def test_so_are_magnified_and_reduced_ones(scale):
    net = reflecting_net(nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect"), **scale)
    for size in ((1, 1), (2, 40), (9, 4), (17, 8)):
        assert_scores_every_pixel(net, *size)
        with torch.no_grad():
            seen = net.seen_of_pixels(torch.zeros(1, *size, 3, dtype=torch.uint8))
        assert seen.shape[2:] == net.seen_size(size)


class Focus(nn.Module):
    """YOLO's stem: every second row and column, and those between, side by side."""

    def forward(self, images):
        rows = images[..., ::2, :], images[..., 1::2, :]
        return torch.cat([each for row in rows for each in (row[..., ::2], row[..., 1::2])], 1)


class Pooled(nn.Module):
    """ENet's stem: a convolution that rounds up beside a pooling that rounds down."""

    def __init__(self):
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 9, 3, 2, 1), nn.MaxPool2d(2)

    def forward(self, images):
        return torch.cat([self.convolution(images), self.pool(images)], 1)


def branching_net(stem, **options):
    torch.manual_seed(0)
    first, second = nn.Conv2d(12, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    trunk = nn.Sequential(stem(), first, nn.ReLU(), second, nn.ReLU(), *end)
    return random_scores(FCN(trunk.eval(), 4, 3, preprocessing=SMALL, **options)).eval()


@pytest.mark.parametrize("stem", [Focus, Pooled])
@pytest.mark.parametrize("scale", [{}, {"magnify": 2}, {"reduce": 2}])
def test_images_whose_size_branches_round_differently_are_padded(stem, scale):
    net = branching_net(stem, **scale)
    for size in ((1, 1), (1, 40), (3, 2), (17, 33), (34, 31), (38, 45)):
        assert_scores_every_pixel(net, *size)
        with torch.no_grad():
            seen = net.seen_of_pixels(torch.zeros(1, *size, 3, dtype=torch.uint8))
        assert seen.shape[2:] == net.seen_size(size)
    if not scale:
        assert [net.seen_size((size, 1))[0] for size in (30, 31, 32, 33)] == [30, 32, 32, 34]


def test_margins_are_what_covering_sizes_lack():
    """Of plain numbers and, as `torch.jit.trace` has them, of tensors."""
    thirds = merge([Grid().through(Window(3, 3, before=before)) for before in (0, 1)])
    grids = [
        thirds,
        thirds.through(Window(3, 2, 1, 1)),
        thirds.through(Window(3, 2)),
        thirds.through(Window(3, 2, 1, 1, needs=4)),
        branching_net(Focus).taps[0].vertical,
    ]
    for grid in grids:
        for size in range(1, 50):
            missing = grid.covering_size(size) - size
            assert _margin(grid, size) == int(_margin(grid, torch.tensor(size))) == missing


def test_coarse_scores_lie_at_the_net_s_stride(nets):
    for stride, net in nets.items():
        assert net.stride == stride == net.taps[-1].stride
        with torch.no_grad():
            images = torch.randn(1, 3, 128, 192)
            coarse = net.coarse(images)
            assert coarse.shape[2] >= 128 // stride and coarse.shape[3] >= 192 // stride
            assert net(images).equal(net.upsample(coarse, (128, 192)))


# Shifts -------------------------------------------------------------------------------------------


def reach(net, position):
    """Return the pixels that an output pixel sees by the sliding layers, on an endless image."""
    grids = [replace(grid, bounded=True) for grid in net.horizontal.grids]
    steps = [step.horizontal for step in net.upscores.values()]
    cells, seen = (position, position), []
    for grid, step in zip(reversed(grids), reversed(steps), strict=True):
        cells = step.cells_read(cells[0])[0], step.cells_read(cells[1])[1]
        seen += [grid.stride * cells[0] + grid.first, grid.stride * cells[1] + grid.last]
    return min(seen), max(seen)


def shift_error(net, height=40, patch=24):
    """Shift a patch on a flat ground by the coarsest stride; compare what lies off the border.

    For nets with squeeze-and-excitation, the patch's features must not touch the border either,
    so that the mean over the image stays: the width leaves room for both.
    """
    stride = net.taps[0].stride
    before, after = reach(net, 0)
    room = after - before + 2 * stride
    width = 2 * room + patch
    width += -width % stride
    image = torch.full((1, 3, height, width), 0.3, dtype=torch.double)
    image[..., room : room + patch] += torch.randn(1, 3, height, patch, dtype=torch.double)
    with torch.no_grad():
        still, moved = net(image), net(image.roll(stride, -1))
    inner = [
        p
        for p in range(width - stride)
        if reach(net, p)[0] >= 0 and reach(net, p + stride)[1] < width
    ]
    assert still[..., inner].std() > 1e-4 and set(inner) > set(range(room, room + patch))
    same = moved[..., [p + stride for p in inner]]
    return float((same - still[..., inner]).abs().max() / still.abs().max())


@pytest.mark.parametrize(
    ("name", "stride"),
    [("narrow vgg", 8), ("squeezenet1_0", 4), ("resnet18", 8), ("mobilenet_v2", 16)],
)
def test_shifting_the_image_by_the_stride_shifts_the_scores(name, stride):
    assert shift_error(copy.deepcopy(quick_net(name, stride)).double()) < 1e-9


@pytest.mark.slow
def test_shifting_the_image_shifts_the_scores_of_all_nets(nets):
    finest = copy.deepcopy(nets[min(nets)]).double()
    assert shift_error(finest) < 1e-9


def test_shifting_down_shifts_down():
    """The vertical axis, on a net whose axes differ."""
    torch.manual_seed(0)
    trunk = Staged(lambda s, x: s.layers[0](x), nn.Conv2d(8, 8, (3, 6), 1, (1, 2)))
    net = random_scores(FCN(trunk, 4, 3, preprocessing=SMALL)).double().eval()
    image = torch.full((1, 3, 160, 96), 0.5, dtype=torch.double)
    image[:, :, 64:80, 40:56] = torch.randn(3, 16, 16, dtype=torch.double)
    with torch.no_grad():
        still = net(image)
        for axis in (2, 3):
            moved = net(image.roll(8, axis)).roll(-8, axis)
            inner = (slice(None), slice(None), slice(40, 112), slice(24, 64))
            torch.testing.assert_close(moved[inner], still[inner])


# Receptive fields ---------------------------------------------------------------------------------


def additive_twin(net):
    """Return a net of the same geometry in which whatever a pixel can touch, it does touch.

    Weights are positive, maxima become means and statistics neutral, so that on positive images
    nothing cancels, no rectifier is shut, and a gradient is zero only where there is no path.
    """
    twin = copy.deepcopy(net).double()
    layers = twin.trunk.layers
    for name, part in list(layers.named_modules()):
        if isinstance(part, nn.MaxPool2d):
            pool = nn.AvgPool2d(part.kernel_size, part.stride, part.padding, part.ceil_mode)
            layers.set_submodule(name, pool)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    for part in twin.modules():
        if isinstance(part, nn.Conv2d):
            fan_in = part.weight[0].numel()
            nn.init.uniform_(part.weight, 0.2 / fan_in, 0.8 / fan_in)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return twin.eval()


def seen_by(net, size, pixel):
    """Return the first and last row and column with a gradient of one output pixel's score."""
    image = torch.rand(1, 3, *size, dtype=torch.double).add_(0.5).requires_grad_()
    net(image)[0, 0, pixel[0], pixel[1]].backward()
    touched = image.grad[0].ne(0).any(0)
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


def derived(net, size, pixel):
    return tuple(
        getattr(net, axis).pixels_seen(position, length)
        for position, length, axis in zip(pixel, size, ("vertical", "horizontal"), strict=True)
    )


def assert_sees_exactly_what_is_derived(net, stride):
    """At a whole period of places in the middle, on one axis at a time, and at the corners."""
    before, after = reach(net, 0)
    long = after - before + 4 * net.vertical.grids[0].stride + 3
    twin = additive_twin(net)
    places = [
        long // 2,
        long // 2 + 1,
        long // 2 + stride // 2 + 1,
        long // 2 + net.vertical.grids[0].stride - 1,
    ]
    for place in places[: 1 if long > 1000 else 4]:
        for size, pixel in (((21, long), (9, place)), ((long, 21), (place, 9))):
            rows, columns = derived(net, size, pixel)
            assert seen_by(twin, size, pixel) == (rows, columns)
            assert (rows if size[0] == long else columns) != (0, long - 1), "nothing was tested"
    for size in ((45, 70), (33, 1)):
        for pixel in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)):
            assert seen_by(twin, size, pixel) == derived(net, size, pixel)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stride"),
    [("narrow vgg", 8), ("squeezenet1_0", 4), ("resnet18", 16), ("mobilenet_v2", 8)],
)
def test_a_pixel_sees_exactly_what_geometry_derives(name, stride):
    assert_sees_exactly_what_is_derived(quick_net(name, stride), stride)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "magnify"), [("narrow vgg", 2), ("squeezenet1_0", 4)])
def test_so_does_a_pixel_of_a_magnified_image(name, magnify):
    assert_sees_exactly_what_is_derived(quick_net(name, 8, magnify=magnify), 8 // magnify)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reduce"), [("narrow vgg", 2), ("squeezenet1_0", 3)])
def test_and_a_pixel_of_a_reduced_image(name, reduce):
    assert_sees_exactly_what_is_derived(quick_net(name, 8, reduce=reduce), 8 * reduce)


@pytest.mark.slow
def test_and_a_pixel_of_a_net_that_is_cut_off():
    assert_sees_exactly_what_is_derived(quick_net("mobilenet_v2", 8, coarsest=16), 8)


# Those with squeeze-and-excitation are unbounded; vgg16_bn's layers lie as vgg16's.
UNBOUNDED = ("mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf", "timm:convnextv2_atto")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*TORCHVISION, *TIMM} - {*UNBOUNDED, "vgg16_bn"}))
def test_a_pixel_of_any_net_sees_exactly_what_geometry_derives(name):
    net = random_scores(FCN(classifier(name), 4, 3)).eval()
    assert_sees_exactly_what_is_derived(net, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["mobilenet_v3_large", pytest.param("efficientnet_b0", marks=pytest.mark.slow)],
)
def test_squeeze_and_excitation_sees_the_whole_image_and_geometry_says_so(name):
    net = quick_net(name, 8)
    assert derived(net, (40, 900), (20, 30)) == (None, None)
    twin = copy.deepcopy(net).double()
    rows, columns = seen_by(twin, (40, 900), (20, 30))
    assert rows == (0, 39) and columns == (0, 899)


# The architecture ---------------------------------------------------------------------------------


def test_scores_start_at_zero_and_upscores_as_interpolation():
    net = FCN("resnet18", 8, 4)
    assert not any(p.any() for p in net.scores.parameters())
    assert list(net.scores) == ["32", "16", "8"]
    assert list(net.upscores) == ["32-16", "16-8", "8-1"]
    assert all(isinstance(s, nn.Conv2d) and s.kernel_size == (1, 1) for s in net.scores.values())
    for name, step in net.upscores.items():
        factor = 8 if name == "8-1" else 2
        assert step.vertical.factor == factor
        assert step.weight.shape == (4, 1, 2 * factor - 1, 2 * factor - 1)
        assert step.weight[:, :, factor - 1, factor - 1].eq(1).all()
    assert not net.eval()(torch.randn(1, 3, 40, 40)).any()


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_upscores_learn_or_are_frozen(inner, last):
    net = FCN(NarrowVGG(), 8, 2, learn_upscores=inner, learn_last_upscore=last)
    learning = {name: step.weight.requires_grad for name, step in net.upscores.items()}
    assert learning == {"32-16": inner, "16-8": inner, "8-1": last}


def test_by_default_the_inner_upscores_learn_and_the_last_is_frozen():
    net = random_scores(FCN(NarrowVGG(), 8, 2))
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    gradients = {name: step.weight.grad for name, step in net.upscores.items()}
    assert gradients["8-1"] is None
    assert gradients["32-16"].any() and gradients["16-8"].any()
    assert all(p.grad is not None for p in net.trunk.parameters())


def test_fusion_is_the_sum_of_the_aligned_scores():
    """By hand, from the trunk's features, on VGG's geometry."""
    net = quick_net("narrow vgg", 16)
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        coarse, skip = net.trunk(images)
        scored = nn.functional.conv2d(coarse, net.scores["32"].weight, net.scores["32"].bias)
        upscored = nn.functional.interpolate(scored, scale_factor=2, mode="bilinear")
        fused = upscored + net.scores["16"](skip)
        torch.testing.assert_close(net.coarse(images), fused)
        expected = nn.functional.interpolate(fused, scale_factor=16, mode="bilinear")
        torch.testing.assert_close(net(images), expected)


def test_a_net_cut_off_scores_what_the_whole_one_does_if_the_coarsest_scores_are_zero():
    cut, whole = (quick_net("resnet18", 8, coarsest=coarsest) for coarsest in (16, None))
    assert [tap.stride for tap in cut.taps] == [16, 8]
    assert not any(name.startswith("trunk.layers.layer4") for name in cut.state_dict())
    whole = copy.deepcopy(whole)
    missing, unexpected = whole.load_state_dict(cut.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[2] for name in missing if name.startswith("trunk")} == {"layer4"}
    nn.init.zeros_(whole.scores["32"].weight)
    nn.init.zeros_(whole.scores["32"].bias)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(cut(images), whole(images))
        assert cut(torch.randn(1, 3, 37, 61)).shape == (1, 3, 37, 61)


def test_a_net_cut_off_is_loaded_as_it_was_saved(tmp_path):
    net = quick_net("mobilenet_v2", 4, coarsest=16)
    net.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.arguments == net.arguments
    assert loaded.arguments.coarsest == 16
    image = torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8).numpy()
    assert (loaded.predict(image) == net.predict(image)).all()


@pytest.mark.parametrize(
    ("name", "stride"), [("narrow vgg", 32), ("squeezenet1_0", 16), ("resnet18", 32)]
)
def test_images_are_covered_by_padding_right_and_below_with_the_mean_colour(name, stride):
    net = quick_net(name, stride)
    images = torch.randn(1, 3, 50, 41)
    height, width = (net.taps[0].vertical.covering_size(n) for n in (50, 41))
    padded = torch.zeros(1, 3, height, width)
    padded[:, :, :50, :41] = images
    with torch.no_grad():
        (features,) = net.trunk(padded)
        assert net.coarse(images).equal(net.scores[str(stride)](features))


def test_a_batch_is_scored_image_by_image():
    net = quick_net("mobilenet_v2", 8)
    images = torch.randn(3, 3, 50, 70)
    with torch.no_grad():
        alone = torch.cat([net(image[None]) for image in images])
        torch.testing.assert_close(net(images), alone, rtol=1e-3, atol=1e-3)


def test_autocast_leaves_float32_scores():
    net = quick_net("mobilenet_v2", 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(1, 3, 33, 40)).dtype == torch.float32


def test_a_users_module_is_copied_and_named_skips_are_used():
    trunk = Staged(
        lambda s, x: s.layers[1](s.layers[0](x)), nn.Conv2d(8, 8, 1), nn.ReLU(True)
    ).eval()
    net = FCN(trunk, 4, 2, preprocessing=SMALL, skips={4: "layers.0"})
    assert [tap.layer for tap in net.taps] == ["last.1", "layers.0"]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert trunk.layers[0].weight.any()


@pytest.mark.slow
def test_train_and_eval_switch_the_trunk():
    net = random_scores(FCN(classifier("mobilenet_v2"), 8, 2))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        net.eval()
        assert net(images).equal(net(images))
        net.train()
        assert net(images).ne(net(images)).any()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("resnet18", 1, 3), "ResNet has no layer at stride 1; it has 32, 16, 8, 4, 2"),
        (("squeezenet1_0", 32, 3), "SqueezeNet has no layer at stride 32"),
        (("resnet18", 8, 0), "num_classes must be 1 to 255, not 0"),
        (("resnet18", 8, 256), "num_classes must be 1 to 255, not 256"),
        (("resnet81", 8, 3), "unknown backbone 'resnet81'; did you mean resnet18"),
    ],
)
def test_wrong_arguments(arguments, reason):
    with pytest.raises(FullconvError, match=reason):
        FCN(*arguments)


def test_no_net_is_cut_off_before_its_finest_scores():
    with pytest.raises(FullconvError, match="coarsest must be at least the stride, 8"):
        FCN("resnet18", 8, 3, coarsest=4)
    with pytest.raises(FullconvError, match="the trunk's coarsest stride is 32, not 16"):
        FCN(quick_net("resnet18", 8).trunk, 8, 3, coarsest=16)


def test_wrong_names_and_colours():
    with pytest.raises(FullconvError, match="2 class names for 3 classes"):
        FCN(NarrowVGG(), 8, 3, classes=["road", "sky"])
    with pytest.raises(FullconvError, match="1 colours for 3 classes"):
        FCN(NarrowVGG(), 8, 3, palette=[(1, 2, 3)])
    with pytest.raises(FullconvError, match="a module brings its own"):
        FCN(NarrowVGG(), 8, 3, weights="imagenet")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"classes": [0, 1]}, r"classes\[0\]: should be text but is 0"),
        ({"classes": ["a\nb", "c"]}, r"classes\[0\]: .* holds '\\n'"),
        ({"palette": [(0, 0, 0), (300, 0, 0)]}, r"palette\[1\]\[0\]: should be less than or equal"),
        ({"palette": [(0, 0, 0), (0.5, 0, 1)]}, r"palette\[1\]\[0\]: should be a valid integer"),
        ({"palette": np.zeros((2, 4), np.uint8)}, r"palette\[0\]: "),
        ({"preprocessing": Preprocessing(std=(1.0,))}, "preprocessing: 3 means for 1 stds"),
        (
            {"preprocessing": Preprocessing(channels="GBR")},
            "preprocessing: channels: should be 'RGB'",
        ),
    ],
)
def test_what_no_model_folder_can_hold_is_refused_before_any_training(arguments, reason):
    with pytest.raises(FullconvError, match=reason) as refused:
        FCN(NarrowVGG(), 8, 2, **arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("palette", [[(1, 2, 3)], {"there": [(1, 2, 3)]}])
def test_colours_of_no_head_are_refused(palette):
    with pytest.raises(FullconvError, match="by name: here"):
        FCN(NarrowVGG(), 8, heads={"here": 1}, palette=palette)


def test_names_and_colours_may_be_arrays():
    colours = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    net = FCN(NarrowVGG(), 8, 2, classes=np.array(["road", "sky"]), palette=colours)
    assert (net.classes, net.palette) == (("road", "sky"), ((1, 2, 3), (4, 5, 6)))


def test_defaults_of_names_and_colours():
    net = FCN(NarrowVGG(), 8, 3)
    assert net.classes == ("class 0", "class 1", "class 2")
    assert len(set(net.palette)) == 3 and net.ignore_index == 255
    named = FCN(NarrowVGG(), 8, 1, classes=["sky"], palette=[(1, 2, 3)], ignore_index=7)
    assert (named.classes, named.palette, named.ignore_index) == (("sky",), ((1, 2, 3),), 7)


# Predicting ---------------------------------------------------------------------------------------


def test_predict_takes_a_path_an_image_or_an_array(tmp_path):
    net = quick_net("narrow vgg", 8)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    batch = net.preprocessing(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    with torch.no_grad():
        expected = net(batch)[0].argmax(0).numpy()
    for given_as in (
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        Image.fromarray(pixels),
        pixels,
    ):
        labels = net.predict(given_as)
        assert labels.dtype == np.uint8 and labels.shape == (37, 50)
        assert (labels == expected).all()
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_predict_refuses_other_arrays(wrong):
    with pytest.raises(FullconvError, match="must be uint8, H x W x 3"):
        quick_net("narrow vgg", 8).predict(wrong)


# One graph ----------------------------------------------------------------------------------------

SEVERAL = ((33, 33), (65, 47), (64, 224), (101, 130))


def exported(net, dims, **options):
    from torch.export import export

    with torch.no_grad():
        return export(
            net, (torch.randn(1, 3, 97, 130),), dynamic_shapes=(dims,), **options
        ).module()


def assert_same(net, module, sizes):
    for size in sizes:
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(module(images), net(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stride"), [("narrow vgg", 8), ("squeezenet1_0", 4), ("resnet18", 8)]
)
def test_exports_as_one_graph_of_any_height_and_width(name, stride):
    from torch.export import Dim

    net = quick_net(name, stride)
    module = exported(net, {2: Dim.AUTO, 3: Dim.AUTO})
    assert_same(net, module, SEVERAL)


@pytest.mark.slow
def test_exports_with_named_bounds_from_one_pixel_up():
    """What it takes: guards as run-time checks, and sizes of 1 not taken for special."""
    import torch.fx.experimental._config as shapes
    from torch.export import Dim

    net = quick_net("resnet18", 8)
    height, width = Dim("H", min=1, max=2048), Dim("W", min=1, max=2048)
    with shapes.patch(backed_size_oblivious=True):
        module = exported(
            net, {2: height, 3: width}, prefer_deferred_runtime_asserts_over_guards=True
        )
    assert_same(net, module, (*SEVERAL, (1, 1), (2, 40), (17, 31)))


# Of layers that guard sizes, a net each; tests/export/test_trunks.py has them all.
@pytest.mark.slow
@pytest.mark.parametrize(
    "nets", ["googlenet", "densenet121", "convnext_tiny", "timm:regnetx_002"], indirect=True
)
def test_exports_of_nets_that_guard_sizes(nets):
    from torch.export import Dim

    stride = 8
    height, width = Dim("H", min=33, max=2048), Dim("W", min=33, max=2048)
    module = exported(
        nets[stride], {2: height, 3: width}, prefer_deferred_runtime_asserts_over_guards=True
    )
    assert_same(nets[stride], module, SEVERAL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: reflecting_net(nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect")),
        lambda: branching_net(Focus),
        lambda: branching_net(Pooled),
    ],
)
def test_exports_of_nets_that_pad_images_for_their_layers(make):
    import torch.fx.experimental._config as shapes
    from torch.export import Dim

    net = make()
    sides = {axis: Dim(name, min=1, max=2048) for axis, name in ((2, "H"), (3, "W"))}
    with shapes.patch(backed_size_oblivious=True):
        module = exported(net, sides, prefer_deferred_runtime_asserts_over_guards=True)
    assert_same(net, module, (*SEVERAL, (1, 1), (2, 40), (17, 31)))


def test_a_skip_whose_cells_end_before_the_image_is_refused():
    """Layers at stride 2 are not padded, those after are: the coarsest map alone covers images."""

    def layer(stride, padding):
        return nn.Conv2d(3, 3, 3, stride=stride, padding=padding)

    unpadded, padded = [layer(2, 0), layer(1, 0)], [layer(2, 1) for _ in range(3)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    classifier = nn.Sequential(*unpadded, *padded, *head)
    assert FCN(classifier, 16, 2)(torch.zeros(1, 3, 61, 83)).shape == (1, 2, 61, 83)
    with pytest.raises(FullconvError, match=r"at stride 2 is not padded.*take a coarser stride"):
        FCN(classifier, 2, 2)
