"""The classifiers of Caffe's model zoo that the paper's nets start from: fetched and verified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from fullconv.base.download import Checksum, WebFile, fetch
from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.progress import Reporter

PAUSES = (1.0,)  # seconds; a training waits for this: who has no network is to know soon


def _published(address: str, megabytes: int, sha1: str) -> WebFile:
    """Describe a caffemodel; its SHA-1 is told by its page in Caffe's model zoo."""
    file = address.rpartition("/")[2]
    return WebFile(file, (address,), megabytes, Checksum("sha1", sha1, "Caffe's model zoo"))


ZOO: Mapping[str, WebFile] = {
    "caffe:vgg16": _published(
        "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
        553,
        "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24",
    ),
    "caffe:caffenet": _published(
        "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        244,
        "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
    ),
    "caffe:googlenet": _published(
        "http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
        54,
        "405fc5acd08a3bb12de8ee5e23a96bec22f08204",
    ),
}


def pretrained(name: str) -> Path:
    """Return the caffemodel of a classifier, fetched if it is not in torch.hub's cache.

    Args:
        name: "caffe:vgg16", "caffe:caffenet" or "caffe:googlenet".

    Raises:
        FullconvError: no such classifier; it can't be fetched; the file is another.
    """
    if name not in ZOO:
        raise FullconvError(
            f"no published weights of {name!r}; there are those of {', '.join(ZOO)}"
        )
    try:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        return fetch(ZOO[name], cache, reporter=Reporter(), pauses=PAUSES)
    except (OSError, WorkFailedError) as error:
        raise FullconvError(
            f"no pretrained weights of {name}: {error}, or pass --weights FILE.caffemodel"
        ) from error
