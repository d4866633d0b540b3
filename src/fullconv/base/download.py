"""Fetching a file over HTTP: resumed where it broke off, and checked before it gets its name.

What is fetched here has up to 3 GB. No library's client does what tests/base/test_download.py asks
for. torchvision, torch.hub and pooch keep nothing of a broken transfer
(test_a_later_run_continues_too). huggingface_hub sends no If-Range, and joins the halves of two
versions of a file (test_a_file_that_changed_meanwhile_is_fetched_anew); it keeps only whole pieces
of 10 MB (test_a_broken_transfer_continues_where_it_broke_off).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from fullconv.base import files
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.progress import SILENT, Progress, Reporter

MEGABYTE = 1_000_000
SLACK = 100 * MEGABYTE  # beyond twice what a file should have, before it is refused
PAUSES = (1.0, 4.0, 15.0)  # seconds before trying again after an attempt that brought nothing
TIMEOUT = 60.0  # seconds without a byte

_CHUNK = 1 << 20
_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True)
class Checksum:
    """A checksum of a file.

    Attributes:
        algorithm: one of hashlib's: "md5", "sha1", "sha256" and so on.
        digest: in lower-case hexadecimal.
        publisher: who states it.
    """

    algorithm: str
    digest: str
    publisher: str

    def __str__(self) -> str:
        """Name the algorithm and the digest: "md5 520609c5…"."""
        return f"{self.algorithm} {self.digest}"


@dataclass(frozen=True)
class WebFile:
    """A file to fetch.

    Attributes:
        file: the name under which it is kept.
        addresses: where it is, tried in order; none: it is put in place by hand.
        megabytes: about how large it is; what is far larger is not fetched.
        checksum: that was published; None: nobody did, and any content is taken.
    """

    file: str
    addresses: tuple[str, ...] = ()
    megabytes: int = 0
    checksum: Checksum | None = None

    @property
    def most(self) -> int:
        """The most bytes that are taken for it."""
        return 2 * self.megabytes * MEGABYTE + SLACK


class _BrokeOffError(Exception):
    """The transfer ended early; what arrived is kept and the rest may be asked for."""


class _RefusedError(Exception):
    """This address doesn't give the file."""


def fetch(
    wanted: WebFile,
    folder: Path,
    *,
    reporter: Reporter = SILENT,
    pauses: Sequence[float] = PAUSES,
) -> Path:
    """Fetch a file into `folder` unless it is there already.

    What arrives is kept as FILE.part, so that an interrupted transfer continues where it broke
    off. It gets its name only if its checksum is the published one. Of several processes that
    fetch the same file one does, and the others wait for it.

    Args:
        wanted: what to fetch; its addresses are tried in order.
        folder: is made if need be.
        reporter: shows progress, and warns of what could not be verified.
        pauses: seconds to wait after each attempt in a row that brought no byte; one attempt
            more is made than there are pauses.

    Returns:
        The path of the file in `folder`.

    Raises:
        FullconvError: a file of that name is there but has another checksum.
        WorkFailedError: no address gave the whole file; the message says what to do by hand.
    """
    path = folder / wanted.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / f".{wanted.file}.lock"
        with FileLock(lock):
            if not path.exists():  # nobody fetched it while we waited
                _bring(wanted, path, reporter, pauses)
                lock.unlink()  # who gets it later sees the file
                return path
    verify(path, wanted, reporter)
    return path


def verify(path: Path, wanted: WebFile, reporter: Reporter = SILENT) -> None:
    """Raise FullconvError where `path` has another checksum than was published of `wanted`."""
    if wanted.checksum is None:
        return
    found = _checksum(path, wanted.checksum, wanted.file, reporter)
    if found != wanted.checksum:
        raise FullconvError(
            f"{path}: its {found} is not the {wanted.checksum.digest} that {found.publisher} "
            "states; remove the file and run the same command again"
        )


def _bring(wanted: WebFile, path: Path, reporter: Reporter, pauses: Sequence[float]) -> None:
    """Fetch `path` from the first address that gives the right file."""
    part = path.with_name(f"{path.name}.part")
    reasons = []
    for address in wanted.addresses:
        try:
            known_whole = _transfer(address, part, wanted, reporter, pauses)
            _require_checksum(part, wanted, reporter)
        except _RefusedError as reason:
            reasons.append(f"{address}: {reason}")
        else:
            if not (known_whole or wanted.checksum):
                reporter.warn(
                    f"note: {wanted.file}: unverified: {address} tells no length and nobody a "
                    f"checksum, so these {_size(part):,} bytes may be a part of the file"
                )
            part.replace(path)
            _discard(part)
            return
    raise WorkFailedError(_told(wanted, path, part, reasons))


def _told(wanted: WebFile, path: Path, part: Path, reasons: Sequence[str]) -> str:
    by_hand = f"save it as {path}" + (f" ({wanted.checksum})" if wanted.checksum else "")
    if not reasons:
        return f"{wanted.file}: has no public address; {by_hand}"
    have = f", {_megabytes(part)} MB of it are kept" if part.exists() else ""
    return (
        f"{wanted.file}: could not be fetched{have} ({'; '.join(reasons)}); run the same command "
        f"to continue, or fetch it by hand and {by_hand}"
    )


