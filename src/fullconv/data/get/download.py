"""Fetching a file over HTTP: resumed where it broke off, and checked before it gets its name.

torchvision's and torch.hub's downloaders cannot resume, and an archive here has up to 3 GB; the
standard library's client does what is needed.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from fullconv import files
from fullconv.data.get.sources import Source
from fullconv.errors import FullconvError, WorkFailedError
from fullconv.progress import Progress, progress

MEGABYTE = 1_000_000
PAUSES = (1.0, 4.0, 15.0)  # seconds before trying again after an attempt that brought nothing

_TIMEOUT = 60.0
_CHUNK = 1 << 20
_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class _BrokeOffError(Exception):
    """The transfer ended early; what arrived is kept and the rest may be asked for."""


class _RefusedError(Exception):
    """This address doesn't give the file."""


def fetch(
    source: Source, folder: Path, *, quiet: bool = False, pauses: Sequence[float] = PAUSES
) -> Path:
    """Fetch `source` into `folder` unless it is there already.

    What arrives is kept as FILE.part, so that an interrupted transfer continues where it broke
    off. It gets its name only if its checksum is the published one.

    Args:
        source: What to fetch; its addresses are tried in order.
        folder: Made if need be.
        quiet: Show no progress.
        pauses: Seconds to wait after each attempt in a row that brought no byte; one attempt
            more is made than there are pauses.

    Returns:
        The path of the file in `folder`.

    Raises:
        FullconvError: A file of that name is there but has another checksum.
        WorkFailedError: No address gave the whole file.
    """
    path = folder / source.file
    if path.exists():
        verify(path, source, quiet=quiet)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{source.file}.part"
    reasons = []
    for address in source.addresses:
        try:
            _transfer(address, part, source, quiet, pauses)
            _require_checksum(part, source, quiet)
        except _RefusedError as reason:
            reasons.append(f"{address}: {reason}")
        else:
            part.replace(path)
            _note_of(part).unlink(missing_ok=True)
            return path
    raise WorkFailedError(_told(source, folder, part, reasons))


def verify(path: Path, source: Source, *, quiet: bool = False) -> None:
    """Raise FullconvError where the checksum of `path` is not the one published of `source`."""
    found = _md5(path, source, quiet) if source.md5 else ""
    if found != source.md5:
        raise FullconvError(
            f"{path}: its md5 is {found} but {source.published or 'its publisher'} states "
            f"{source.md5}; remove the file and run the same command again"
        )


def _told(source: Source, folder: Path, part: Path, reasons: Sequence[str]) -> str:
    if not reasons:
        return f"{source.file}: has no public address; put it into {folder} by hand"
    have = f", {_megabytes(part)} MB of it are kept" if part.exists() else ""
    return (
        f"{source.file}: could not be fetched{have} ({'; '.join(reasons)}); run the same command "
        f"to continue, or fetch it by hand and put it into {folder}"
    )


def _transfer(
    address: str, part: Path, source: Source, quiet: bool, pauses: Sequence[float]
) -> None:
    """Bring `part` to its full length, trying again while that brings anything."""
    fruitless = 0
    while True:
        before = _size(part)
        try:
            return _continue(address, part, source, quiet)
        except _BrokeOffError as problem:
            fruitless = 0 if _size(part) > before else fruitless + 1
            if fruitless > len(pauses):
                raise _RefusedError(str(problem)) from None
            time.sleep(pauses[fruitless - 1] if fruitless else 0.0)


def _continue(address: str, part: Path, source: Source, quiet: bool) -> None:
    """Ask for what `part` lacks, once, and append it."""
    have = _size(part)
    validator = _validator_for(part, address)
    if have and not (validator or source.md5):
        have = 0  # nothing would tell if the file had changed meanwhile
    try:
        response = _ask(address, have, validator)
    except HTTPError as error:
        if have and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _conclude(part, error.headers.get("Content-Range", ""))
            return
        raise _judged(error) from None
    with closing(response):
        have, total = _extent(response, have)
        _keep_validator(part, address, response)
        size = -(-(total or source.megabytes * MEGABYTE) // MEGABYTE)
        done = have // MEGABYTE
        with (
            progress(size, f"fetch {source.file}", unit="MB", quiet=quiet, done=done) as bar,
            part.open("ab") as file,
        ):
            file.truncate(have)
            for chunk in _chunks(response):
                file.write(chunk)
                _show(bar, file.tell())
    if total is not None and _size(part) != total:
        raise _BrokeOffError(f"broke off after {_size(part):,} of {total:,} bytes")


def _ask(address: str, have: int, validator: str) -> HTTPResponse:
    """Request the bytes from `have` on; HTTPError where the server declines."""
    # no compressed transfer: ranges and lengths are to be those of the file
    headers = {"User-Agent": "fullconv", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response: HTTPResponse = urlopen(Request(address, headers=headers), timeout=_TIMEOUT)
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


def _conclude(part: Path, content_range: str) -> None:
    """Judge a range past the file's end: `part` is complete, or has bytes of something else."""
    if content_range == f"bytes */{_size(part)}":
        return
    part.unlink()
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
    lines = note.read_text(encoding="utf-8").splitlines() if note.exists() else []
    return lines[1] if len(lines) == 2 and lines[0] == address else ""


def _require_checksum(part: Path, source: Source, quiet: bool) -> None:
    if not source.md5:
        return
    found = _md5(part, source, quiet)
    if found != source.md5:
        part.unlink()
        states = f"{source.published or 'its publisher'} states {source.md5}"
        raise _RefusedError(f"gave a file of md5 {found} but {states}")


def _md5(path: Path, source: Source, quiet: bool) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    total = -(-_size(path) // MEGABYTE)
    with (
        progress(total, f"check {source.file}", unit="MB", quiet=quiet) as bar,
        path.open("rb") as file,
    ):
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            _show(bar, file.tell())
    return digest.hexdigest()


def _show(bar: Progress, position: int) -> None:
    """Advance `bar`, which counts megabytes, to a `position` in bytes."""
    if steps := position // MEGABYTE - bar.done:
        bar.advance(steps)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(path: Path) -> int:
    return _size(path) // MEGABYTE
