"""Files that are parts of larger ones: what is asked of the server, and what is told of it."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest

from fullconv.base import remote
from fullconv.base.errors import FullconvError
from fullconv.base.packed import Packed, Part
from fullconv.base.remote import RemotePath, place

LARGE = np.random.default_rng(0).bytes(200_000)
ROOT = RemotePath("memory://packed")
PATH = ROOT / "images" / "train" / "deep" / "a.png"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each request has asked for, of one file of 100,000 bytes among others."""
    found: list[int] = []

    def read(address: str, start: int, end: int) -> bytes:
        assert address == "memory://packed/a.tar"
        found.append(end - start)
        return LARGE[start:end]

    monkeypatch.setattr(remote, "read", read)
    return found


def packed(size: int = 100_000, root: Path = ROOT) -> Packed:
    crc = zlib.crc32(LARGE[512:][:size])
    return Packed(root, {"images/train": {"deep/a.png": Part("a.tar", 512, size, crc)}})


def test_one_request_for_the_whole(asked: list[int]) -> None:
    with packed().opened(PATH) as file:
        assert file.read() == LARGE[512:][:100_000]
    assert asked == [100_000]


def test_headers_take_a_part_once_and_the_rest_comes_when_it_is_read(asked: list[int]) -> None:
    files = packed()
    for _ in "123":
        with files.opened(PATH, whole=False) as file:
            assert file.read(12) == LARGE[512:][:12]
            assert file.seek(0, 2) == 100_000
    assert asked == [65_536]
    with files.opened(PATH, whole=False) as file:
        file.seek(65_530)
        assert file.read(20) == LARGE[512 + 65_530 :][:20]
        assert file.read() == LARGE[512 + 65_550 : 512 + 100_000]
        assert file.read(1) == b""
    assert asked == [65_536, 34_464]


def test_what_is_known_of_a_header_is_not_asked_again(asked: list[int]) -> None:
    for size, expected in ((100_000, [65_536, 34_464]), (5000, [5000])):
        asked.clear()
        files = packed(size)
        for whole in (False, True):
            with files.opened(PATH, whole=whole) as file:
                assert file.read(12) == LARGE[512:][:12]
        assert asked == expected
        asked.clear()
        files = packed(size)
        for whole in (True, False):
            with files.opened(PATH, whole=whole) as file:
                assert file.read(12) == LARGE[512:][:12]
        assert asked == [size]


def test_few_headers_are_kept(asked: list[int]) -> None:
    parts = {f"{n}.png": Part("a.tar", n, 10, zlib.crc32(LARGE[n : n + 10])) for n in range(100)}
    files = Packed(ROOT, {"images/train": parts})
    for name in (*parts, "99.png", "0.png"):
        with files.opened(ROOT / "images" / "train" / name, whole=False) as file:
            assert file.read() == LARGE[int(name[:-4]) :][:10]
    assert len(asked) == 101


def test_files_and_folders_as_of_a_disk() -> None:
    files = packed()
    assert files.is_folder(ROOT / "images" / "train")
    assert not files.is_folder(ROOT / "images" / "val")
    assert list(files.below(ROOT / "images" / "train")) == [PATH]
    assert list(files.below(ROOT / "images" / "val")) == []
    with pytest.raises(FileNotFoundError), files.opened(ROOT / "images" / "train" / "b.png"):
        pass


def test_a_server_that_knows_no_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "read", lambda *_: LARGE)
    with pytest.raises(FullconvError, match=r"a\.tar: gave 200,000 bytes where 100,000 were"):
        packed().opened(PATH).__enter__()


def test_a_file_that_ends_too_soon(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(LARGE[:600])
    with pytest.raises(FullconvError, match=r"a\.tar: gave 88 bytes where 100,000 were asked for"):
        packed(root=tmp_path).opened(tmp_path / "images/train/deep/a.png").__enter__()


def test_addresses_as_paths() -> None:
    path = place("s3://bucket/shards/") / "images" / "a.b.png"
    assert str(path) == f"{path}" == "s3://bucket/shards/images/a.b.png"
    assert (path.name, path.suffix, str(path.parent)) == (
        "a.b.png",
        ".png",
        "s3://bucket/shards/images",
    )
    assert path.relative_to(place("s3://bucket/shards")).as_posix() == "images/a.b.png"
    assert path.absolute() == path == place(str(path)) == place(path)
    assert not path.exists()
    again = pickle.loads(pickle.dumps(path))  # as for a process of its own
    assert (str(again), type(again)) == (str(path), RemotePath)


def test_another_process_gets_all_that_it_takes(asked: list[int]) -> None:
    with pickle.loads(pickle.dumps(packed())).opened(PATH) as file:
        assert file.read() == LARGE[512:][:100_000]
    assert len(asked) == 1


def test_paths_of_this_machine() -> None:
    assert type(place("street")) is type(place("file:///tmp/street")) is type(Path())
    assert place("file:///tmp/street") == Path("/tmp/street")
