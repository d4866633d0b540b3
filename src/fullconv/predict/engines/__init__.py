"""What works out coarse scores: torch, OpenVINO or ONNX Runtime, in some precision.

Each engine takes images as they are stored and has the net's preprocessing built in; none makes
full-resolution scores, which labels have no need of (see `Head.labels`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError, nearest, one_line
from fullconv.base.runtime import has_bf16
from fullconv.export import int8
from fullconv.export.verified import EngineConfig
from fullconv.predict.engines.errors import EngineError

if TYPE_CHECKING:
    import torch

    from fullconv.net.described import Pixels
    from fullconv.net.fcn import FCN
    from fullconv.predict.engines.engine import Engine

ENGINES = ("auto", "torch", "openvino", "onnxruntime")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


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
    _require("precision", precision, PRECISIONS)
    if precision == "int8":
        _require_int8(engine, device)
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


def _require_int8(engine: str, device: str) -> None:
    """Refuse int8 where nothing computes in it."""
    if engine not in ("auto", "openvino"):
        raise FullconvError(f"engine {engine} knows no int8; use --engine openvino")
    if device not in ("auto", "cpu"):
        raise FullconvError("int8 works on the CPU only; use --device cpu")
    if not (is_installed("openvino") and int8.is_installed()):
        raise FullconvError(
            "precision int8 needs openvino and nncf: pip install 'fullconv[openvino,quantize]'"
        )


def is_installed(engine: str) -> bool:
    """Tell whether an engine's packages are there."""
    packages = {"torch": (), "onnxruntime": ("onnx", "onnxruntime")}.get(engine, (engine,))
    return all(importlib.util.find_spec(package) for package in packages)


def configs(engine: str, precision: str, device: torch.device) -> list[EngineConfig]:
    """Return the engines to choose from on a device, the plainest first.

    Args:
        engine: one of `ENGINES`, checked.
        precision: one of `PRECISIONS`, checked.
        device: where the net is.
    """
    found = [
        EngineConfig("torch"),
        EngineConfig("openvino"),
        EngineConfig("openvino", "bf16"),
        EngineConfig("openvino", "int8"),
        EngineConfig("onnxruntime"),
        EngineConfig("torch", "bf16"),
        EngineConfig("torch", "bf16", compiled=True),
        EngineConfig("torch", "fp32", compiled=True),
    ]
    if device.type == "cpu":
        found = [config for config in found if is_installed(config.engine)]
    else:
        found = [config for config in found if config.engine == "torch"]
    if device.type == "mps":
        found = [config for config in found if not config.compiled]
    if not int8.is_installed():
        found = [config for config in found if config.precision != "int8"]
    if precision == "auto" and not has_bf16(device):
        found = [config for config in found if config.precision != "bf16"]
    return [
        config
        for config in found
        if engine in ("auto", config.engine) and precision in ("auto", config.precision)
    ]


def build(
    net: FCN, config: EngineConfig, samples: Sequence[Pixels] = (), at_once: int = 1
) -> Engine:
    """Return an engine that works out `net`, on the net's own device.

    Args:
        net: the net.
        config: what works it out.
        samples: it is made ready for images such as the first, if there is one; int8 is calibrated
            on all of them.
        at_once: how many images to work on side by side at most.

    Raises:
        EngineError: it can't.
    """
    try:
        engine = _engine(net, config, samples, at_once)
        for image in samples[:1]:
            engine.prepare(image)
        return engine
    except EngineError:
        raise
    except Exception as error:  # converters raise what they like
        raise EngineError(f"engine {config} can't work out this net: {one_line(error)}") from error


def _engine(net: FCN, config: EngineConfig, samples: Sequence[Pixels], at_once: int) -> Engine:
    from fullconv.net.rewrites.by_size import TwinBySize
    from fullconv.net.surgery import inference_twin
    from fullconv.predict.engines.engine import Engine, Runtime

    runtime: Runtime
    if config.engine == "torch":
        from fullconv.net.strips import Strips
        from fullconv.predict.engines.torch_engine import Torch, twins_for_torch

        at_once, bf16 = at_once if net.device.type == "cpu" else 1, config.precision == "bf16"
        twins, strips = twins_for_torch(net, bf16=bf16), partial(Strips.of, bf16=bf16)
        runtime = Torch(
            net.device, config.precision, compiled=config.compiled, side_by_side=at_once > 1
        )
        by_strips = None if config.compiled else strips
        return Engine(tuple(net.heads), twins, runtime, at_once, by_strips)
    if config.engine == "openvino":
        from fullconv.predict.engines.openvino_engine import OpenVINO

        runtime = OpenVINO(config.precision, samples)
    else:
        from fullconv.predict.engines.onnxruntime_engine import ONNXRuntime

        runtime = ONNXRuntime()
    # Elided layers see features less a constant, below zero too, for which int8 has one bit less
    # and slower kernels: it takes the net as it is in a third of the time.
    twins = TwinBySize(inference_twin(net), elides=config.precision != "int8")
    return Engine(tuple(net.heads), twins, runtime, at_once)


def _require(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise FullconvError(f"{what} {name!r} is none of {', '.join(known)}{nearest(name, known)}")
