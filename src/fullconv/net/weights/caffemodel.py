"""Reading Caffe's ``.caffemodel`` files, without Caffe.

A caffemodel is one protobuf message (NetParameter) of half a gigabyte, nearly all of it the packed
floats of a few blobs. So the file is memory-mapped and walked by tag and length down to the blobs:
their values are views on the file, never copied. Only what is small, names and types and shapes, is
decoded by the protobuf library, with the few fields of Caffe's schema that matter here.
"""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types; groups, 3 and 4, are no more

# What a file may hold at most. Caffe's own nets stay far below; a hostile file is soon refused.
MOST_FIELDS = 200_000
MOST_AXES = 32  # Caffe's kMaxBlobAxes
MOST_SMALL_BYTES = 1 << 16  # of a message without its values

PIECE = 1 << 22  # values copied at a time

# Caffe's V1LayerParameter.LayerType, 0 to 39, by the names that later became the types.
V1_TYPES = """
    None Accuracy BNLL Concat Convolution Data Dropout EuclideanLoss Flatten HDF5Data HDF5Output
    Im2col ImageData InfogainLoss InnerProduct LRN MultinomialLogisticLoss Pooling ReLU Sigmoid
    Softmax SoftmaxWithLoss Split TanH WindowData Eltwise Power SigmoidCrossEntropyLoss HingeLoss
    MemoryData ArgMax Threshold DummyData Slice MVN AbsVal Silence ContrastiveLoss Exp Deconvolution
""".split()


@dataclass(frozen=True)
class Blob:
    """Numbers of a layer.

    Attributes:
        values: of any shape, in floating point; a read-only view on a file, as a rule.
        file: that file's memory map, if it is one.
    """

    values: NDArray[np.floating[Any]]
    file: mmap.mmap | None = None

    def copy_to(self, target: NDArray[np.float32]) -> None:
        """Fill a contiguous array of as many values, in the same order, rounding to float32.

        Goes piece by piece and lets go of the file behind, so that it and the copy never fill
        memory both.
        """
        source, flat = self.values.reshape(-1), target.reshape(-1)
        for start in range(0, flat.size, PIECE):
            with np.errstate(over="ignore"):  # doubles beyond float32 become infinite, as in Caffe
                flat[start : start + PIECE] = source[start : start + PIECE]
            if self.file is not None and hasattr(mmap, "MADV_DONTNEED"):
                self.file.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class WeightedLayer:
    """A layer of a caffemodel.

    Attributes:
        name: "conv1_1", say.
        type: "Convolution", say; V1 layers' too.
        blobs: as a rule weights, then biases. Files from before 2015 shape all of them in four
            axes: 1 x 1 x 1 x N for biases.
    """

    name: str
    type: str
    blobs: tuple[Blob, ...]


def read_layers(path: Path) -> Iterator[WeightedLayer]:
    """Yield a caffemodel's layers in their order, those without blobs included.

    Both of Caffe's ways of writing layers are read, in the same file even: `layer` (since 2014) and
    the V1 `layers`. A blob's values are its `double_data` where it has any, as in Caffe. Values
    stored unpacked, as Caffe never does, are refused.

    Raises:
        FullconvError: no such file; not a caffemodel, or not a whole one.
    """
    if not path.is_file():
        raise FullconvError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise FullconvError(f"{path}: the file is empty; fetch it again")
    with path.open("rb") as file:
        # Not closed but let go: the values that were handed out live as long as they are needed.
        contents = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = False
    try:
        for layer in _Walk(contents).layers():
            found = True
            yield layer
    except _DamagedError as error:
        raise FullconvError(
            f"{path}: not a whole caffemodel ({error}); {_advice(contents[:512])}"
        ) from error
    if not found:
        raise FullconvError(f"{path}: not a caffemodel (no layers); {_advice(contents[:512])}")


class _DamagedError(ValueError):
    """The file is not what it should be; the message says where and why."""


