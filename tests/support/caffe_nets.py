"""The paper's nets as Caffe files: prototxts drawn from the facts, caffemodels by a small encoder.

Everything here is independent of fullconv: crop offsets, kernels and names are literal, and the
protobuf wire format is written by hand. Widths may be narrowed, which leaves the topology alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Blob = NDArray[np.float32]
Weights = Mapping[str, Sequence[Blob]]


@dataclass(frozen=True)
class Widths:
    """Channels of a trunk: one number a block (VGG16) or a convolution (CaffeNet), and of fc6."""

    convolutions: tuple[int, ...]
    dense: int


VGG16 = Widths((64, 128, 256, 512, 512), 4096)
CAFFENET = Widths((96, 256, 384, 384, 256), 4096)


@dataclass(frozen=True)
class Layer:
    """One layer of a prototxt; `gain` scales its random weights (of a Scale: is its constant)."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    top: str
    settings: str = ""
    blobs: tuple[Shape, ...] = ()
    gain: float = 1.0

    def prototxt(self) -> str:
        bottoms = "".join(f'  bottom: "{bottom}"\n' for bottom in self.bottoms)
        return (
            f'layer {{\n  name: "{self.name}"\n  type: "{self.type}"\n{bottoms}'
            f'  top: "{self.top}"\n  {self.settings}\n}}\n'
        )


@dataclass
class CaffeNet:
    """A net, drawn layer by layer; each drawing method returns the name of its top.

    Attributes:
        inputs: channels by name, in the order in which they are concatenated.
        outputs: the top that holds a head's scores, by the head's name.
        channels: of each top.
    """

    name: str
    inputs: dict[str, int]
    layers: list[Layer] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.channels.update(self.inputs)

    def prototxt(self, height: int = 64, width: int = 64) -> str:
        inputs = "".join(
            f'layer {{\n  name: "{name}"\n  type: "Input"\n  top: "{name}"\n  input_param '
            f"{{ shape {{ dim: 1 dim: {channels} dim: {height} dim: {width} }} }}\n}}\n"
            for name, channels in self.inputs.items()
        )
        layers = "".join(layer.prototxt() for layer in self.layers)
        return f'name: "{self.name}"\n{inputs}{layers}'

    def convolution(
        self, name: str, bottom: str, channels: int, kernel: int, gain: float = 1.0, **extra: int
    ) -> str:
        options = {"num_output": channels, "kernel_size": kernel} | extra
        given = self.channels[bottom] // extra.get("group", 1)
        blobs = ((channels, given, kernel, kernel), (channels,))
        settings = f"convolution_param {{ {_text(options)} }}"
        return self._add(Layer(name, "Convolution", (bottom,), name, settings, blobs, gain))

    def relu(self, name: str, bottom: str) -> str:
        return self._add(Layer(name, "ReLU", (bottom,), bottom))

    def dropout(self, name: str, bottom: str) -> str:
        settings = "dropout_param { dropout_ratio: 0.5 }"
        return self._add(Layer(name, "Dropout", (bottom,), bottom, settings))

    def pool(self, name: str, bottom: str, kernel: int) -> str:
        settings = f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: 2 }}"
        return self._add(Layer(name, "Pooling", (bottom,), name, settings))

    def norm(self, name: str, bottom: str) -> str:
        settings = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
        return self._add(Layer(name, "LRN", (bottom,), name, settings))

    def scale(self, name: str, bottom: str, factor: float) -> str:
        settings = f'scale_param {{ filler {{ type: "constant" value: {factor} }} }}'
        blobs = ((self.channels[bottom],),)
        return self._add(Layer(name, "Scale", (bottom,), name, settings, blobs, factor))

    def upscore(self, name: str, bottom: str, kernel: int, stride: int) -> str:
        classes = self.channels[bottom]
        options = {"num_output": classes, "kernel_size": kernel, "stride": stride}
        settings = f"convolution_param {{ {_text(options)} bias_term: false }}"
        blobs = ((classes, classes, kernel, kernel),)
        return self._add(Layer(name, "Deconvolution", (bottom,), name, settings, blobs))

    def crop(self, name: str, bottom: str, like: str, offset: int) -> str:
        settings = f"crop_param {{ axis: 2 offset: {offset} }}"
        return self._add(Layer(name, "Crop", (bottom, like), name, settings))

    def add(self, name: str, bottoms: tuple[str, ...], factors: Sequence[float] = ()) -> str:
        coefficients = "".join(f" coeff: {factor}" for factor in factors)
        settings = f"eltwise_param {{ operation: SUM{coefficients} }}"
        return self._add(Layer(name, "Eltwise", bottoms, name, settings))

    def concatenate(self, name: str, bottoms: tuple[str, ...]) -> str:
        return self._add(Layer(name, "Concat", bottoms, name))

    def _add(self, layer: Layer) -> str:
        self.layers.append(layer)
        if layer.type in {"Convolution", "Deconvolution"}:
            channels = layer.blobs[0][0]
        elif layer.type == "Concat":
            channels = sum(self.channels[bottom] for bottom in layer.bottoms)
        else:
            channels = self.channels[layer.bottoms[0]]
        self.channels[layer.top] = channels
        return layer.top


