"""Unpacking: honest archives wholly, hostile ones not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import struct
import tarfile
import zipfile

import pytest

from fullconv.base.errors import FullconvError
from fullconv.datasets.archives import LIMITS, Limits, unpack

FILES = {"top/a.txt": b"alpha", "top/deep/b.jpg": b"\xff\xd8", "c.mat": b""}


def tar(path, entries, mode="w"):
    """Entries are (name, bytes) or TarInfo."""
    with tarfile.open(path, mode) as file:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                file.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            file.addfile(info, io.BytesIO(entry[1]))
    return path


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            if name:
                file.writestr(name, content)
            else:  # which writestr can't
                with file.open(zipfile.ZipInfo(""), "w") as member:
                    member.write(content)
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(archive, tmp_path, *wanted, limits=LIMITS):
    """Unpacking is refused in one line, and nothing but the unfinished folder was written."""
    shutil.rmtree(tmp_path / "sub", ignore_errors=True)
    before = contents(tmp_path)
    with pytest.raises(FullconvError) as caught:
        unpack(archive, tmp_path / "sub" / "out", wanted or ("*",), limits=limits)
    assert not (tmp_path / "sub" / "out").exists()
    after = contents(tmp_path)
    assert {k: v for k, v in after.items() if not k.startswith("sub/out.part/")} == before
    message = str(caught.value)
    assert message.startswith(f"{archive}: ") and "\n" not in message
    return message


ARCHIVES = {
    "a.tar": tar,
    "a.tar.gz": lambda path, entries: tar(path, entries, "w:gz"),
    "a.zip": zipped,
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_honest_archives(tmp_path, name):
    archive = ARCHIVES[name](tmp_path / name, list(FILES.items()))
    unpack(archive, tmp_path / "all")
    assert contents(tmp_path / "all") == FILES
    unpack(archive, tmp_path / "some", ("*.jpg", "top/a*"))
    assert contents(tmp_path / "some") == {k: FILES[k] for k in ("top/a.txt", "top/deep/b.jpg")}
    assert not list(tmp_path.glob("*.part"))


def test_folders_dots_and_backslashes_in_names(tmp_path):
    entries = [special("./top", tarfile.DIRTYPE), ("./top/a.txt", b"alpha")]
    unpack(tar(tmp_path / "a.tar", entries), tmp_path / "tar")
    assert contents(tmp_path / "tar") == {"top/a.txt": b"alpha"}
    names = [("top/", b""), ("other\\", b""), ("top\\deep\\b.jpg", b"b")]
    unpack(zipped(tmp_path / "a.zip", names), tmp_path / "zip")
    assert contents(tmp_path / "zip") == {"top/deep/b.jpg": b"b"}


def test_an_interrupted_unpacking_begins_anew(tmp_path):
    left = tmp_path / "out.part" / "top"
    left.mkdir(parents=True)
    (left / "a.txt").write_bytes(b"half")
    (left / "old.txt").write_bytes(b"of another archive")
    unpack(tar(tmp_path / "a.tar", FILES.items()), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


OUTSIDE = ["../x", "a/../../x", "/etc/x", "..\\x", "C:/x", "c:x", "\\\\host\\x"]


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("name", ARCHIVES)
def test_names_that_lead_outside(tmp_path, name, outside):
    """Such a name condemns an archive, wanted or not."""
    archive = ARCHIVES[name](tmp_path / name, [("ok.txt", b""), (outside, b"bad")])
    assert "leads outside" in refused(archive, tmp_path)
    assert "leads outside" in refused(archive, tmp_path, "*.jpg")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices(tmp_path, kind):
    entries = [("b.txt", b"b"), special("x.jpg", kind, "b.txt")]
    archive = tar(tmp_path / "a.tar", entries)
    assert "is a link or a device" in refused(archive, tmp_path)
    unpack(archive, tmp_path / "out", ("*.txt",))  # not wanted: passed over
    assert contents(tmp_path / "out") == {"b.txt": b"b"}


def test_a_file_below_a_link(tmp_path):
    (tmp_path / "victim").mkdir()
    link = special("data", tarfile.SYMTYPE, str(tmp_path / "victim"))
    archive = tar(tmp_path / "a.tar", [link, ("data/x.jpg", b"x")])
    refused(archive, tmp_path)
    unpack(archive, tmp_path / "out", ("*.jpg",))
    assert contents(tmp_path / "out") == {"data/x.jpg": b"x"}
    assert contents(tmp_path / "victim") == {}


def test_links_in_zip_files(tmp_path):
    info = zipfile.ZipInfo("x.jpg")
    info.external_attr = 0o120777 << 16
    archive = zipped(tmp_path / "a.zip", [(info, "/etc/passwd")])
    assert "is a link or a device" in refused(archive, tmp_path)


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_nothing_is_overwritten(tmp_path, name):
    archive = ARCHIVES[name](tmp_path / name, [("a/x", b"1"), ("a/./x", b"2")])
    assert "twice" in refused(archive, tmp_path)


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("a", "a/b"), "holds 'a/b' twice, or in what is also a file"),
        (("a", "a/b/c"), "holds 'a/b/c' twice, or in what is also a file"),
        (("a/b", "a"), "holds 'a' twice"),
        (("n" * 300,), "which is no name of a file here"),
        (("n" * 300 + "/a",), "which is no name of a file here"),
    ],
)
def test_names_that_no_file_can_have(tmp_path, name, names, problem):
    archive = ARCHIVES[name](tmp_path / name, [(each, b"1") for each in names])
    told = refused(archive, tmp_path)
    assert problem in told and len(told) < len(str(archive)) + 200


@pytest.mark.parametrize("nameless", ["", ".", "./."])
@pytest.mark.parametrize("name", ARCHIVES)
def test_members_without_a_name(tmp_path, name, nameless):
    archive = ARCHIVES[name](tmp_path / name, [("ok.txt", b""), (nameless, b"bad")])
    assert "has a member without a name" in refused(archive, tmp_path)


@pytest.mark.parametrize("name", ARCHIVES)
def test_bounds(tmp_path, name):
    """Passed-over members count as well: reading past them takes time."""
    archive = ARCHIVES[name](tmp_path / name, [(f"{i}.txt", bytes(1000)) for i in range(10)])
    unpack(archive, tmp_path / "out", limits=Limits(10, 10_000))
    for limits in (Limits(9, 10_000), Limits(10, 9_999)):
        assert "holds more than" in refused(archive, tmp_path, limits=limits)
        assert "holds more than" in refused(archive, tmp_path, "*.jpg", limits=limits)


def test_a_zip_file_that_lies_about_sizes(tmp_path):
    """100 MB of zeros said to be one byte: no more than that is written."""
    archive = zipped(tmp_path / "a.zip", [("bomb", bytes(100_000_000))])
    data = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.rindex(signature) + at, 1)
    archive.write_bytes(data)
    assert "is damaged" in refused(archive, tmp_path)
    written = contents(tmp_path / "sub" / "out.part")
    assert sum(map(len, written.values())) <= 1


@pytest.mark.parametrize("size", [1 << 33, 1 << 20 | 1 << 26])
def test_a_header_that_would_fill_memory(tmp_path, size):
    """A long name or an extension is read whole; its length is forged."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    block = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(block[:512] + bytes(100_000)))
    assert "is damaged" in refused(tmp_path / "a.tar.gz", tmp_path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_truncated_archives(tmp_path, name):
    archive = ARCHIVES[name](tmp_path / name, [("a", bytes(range(256)) * 40), ("b", b"b")])
    whole = archive.read_bytes()
    for length in range(1, len(whole), 5):
        archive.write_bytes(whole[:length])
        assert "is damaged or no archive" in refused(archive, tmp_path)


def test_a_tar_file_cut_between_members(tmp_path):
    archive = tar(tmp_path / "a.tar", [("a", b"a"), ("b", b"b")])
    for blocks in (2, 4):
        archive.write_bytes(archive.read_bytes()[: blocks * 512])
        assert "ends early" in refused(archive, tmp_path)
        archive = tar(tmp_path / "a.tar", [("a", b"a"), ("b", b"b")])


def test_damaged_archives(tmp_path):
    for text in (b"", b"not an archive", b"\x1f\x8b\x08", b"PK\x03\x04" + bytes(100)):
        (tmp_path / "a.tar").write_bytes(text)
        refused(tmp_path / "a.tar", tmp_path)
    archive = zipped(tmp_path / "a.zip", [("a", b"alpha" * 100)])
    data = bytearray(archive.read_bytes())
    data[40] ^= 0xFF
    archive.write_bytes(data)
    assert "is damaged" in refused(archive, tmp_path)


@pytest.mark.parametrize("wanted", ["*", "*.jpg"])
def test_a_member_of_negative_size(tmp_path, wanted):
    """Its end lies before its header, which tarfile would then read for ever."""
    data = bytearray(tar(tmp_path / "a.tar", [("a.txt", bytes(600))]).read_bytes())
    data[124:136] = (-1024).to_bytes(12, "big", signed=True)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    assert "a member of -1,024 bytes" in refused(tmp_path / "a.tar", tmp_path, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_whatever_byte_is_wrong_a_zip_file_is_read_or_refused(tmp_path, method):
    """Each decoder has errors of its own, and a forged offset is one of the operating system."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("a/x.txt", b"hello" * 20)
    whole = archive.read_bytes()
    for at in range(len(whole)):
        for value in (0, 0x7F, 0xFF):
            archive.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            with contextlib.suppress(FullconvError):
                unpack(archive, tmp_path / "out")
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
