"""Each public dataset, from archives packed as its publisher packs them, to a dataset folder."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import public_archives as packed
import pytest
import yaml
from file_server import serving
from filelock import FileLock
from PIL import Image

from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.images import ImageReader
from fullconv.base.palette import voc_palette
from fullconv.data.check import check_folder
from fullconv.data.folder import DatasetFolder
from fullconv.datasets.catalogue import PUBLIC_DATASETS, public_dataset
from fullconv.datasets.context import CONTEXT, class_ids, read_labels
from fullconv.datasets.public import get_dataset
from fullconv.datasets.siftflow import SIFTFLOW, split_names
from fullconv.datasets.voc import SBD, VOC2011, VOC2012, VOC_FCN, seg11valid
from fullconv.papers.classes import PASCAL_CONTEXT

LISTS = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033", "2008_000123", "2009_1"]}
SBD_LISTS = {"train": ["2008_000123", "2010_7", "2010_8"], "val": ["2007_000033"]}
VOC2011_TAR = packed.voc_archive("TrainVal/VOCdevkit/VOC2011", LISTS)
VOC2012_TAR = packed.voc_archive("VOCdevkit/VOC2012", LISTS)
SBD_TGZ = packed.sbd_archive(SBD_LISTS)
VOC_FILES = {"VOCtrainval_25-May-2011.tar": VOC2011_TAR, "benchmark.tgz": SBD_TGZ}


@pytest.fixture
def server():
    with serving() as state:
        yield state


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def get(dataset, folder, server, files, given=None):
    return get_dataset(packed.served(dataset, server, files), folder, given)


def read(folder, split, heads=None):
    """Every sample of a split by its name: the image and the labels of each head.

    Where there is no val, DatasetFolder holds a part of train out, which belongs to train here.
    """
    dataset = DatasetFolder(folder)
    splits = ["train", "val"] if dataset.held_out and split == "train" else [split]
    samples = [sample for name in splits for sample in dataset.split(name, heads=heads)]
    return {sample.name: (sample.image, sample.labels) for sample in samples}


def decoded(name):
    return np.asarray(Image.open(io.BytesIO(packed.jpeg(name))))


def has(folder, split, labels_of, names):
    """Whether a split holds these names, with their pictures and labels."""
    found = read(folder, split)
    assert list(found) == sorted(names)
    for name, (image, labels) in found.items():
        np.testing.assert_array_equal(image, decoded(name))
        np.testing.assert_array_equal(labels, labels_of(name)[None])


def trained_on_all_of_train(folder, notes, train):
    """Without val a note has a command after which nothing of train is held out."""
    dataset = DatasetFolder(folder)
    assert dataset.held_out
    (told,) = [note for note in notes if "there is no val" in note]
    command = told[told.index("cd ") : told.index(" (data check")]
    subprocess.run(["sh", "-c", command], check=True)
    dataset, inputs = DatasetFolder(folder), tuple(dataset.info.inputs)
    assert [sample.name for sample in dataset.split("train", inputs).samples] == train
    test = dataset.split("test", inputs)
    assert [sample.name for sample in dataset.split("val", inputs)] == [
        sample.name for sample in test
    ]
    assert check_folder(folder, quick=True).errors == ()


@pytest.mark.parametrize(("dataset", "archive"), [(VOC2011, VOC2011_TAR), (VOC2012, VOC2012_TAR)])
def test_voc(tmp_path, server, command_line, dataset, archive):
    folder, file = tmp_path / "voc", dataset.sources[0].file
    result = get(dataset, folder, server, {file: archive})
    assert result.counts == {"train": 2, "val": 3}
    for split, names in LISTS.items():
        has(folder, split, packed.voc_labels, names)
    info = DatasetFolder(folder).info
    assert info.classes[15] == "person" and info.palette[15] == (192, 128, 128)
    assert command_line("data", "check", folder, "--quiet") == 0
    assert listed(tmp_path) == ["voc", "voc.downloads"]
    assert listed(tmp_path / "voc.downloads") == [file]
    image = folder / "images" / "train" / "2007_000032.jpg"
    assert image.read_bytes() == packed.jpeg("2007_000032")  # as it was, not encoded again


def test_sbd(tmp_path, server, command_line):
    get(SBD, tmp_path / "sbd", server, {"benchmark.tgz": SBD_TGZ})
    for split, names in SBD_LISTS.items():
        has(tmp_path / "sbd", split, packed.sbd_labels, names)
    assert command_line("data", "check", tmp_path / "sbd", "--quiet") == 0


def test_the_papers_split(tmp_path, server, command_line):
    result = get(VOC_FCN, tmp_path / "voc", server, VOC_FILES)
    assert result.counts == {"train": 3, "val": 2}
    has(tmp_path / "voc", "train", packed.sbd_labels, SBD_LISTS["train"])
    has(tmp_path / "voc", "val", packed.voc_labels, ["2007_000033", "2009_1"])
    assert command_line("data", "check", tmp_path / "voc", "--quiet") == 0
    assert "note: val has 2 images; published are 736" in result.notes
    assert not any("there is no val" in note for note in result.notes)


def test_seg11valid_is_val_without_sbds_train_in_vals_order():
    assert seg11valid(["d", "a", "c", "b"], ["x", "c", "a"]) == ("d", "b")
    assert seg11valid([], ["x"]) == ()
    assert seg11valid(iter("ab"), set()) == ("a", "b")


def test_the_palette_of_voc():
    """The devkit's first 21 colours, as any VOC label image stores them."""
    stated = """0 0 0 128 0 0 0 128 0 128 128 0 0 0 128 128 0 128 0 128 128 128 128 128 64 0 0
    192 0 0 64 128 0 192 128 0 64 0 128 192 0 128 64 128 128 192 128 128 0 64 0 128 64 0 0 192 0
    128 192 0 0 64 128"""
    flat = [str(value) for colour in voc_palette(21) for value in colour]
    assert flat == stated.split()
    assert voc_palette()[255] == (224, 224, 192)


