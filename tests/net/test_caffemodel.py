"""Caffemodels: read as protobuf writes them by Caffe's schema; bad files told in one line."""

from __future__ import annotations

import gzip
import mmap
import struct
import tracemalloc
from itertools import pairwise
from pathlib import Path

import caffe_nets
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fullconv import FullconvError
from fullconv.net.weights.caffemodel import WeightedLayer, read_layers

# Writing by Caffe's own schema --------------------------------------------------------------------

# of src/caffe/proto/caffe.proto: "*" is repeated, "+" repeated and packed
SCHEMA = """
BlobShape: dim+ int64 1
BlobProto: num int32 1, channels int32 2, height int32 3, width int32 4, data+ float 5, \
diff+ float 6, shape .BlobShape 7, double_data+ double 8, double_diff+ double 9
LayerParameter: name string 1, type string 2, bottom* string 3, top* string 4, \
loss_weight* float 5, blobs* .BlobProto 7, phase int32 10
V0LayerParameter: name string 1, type string 2, blobs* .BlobProto 50
V1LayerParameter: layer .V0LayerParameter 1, bottom* string 2, top* string 3, name string 4, \
type int32 5, blobs* .BlobProto 6, blobs_lr* float 7
NetParameter: name string 1, layers* .V1LayerParameter 2, input* string 3, input_dim* int32 4, \
force_backward bool 5, layer* .LayerParameter 100
"""


def messages(schema: str) -> dict:
    """Build the classes of a schema."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for line in schema.strip().splitlines():
        name, members = line.split(": ")
        message = file.message_type.add(name=name)
        for member in members.split(", "):
            label, kind, number = member.split()
            field = message.field.add(name=label.rstrip("*+"), number=int(number))
            field.label = field.LABEL_REPEATED if label[-1] in "*+" else field.LABEL_OPTIONAL
            if label.endswith("+"):
                field.options.packed = True
            if kind.startswith("."):
                field.type, field.type_name = field.TYPE_MESSAGE, f".caffe{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in names
    }


CAFFE = messages(SCHEMA)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def blob(values: np.ndarray, schema: dict = CAFFE, **fields: object):
    made = schema["BlobProto"](data=values.ravel().tolist(), **fields)
    made.shape.dim.extend(values.shape)
    return made


def layer(name: str, *values: np.ndarray, kind: str = "Convolution"):
    return CAFFE["LayerParameter"](name=name, type=kind, blobs=[blob(each) for each in values])


def small_net():
    """A net as Caffe writes it: layers without blobs, too, and fields that nobody asks for."""
    data = CAFFE["LayerParameter"](name="data", type="Python", top=["data", "label"], phase=1)
    return CAFFE["NetParameter"](
        name="small",
        input=["data"],
        input_dim=[1, 3, 8, 8],
        force_backward=True,
        layer=[
            data,
            layer("conv1", weights(4, 3, 2, 2), weights(4)),
            CAFFE["LayerParameter"](name="relu1", type="ReLU", loss_weight=[1.0, 2.0]),
            layer("upscore", weights(4, 4, 3, 3), kind="Deconvolution"),
        ],
    )


SMALL = small_net().SerializeToString()


def written(folder: Path, contents: bytes | object) -> Path:
    path = folder / "net.caffemodel"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.SerializeToString())
    return path


def refusal(path: Path) -> str:
    """Return the one line that says why `path` can't be read."""
    with pytest.raises(FullconvError) as told:
        list(read_layers(path))
    line = str(told.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line.removeprefix(f"{path}: ")


# What is read -------------------------------------------------------------------------------------


def test_reads_what_protobuf_wrote(tmp_path):
    layers = list(read_layers(written(tmp_path, SMALL)))
    assert [(each.name, each.type, len(each.blobs)) for each in layers] == [
        ("data", "Python", 0),
        ("conv1", "Convolution", 2),
        ("relu1", "ReLU", 0),
        ("upscore", "Deconvolution", 1),
    ]
    for read, expected in zip(
        (*layers[1].blobs, *layers[3].blobs),
        (weights(4, 3, 2, 2), weights(4), weights(4, 4, 3, 3)),
        strict=True,
    ):
        assert read.values.dtype == np.float32 and not read.values.flags.writeable
        np.testing.assert_array_equal(read.values, expected)
        copy = np.zeros_like(expected)
        read.copy_to(copy)
        np.testing.assert_array_equal(copy, expected)


def test_reads_what_another_encoder_wrote(tmp_path):
    net = caffe_nets.paper_net("voc-fcn8s-atonce", caffe_nets.Widths((4, 5, 6, 7, 8), 9))
    values = caffe_nets.random_weights(net.layers, 0)
    path = tmp_path / "net.caffemodel"
    caffe_nets.write_caffemodel(path, net, values)
    layers = {each.name: each for each in read_layers(path)}
    assert list(layers) == [each.name for each in net.layers]
    for name, blobs in values.items():
        for read, expected in zip(layers[name].blobs, blobs, strict=True):
            np.testing.assert_array_equal(read.values, expected)


@pytest.mark.slow
def test_values_are_views_on_the_file(tmp_path):
    tracemalloc.start()
    path = written(tmp_path, CAFFE["NetParameter"](layer=[layer("fc6", weights(2048, 512))]))
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    (fc6,) = read_layers(path)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    values = fc6.blobs[0].values
    assert peak < values.nbytes / 10
    owner = values
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, (mmap.mmap, memoryview))
    path.unlink()
    np.testing.assert_array_equal(values, weights(2048, 512))  # lives as long as its values