class _Field(NamedTuple):
    """A field of a message, by positions in the file: its tag starts it, its body ends it."""

    number: int
    wire: int
    start: int
    body: int
    end: int


class _LayerKind(NamedTuple):
    """Where a kind of layer message keeps its blobs, and what it is called in the schema."""

    message: str
    blobs: int


LAYER_KINDS = {100: _LayerKind("LayerParameter", 7), 2: _LayerKind("V1LayerParameter", 6)}
DATA, DOUBLE_DATA = 5, 8  # the values in BlobProto; diff and double_diff are passed over


class _Walk:
    """A walk through a caffemodel's bytes; no length is believed before it is checked."""

    def __init__(self, contents: mmap.mmap) -> None:
        self.contents = contents
        self.fields_left = MOST_FIELDS

    def layers(self) -> Iterator[WeightedLayer]:
        for field in self.fields(0, len(self.contents)):
            if field.number in LAYER_KINDS:
                yield self.layer(field, LAYER_KINDS[field.number])

    def layer(self, field: _Field, kind: _LayerKind) -> WeightedLayer:
        fields = self.message(field)
        about = self.decoded(kind.message, fields)
        if kind.message == "V1LayerParameter" and about.HasField("layer"):
            raise _DamagedError("layers of 2013's format: let Caffe upgrade_net_proto_binary")
        name = _text(about.name)
        try:
            blobs = [self.blob(each) for each in fields if each.number == kind.blobs]
        except _DamagedError as error:
            raise _DamagedError(f"layer {name[:80]!a}: {error}") from error
        return WeightedLayer(name, _type(about.type), tuple(blobs))

    def blob(self, field: _Field) -> Blob:
        fields = self.message(field)
        shape = _shape(self.decoded("BlobProto", fields))
        values = self.values(fields, DOUBLE_DATA, np.dtype("<f8"))
        if not values.size:
            values = self.values(fields, DATA, np.dtype("<f4"))
        if not values.size:
            raise _DamagedError("a blob without values")
        if math.prod(shape) != values.size:
            sizes = " x ".join(map(str, shape)) or "no axes"
            raise _DamagedError(f"{values.size} values for a shape of {sizes}")
        return Blob(values.reshape(shape), self.contents)

    def values(
        self, fields: Iterable[_Field], number: int, dtype: np.dtype[Any]
    ) -> NDArray[np.floating[Any]]:
        """Return the packed numbers of a field; they may come in several pieces."""
        pieces = [np.empty(0, dtype)]
        for field in (each for each in fields if each.number == number):
            if field.wire != BYTES:
                raise _DamagedError(
                    "values are stored one by one, unpacked, which Caffe never does"
                )
            count, rest = divmod(field.end - field.body, dtype.itemsize)
            if rest:
                raise _DamagedError("its values end within a number")
            pieces.append(np.frombuffer(self.contents, dtype, count, field.body))
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def decoded(self, name: str, fields: Iterable[_Field]) -> Any:
        """Decode those fields of a message that the schema knows."""
        from google.protobuf.message import DecodeError

        message = _schema()[name]()
        known = set(message.DESCRIPTOR.fields_by_number)
        spans = [(each.start, each.end) for each in fields if each.number in known]
        if sum(end - start for start, end in spans) > MOST_SMALL_BYTES:
            raise _DamagedError("a name or a shape of more than 64 KiB")
        try:
            message.ParseFromString(b"".join(self.contents[start:end] for start, end in spans))
        except DecodeError as error:
            raise _DamagedError(f"a {name} that can't be decoded") from error
        return message

    def message(self, field: _Field) -> list[_Field]:
        """Return the fields of a message within the message."""
        if field.wire != BYTES:
            raise _DamagedError("a number stands where a layer or a blob should be")
        return list(self.fields(field.body, field.end))

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        """Yield the fields of the message that lies between two positions."""
        while start < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise _DamagedError(f"more than {MOST_FIELDS:,} fields")
            tag, body = self.varint(start, end)
            number, wire = tag >> 3, tag & 7
            length = 0
            if wire == VARINT:
                _, after = self.varint(body, end)
                length = after - body
            elif wire == BYTES:
                length, body = self.varint(body, end)
            elif wire in {FIXED32, FIXED64}:
                length = 4 if wire == FIXED32 else 8
            if number == 0 or wire not in {VARINT, FIXED32, FIXED64, BYTES}:
                raise _DamagedError(f"byte {start} starts no field")
            if length > end - body:
                raise _DamagedError(
                    f"the field at byte {start} should have {length} more bytes, but only "
                    f"{end - body} follow"
                )
            yield _Field(number, wire, start, body, body + length)
            start = body + length

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number written in 7-bit groups, the lowest first, and the position after."""
        value = 0
        for shift in range(0, 64, 7):
            if at >= end:
                raise _DamagedError(f"the data stop at byte {at}, within a number")
            byte = self.contents[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _DamagedError(f"a number of more than 64 bits before byte {at}")


def _text(given: bytes) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise _DamagedError("the name or type of a layer is no text") from error


def _type(given: bytes | int) -> str:
    """Return a layer's type, which V1 layers give as a number."""
    if isinstance(given, bytes):
        return _text(given)
    return V1_TYPES[given] if 0 <= given < len(V1_TYPES) else str(given)