@pytest.mark.parametrize("root", ["", "SiftFlowDataset/"])
def test_siftflow(tmp_path, server, command_line, root):
    train = ["coast_art294", "coast_n1", "forest_1"]
    names = [*train, "highway_bost181", "mountain_7", "street_urb506"]
    archive = packed.siftflow_archive(names, ["mountain_7"], root)
    result = get(SIFTFLOW, tmp_path / "sift", server, {"SiftFlowDataset.zip": archive})
    assert result.counts == {"train": 3, "test": 1}
    for split, expected in (("train", train), ("test", ["mountain_7"])):
        found = read(tmp_path / "sift", split, ["sem", "geo"])
        assert sorted(found) == expected
        for name, (image, (sem, geo)) in found.items():
            np.testing.assert_array_equal(image, decoded(name))
            semantic, geometric = packed.siftflow_labels(name)
            assert (sem[semantic == 0] == 255).all() and (geo[geometric == -1] == 255).all()
            np.testing.assert_array_equal(sem[semantic > 0], semantic[semantic > 0] - 1)
            np.testing.assert_array_equal(geo[geometric > 0], geometric[geometric > 0] - 1)
    heads = DatasetFolder(tmp_path / "sift").info.heads
    assert len(heads["sem"].classes) == 33 and heads["sem"].unscored == ("cow", "desert", "moon")
    assert heads["geo"].classes == ("sky", "horizontal", "vertical")
    assert command_line("data", "check", tmp_path / "sift", "--quiet") == 0
    trained_on_all_of_train(tmp_path / "sift", result.notes, train)


def test_siftflows_split():
    lines = [r"folder\b.jpg", "folder/d.jpg"]
    found = split_names(["d", "c", "b", "a", "street_urb506"], lines)
    assert found == {"train": ("a", "c"), "test": ("b", "d")}


def context_classes():
    """459 names in some order, the 59 among them, one with a space."""
    others = [f"other {i}" for i in range(400)]
    names = [*others, *(n.replace("tvmonitor", "tv monitor") for n in PASCAL_CONTEXT[1:])]
    return [names[i] for i in np.random.default_rng(0).permutation(459)]


def test_context(tmp_path, server, command_line):
    main = {"train": ["2008_000002", "2008_3"], "val": ["2008_4"]}
    classes = context_classes()
    files = {
        "trainval.tar.gz": packed.context_archive(["2008_000002", "2008_3", "2008_4"], classes),
        "VOCtrainval_03-May-2010.tar": packed.voc_archive("VOCdevkit/VOC2010", LISTS, main),
    }
    result = get(CONTEXT, tmp_path / "context", server, files)
    assert result.counts == {"train": 2, "val": 1}
    spelled = [name.replace(" ", "") for name in classes]

    def labels(name):
        """Class by class, as the 60 names are defined."""
        expected = np.zeros(packed.size(name), np.uint8)
        for label, of in enumerate(PASCAL_CONTEXT[1:], 1):
            expected[packed.context_labels(name) == spelled.index(of) + 1] = label
        return expected

    for split, names in main.items():
        has(tmp_path / "context", split, labels, names)
    assert command_line("data", "check", tmp_path / "context", "--quiet") == 0


