"""The classifiers of Caffe's model zoo that the paper's nets start from: fetched and verified."""

from __future__ import annotations

import hashlib
import http.client
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import urlopen

import torch

from fullconv.errors import FullconvError
from fullconv.files import replacing
from fullconv.progress import progress

TIMEOUT = 30.0  # seconds without a byte
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Published:
    """A caffemodel on the web.

    Attributes:
        name: of its classifier: "caffe:vgg16", say.
        url: where its authors published it.
        sha1: as its page in Caffe's model zoo tells it.
    """

    name: str
    url: str
    sha1: str


ZOO = (
    Published(
        "caffe:vgg16",
        "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
        "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24",
    ),
    Published(
        "caffe:caffenet",
        "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
    ),
    Published(
        "caffe:googlenet",
        "http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
        "405fc5acd08a3bb12de8ee5e23a96bec22f08204",
    ),
)


def pretrained(name: str) -> Path:
    """Return the caffemodel of a classifier, fetched if it is not in torch.hub's cache.

    Args:
        name: "caffe:vgg16", "caffe:caffenet" or "caffe:googlenet".

    Raises:
        FullconvError: no such classifier; it can't be fetched; the file is another.
    """
    for published in ZOO:
        if published.name == name:
            return fetch(published, Path(torch.hub.get_dir()) / "checkpoints")
    raise FullconvError(f"no published weights of {name!r}; there are those of {_names()}")


def fetch(published: Published, folder: Path, *, quiet: bool = False) -> Path:
    """Return a published file in `folder`; download it if it isn't there, and verify its SHA-1."""
    path = folder / PurePosixPath(urlsplit(published.url).path).name
    if path.is_file():
        with path.open("rb") as file:
            sha1 = hashlib.file_digest(file, "sha1").hexdigest()
        if sha1 != published.sha1:
            raise FullconvError(
                f"{path}: not {published.url} (its SHA-1 is {sha1}, not {published.sha1}): "
                "delete it and try again"
            )
        return path
    try:
        with replacing(path) as temporary:
            sha1 = _download(published, temporary, quiet)
            if sha1 != published.sha1:
                raise _WrongContentsError(f"what came has the SHA-1 {sha1}")
    except (OSError, http.client.HTTPException, _WrongContentsError) as error:
        reason = str(error) or type(error).__name__
        raise FullconvError(
            f"pretrained weights of {published.name} can't be downloaded ({reason}): fetch "
            f"{published.url} (SHA-1 {published.sha1}) on another machine and save it as {path}, "
            "or pass --weights FILE.caffemodel"
        ) from error
    return path


class _WrongContentsError(Exception):
    """The download is complete, but not what was published."""


def _download(published: Published, path: Path, quiet: bool) -> str:
    """Download to `path`; return the SHA-1 of what came."""
    digest = hashlib.sha1(usedforsecurity=False)
    with urlopen(published.url, timeout=TIMEOUT) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        steps, unknown = -(-size // MEGABYTE), size == 0
        what = f"fetching {published.name}"
        with progress(steps, what, unit="MB", quiet=quiet or unknown) as shown:
            while piece := answer.read(MEGABYTE):
                file.write(piece)
                digest.update(piece)
                shown.advance()
    return digest.hexdigest()


def _names() -> str:
    return ", ".join(published.name for published in ZOO)
