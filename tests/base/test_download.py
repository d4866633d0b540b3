"""Fetching over HTTP: whole files, broken transfers, changed files, refusals; never half a file."""

from __future__ import annotations

import hashlib
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from file_server import serving

from fullconv.base import download
from fullconv.base.download import Checksum, WebFile, fetch
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.progress import Reporter

BODY = random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(BODY).hexdigest()


def source(*addresses: str, md5: str = MD5) -> WebFile:
    return WebFile("a.tar", addresses, 3, Checksum("md5", md5, "somebody") if md5 else None)


def visible(folder) -> list[str]:
    """The files of a folder but the lock that a failure leaves."""
    return sorted(file.name for file in folder.iterdir() if file.name != ".a.tar.lock")


def get(where: WebFile, folder) -> bytes:
    path = fetch(where, folder, pauses=(0.0, 0.0))
    assert path == folder / "a.tar"
    assert [file.name for file in folder.iterdir()] == ["a.tar"]
    return path.read_bytes()


@pytest.fixture
def server():
    with serving(files={"/a.tar": BODY}) as state:
        yield state


def test_a_file_is_fetched_once(tmp_path, server):
    where = source(f"{server.address}/a.tar")
    assert get(where, tmp_path / "new") == BODY
    assert get(where, tmp_path / "new") == BODY
    assert server.requests == [("/a.tar", None, None)]


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_any_checksum_that_hashlib_knows(tmp_path, server, algorithm):
    address, digest = f"{server.address}/a.tar", hashlib.new(algorithm, BODY).hexdigest()
    where = WebFile("a.tar", (address,), checksum=Checksum(algorithm, digest, "somebody"))
    assert get(where, tmp_path) == BODY
    server.files["/a.tar"] = BODY[:-1]
    with pytest.raises(WorkFailedError, match=f"gave a file of {algorithm} "):
        fetch(where, tmp_path / "other", pauses=())


