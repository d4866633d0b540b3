from __future__ import annotations

import re

import pytest
from s3_server import s3_served

from fullconv.base.errors import FullconvError
from fullconv.base.remote_files import Remote, files_at
from fullconv.base.stores import LocalStore, RemoteStore, store_at


def told(store):
    """Write, replace, read and remove; return what was there at each step."""
    store.write("a.png", b"first")
    store.write("b/c.jpg", b"second")
    store.write("a.png", b"third")
    store.write("b/.hidden", b"")
    seen = [store.names(), {name: store.read(name) for name in sorted(store.names())}]
    store.remove("b/c.jpg")
    store.remove("none.png")
    return [*seen, store.names()]


EXPECTED = [{"a.png", "b/c.jpg"}, {"a.png": b"third", "b/c.jpg": b"second"}, {"a.png"}]


def test_folders_here_and_elsewhere_hold_the_same(tmp_path):
    here, there = store_at(str(tmp_path / "here")), store_at(f"file://{tmp_path}/there")
    assert isinstance(here, LocalStore)
    assert isinstance(there, RemoteStore)
    assert told(here) == told(there) == EXPECTED
    for folder in ("here", "there"):
        files = sorted(path.name for path in (tmp_path / folder).rglob("*") if path.is_file())
        assert files == [".hidden", "a.png"]


def test_an_empty_folder_is_not_left_behind(tmp_path):
    store = LocalStore(tmp_path)
    store.write("parts/1", b"")
    store.remove("parts/1")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_folder_on_s3():
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with s3_served("results"):
        assert told(store_at("s3://results/run")) == EXPECTED
        assert store_at("s3://results/none").names() == set()
        assert [
            (str(file), name, file.size) for file, name in files_at("s3://results/*/a.png")
        ] == [("s3://results/run/a.png", "run/a.png", 5)]
        assert Remote("s3://results/run/a.png").read() == b"third"
        with pytest.raises(FullconvError, match="s3://results/x: no such file"):
            Remote("s3://results/x").read()
        with pytest.raises(FullconvError, match="s3://none/x: no such folder or bucket"):
            RemoteStore("s3://none").write("x", b"")


def test_files_of_a_folder_elsewhere(tmp_path):
    for name in ("a.png", "b/c.jpg", ".d/e.png", "b/.f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    root = f"file://{tmp_path}"
    assert [(str(file), name, file.size) for file, name in files_at(root)] == [
        (f"{root}/a.png", "a.png", 3),
        (f"{root}/b/c.jpg", "b/c.jpg", 3),
    ]
    assert [name for _, name in files_at(f"{root}/**/*.jpg")] == ["b/c.jpg"]
    assert files_at(f"{root}/a.png") == [(Remote(f"{root}/a.png"), "a.png")]
    with pytest.raises(FullconvError, match=re.escape(f"{root}/none: no such file")):
        files_at(f"{root}/none")
