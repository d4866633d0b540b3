"""A dataset packed into shards is the folder it was: the same samples, in the same order."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import torch
import webdataset
from dataset_folders import add_sample, labels, write_dataset, write_rich
from file_server import serving
from packed import pack, uploaded
from PIL import Image
from s3_server import s3_served

from fullconv.base.errors import FullconvError
from fullconv.base.processes import Processes
from fullconv.data.check import check_folder
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.folder import DatasetFolder, Split
from fullconv.data.loading import Batches, Share, TrainingDataset, training_batches
from fullconv.data.shard_index import INDEX


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder whose names have dots and folders, one image of which is a JPEG."""
    root = write_dataset(tmp_path / "folder", train=7)
    for name in ("field3.2026.05.01", "field3.2026.06.01", "deep/er/field"):
        add_sample(root, "train", name, len(name))
    add_sample(root, "val", "photo", 77, ".JPG")
    return root


@pytest.fixture
def shards(root: Path, tmp_path: Path) -> Path:
    pack(root, tmp_path / "shards", count=3)
    return tmp_path / "shards"


def assert_same(one: Split, other: Split) -> None:
    assert [sample.name for sample in one.samples] == [sample.name for sample in other.samples]
    for index in range(len(one)):
        expected, found = one[index], other[index]
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert other.headers(index) == one.headers(index)


def loaded_by(workers: int, split: Split) -> set[str]:
    """Return the names of an epoch of ten images, as workers load them."""
    dataset = TrainingDataset(split, lambda image, mask: (image, mask))
    options: dict[str, Any] = {"part": 2, "workers": workers, "device": torch.device("cpu")}
    loaded = training_batches(dataset, Batches(10, 2, seed=5), **options)
    names = {name for batch in islice(loaded, 5) for name in batch.names}
    loaded.close()
    return names


def test_the_same_samples_in_the_same_order(root: Path, shards: Path) -> None:
    folder = DatasetFolder(root)
    for where in (shards, uploaded(shards, "same")):
        packed = DatasetFolder(where)
        assert (packed.splits, packed.info) == (folder.splits, folder.info)
        for name in folder.splits:
            assert_same(folder.split(name), packed.split(name))
    one, other = (DatasetFolder(each).split("val") for each in (root, shards))
    found, expected = (Fingerprint.of(each).with_pixels(each, [2]) for each in (other, one))
    assert found.to_dict() == expected.to_dict()


def test_several_inputs_and_heads(tmp_path: Path) -> None:
    root = write_rich(tmp_path / "folder")
    pack(root, tmp_path / "shards")
    one, other = (
        DatasetFolder(where).split("train", ("hha", "depth", "color"), ("geo", "sem"))
        for where in (root, tmp_path / "shards")
    )
    assert_same(one, other)


def test_bands_larger_than_what_is_read_first(tmp_path: Path) -> None:
    root, random = tmp_path / "folder", np.random.default_rng(0)
    root.mkdir()
    (root / "dataset.yaml").write_text("name: t\nclasses: [a, b, c]\nbands: [r, g, b, n, s]\n")
    for name in ("a", "b"):
        for kind in ("images", "masks"):
            (root / kind / "train").mkdir(parents=True, exist_ok=True)
        bands = random.integers(0, 9999, (5, 130, 140), dtype=np.uint16)
        path = root / f"images/train/{name}.tif"
        tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="separate")
        Image.fromarray(labels(3, (130, 140))).save(root / f"masks/train/{name}.png")
    pack(root, tmp_path / "shards")
    for name in ("train", "val"):  # held out
        one, other = (DatasetFolder(w).split(name) for w in (root, tmp_path / "shards"))
        assert_same(one, other)


def test_held_out_of_shards_as_of_the_folder(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "folder", train=23, val=0)
    done = pack(root, tmp_path / "shards")
    assert done.images == {"train": 23, "test": 2}
    folder, packed = DatasetFolder(root), DatasetFolder(tmp_path / "shards")
    assert packed.held_out
    for name in ("train", "val"):
        assert_same(folder.split(name), packed.split(name))


def test_the_check_says_the_same(root: Path, shards: Path) -> None:
    wrong = root / "masks/train/train1.png"
    Image.fromarray(np.full((8, 10), 9, np.uint8)).save(wrong)
    pack(root, shards.with_name("wrong"))
    said = []
    for where in (root, shards.with_name("wrong")):
        report = check_folder(where)
        lines = [line.replace(str(where), "DIR") for line in (*report.errors, *report.warnings)]
        said.append((lines, [each.to_dict() for each in report.splits]))
    assert said[0] == said[1]
    assert any("has value 9" in line for line in said[0][0])
    assert not check_folder(shards).errors


