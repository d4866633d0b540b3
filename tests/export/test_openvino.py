"""What OpenVINO's graphs are made of."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from exports import exported, photo, scored_net
from nets import NarrowVGG
from torch import nn
from torch.nn import functional as F

from fullconv.base.errors import WorkFailedError
from fullconv.export import int8
from fullconv.export.formats import FORMATS
from fullconv.export.openvino import _convert
from fullconv.export.whole import WholeNet
from fullconv.net.fcn import FCN
from fullconv.net.rewrites.by_size import Twin
from fullconv.predict.engines.engine import Share
from fullconv.predict.engines.openvino_engine import OpenVINO

pytest.importorskip("openvino")


def poolings(graph):
    """Return how each pooling of a graph rounds."""
    pools = [op for op in graph.get_ops() if op.get_type_name() == "MaxPool"]
    return [pool.get_attributes()["rounding_type"] for pool in pools]


@pytest.mark.parametrize(
    ("options", "rounding"),
    [
        ({"kernel_size": 3, "stride": 2, "padding": 1}, "floor"),
        ({"kernel_size": 3, "stride": 2, "ceil_mode": True}, "ceil"),
        ({"kernel_size": (3, 2), "stride": (3, 1), "ceil_mode": True}, "ceil"),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, "ceil_torch"),
        ({"kernel_size": 2, "stride": 3, "ceil_mode": True}, "ceil_torch"),
        ({"kernel_size": 3, "stride": 2, "dilation": 2, "ceil_mode": True}, "ceil_torch"),
    ],
)
def test_poolings_round_up_plainly_where_that_does_the_same(options, rounding):
    from fullconv.export.openvino_core import core, import_openvino

    pool = nn.MaxPool2d(**options)
    graph = _convert(lambda images: (pool(images),), (torch.randn(1, 2, 20, 20),))
    assert poolings(graph) == [rounding]
    graph.inputs[0].get_node().set_partial_shape(import_openvino().PartialShape([-1, 2, -1, -1]))
    graph.validate_nodes_and_infer_types()
    run = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for side in range(8, 20):
        images = torch.randn(2, 2, side, side + 3)
        np.testing.assert_array_equal(run([images.numpy()])[0], pool(images).numpy())


def test_indices_that_are_asked_for_stay():
    pool = nn.MaxPool2d(2, return_indices=True, ceil_mode=True)
    graph = _convert(lambda images: tuple(pool(images)), (torch.randn(1, 2, 20, 20),))
    assert poolings(graph) == ["ceil_torch"]


def averaged(**options):
    """Return an average pooling that rounds up."""
    return nn.AvgPool2d(**{"kernel_size": 3, "stride": 2, "ceil_mode": True, **options})


@pytest.mark.parametrize(
    ("pool", "tiny"),
    [
        (averaged(kernel_size=2, count_include_pad=False), True),  # a ResNet-D's
        (averaged(), True),
        (averaged(padding=1), True),
        (averaged(padding=1), False),
        (averaged(padding=1, count_include_pad=False), False),
        (averaged(kernel_size=(5, 2), stride=(3, 4), padding=(1, 0)), True),
        (averaged(kernel_size=(5, 2), padding=(1, 0), count_include_pad=False), True),
        (averaged(padding=1, divisor_override=7), False),
        (averaged(padding=1, ceil_mode=False, divisor_override=7), False),
        (lambda maps: F.avg_pool2d(input=maps, kernel_size=2, ceil_mode=True), True),
        (lambda maps: torch.max_pool2d(maps, 3, 2, ceil_mode=True), True),
        (lambda maps: F.max_pool2d(maps, 3, 2, ceil_mode=True), True),
        (nn.MaxPool2d((5, 2), (2, 4), (1, 0), ceil_mode=True), True),
    ],
)
def test_poolings_give_what_torch_does_of_any_map(pool, tiny):
    """OpenVINO errs on maps smaller than a window; the last windows it counts otherwise."""
    from fullconv.export.openvino_core import core, import_openvino

    graph = _convert(lambda maps: (pool(maps),), (torch.randn(1, 2, 20, 20),), tiny=tiny)
    graph.inputs[0].get_node().set_partial_shape(import_openvino().PartialShape([-1, 2, -1, -1]))
    graph.validate_nodes_and_infer_types()
    run = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for side in (2, 3, 5, 8) if tiny else (8, 9, 11):
        maps = torch.randn(2, 2, side, side + 3)
        found, expected = run([maps.numpy()])[0], pool(maps).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def pooled(**options):
    """Return a classifier whose poolings are averages that round up."""
    layers, before = [], 3
    for _ in range(4):
        layers += [nn.Conv2d(before, 8, 3, padding=1), nn.ReLU(), averaged(**options)]
        before = 8
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    "options", [{"kernel_size": 2, "count_include_pad": False}, {"padding": 1}]
)
def test_trunks_that_average_are_written_and_run(options, tmp_path):
    net = scored_net(pooled(**options)).requires_grad_(False)
    assert exported(net, tmp_path, "openvino").path.is_file()  # and so it is the same net
    image = photo((65, 71))
    run = OpenVINO().start(Twin(net, None), image.dtype, Share(1, 1))
    expected = net.coarse_of_image(image)["labels"]
    torch.testing.assert_close(run(image[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_small_images_of_nets_that_reduce_are_not_asked_of_openvino():
    """It would leave the scores of the image before, and say nothing."""
    net = scored_net(pooled(), reduce=4).requires_grad_(False)
    run = OpenVINO().start(Twin(net, None), np.dtype(np.uint8), Share(1, 1))
    for size in ((260, 300), (64, 64), (255, 300)):
        image = photo(size)
        expected = net.coarse_of_image(image)["labels"]
        torch.testing.assert_close(run(image[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_where_openvino_works_out_nothing_no_stage_is_blamed(tmp_path, monkeypatch):
    """It leaves all outputs empty where a layer fails: preprocessing would seem to be wrong."""
    monkeypatch.setattr("fullconv.export.openvino.RoundedDown", lambda **_: nullcontext())
    net = scored_net(pooled(kernel_size=2))
    with pytest.raises(WorkFailedError, match=r"of 1 x 1 .*; openvino .* works out nothing of it"):
        exported(net, tmp_path, "openvino")


@pytest.mark.slow
@pytest.mark.skipif(not int8.is_installed(), reason="needs nncf")
@pytest.mark.parametrize("exported", [False, True])
def test_in_int8_all_of_a_trunk_is_worked_out(exported):
    """Poolings that round up lie between its convolutions."""
    from fullconv.export.openvino_core import core

    torch.manual_seed(0)
    vgg, image = NarrowVGG(), photo((96, 96))
    for layer in vgg.features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    net = FCN(vgg, 32, 3).eval().requires_grad_(False)
    if exported:
        form = FORMATS["openvino"]
        graph = form.convert(WholeNet(net, "labels", form.best))
        (name,) = graph.inputs[0].get_names()
        graph = int8.quantised(graph, form.layers(graph), [{name: image[None]}])
    else:
        graph = OpenVINO("int8", [image])._converted(net, image.dtype, None)
    run = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    types = {
        op.get_friendly_name(): op.get_rt_info()["runtimePrecision"].value
        for op in run.get_runtime_model().get_ops()
        if op.get_rt_info()["layerType"].value == "Convolution"
    }
    layers = int8.openvino_layers(graph).convolutions
    assert len(layers) == 15 and {types[name] for name in layers} <= {"u8", "i8"}