def test_of_several_at_once_one_fetches(tmp_path, server):
    where = source(f"{server.address}/a.tar")
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(where, tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {BODY}
    assert server.requests == [("/a.tar", None, None)] and visible(tmp_path) == ["a.tar"]


def test_a_server_that_falls_silent_is_left(tmp_path, monkeypatch):
    """It takes the connection, and then sends nothing."""
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a.tar"
        with pytest.raises(WorkFailedError, match="timed out"):
            fetch(source(address), tmp_path, pauses=())
    assert visible(tmp_path) == []


@pytest.mark.parametrize("md5", [MD5, ""])
def test_a_broken_transfer_continues_where_it_broke_off(tmp_path, server, md5):
    server.breaks = [1_000_001, 500_000]
    assert get(source(f"{server.address}/a.tar", md5=md5), tmp_path) == BODY
    condition = '"v1"'
    assert server.requests == [
        ("/a.tar", None, None),
        ("/a.tar", "bytes=1000001-", condition),
        ("/a.tar", "bytes=1500001-", condition),
    ]
    assert server.sent == len(BODY)


def test_a_later_run_continues_too(tmp_path, server):
    """Three attempts without a byte give up; what came before stays and the rest comes later."""
    server.breaks = [2_000_000, 0, 0, 0]
    where = source(f"{server.address}/a.tar")
    with pytest.raises(WorkFailedError) as caught:
        fetch(where, tmp_path, pauses=(0.0, 0.0))
    assert "2 MB of it are kept" in str(caught.value) and "same command" in str(caught.value)
    assert "broke off after 2,000,000 of 3,000,000 bytes" in str(caught.value)
    assert not (tmp_path / "a.tar").exists()
    assert get(where, tmp_path) == BODY
    assert server.sent == len(BODY)


@pytest.mark.parametrize("validator", ["etag", "last_modified"])
def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path, server, validator):
    """Without a checksum only the server's version tells; the two halves must not be joined."""
    old, new = ('"v1"', '"v2"') if validator == "etag" else ("Mon, 1 Jan", "Tue, 2 Jan")
    server.etag = ""
    setattr(server, validator, old)
    server.breaks = [1_000_000, 0, 0, 0]
    where = source(f"{server.address}/a.tar", md5="")
    with pytest.raises(WorkFailedError):
        fetch(where, tmp_path, pauses=(0.0, 0.0))
    setattr(server, validator, new)
    server.files["/a.tar"] = BODY[::-1]
    assert get(where, tmp_path) == BODY[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_where_nothing_tells_the_version_it_begins_anew(tmp_path, server, etag):
    server.etag, server.breaks = etag, [1_000_000]
    assert get(source(f"{server.address}/a.tar", md5=""), tmp_path) == BODY
    assert [asked for _, asked, _ in server.requests] == [None, None]


def test_a_damaged_note_of_the_version_is_as_good_as_none(tmp_path, server):
    (tmp_path / "a.tar.part").write_bytes(BODY[:1000])
    (tmp_path / "a.tar.part.version").write_bytes(b"\xff\xfe\n\x80\n")
    assert get(source(f"{server.address}/a.tar", md5=""), tmp_path) == BODY
    assert server.requests == [("/a.tar", None, None)]


def test_a_server_without_ranges_begins_anew(tmp_path, server):
    server.ranges, server.breaks = False, [1_000_000]
    assert get(source(f"{server.address}/a.tar"), tmp_path) == BODY
    assert server.sent == 1_000_000 + len(BODY)


def test_a_part_that_was_complete_is_taken(tmp_path, server):
    (tmp_path / "a.tar.part").write_bytes(BODY)
    assert get(source(f"{server.address}/a.tar"), tmp_path) == BODY
    assert server.sent == 0


def test_a_part_longer_than_the_file_is_dropped(tmp_path, server):
    (tmp_path / "a.tar.part").write_bytes(BODY + b"more")
    assert get(source(f"{server.address}/a.tar"), tmp_path) == BODY


def test_a_wrong_checksum_keeps_nothing(tmp_path, server):
    where = source(f"{server.address}/a.tar", md5="0" * 32)
    with pytest.raises(WorkFailedError) as caught:
        fetch(where, tmp_path, pauses=())
    assert MD5 in str(caught.value) and "somebody states 000" in str(caught.value)
    assert visible(tmp_path) == []


def test_a_file_of_another_checksum_is_told_and_left(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"by hand")
    found = hashlib.md5(b"by hand").hexdigest()
    with pytest.raises(FullconvError) as caught:
        fetch(source(), tmp_path)
    assert f"{tmp_path / 'a.tar'}: its md5 {found} is not the {MD5} that somebody states" in str(
        caught.value
    )
    assert caught.value.exit_code == 2
    assert (tmp_path / "a.tar").read_bytes() == b"by hand"


def test_the_next_address_is_tried(tmp_path, server):
    where = source(f"{server.address}/gone.tar", f"{server.address}/a.tar")
    assert get(where, tmp_path) == BODY
    with serving(files={"/a.tar": b"other"}) as mirror:
        where = source(f"{mirror.address}/a.tar", f"{server.address}/a.tar")
        assert get(where, tmp_path / "second") == BODY


def test_what_to_do_where_no_address_works(tmp_path, server):
    with pytest.raises(WorkFailedError) as caught:
        fetch(source(f"{server.address}/b"), tmp_path, pauses=())
    message = str(caught.value)
    assert (
        f"{server.address}/b: 404" in message
        and f"save it as {tmp_path / 'a.tar'} (md5 {MD5})" in message
    )
    assert "\n" not in message and caught.value.exit_code == 1


def test_a_busy_server_is_asked_again(tmp_path, server):
    server.statuses = [503, 429]
    assert get(source(f"{server.address}/a.tar"), tmp_path) == BODY
    assert len(server.requests) == 3


def test_a_server_that_is_not_there(tmp_path):
    with serving() as gone:
        address = gone.address
    with pytest.raises(WorkFailedError, match="can't be reached"):
        fetch(source(f"{address}/a.tar"), tmp_path, pauses=(0.0,))


def test_a_web_page_is_no_archive(tmp_path, server):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(WorkFailedError, match="gives a web page instead"):
        fetch(source(f"{server.address}/a.tar", md5=""), tmp_path, pauses=())
    assert visible(tmp_path) == []


@pytest.mark.parametrize("lengths", [True, False])
def test_what_is_far_too_large_is_not_fetched(tmp_path, server, monkeypatch, lengths):
    monkeypatch.setattr(download, "SLACK", 1_500_000)
    server.lengths = lengths
    if lengths:  # told by the header: nothing is read
        monkeypatch.setattr(download, "_chunks", None)
    where = WebFile("a.tar", (f"{server.address}/a.tar",))  # unknown size: the slack alone
    with pytest.raises(WorkFailedError, match=r"has more than the 1,500,000 bytes"):
        fetch(where, tmp_path, pauses=())
    assert visible(tmp_path) == []
    monkeypatch.undo()
    assert get(WebFile("a.tar", where.addresses, 1), tmp_path / "larger") == BODY


def test_progress_counts_from_where_it_broke_off(tmp_path, server, capsys):
    (tmp_path / "a.tar.part").write_bytes(BODY[:2_000_000])
    fetch(source(f"{server.address}/a.tar"), tmp_path, reporter=Reporter())
    told = capsys.readouterr().err
    assert "fetch a.tar: 3/3" in told and "check a.tar: 3/3" in told


def test_a_body_of_untold_length_is_called_unverified(tmp_path, server, capsys):
    """It may have ended early, and nothing tells; a quiet run says so as well."""
    server.lengths, server.breaks = False, [1_000_000]
    where = source(f"{server.address}/a.tar", md5="")
    assert len(get(where, tmp_path / "early")) == 1_000_000
    told = capsys.readouterr().err
    assert "a.tar: unverified" in told and "1,000,000 bytes" in told
    get(source(f"{server.address}/a.tar"), tmp_path / "checked")  # its checksum tells
    assert capsys.readouterr().err == ""


def test_chunks_tell_where_the_end_is(tmp_path, server, capsys):
    server.lengths, server.chunked, server.breaks = False, True, [1_000_000]
    assert get(source(f"{server.address}/a.tar", md5=""), tmp_path) == BODY
    assert capsys.readouterr().err == ""