def _text(options: Mapping[str, int]) -> str:
    return " ".join(f"{key}: {value}" for key, value in options.items())


# --- the nets ---------------------------------------------------------------------------------

HEADS: dict[str, dict[str, int]] = {
    "voc": {"": 21},
    "siftflow": {"sem": 33, "geo": 3},
    "pascalcontext": {"": 60},
    "nyud": {"": 40},
}
INPUTS: dict[str, dict[str, int]] = {
    "nyud-fcn32s-hha": {"hha": 3},
    "nyud-fcn32s-color-d": {"color": 3, "depth": 1},
    "nyud-fcn32s-color-hha": {"color": 3, "hha": 3},
}
NAMES = (
    "voc-fcn32s",
    "voc-fcn16s",
    "voc-fcn8s",
    "voc-fcn8s-atonce",
    "voc-fcn-alexnet",
    "siftflow-fcn32s",
    "siftflow-fcn16s",
    "siftflow-fcn8s",
    "pascalcontext-fcn32s",
    "pascalcontext-fcn16s",
    "pascalcontext-fcn8s",
    "nyud-fcn32s-color",
    "nyud-fcn32s-hha",
    "nyud-fcn32s-color-d",
    "nyud-fcn32s-color-hha",
)
PIXEL_GAIN = 1 / 50  # takes pixels, about 50 from the mean, to activations of about 1


def paper_net(name: str, widths: Widths | None = None) -> CaffeNet:
    """Draw one of the nets of `NAMES`; narrow `widths` keep its topology and classes."""
    net = CaffeNet(name, INPUTS.get(name, {"color": 3}))
    if name == "voc-fcn-alexnet":
        return _alexnet(net, widths or CAFFENET)
    widths = widths or VGG16
    heads = HEADS[name.partition("-")[0]]
    if name == "nyud-fcn32s-color-hha":
        scores = []
        for modality in net.inputs:
            top = _vgg16(net, modality, widths, modality)
            scores.append(net.convolution(f"score_fr{modality}", top, heads[""], 1))
        fused = net.add("score_fused", tuple(scores), (0.5, 0.5))
        _skips(net, fused, 32)
        return net
    first = "conv1_1"
    data = next(iter(net.inputs))
    if name == "nyud-fcn32s-color-d":
        first, data = "conv1_1_bgrd", net.concatenate("data", tuple(net.inputs))
    top = _vgg16(net, data, widths, first=first)
    stride = next(stride for stride in (32, 16, 8) if f"fcn{stride}s" in name)
    for head, classes in heads.items():
        tail = f"_{head}" if head else ""
        score = net.convolution(f"score_fr{tail}", top, classes, 1)
        _skips(net, score, stride, head, at_once=name.endswith("atonce"))
    return net


def _vgg16(
    net: CaffeNet, top: str, widths: Widths, suffix: str = "", first: str = "conv1_1"
) -> str:
    depths = (2, 2, 3, 3, 3)
    for block, (channels, depth) in enumerate(zip(widths.convolutions, depths, strict=True), 1):
        for index in range(1, depth + 1):
            at = f"{block}_{index}"
            entry = at == "1_1"
            name = (first if entry else f"conv{at}") + suffix
            gain = PIXEL_GAIN if entry else 1.0
            top = net.convolution(name, top, channels, 3, gain, pad=100 if entry else 1)
            top = net.relu(f"relu{at}{suffix}", top)
        top = net.pool(f"pool{block}{suffix}", top, 2)
    return _dense(net, top, widths, 7, suffix)


def _dense(net: CaffeNet, top: str, widths: Widths, kernel: int, suffix: str = "") -> str:
    for number, size in ((6, kernel), (7, 1)):
        top = net.convolution(f"fc{number}{suffix}", top, widths.dense, size, pad=0)
        top = net.relu(f"relu{number}{suffix}", top)
        top = net.dropout(f"drop{number}{suffix}", top)
    return top