def test_v1_layers_and_shapes_of_four_axes(tmp_path):
    def old(values, num, channels, height, width):
        return CAFFE["BlobProto"](
            num=num, channels=channels, height=height, width=width, data=values.ravel().tolist()
        )

    v1 = CAFFE["V1LayerParameter"]
    net = CAFFE["NetParameter"](
        layers=[
            v1(name="data", type=5, top=["data"]),
            v1(
                name="fc8",
                type=14,
                blobs=[old(weights(5, 7), 1, 1, 5, 7), old(weights(5), 1, 1, 1, 5)],
                blobs_lr=[1, 2],
            ),
            v1(name="loss", type=21),
            v1(name="up", type=39),
            v1(name="later", type=99),
        ]
    )
    layers = list(read_layers(written(tmp_path, net)))
    assert [(each.name, each.type) for each in layers] == [
        ("data", "Data"),
        ("fc8", "InnerProduct"),
        ("loss", "SoftmaxWithLoss"),
        ("up", "Deconvolution"),
        ("later", "99"),
    ]
    dense, bias = (each.values for each in layers[1].blobs)
    assert dense.shape == (1, 1, 5, 7) and bias.shape == (1, 1, 1, 5)
    np.testing.assert_array_equal(dense[0, 0], weights(5, 7))


def test_both_kinds_of_layers_in_one_file(tmp_path):
    net = small_net()
    net.layers.add(name="conv0", type=4, blobs=[blob(weights(2, 2))])
    assert [each.name for each in read_layers(written(tmp_path, net))].count("conv0") == 1


def test_doubles_go_before_floats_and_gradients_are_passed_over(tmp_path):
    values = np.array([1 / 3, 2 / 3])
    made = CAFFE["BlobProto"](data=[9.0], double_data=values, diff=[7.0, 7.0], double_diff=values)
    made.shape.dim.append(2)
    net = CAFFE["NetParameter"](layer=[CAFFE["LayerParameter"](name="scale", blobs=[made])])
    (scale,) = read_layers(written(tmp_path, net))
    np.testing.assert_array_equal(scale.blobs[0].values, values)
    copy = np.zeros(2, np.float32)
    scale.blobs[0].copy_to(copy)
    np.testing.assert_array_equal(copy, values.astype(np.float32))


def test_a_scalar_and_values_in_two_pieces(tmp_path):
    scalar = CAFFE["BlobProto"](data=[2.5])
    pieces = blob(weights(3)).SerializeToString()
    pieces += CAFFE["BlobProto"](data=[4.0]).SerializeToString()  # protobuf merges by appending
    whole = field(7, scalar.SerializeToString()) + field(
        7, pieces.replace(b"\x0a\x01\x03", b"\x0a\x01\x04")
    )
    (layer,) = read_layers(written(tmp_path, field(100, field(1, b"odd") + whole)))
    assert layer.blobs[0].values.shape == () and layer.blobs[0].values == 2.5
    np.testing.assert_array_equal(layer.blobs[1].values, [*weights(3), 4.0])


def test_shapes_that_are_not_packed(tmp_path):
    loose = messages(SCHEMA.replace("+", "*"))
    shape = loose["BlobShape"](dim=[2, 3]).SerializeToString()
    assert shape == b"\x08\x02\x08\x03"
    values = CAFFE["BlobProto"](data=weights(2, 3).ravel()).SerializeToString()
    made = field(100, field(1, b"fc") + field(7, field(7, shape) + values))
    (fc,) = read_layers(written(tmp_path, made))
    np.testing.assert_array_equal(fc.blobs[0].values, weights(2, 3))


