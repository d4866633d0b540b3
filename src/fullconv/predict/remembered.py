"""What was measured once of a model on a machine, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from fullconv.base.files import write_json
from fullconv.net.folder import digest
from fullconv.predict.engines import Way

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

PACKAGES = ("fullconv", "torch", "openvino", "onnxruntime")


class Measured(BaseModel):
    """What one way was found to be worth.

    Attributes:
        way: what was measured.
        build: seconds to get it ready, the first image included.
        seconds: an image, with as many at once as there are when files are labelled.
        agreement: share of labels that are those of the plainest way, 0..1.
        failure: why it can't be used; None if it can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    way: Way
    build: float = 0.0
    seconds: float = 0.0
    agreement: float = 0.0
    failure: str | None = None


class _Record(BaseModel):
    about: dict[str, Any]
    measured: tuple[Measured, ...]


class Memory:
    """The measurements of a net at one image size on this machine.

    A file that is damaged, or can't be read or written, is as good as none.
    """

    def __init__(self, net: FCN, shape: tuple[int, ...], kind: str) -> None:
        """Find the file.

        Args:
            net: on the device where it works.
            shape: of the images, H x W x C.
            kind: their type, "uint8" or "float32".
        """
        self._about = {
            "net": _digest(net),
            "shape": list(shape),
            "kind": kind,
            "machine": _machine(net),
            "versions": {name: _version(name) for name in PACKAGES},
        }
        name = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()[:32]
        self.path = cache_folder() / "engines" / f"{name}.json"

    def recall(self) -> list[Measured]:
        """Return what was measured before."""
        try:
            record = _Record.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return []
        return list(record.measured) if record.about == self._about else []

    def keep(self, measured: Iterable[Measured]) -> None:
        """Remember measurements, in place of earlier ones."""
        record = _Record(about=self._about, measured=tuple(measured))
        with suppress(OSError):
            write_json(self.path, record.model_dump(mode="json"))


def cache_folder() -> Path:
    """Return where this user's caches of fullconv lie; the variable FULLCONV_CACHE overrides it."""
    own = os.environ.get("FULLCONV_CACHE")
    if own:
        return Path(own)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fullconv"


def _digest(net: FCN) -> str:
    """Return a SHA-256 over what decides the net's labels: weights, layers, preprocessing."""
    about = {**net.arguments.to_dict(), "preprocessing": net.preprocessing.to_dict()}
    told = json.dumps(about, sort_keys=True, default=str)
    return hashlib.sha256(f"{told} {digest(net.state_dict())}".encode()).hexdigest()


def _machine(net: FCN) -> dict[str, Any]:
    """Return what the speed depends on: the processor, or graphics card, and the threads."""
    device = next(net.parameters()).device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": card or device.type,
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