def _shape(blob: Any) -> tuple[int, ...]:
    legacy = ("num", "channels", "height", "width")
    if any(blob.HasField(name) for name in legacy):  # Caffe too asks for these first
        shape = tuple(getattr(blob, name) for name in legacy)
    else:
        shape = tuple(blob.shape.dim)
    if len(shape) > MOST_AXES:
        raise _DamagedError(f"a blob of {len(shape)} axes, where Caffe has at most {MOST_AXES}")
    if any(size < 0 for size in shape):
        raise _DamagedError(f"a blob of negative size {min(shape)}")
    return shape


def _advice(beginning: bytes) -> str:
    """Say what a file that is no whole caffemodel may be, by its beginning, and what to do."""
    signs = (
        (b"\x89HDF", "it is an HDF5 snapshot: let Caffe write it as BINARYPROTO"),
        (b"PK\x03\x04", "it is a zip archive: unpack it, or name it .pth if PyTorch wrote it"),
        (b"\x1f\x8b", "it is compressed: unpack it first"),
        (b"<", "it is a web page, saved in place of the file: fetch the file itself"),
        (b"version https://git-lfs", "it is a git-lfs pointer: fetch the file itself"),
    )
    for sign, advice in signs:
        if beginning.lstrip().startswith(sign):
            return advice
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in beginning):
        return "it is text: a prototxt only describes a net; the weights are in its .caffemodel"
    return "it may be truncated or damaged: fetch it again"


@functools.cache
def _schema() -> dict[str, Any]:
    """Build the messages of Caffe's schema, with the fields that are decoded here, by name.

    They live in a pool of their own: another library's caffe.proto in the same process may have the
    default one.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    number, text = "TYPE_INT64", "TYPE_BYTES"  # protobuf's strings differ by implementation
    fields = {
        "BlobShape": [("dim", 1, number)],
        "BlobProto": [
            ("num", 1, number),
            ("channels", 2, number),
            ("height", 3, number),
            ("width", 4, number),
            ("shape", 7, ".BlobShape"),
        ],
        "LayerParameter": [("name", 1, text), ("type", 2, text)],
        "V1LayerParameter": [("layer", 1, text), ("name", 4, text), ("type", 5, number)],
    }
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", syntax="proto2")
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for member, index, kind in members:
            field = message.field.add(name=member, number=index)
            field.label = field.LABEL_REPEATED if member == "dim" else field.LABEL_OPTIONAL
            if kind.startswith("."):
                field.type, field.type_name = field.TYPE_MESSAGE, kind
            else:
                field.type = getattr(field, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in fields
    }