def test_imports_no_protobuf_until_a_file_is_read():
    import subprocess
    import sys

    code = (
        "import sys; before = set(sys.modules); import fullconv.net.weights.caffemodel;"
        "sys.exit(any(name.startswith('google.protobuf') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What is refused ----------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    groups = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | (0x80 if value else 0))
        if not value:
            return bytes(groups)


def field(number: int, body: bytes, length: int | None = None) -> bytes:
    return varint(number << 3 | 2) + varint(len(body) if length is None else length) + body


def in_layer(body: bytes) -> bytes:
    return field(100, field(1, b"conv1") + body)


def in_blob(body: bytes) -> bytes:
    return in_layer(field(7, body))


def dims(*sizes: int) -> bytes:
    return field(7, field(1, b"".join(varint(size % 2**64) for size in sizes)))


DATA = field(5, struct.pack("<4f", 1, 2, 3, 4))

DAMAGED = {
    "a varint of eleven bytes": (b"\xff" * 10 + b"\x01", "more than 64 bits"),
    "a varint without its end": (b"\x08" + b"\xff" * 3, "within a number"),
    "field 0": (b"\x02\x00", "starts no field"),
    "a group": (b"\x0b\x0c", "starts no field"),
    "a length beyond the end": (field(100, b"abc", 4), "4 more bytes, but only 3 follow"),
    "a length of 2^63": (field(100, b"", 2**63), "should have 9223372036854775808 more bytes"),
    "a length of 2^64 - 1": (field(7, b"", 2**64 - 1), "only 0 follow"),
    "an inner length beyond the layer": (field(100, field(7, b"", 9)) + bytes(9), "only 0 follow"),
    "a data length beyond the blob": (in_blob(field(5, b"", 2**40)), "layer 'conv1': the field"),
    "a number for a layer": (varint(100 << 3) + b"\x01", "a number stands where a layer"),
    "a number for a blob": (in_layer(varint(7 << 3) + b"\x01"), "layer 'conv1': a number stands"),
    "a product that disagrees": (in_blob(dims(2, 3) + DATA), "4 values for a shape of 2 x 3"),
    "a product that overflows": (
        in_blob(dims(2**62, 2**62, 4) + DATA),
        "for a shape of 4611686018427387904 x 4611686018427387904 x 4",
    ),
    "a product that is right in 64 bits": (in_blob(dims(2**62 + 1, 4) + DATA), "4 values for"),
    "billions by a zero": (in_blob(dims(2**40, 0, 2**40) + field(5, b"")), "without values"),
    "a negative size": (in_blob(dims(-1, -4) + DATA), "negative size -4"),
    "too many axes": (in_blob(dims(*[1] * 33, 4) + DATA), "34 axes"),
    "millions of axes": (in_blob(dims(*[1] * 70_000) + DATA), "more than 64 KiB"),
    "a name of megabytes": (field(100, field(1, b"n" * 70_000)), "more than 64 KiB"),
    "a name that is no text": (field(100, field(1, b"\xff\xfe")), "name or type of a layer"),
    "a type that is no text": (field(100, field(2, b"\xff\xfe")), "name or type of a layer"),
    "half a number": (in_blob(dims(1) + field(5, b"\0\0\0\0\0\0")), "end within a number"),
    "a shape and no values": (in_blob(dims(2, 2)), "a blob without values"),
    "unpacked values": (in_blob(dims(1) + b"\x2d\0\0\x80\x3f"), "one by one, unpacked"),
    "a shape that is no message": (in_blob(field(7, b"\xff") + DATA), "can't be decoded"),
    "legacy sizes that disagree": (in_blob(b"\x08\x02\x10\x03\x18\x01\x20\x01" + DATA), "2 x 3 x"),
    "fields without end": (b"\x08\x01" * 250_000, "more than 200,000 fields"),
    "blobs without end": (in_layer(b"\x3a\x00" * 250_000), "more than 200,000 fields"),
    "a layer of 2013": (
        CAFFE["NetParameter"](layers=[{"layer": {"name": "fc6"}}]).SerializeToString(),
        "upgrade_net_proto_binary",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_told_in_one_line(tmp_path, name):
    contents, reason = DAMAGED[name]
    told = refusal(written(tmp_path, contents))  # of fields without end no more than so many
    assert told.startswith("not a whole caffemodel (") and reason in told


def test_a_file_cut_anywhere_is_refused_or_a_shorter_net(tmp_path):
    whole = [each.name for each in read_layers(written(tmp_path, SMALL))]
    for end in range(len(SMALL)):
        path = written(tmp_path, SMALL[:end])
        try:
            names = [each.name for each in read_layers(path)]
        except FullconvError as error:
            assert str(error).startswith(f"{path}: ")
        else:  # cut between two layers; what is missing, the net that it is for will tell
            assert names == whole[: len(names)] and len(names) < len(whole)


PROTOTXT = b'name: "VGG"\nlayer {\n  name: "conv1_1"\n  type: "Convolution"\n}\n'
WRONG = {
    "prototxt": (PROTOTXT, "a prototxt only describes a net"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(504), "HDF5"),
    "zip": (b"PK\x03\x04\x14\x00\x00\x00" + bytes(100), "zip archive"),
    "gzip": (gzip.compress(SMALL), "compressed"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git-lfs"),
    "safetensors": (struct.pack("<Q", 64) + b'{"x": {"dtype": "F32"}}' + bytes(99), "not a"),
    "zeros": (bytes(4096), "fetch it again"),
    "no layers": (CAFFE["NetParameter"](name="none").SerializeToString(), "no layers"),
    "a blob alone": (blob(weights(2, 2)).SerializeToString(), "no layers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_files_are_recognised(tmp_path, kind):
    contents, reason = WRONG[kind]
    told = refusal(written(tmp_path, contents))
    assert told.startswith("not a") and reason in told


def test_no_file_no_contents(tmp_path):
    assert refusal(tmp_path / "absent.caffemodel") == "no such file"
    assert refusal(tmp_path) == "no such file"
    assert "empty" in refusal(written(tmp_path, b""))


# Fuzzing ------------------------------------------------------------------------------------------

FUZZ = settings(
    max_examples=300,
    deadline=1000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_within_bounds(folder: Path, contents: bytes) -> list[WeightedLayer] | None:
    """Read `contents`; either all is sound, or one line says what is wrong, and memory is flat."""
    path = written(folder, contents)
    tracemalloc.start()
    try:
        layers = list(read_layers(path))
        for each in layers:
            assert isinstance(each.name, str) and isinstance(each.type, str)
            assert all(blob.values.size for blob in each.blobs)
            assert sum(blob.values.nbytes for blob in each.blobs) <= len(contents)
    except FullconvError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < 1000
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300_000 + 200 * len(contents)
    return layers


@pytest.mark.slow
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(SMALL) - 1), st.binary(max_size=12), st.integers(0, 12)),
        min_size=1,
        max_size=6,
    )
)
@FUZZ
def test_mutations(tmp_path, edits):
    """Overwrite, insert and cut pieces of a sound file."""
    contents = SMALL
    for at, replacement, dropped in edits:
        contents = contents[:at] + replacement + contents[at + dropped :]
    if contents:
        read_within_bounds(tmp_path, contents)


@given(contents=st.binary(min_size=1, max_size=2000))
@example(b"\x9a\x06" * 500)
@FUZZ
def test_random_bytes(tmp_path, contents):
    read_within_bounds(tmp_path, contents)


numbers = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))
lengths = st.one_of(st.none(), st.none(), st.none(), numbers)


@st.composite
def fields(draw, known, inner):
    """Draw a message's bytes: fields that exist, of any wire type, whose lengths may lie."""
    made = b""
    for _ in range(draw(st.integers(0, 6))):
        number, wire = draw(st.sampled_from(known)), draw(st.sampled_from([0, 1, 2, 2, 2, 2, 2, 5]))
        tag = varint(number << 3 | wire)
        if wire == 2:
            body = draw(inner.get(number, st.binary(max_size=24)))
            given = draw(lengths)
            made += tag + varint(len(body) if given is None else given) + body
        elif wire == 0:
            made += tag + varint(draw(numbers))
        else:
            made += tag + bytes(8 if wire == 1 else 4)
    return made


shapes = fields(
    [1, 1, 1, 2], {1: st.lists(numbers, max_size=5).map(lambda n: b"".join(map(varint, n)))}
)
floats = st.lists(st.floats(width=32), max_size=6).map(lambda v: struct.pack(f"<{len(v)}f", *v))
blobs = fields([1, 2, 3, 4, 5, 5, 7, 7, 8], {5: floats, 7: shapes})
layers = fields([1, 2, 3, 4, 5, 6, 7, 7], {6: blobs, 7: blobs})
nets = fields([1, 2, 2, 100, 100, 100], {2: layers, 100: layers})


@pytest.mark.slow
@given(contents=nets.filter(bool))
@FUZZ
def test_messages_that_lie(tmp_path, contents):
    read_within_bounds(tmp_path, contents)


@given(edits=st.lists(st.integers(0, len(SMALL)), min_size=2, max_size=5, unique=True))
@FUZZ
def test_pieces_out_of_order(tmp_path, edits):
    edges = [0, *sorted(edits), len(SMALL)]
    pieces = [SMALL[start:end] for start, end in pairwise(edges)]
    read_within_bounds(tmp_path, b"".join(reversed(pieces)))