@pytest.mark.parametrize("ids", [np.full((2, 2), 1e14), np.zeros((0, 0)), np.full((2, 2), -1.0)])
def test_contexts_labels_that_are_none(tmp_path, ids):
    path = tmp_path / "a.mat"
    path.write_bytes(packed.mat({"LabelMap": ids}))
    with pytest.raises(FullconvError, match=r"a\.mat: 'LabelMap' holds no label ids"):
        read_labels(path, {1: 1})


def test_contexts_classes_by_name():
    text = "".join(f"{i}: {name}\r\n" for i, name in enumerate(context_classes(), 1))
    ids = class_ids(text)
    assert sorted(ids.values()) == list(range(1, 60))
    with pytest.raises(FullconvError, match="lacks the class 'bedclothes'"):
        class_ids(text.replace("bedclothes", "bedcloth"))


@pytest.mark.parametrize("dataset", PUBLIC_DATASETS, ids=lambda dataset: dataset.name)
def test_the_catalogue(dataset):
    for name in (dataset.name, *dataset.also):
        assert public_dataset(name) is dataset
    keys = [source.key for source in dataset.sources]
    assert len(set(keys)) == len(keys)
    for source in dataset.sources:
        assert all(address.startswith("http") for address in source.addresses)
        assert source.addresses or source.checksum is None
        if source.checksum is not None:
            assert source.checksum.algorithm == "md5" and len(source.checksum.digest) == 32
    assert dataset.info.heads and dataset.expected


def test_checksums_and_addresses_are_torchvisions():
    from torchvision.datasets.sbd import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    sources = {s.file: s for d in PUBLIC_DATASETS for s in d.sources}
    for year in ("2010", "2011", "2012"):
        theirs = DATASET_YEAR_DICT[year]
        ours = sources[theirs["filename"]]
        assert ours.checksum.digest == theirs["md5"]
        file = theirs["url"].rpartition("/pascal/")[2]
        assert any(address.endswith(file) for address in ours.addresses)
    assert sources["benchmark.tgz"].checksum.digest == SBDataset.md5
    assert SBDataset.url in sources["benchmark.tgz"].addresses


def test_unknown_names():
    with pytest.raises(FullconvError, match=r"vco2012: no such dataset .*did you mean voc2012"):
        public_dataset("vco2012")


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("stop", ["unpack", "convert", "rename"])
def test_interrupted_anywhere_the_same_command_continues(tmp_path, server, monkeypatch, stop):
    folder, dataset = tmp_path / "voc", packed.served(VOC_FCN, server, VOC_FILES)

    def stopping(*_, **__):
        raise Interrupted

    with monkeypatch.context() as patched:
        if stop == "unpack":
            patched.setattr("fullconv.datasets.archives._write", stopping)
        elif stop == "convert":
            calls = iter([None, None, None])  # the mask of the second sample
            real = ImageReader.mask_size

            def second(reader, path):
                return real(reader, path) if next(calls, stop) is None else stopping()

            patched.setattr(ImageReader, "mask_size", second)
        else:
            patched.setattr("pathlib.Path.rename", stopping)
        with pytest.raises(Interrupted):
            get_dataset(dataset, folder)
    assert not folder.exists()
    get_dataset(dataset, folder)
    has(folder, "train", packed.sbd_labels, SBD_LISTS["train"])
    has(folder, "val", packed.voc_labels, ["2007_000033", "2009_1"])
    assert listed(tmp_path) == ["voc", "voc.downloads"]
    assert len(server.requests) == 2  # nothing was fetched twice


def test_a_broken_download_continues(tmp_path, server):
    half = len(VOC2012_TAR) // 2
    dataset = packed.served(VOC2012, server, {"VOCtrainval_11-May-2012.tar": VOC2012_TAR})
    part = tmp_path / "voc.downloads" / "VOCtrainval_11-May-2012.tar.part"
    part.parent.mkdir()
    part.write_bytes(VOC2012_TAR[:half])
    assert get_dataset(dataset, tmp_path / "voc").counts == {"train": 2, "val": 3}
    assert server.sent == len(VOC2012_TAR) - half


