"""What OpenVINO's graphs are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exports import photo
from nets import NarrowVGG
from torch import nn

from fullconv.export import int8
from fullconv.export.formats import FORMATS
from fullconv.export.openvino import _convert
from fullconv.export.whole import WholeNet
from fullconv.net.fcn import FCN
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
