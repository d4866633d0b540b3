import re
import sys

import fsspec
import pytest

from fullconv.base.errors import FullconvError
from fullconv.base.remote import filesystem, is_remote, read


@pytest.mark.parametrize("text", ["s3://bucket/a", "https://x.org/a.jpg", "memory://a", "gs://b"])
def test_addresses_are_remote(text):
    assert is_remote(text)


@pytest.mark.parametrize("text", ["photos/a.jpg", "/photos", "C://photos", "s3:/bucket", "a b://c"])
def test_paths_are_not(text):
    assert not is_remote(text)


def test_a_whole_file_and_a_part_of_one():
    fsspec.filesystem("memory").pipe("/remote-test/a.bin", b"0123456789")
    assert read("memory://remote-test/a.bin") == b"0123456789"
    assert read("memory://remote-test/a.bin", 2, 5) == b"234"


def test_files_by_their_address(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    assert read(f"file://{tmp_path}/a.bin") == b"abc"
    system, path = filesystem(f"file://{tmp_path}/a.bin")
    assert system.size(path) == 3


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("memory://remote-test/none", "memory://remote-test/none: no such file"),
        ("nonsense://x", "nonsense://x: is no address that fsspec reads"),
    ],
)
def test_what_fails_is_told_in_a_line(address, told):
    with pytest.raises(FullconvError, match=re.escape(told)) as caught:
        read(address)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(FullconvError, match=r"gs://b/a: can't be read .*gcsfs.*fullconv\[remote\]"):
        read("gs://b/a")