def _transfer(
    address: str, part: Path, wanted: WebFile, reporter: Reporter, pauses: Sequence[float]
) -> bool:
    """Bring `part` to its full length, trying again while that brings anything.

    Returns:
        Whether the server told that length, or else where the end is.
    """
    fruitless = 0
    while True:
        before = _size(part)
        try:
            return _continue(address, part, wanted, reporter)
        except _BrokeOffError as problem:
            fruitless = 0 if _size(part) > before else fruitless + 1
            if fruitless > len(pauses):
                raise _RefusedError(str(problem)) from None
            time.sleep(pauses[fruitless - 1] if fruitless else 0.0)


def _continue(address: str, part: Path, wanted: WebFile, reporter: Reporter) -> bool:
    """Ask for what `part` lacks, once, and append it (see `_transfer`)."""
    have = _size(part)
    validator = _validator_for(part, address)
    if have and not (validator or wanted.checksum):
        have = 0  # nothing would tell if the file had changed meanwhile
    try:
        response = _ask(address, have, validator)
    except HTTPError as error:
        if have and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _conclude(part, error.headers.get("Content-Range", ""))
            return True
        raise _judged(error) from None
    with closing(response):
        have, total = _extent(response, have)
        _require_bounded(part, wanted, total or have)
        _keep_validator(part, address, response)
        size = -(-(total or wanted.megabytes * MEGABYTE) // MEGABYTE)
        done = have // MEGABYTE
        with (
            reporter.bar(size, f"fetch {wanted.file}", unit="MB", done=done) as bar,
            part.open("ab") as file,
        ):
            file.truncate(have)
            for chunk in _chunks(response):
                file.write(chunk)
                _require_bounded(part, wanted, file.tell())
                _show(bar, file.tell())
    if total is not None and _size(part) != total:
        raise _BrokeOffError(f"broke off after {_size(part):,} of {total:,} bytes")
    return total is not None or response.chunked  # chunks have an end that the client requires


def _ask(address: str, have: int, validator: str) -> HTTPResponse:
    """Request the bytes from `have` on; HTTPError where the server declines."""
    # no compressed transfer: ranges and lengths are to be those of the file
    headers = {"User-Agent": "fullconv", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response: HTTPResponse = urlopen(Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError:
        raise
    except URLError as error:
        raise _BrokeOffError(f"can't be reached ({error.reason})") from None
    except (OSError, HTTPException) as error:
        raise _BrokeOffError(f"can't be reached ({_named(error)})") from None
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise _RefusedError("gives a web page instead of the file")
    return response


def _extent(response: HTTPResponse, have: int) -> tuple[int, int | None]:
    """Return how many bytes to keep and how many there will be, None if the server won't say."""
    length = response.headers.get("Content-Length", "")
    rest = int(length) if length.isdigit() else None
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0, rest
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != have:
        raise _RefusedError("gives another range than was asked for")
    return have, int(found[2]) if found[2] != "*" else rest and have + rest


def _require_bounded(part: Path, wanted: WebFile, size: int) -> None:
    """Refuse what has, or will have, far more bytes than it should; a disk is soon full."""
    if size > wanted.most:
        _discard(part)
        raise _RefusedError(f"has more than the {wanted.most:,} bytes that are taken for the file")


def _conclude(part: Path, content_range: str) -> None:
    """Judge a range past the file's end: `part` is complete, or has bytes of something else."""
    if content_range == f"bytes */{_size(part)}":
        return
    _discard(part)
    raise _BrokeOffError("holds another file than the one begun")


def _judged(error: HTTPError) -> Exception:
    told = f"{error.code} {error.reason}"
    again = error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code in _AGAIN
    return _BrokeOffError(told) if again else _RefusedError(told)


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body; errors of the network are told from those of the disk."""
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, HTTPException) as error:
            raise _BrokeOffError(f"broke off ({_named(error)})") from None
        if not chunk:
            return
        yield chunk


def _named(error: Exception) -> str:
    return str(error) or type(error).__name__


def _discard(part: Path) -> None:
    """Remove what arrived, if it is still there, and what was noted of it."""
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _keep_validator(part: Path, address: str, response: HTTPResponse) -> None:
    """Note which version of the file this is, for If-Range; weak tags are of no use there."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    files.write_text(_note_of(part), f"{address}\n{validator}\n")


def _validator_for(part: Path, address: str) -> str:
    """Return the version noted of `part`, "" if it is of another address or unknown."""
    note = _note_of(part)
    lines = note.read_text("utf-8", errors="replace").splitlines() if note.exists() else []
    return lines[1] if len(lines) == 2 and lines[0] == address else ""


def _require_checksum(part: Path, wanted: WebFile, reporter: Reporter) -> None:
    if wanted.checksum is None:
        return
    found = _checksum(part, wanted.checksum, wanted.file, reporter)
    if found != wanted.checksum:
        _discard(part)
        states = f"{found.publisher} states {wanted.checksum.digest}"
        raise _RefusedError(f"gave a file of {found} but {states}")


def _checksum(path: Path, like: Checksum, what: str, reporter: Reporter) -> Checksum:
    """Return the checksum that `like` would be if `path` were right."""
    digest = hashlib.new(like.algorithm, usedforsecurity=False)
    total = -(-_size(path) // MEGABYTE)
    with (
        reporter.bar(total, f"check {what}", unit="MB") as bar,
        path.open("rb") as file,
    ):
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            _show(bar, file.tell())
    return replace(like, digest=digest.hexdigest())


def _show(bar: Progress, position: int) -> None:
    """Advance `bar`, which counts megabytes, to a `position` in bytes."""
    if steps := position // MEGABYTE - bar.done:
        bar.advance(steps)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(path: Path) -> int:
    return _size(path) // MEGABYTE