@pytest.mark.parametrize(
    ("images", "size", "ranks", "workers"),
    [(10, 2, 2, 0), pytest.param(10, 3, 2, 2, marks=pytest.mark.slow)],
)
def test_no_image_twice_or_lost_over_ranks_and_workers(
    shards: Path, images: int, size: int, ranks: int, workers: int
) -> None:
    """And each with the augmentation that it would have of the folder."""
    split = DatasetFolder(uploaded(shards, "ranks")).split("train")
    dataset = TrainingDataset(split, lambda image, mask: (image, mask))
    seen: Counter[str] = Counter()
    for rank in range(ranks):
        share = Share(size, Processes(rank, ranks))
        batches = Batches(images, size, seed=5, share=share)
        options: dict[str, Any] = {"part": share.part, "workers": workers}
        loaded = training_batches(dataset, batches, device=torch.device("cpu"), **options)
        seen.update(name for batch in islice(loaded, images // size) for name in batch.names)
        loaded.close()
    assert sum(seen.values()) == images - images % size
    assert set(seen.values()) == {1}
    assert set(seen) <= {sample.name for sample in split.samples}


@pytest.mark.slow
def test_a_web_server_that_knows_ranges(root: Path, shards: Path) -> None:
    """Also in a process that was forked from one that has asked before."""
    with serving(files={f"/s/{each.name}": each.read_bytes() for each in shards.iterdir()}) as web:
        split = DatasetFolder(f"{web.address}/s").split("train")
        assert_same(DatasetFolder(root).split("train"), split)
        web.requests.clear()
        assert not check_folder(f"{web.address}/s", quick=True).errors
        ranged = [asked for path, asked, _ in web.requests if path.endswith(".tar") and asked]
        assert len(ranged) == 2 * 15  # one an image, one a mask
        web.requests.clear()
        assert loaded_by(1, split) == {sample.name for sample in split.samples}
        assert all(path.endswith(".tar") and asked for path, asked, _ in web.requests)
        web.ranges, split = False, DatasetFolder(f"{web.address}/s").split("train")
        with pytest.raises(FullconvError, match=r"0\.tar: gave [\d,]+ bytes where .* no ranges"):
            split[0]


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("moto", "s3fs"))), reason="needs moto and s3fs")
def test_an_s3_server(root: Path, shards: Path) -> None:
    """Read, checked, loaded by workers, and a shard that went missing is named."""
    with s3_served("shards"):
        bucket = fsspec.filesystem("s3")
        bucket.put(f"{shards}/", "shards/street/", recursive=True)
        split = DatasetFolder("s3://shards/street").split("train")
        assert_same(DatasetFolder(root).split("train"), split)
        assert not check_folder("s3://shards/street", quick=True).errors
        assert loaded_by(2, split) == {sample.name for sample in split.samples}
        bucket.rm("shards/street/train-000001.tar")
        with pytest.raises(FullconvError, match=r"train-000001\.tar: no such file"):
            DatasetFolder("s3://shards/street").split("train")


# What is written ----------------------------------------------------------------------------------


def test_shards_are_no_larger_than_asked(root: Path, tmp_path: Path) -> None:
    done = pack(root, tmp_path / "one", size=20480)
    assert done.images == {"train": 10, "val": 3, "test": 2}
    assert done.shards_of("train") > 1
    assert set(done.shards.values()) <= {10240, 20480}
    assert done.shards == {p.name: p.stat().st_size for p in (tmp_path / "one").glob("*.tar")}
    few = pack(root, tmp_path / "few", count=4)
    assert [few.shards_of(split) for split in few.images] == [3, 1, 1]


