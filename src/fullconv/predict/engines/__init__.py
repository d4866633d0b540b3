"""What works out coarse scores: torch, OpenVINO or ONNX Runtime, in some precision.

Each engine takes images as they are stored and has the net's preprocessing built in; none makes
full-resolution scores, which labels have no need of (see `Head.labels`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from fullconv.base.errors import FullconvError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fullconv.net.fcn import FCN, Pixels

ENGINES = ("auto", "torch", "openvino", "onnxruntime")
PRECISIONS = ("auto", "fp32", "bf16")
PLANNED_PRECISIONS = ("int8",)
MOST_WORDS = 300  # characters of an error that is not ours

Precision = Literal["fp32", "bf16"]


class Engine(Protocol):
    """Works out the coarse scores of images; several threads may ask at once."""

    @property
    def at_once(self) -> int:
        """How many images, unless large ones, it works on side by side.

        Each takes longer then, but all are done sooner.
        """

    def __call__(self, image: Pixels) -> dict[str, Tensor]:
        """Return the coarse scores of an image, 1 x C x h x w, by head.

        Args:
            image: H x W x channels of all inputs, uint8 or float32; colours are RGB in 0..255.
        """

    def prepare(self, image: Pixels) -> None:
        """Make ready for images such as this one."""


class EngineError(FullconvError):
    """An engine that can't work out this net here; the message says why."""


@dataclass(frozen=True, order=True)
class Way:
    """One way to work out coarse scores.

    Attributes:
        engine: "torch", "openvino" or "onnxruntime".
        precision: "fp32", or "bf16" where that gains.
        compiled: whether torch compiles the net.
    """

    engine: str
    precision: Precision = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}{' compiled' * self.compiled}"


def check(engine: str, precision: str, device: str) -> None:
    """Refuse an engine or a precision that there isn't, or not there where it is to work.

    Args:
        engine: one of `ENGINES`.
        precision: one of `PRECISIONS`.
        device: as the user named it.

    Raises:
        FullconvError: the message says what to do.
    """
    _require("engine", engine, ENGINES)
    if precision in PLANNED_PRECISIONS:
        raise FullconvError(f"precision {precision} is not supported yet; use --precision fp32")
    _require("precision", precision, PRECISIONS)
    if engine in ("auto", "torch"):
        return
    if not is_installed(engine):
        extra = "onnx" if engine == "onnxruntime" else engine
        raise FullconvError(
            f"engine {engine} is not installed: pip install 'fullconv[{extra}]', "
            "or use --engine torch"
        )
    if device not in ("auto", "cpu"):
        raise FullconvError(f"engine {engine} works on the CPU only; use --device cpu")
    if engine == "onnxruntime" and precision == "bf16":
        raise FullconvError("engine onnxruntime knows no bf16 on CPUs; use --precision fp32")


def is_installed(engine: str) -> bool:
    """Tell whether an engine's packages are there."""
    packages = {"torch": (), "onnxruntime": ("onnx", "onnxruntime")}.get(engine, (engine,))
    return all(importlib.util.find_spec(package) for package in packages)


def ways(engine: str, precision: str, device: torch.device) -> list[Way]:
    """Return the ways to choose from on a device, the plainest first.

    Args:
        engine: one of `ENGINES`, checked.
        precision: one of `PRECISIONS`, checked.
        device: where the net is.
    """
    found = [
        *(Way("torch"), Way("openvino"), Way("openvino", "bf16"), Way("onnxruntime")),
        *(Way("torch", "bf16"), Way("torch", "bf16", True), Way("torch", "fp32", True)),
    ]
    if device.type == "cpu":
        found = [way for way in found if is_installed(way.engine)]
    else:
        found = [way for way in found if way.engine == "torch"]
    if device.type == "mps":
        found = [way for way in found if not way.compiled]
    if precision == "auto" and not _has_bf16(device):
        found = [way for way in found if way.precision != "bf16"]
    return [
        way
        for way in found
        if engine in ("auto", way.engine) and precision in ("auto", way.precision)
    ]


def build(net: FCN, way: Way, samples: Sequence[Pixels] = (), at_once: int = 1) -> Engine:
    """Return the engine that works out `net` in some way, on the net's own device.

    Args:
        net: the net.
        way: how.
        samples: it is made ready for images such as the first, if there is one.
        at_once: how many images to work on side by side at most.

    Raises:
        EngineError: it can't.
    """
    try:
        engine = _engine(net, way, at_once)
        for image in samples[:1]:
            engine.prepare(image)
        return engine
    except EngineError:
        raise
    except Exception as error:  # converters raise what they like
        raise EngineError(f"engine {way} can't work out this net: {told(error)}") from error


def told(error: Exception) -> str:
    """Return what an error says, in one line of bounded length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) < MOST_WORDS else f"{words[:MOST_WORDS]}..."


def _engine(net: FCN, way: Way, at_once: int) -> Engine:
    if way.engine == "openvino":
        from fullconv.predict.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(net, way.precision, at_once=at_once)
    if way.engine == "onnxruntime":
        from fullconv.predict.engines.onnxruntime_engine import ONNXRuntimeEngine

        return ONNXRuntimeEngine(net, at_once=at_once)
    from fullconv.predict.engines.torch_engine import TorchEngine

    return TorchEngine(net, way.precision, compiled=way.compiled, at_once=at_once)


def _has_bf16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16, rather than only stores it."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(there and "bf16" in each for each, there in able.items())


def _require(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise FullconvError(f"{what} {name!r} is none of {', '.join(known)}{nearest(name, known)}")
