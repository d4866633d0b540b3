"""Reading what ``torch.save`` wrote: state dicts, and the checkpoints that hold one.

Nothing of a file is run: only tensors and plain values are unpickled.
"""

from __future__ import annotations

import argparse
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.base.errors import FullconvError
from fullconv.net.weights.caffemodel import Blob, WeightedLayer

ZIPPED, PICKLED = b"PK\x03\x04", b"\x80"  # by which torch tells its archives, new and old
TORCH_FILES = (".pth", ".pt", ".tar", ".ckpt", ".bin")
STATES = ("model_state_dict", "state_dict", "model", "net")  # where checkpoints keep the weights
NUMPY_DTYPES = {torch.float16, torch.float32, torch.float64}


def is_torch_file(path: Path) -> bool:
    """Whether a file is for `read_state`: by its name, else by how it begins."""
    if path.suffix in TORCH_FILES:
        return True
    if path.suffix == ".safetensors" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ZIPPED)).startswith((ZIPPED, PICKLED))


def read_checkpoint(path: Path) -> Iterator[WeightedLayer]:
    """Yield the layers of a net with Caffe's names, as pytorch-fcn saves it; weights come first.

    Raises:
        FullconvError: no such file, no whole one, or one with other things than plain tensors.
    """
    layers: dict[str, dict[str, Blob]] = {}
    for name, value in read_state(path).items():
        layer, _, parameter = name.rpartition(".")
        layers.setdefault(layer, {})[parameter] = _blob(value, name, path)
    for name, parameters in layers.items():
        blobs = [parameters.pop(kind) for kind in ("weight", "bias") if kind in parameters]
        yield WeightedLayer(name, "", (*blobs, *parameters.values()))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict, or that of a trainer's checkpoint: its tensors by name, on the CPU.

    Raises:
        FullconvError: no such file, no whole one, or one with other things than plain tensors.
    """
    if not path.is_file():
        raise FullconvError(f"{path}: no such file")
    try:
        zipped = _is_zipped(path)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch finds odd, it also refuses
            # Old checkpoints are no zip archives; those can't be memory-mapped.
            whole = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except FullconvError:
        raise
    except Exception as error:  # of nearly any kind, if the file is damaged
        raise FullconvError(
            f"{path}: not a whole file of plain tensors as torch.save writes it ({_reason(error)})"
        ) from error
    state = whole
    while isinstance(state, Mapping) and (inner := _inner(state)) is not None:
        state = inner
    if not isinstance(state, Mapping) or not state:
        raise FullconvError(f"{path}: holds a {type(whole).__name__}, not a net's state dict")
    for name, value in state.items():
        _require_plain(value, str(name), path)
    return {str(name): value for name, value in state.items()}


def _inner(checkpoint: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """Return what a checkpoint holds by a name that trainers give a net's weights."""
    held = (checkpoint.get(name) for name in STATES)
    return next((each for each in held if isinstance(each, Mapping)), None)


def _is_zipped(path: Path) -> bool:
    """Tell whether torch will read a file as a zip archive; refuse one that swells when read."""
    with path.open("rb") as file:
        if file.read(len(ZIPPED)) != ZIPPED:
            return False
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if packed or sum(record.file_size for record in records) > path.stat().st_size:
        raise FullconvError(
            f"{path}: its records are packed or overlap, which torch.save never writes; save the "
            "net's state_dict with torch.save"
        )
    return True


def _reason(error: Exception) -> str:
    text = str(error).split("\n")[0][:200] or type(error).__name__
    if isinstance(error, UnpicklingError) or "weights_only" in str(error):
        # torch's own words advise to run what the file holds
        return "what else it holds is not run: save the net's state_dict with torch.save"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _require_plain(value: Any, name: str, path: Path) -> None:
    if not isinstance(value, Tensor):
        raise FullconvError(f"{path}: {name[:80]!a} is a {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
        raise FullconvError(f"{path}: {name[:80]!a} is not a plain tensor of floats or of integers")


def _blob(value: Tensor, name: str, path: Path) -> Blob:
    if value.dtype not in NUMPY_DTYPES:
        raise FullconvError(f"{path}: {name[:80]!a} is not a plain tensor of floats")
    return Blob(value.detach().numpy())


def _harmless() -> list[Any]:
    """Return the plain kinds of values that trainers keep beside the weights."""
    return [argparse.Namespace, *_numpy_scalars()]


def _numpy_scalars() -> list[Any]:
    """Return what unpickling numpy's numbers takes: trainers keep their best mean IU as one."""
    scalar = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2, and since
    return [
        np.dtype,
        type(np.dtype(np.float64)),
        *((scalar, f"{module}.scalar") for module in modules),
    ]