def _skips(
    net: CaffeNet, fused: str, stride: int, head: str = "", *, at_once: bool = False
) -> None:
    """Upscore to the image from `fused`, over pool4 and pool3 as far as `stride` asks."""
    image, tail = next(iter(net.inputs)), f"_{head}" if head else ""
    kernel, factor, offset, last = {
        32: (64, 32, 19, "upscore"),
        16: (32, 16, 27, "upscore16"),
        8: (16, 8, 31, "upscore8"),
    }[stride]
    classes = net.channels[fused]
    skips = (("pool4", "upscore2", 5, 0.01), ("pool3", "upscore_pool4", 9, 0.0001))
    for pool, upscore, corner, scale in skips[: {32: 0, 16: 1, 8: 2}[stride]]:
        up = net.upscore(f"{upscore}{tail}", fused, 4, 2)
        gain, features = 1.0, pool
        if at_once:  # scores as large as the others', so that a lost scale would show
            gain, features = 1 / scale, net.scale(f"scale_{pool}", pool, scale)
        score = net.convolution(f"score_{pool}{tail}", features, classes, 1, gain)
        score = net.crop(f"score_{pool}{tail}c", score, up, corner)
        fused = net.add(f"fuse_{pool}{tail}", (up, score))
    up = net.upscore(f"{last}{tail}", fused, kernel, factor)
    net.outputs[head or "labels"] = net.crop(f"score{tail}", up, image, offset)


def _alexnet(net: CaffeNet, widths: Widths) -> CaffeNet:
    c1, c2, c3, c4, c5 = widths.convolutions
    top = net.convolution("conv1", "color", c1, 11, PIXEL_GAIN, stride=4, pad=100)
    top = net.pool("pool1", net.relu("relu1", top), 3)
    top = net.convolution("conv2", net.norm("norm1", top), c2, 5, pad=2, group=2)
    top = net.pool("pool2", net.relu("relu2", top), 3)
    top = net.convolution("conv3", net.norm("norm2", top), c3, 3, pad=1)
    top = net.convolution("conv4", net.relu("relu3", top), c4, 3, pad=1, group=2)
    top = net.convolution("conv5", net.relu("relu4", top), c5, 3, pad=1, group=2)
    top = net.pool("pool5", net.relu("relu5", top), 3)
    top = net.convolution("score_fr", _dense(net, top, widths, 6), HEADS["voc"][""], 1)
    net.outputs["labels"] = net.crop("score", net.upscore("upscore", top, 63, 32), "color", 18)
    return net


# --- random weights ---------------------------------------------------------------------------


def random_weights(layers: Sequence[Layer], seed: int, path: Path | None = None) -> Weights:
    """Draw weights that keep activations of ordinary size; upscores are bilinear.

    With a `path` they lie there, in a memory map.
    """
    random = np.random.default_rng(seed)
    layers = [layer for layer in layers if layer.blobs]
    total = sum(prod(shape) for layer in layers for shape in layer.blobs)
    values: Blob = (
        np.lib.format.open_memmap(path, "w+", np.float32, (total,))
        if path
        else np.empty(total, np.float32)
    )
    weights: dict[str, tuple[Blob, ...]] = {}
    start = 0
    for layer in layers:
        blobs = []
        for shape in layer.blobs:
            flat = values[start : start + prod(shape)]
            start += prod(shape)
            _fill(flat, layer, shape, random)
            blobs.append(flat.reshape(shape))
        weights[layer.name] = tuple(blobs)
    return weights


def _fill(flat: Blob, layer: Layer, shape: Shape, random: np.random.Generator) -> None:
    if layer.type == "Scale":
        flat[:] = layer.gain
    elif layer.type == "Deconvolution":
        flat.reshape(shape)[:] = on_diagonal(bilinear(shape[-1]), shape[0])
    else:
        random.standard_normal(out=np.asarray(flat), dtype=np.float32)
        if len(shape) == 1:
            flat *= np.float32(0.1)
            return
        # Filters of mean 0 see what differs between rectified features, not their common part:
        # without that a deep random net says nearly the same of all pixels. They keep 0.68 of He's
        # variance, hence 3 for 2.
        filters = flat.reshape(shape[0], -1)
        for row in range(shape[0]):
            filters[row] -= filters[row].mean()
        flat *= np.float32(layer.gain * (3 / filters.shape[1]) ** 0.5)