def test_a_dataset_that_is_there(tmp_path, server):
    files = {"VOCtrainval_11-May-2012.tar": VOC2012_TAR}
    get(VOC2012, tmp_path / "voc", server, files)
    (tmp_path / ".voc.unfinished").mkdir()  # an interrupt just before it was removed
    assert get(VOC2012, tmp_path / "voc", server, files).counts == {}
    assert not (tmp_path / ".voc.unfinished").exists()
    with pytest.raises(FullconvError, match="is another dataset, 'PASCAL VOC 2012'"):
        get(VOC2011, tmp_path / "voc", server, files)


def test_a_folder_in_use(tmp_path, server):
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "mine.txt").write_text("keep")
    with pytest.raises(FullconvError, match="is in use"):
        get(VOC2012, tmp_path / "voc", server, {"VOCtrainval_11-May-2012.tar": VOC2012_TAR})
    assert listed(tmp_path) == ["voc"] and listed(tmp_path / "voc") == ["mine.txt"]
    (tmp_path / "file").write_text("keep")
    with pytest.raises(FullconvError, match="is in use"):
        get(VOC2012, tmp_path / "file", server, {})


def test_an_empty_folder_and_relative_paths(tmp_path, server, monkeypatch):
    (tmp_path / "voc").mkdir()
    monkeypatch.chdir(tmp_path)
    files = {"VOCtrainval_11-May-2012.tar": VOC2012_TAR}
    dataset = packed.served(VOC2012, server, files)
    get_dataset(dataset, type(tmp_path)("voc"))
    assert DatasetFolder(tmp_path / "voc").splits == ("train", "val")


def test_two_runs_at_once(tmp_path, server):
    (tmp_path / ".voc.unfinished").mkdir()
    with (
        FileLock(tmp_path / ".voc.unfinished" / "lock"),
        pytest.raises(FullconvError, match="another run"),
    ):
        get(VOC2012, tmp_path / "voc", server, {"VOCtrainval_11-May-2012.tar": VOC2012_TAR})
    assert server.requests == []


def test_files_of_ones_own(tmp_path, server):
    """Packed or unpacked, and only copied: changing the dataset must not change them."""
    own = tmp_path / "own"
    with tarfile.open(fileobj=io.BytesIO(VOC2011_TAR)) as archive:
        archive.extractall(own, filter="data")
    (own / "benchmark.tgz").write_bytes(SBD_TGZ)
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    get(VOC_FCN, tmp_path / "voc", server, VOC_FILES, given=own)
    assert server.requests == []
    assert listed(tmp_path) == ["own", "voc"]
    has(tmp_path / "voc", "val", packed.voc_labels, ["2007_000033", "2009_1"])
    for path in (tmp_path / "voc").rglob("*.*"):
        path.write_bytes(b"changed")
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
    with pytest.raises(FullconvError, match="is no folder"):
        get(VOC_FCN, tmp_path / "x", server, VOC_FILES, given=tmp_path / "nowhere")


def test_files_fetched_by_hand(tmp_path):
    downloads = tmp_path / "voc.downloads"
    dataset = replace(VOC2012, sources=(replace(VOC2012.sources[0], addresses=(), checksum=None),))
    with pytest.raises(WorkFailedError, match="has no public address"):
        get_dataset(dataset, tmp_path / "voc")
    (downloads / "VOCtrainval_11-May-2012.tar").write_bytes(VOC2012_TAR)
    assert get_dataset(dataset, tmp_path / "voc").counts == {"train": 2, "val": 3}


def broken(change):
    """The VOC 2012 archive with `change` made to the files in it."""
    with tarfile.open(fileobj=io.BytesIO(VOC2012_TAR)) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive}
    change(found)
    return packed.tarred(found)