def test_files_are_packed_byte_by_byte_and_the_same_every_time(root: Path, tmp_path: Path) -> None:
    for out in ("one", "other"):
        os.utime(root / "images/train/train0.png", (len(out), len(out)))
        pack(root, tmp_path / out)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    expected = ["dataset.yaml", INDEX, *(f"{s}-000000.tar" for s in ("test", "train", "val"))]
    assert names == sorted(expected)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    with tarfile.open(tmp_path / "one" / "val-000000.tar") as tar:
        jpeg = tar.extractfile("000000000.images.jpg")
        told = tar.extractfile("000000000.json")
        assert jpeg is not None
        assert told is not None
        assert jpeg.read() == (root / "images/val/photo.JPG").read_bytes()
        assert json.load(told) == {"name": "photo", "images": "photo.JPG", "masks": "photo.png"}
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_shards_of_shards_are_the_same(shards: Path, tmp_path: Path) -> None:
    pack(shards, tmp_path / "again", count=3)
    for path in shards.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_webdataset_reads_the_same_pairs(root: Path, shards: Path) -> None:
    urls = sorted(str(path) for path in shards.glob("train-*.tar"))
    read = webdataset.WebDataset(urls, shardshuffle=False)
    files = {}
    for sample in read:
        names = json.loads(sample["json"])
        files[names["images"]] = sample["images.png"]
        files[f"mask of {names['name']}"] = sample["masks.png"]
    expected = {}
    for path in (root / "images/train").rglob("*.png"):
        name = path.relative_to(root / "images/train")
        expected[name.as_posix()] = path.read_bytes()
        mask = (root / "masks/train" / name).read_bytes()
        expected[f"mask of {name.with_suffix('').as_posix()}"] = mask
    assert len(expected) == 20
    assert files == expected


def test_a_packing_cut_short_begins_anew(root: Path, shards: Path) -> None:
    whole = {path.name: path.read_bytes() for path in shards.iterdir()}
    (shards / INDEX).unlink()
    (shards / "train-000002.tar").write_bytes(b"half")
    (shards / "train-000099.tar").write_bytes(b"of another size")
    (shards / ".val-000000.tar.123.tmp").write_bytes(b"killed")
    with pytest.raises(FullconvError, match=r"has shards but no shards\.jsonl, .* anew"):
        DatasetFolder(shards)
    pack(root, shards, count=3)
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == whole


def test_nothing_of_others_is_written_over(root: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(FullconvError, match="holds shards already; choose another --out"):
        pack(root, shards)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "train-000000.tar").write_bytes(b"another's")
    with pytest.raises(FullconvError, match="is not empty; choose another --out"):
        pack(root, theirs)
    assert (theirs / "train-000000.tar").read_bytes() == b"another's"


def test_what_does_not_pair_up_is_not_packed(root: Path, tmp_path: Path) -> None:
    (root / "masks/train/train0.png").unlink()
    with pytest.raises(FullconvError, match="1 images of split 'train' have no mask"):
        pack(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What is wrong with them --------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_cut_short_is_named_before_anything_begins(shards: Path, remote: bool) -> None:
    tar = shards / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    where = uploaded(shards, "cut") if remote else shards
    with pytest.raises(FullconvError, match=r"train-000001\.tar: is cut short: .* copy it again"):
        DatasetFolder(where)


@pytest.mark.parametrize("remote", [False, True])
def test_a_missing_shard_is_named(shards: Path, remote: bool) -> None:
    (shards / "val-000000.tar").unlink()
    where = uploaded(shards, "missing") if remote else shards
    with pytest.raises(FullconvError, match=r"val-000000\.tar: .*o such file"):
        DatasetFolder(where)


def test_altered_bytes_are_told_when_they_are_read(shards: Path) -> None:
    tar = shards / "test-000000.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 1
    tar.write_bytes(content)
    split = DatasetFolder(shards).split("test")
    with pytest.raises(
        FullconvError, match=r"test-000000\.tar: the [\d,]+ bytes at [\d,]+ are not"
    ):
        split[0]
    assert any("test-000000.tar" in line for line in check_folder(shards).errors)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:-1], "is cut short, or no index of shards"),
        (lambda lines: lines[1:], r"has 14 of 15 samples"),
        (lambda _: [], "is cut short, or no index of shards"),
        (lambda lines: ['{"key":1}', *lines[1:]], "line 1 tells no sample"),
        (lambda lines: [lines[0].replace(":[", ":[9"), *lines[1:]], "line 1 tells no sample"),
        (lambda lines: [*lines[:-1], lines[-1].replace(":1,", ":2,")], "is of version 2"),
    ],
)
def test_a_wrong_index_is_refused(shards: Path, change: Any, told: str) -> None:
    path = shards / INDEX
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(FullconvError, match=rf"shards\.jsonl: {told}.*write it anew"):
        DatasetFolder(shards)


def test_an_address_without_an_index(root: Path) -> None:
    with pytest.raises(FullconvError, match=r"memory://nowhere/dataset\.yaml: no such file"):
        DatasetFolder("memory://nowhere")
    system = fsspec.filesystem("memory")
    system.pipe("/plain/dataset.yaml", (root / "dataset.yaml").read_bytes())
    with pytest.raises(FullconvError, match=r"memory://plain/shards\.jsonl: .*fullconv data shard"):
        DatasetFolder("memory://plain")
