"""An engine, and what it was found to be worth, as values."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, order=True)
class EngineConfig:
    """What works out coarse scores.

    Attributes:
        engine: "torch", "openvino" or "onnxruntime".
        precision: "fp32", or "bf16" where that gains; of an export also "fp16" or "int8".
        compiled: whether torch compiles the net.
    """

    engine: str
    precision: Precision = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}{' compiled' * self.compiled}"


REFERENCE = EngineConfig("torch")
PACKAGES = ("fullconv", "torch", "openvino", "onnxruntime")


class Verification(BaseModel):
    """What an engine was found to be worth.

    Attributes:
        config: what was measured.
        build: seconds to get it ready, the first image included.
        seconds: an image, with as many at once as there are when files are labelled.
        agreement: share of labels that are those of torch in float32, 0..1.
        failure: why it can't be used; None if it can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    config: EngineConfig
    build: float = 0.0
    seconds: float = 0.0
    agreement: float = 0.0
    failure: str | None = None


def versions() -> dict[str, str | None]:
    """Return the versions of what an engine's worth depends on; None of what isn't installed."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