ROOT = "VOCdevkit/VOC2012"
LIST = f"{ROOT}/ImageSets/Segmentation"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f.pop(f"{ROOT}/JPEGImages/2009_1.jpg"), "2009_1.jpg: is missing"),
        (lambda f: f.pop(f"{LIST}/train.txt"), "train.txt: is missing"),
        (lambda f: f.pop(f"{LIST}/val.txt"), "holds no VOCdevkit"),
        (lambda f: f.update({f"{ROOT}/JPEGImages/2009_1.jpg": b"x"}), "is no readable JPEG"),
        (lambda f: f.update({f"{LIST}/val.txt": b"../../x"}), "no image name"),
        (lambda f: f.update({f"{LIST}/val.txt": b"\xff\xfe"}), "no list"),
        (
            lambda f: f.update({f"{ROOT}/JPEGImages/2009_1.jpg": packed.jpeg("2007_000032")}),
            "2009_1: its image and masks differ in size",
        ),
    ],
)  # fmt: skip
def test_archives_that_lack_something(tmp_path, server, change, problem):
    files = {"VOCtrainval_11-May-2012.tar": broken(change)}
    with pytest.raises(FullconvError) as caught:
        get(VOC2012, tmp_path / "voc", server, files)
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "voc").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no MATLAB file", "can't be read as a MATLAB file"),
        (packed.mat({"other": np.zeros((2, 2))}), "has no 'GTcls.Segmentation'"),
        (packed.mat({"GTcls": {"Boundaries": 1}}), "has no 'GTcls.Segmentation'"),
        (packed.mat({"GTcls": np.zeros((2, 2))}), "has no 'GTcls.Segmentation'"),
        (packed.mat({"GTcls": {"Segmentation": np.full((2, 2), 0.5)}}), "holds no label ids"),
        (packed.mat({"GTcls": {"Segmentation": "text"}}), "holds no label ids"),
        (packed.mat({"GTcls": {"Segmentation": np.full((2, 2), 21)}}), "labels hold 21"),
        (packed.mat({"GTcls": {"Segmentation": np.full((2, 2), -1)}}), "holds no label ids"),
        (packed.mat({"GTcls": {"Segmentation": np.full((2, 2), 1e14)}}), "holds no label ids"),
        (packed.mat({"GTcls": {"Segmentation": np.full((2, 2), np.inf)}}), "holds no label ids"),
        (packed.mat({"GTcls": {"Segmentation": np.full((2, 2), np.nan)}}), "holds no label ids"),
        (packed.mat({"GTcls": {"Segmentation": np.zeros((0, 2))}}), "holds no label ids"),
    ],
)
def test_label_files_that_are_damaged(tmp_path, server, content, problem):
    own = tmp_path / "own" / "dataset"
    packed.write_files(
        own,
        {"train.txt": b"a", "val.txt": b"", "img/a.jpg": packed.jpeg("a"), "cls/a.mat": content},
    )
    with pytest.raises(FullconvError) as caught:
        get(SBD, tmp_path / "sbd", server, {}, given=tmp_path / "own")
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "sbd").exists()


def test_a_module_that_is_not_installed(tmp_path, server):
    """Told before anything is fetched, with what to install."""
    dataset = packed.served(replace(SBD, needs=("no_such_module",)), server, {"benchmark.tgz": b""})
    with pytest.raises(FullconvError, match=r"sbd: needs no_such_module.*fullconv\[datasets\]"):
        get_dataset(dataset, tmp_path / "sbd")
    assert server.requests == [] and list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, server, command_line, monkeypatch, capsys):
    dataset = packed.served(VOC_FCN, server, VOC_FILES)
    monkeypatch.setattr("fullconv.datasets.catalogue.PUBLIC_DATASETS", (dataset,))
    assert command_line("data", "get", "voc", tmp_path / "voc") == 0
    told = capsys.readouterr()
    assert f"{tmp_path / 'voc'}: 3 train and 2 val images" in told.out
    assert f"{tmp_path / 'voc.downloads'}: keeps what was fetched" in told.out
    assert "convert: 5/5" in told.err
    assert command_line("data", "get", "voc", tmp_path / "voc", "--quiet") == 0
    told = capsys.readouterr()
    assert f"{tmp_path / 'voc'}: is there already" in told.out and told.err == ""
    assert command_line("data", "get", "nothing", tmp_path / "x") == 2
    assert command_line("data", "get", "voc", tmp_path, "--from", tmp_path / "voc.downloads") == 2


def test_catalogue_imports_nothing_heavy():
    code = (
        "import sys, fullconv.datasets.catalogue; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'scipy', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dataset_yaml_is_plain(tmp_path, server):
    get(VOC2012, tmp_path / "voc", server, {"VOCtrainval_11-May-2012.tar": VOC2012_TAR})
    values = yaml.safe_load((tmp_path / "voc" / "dataset.yaml").read_text())
    assert list(values) == ["name", "classes", "palette", "ignore_index"]