def bilinear(size: int) -> Blob:
    """Return the facts' ``upsample_filt``: a separable tent."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    tent = [1 - abs(at - centre) / factor for at in range(size)]
    return np.outer(tent, tent).astype(np.float32)


def on_diagonal(kernels: Blob, classes: int) -> Blob:
    """Return the C x C x k x k kernel that treats each class by itself."""
    full = np.zeros((classes, classes, *kernels.shape[-2:]), np.float32)
    full[np.arange(classes), np.arange(classes)] = kernels
    return full


def trunk(name: str) -> list[Layer]:
    """Return the layers of a net with one trunk that are not specific to its classes."""
    return [layer for layer in paper_net(name).layers if layer.name.startswith(("conv", "fc"))]


def weights_on(net: CaffeNet, trunk: Weights, seed: int = 1) -> Weights:
    """Complete a trunk's weights to those of `net`, whose own ones are drawn.

    A second trunk gets the same filters in the reverse order, which makes it another net.
    """
    weights: dict[str, Sequence[Blob]] = {}
    for layer in net.layers:
        name = layer.name.removesuffix("color").removesuffix("hha")
        if name in trunk:
            reverse = layer.name.endswith("hha")
            weights[layer.name] = [blob[::-1] if reverse else blob for blob in trunk[name]]
    own = [layer for layer in net.layers if layer.name not in weights]
    return weights | dict(random_weights(own, seed))


def random_diagonals(net: CaffeNet, seed: int) -> Weights:
    """Draw upscores as training might leave them: each class has a kernel of its own."""
    random = np.random.default_rng(seed)
    learned = {}
    for layer in net.layers:
        if layer.type == "Deconvolution":
            classes, _, *size = layer.blobs[0]
            change = random.normal(1, 0.3, (classes, *size))
            learned[layer.name] = (on_diagonal(bilinear(size[0]) * change, classes),)
    return learned


# --- caffemodels ------------------------------------------------------------------------------

V1_TYPES = {"Convolution": 4, "Deconvolution": 39, "InnerProduct": 14}
VARINT, BYTES = 0, 2


def write_caffemodel(path: Path, net: CaffeNet, weights: Weights, *, v1: bool = False) -> None:
    """Write a NetParameter, floats straight from their arrays.

    With `v1` layers are V1LayerParameters (field 2, numbered types, four-dimensional blobs) as
    files from before late 2014 have them, and those without weights are left out.
    """
    layers = [layer for layer in net.layers if weights.get(layer.name) or not v1]
    with path.open("wb") as file:
        file.write(_bytes(1, net.name.encode()))
        for layer in layers:
            blobs = weights.get(layer.name, ())
            head = _v1_layer(layer) if v1 else _layer(layer)
            prefixes = [_blob_prefix(blob, v1) for blob in blobs]
            size = len(head) + sum(
                len(prefix) + blob.nbytes for prefix, blob in zip(prefixes, blobs, strict=True)
            )
            file.write(_tag(2 if v1 else 100, BYTES) + _varint(size) + head)
            for prefix, blob in zip(prefixes, blobs, strict=True):
                file.write(prefix)
                for rows in blob:
                    file.write(np.ascontiguousarray(rows, "<f4").data)


def _layer(layer: Layer) -> bytes:
    texts = [(1, layer.name), (2, layer.type), *((3, bottom) for bottom in layer.bottoms)]
    return b"".join(_bytes(number, text.encode()) for number, text in (*texts, (4, layer.top)))


def _v1_layer(layer: Layer) -> bytes:
    texts = [*((2, bottom) for bottom in layer.bottoms), (3, layer.top), (4, layer.name)]
    strings = b"".join(_bytes(number, text.encode()) for number, text in texts)
    return strings + _tag(5, VARINT) + _varint(V1_TYPES[layer.type])


def _blob_prefix(blob: Blob, v1: bool) -> bytes:
    """Return a layer's `blobs` field up to the floats themselves."""
    if v1:
        four = (1,) * (4 - blob.ndim) + blob.shape
        shape = b"".join(_tag(number, VARINT) + _varint(n) for number, n in enumerate(four, 1))
    else:
        shape = _bytes(7, _bytes(1, b"".join(_varint(n) for n in blob.shape)))
    prefix = shape + _tag(5, BYTES) + _varint(blob.nbytes)
    return _tag(6 if v1 else 7, BYTES) + _varint(len(prefix) + blob.nbytes) + prefix


def _bytes(number: int, payload: bytes) -> bytes:
    return _tag(number, BYTES) + _varint(len(payload)) + payload


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    return bytes(_septets(value))


def _septets(value: int) -> Iterator[int]:
    while value >= 0x80:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
