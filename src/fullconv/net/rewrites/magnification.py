"""Magnification by the trunk's first convolution, which then works on the image as it is.

Interpolation to twice the size and a convolution of stride 2 that reads the result are together a
convolution of stride 1 on the image itself: both are linear, and the strides cancel out. There is
no magnified image any more to be worked out, written and read.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, fx, nn

from fullconv.dense.layers import convolution_of
from fullconv.dense.tracing import module_of
from fullconv.geometry import Alignment, Grid
from fullconv.net.fcn import FCN
from fullconv.net.surgery import inference_twin
from fullconv.net.trunk import Trunk

# What the taps at -1, 0 and 1 on the image get of each tap of a kernel on the magnified image: its
# cells 2i - 1, 2i and 2i + 1 are (x[i - 1] + x[i]) / 2, x[i] and (x[i] + x[i + 1]) / 2.
MERGED = ((0.5, 0.0, 0.0), (0.5, 1.0, 0.5), (0.0, 0.0, 0.5))
MERGES = (3, 3), (2, 2), (1, 1), (1, 1)  # kernel, stride, padding and dilation that it takes


class Extended(nn.Module):
    """Extends an image by a pixel at each side, so that what lies beyond it is interpolated right.

    Before the first pixel comes its negative: halfway between the two lies the zero that the
    convolution pads the magnified image with. After the last one comes its copy.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return images N x C x H x W as N x C x H+2 x W+2."""
        rows = torch.cat((-images[..., :1, :], images, images[..., -1:, :]), -2)
        return torch.cat((-rows[..., :1], rows, rows[..., -1:]), -1)


def with_merged_magnification(net: FCN) -> FCN:
    """Return a twin of a net, in evaluation mode, that magnifies by its first convolution.

    It shares all other weights, and its scores differ by rounding only. It is the net itself where
    that does not magnify by two, or its trunk begins otherwise than by a convolution of kernel 3,
    stride 2 and padding 1 whose cells lie on the image's pixels.
    """
    if net.magnified is None or not net.magnified.interpolates or not isinstance(net.trunk, Trunk):
        return net
    coarsest, reader = net.taps[0], _reader(net.trunk.layers)
    vertical = _merges(net.magnified.vertical, coarsest.vertical)
    horizontal = _merges(net.magnified.horizontal, coarsest.horizontal)
    if reader is None or not (vertical and horizontal):
        return net
    twin = inference_twin(net)
    twin.magnified = None
    _merge(cast(Trunk, twin.trunk).layers, reader)
    return twin


def _merges(magnification: Alignment, coarsest: Grid) -> bool:
    """Tell whether pixels lie on every second cell, and the magnified image is never padded."""
    on_cells = magnification.factor == 2 and magnification.shift == 0
    return on_cells and coarsest.covers_all


def _reader(layers: fx.GraphModule) -> str | None:
    """Return the name of the one convolution that reads the image, if it is of the right kind."""
    nodes = layers.graph.nodes
    first, *others = next(iter(nodes)).users
    layer = module_of(layers, first)
    if others or type(layer) is not nn.Conv2d or layer.padding_mode != "zeros":
        return None
    geometry = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    once = sum(node.target == first.target for node in nodes) == 1
    return str(first.target) if once and geometry == MERGES else None


def _merge(layers: fx.GraphModule, reader: str) -> None:
    """Let the convolution that reads the image magnify it, in place."""
    old = cast(nn.Conv2d, layers.get_submodule(reader))
    merged = torch.tensor(MERGED, dtype=torch.float64, device=old.weight.device)
    weight = torch.einsum("ai,bj,ocij->ocab", merged, merged, old.weight.detach().double())
    kernel = nn.Parameter(weight.to(old.weight), requires_grad=False)
    new = convolution_of(kernel, old.bias, groups=old.groups)
    layers.set_submodule(reader, new.eval())
    name = f"{reader}_extended"  # beside the convolution, where no other layer is called so
    layers.add_submodule(name, Extended())
    image = next(iter(layers.graph.nodes))
    with layers.graph.inserting_after(image):
        extended = layers.graph.call_module(name, (image,))
    image.replace_all_uses_with(extended, lambda node: node is not extended)
    layers.recompile()
