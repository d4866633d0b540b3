"""Reading the checkpoints of pytorch-fcn (wkentaro), whose layers bear Caffe's names."""

from __future__ import annotations

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

ZIPPED = b"PK\x03\x04"  # by which torch tells a zip archive
STATE = "model_state_dict"  # where a trainer's checkpoint keeps the net's weights
NUMPY_DTYPES = {torch.float16, torch.float32, torch.float64}


def read_checkpoint(path: Path) -> Iterator[WeightedLayer]:
    """Yield the layers of a state dict that ``torch.save`` wrote, weights before biases.

    Nothing of it is run: only tensors and plain values are unpickled. A trainer's checkpoint that
    holds the state dict as "model_state_dict" is taken too.

    Raises:
        FullconvError: no such file, no whole one, or one with other things than plain tensors.
    """
    layers: dict[str, dict[str, Blob]] = {}
    for name, value in _state(path).items():
        layer, _, parameter = str(name).rpartition(".")
        layers.setdefault(layer, {})[parameter] = _blob(value, str(name), path)
    for name, parameters in layers.items():
        blobs = [parameters.pop(kind) for kind in ("weight", "bias") if kind in parameters]
        yield WeightedLayer(name, "", (*blobs, *parameters.values()))


def _state(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FullconvError(f"{path}: no such file")
    try:
        zipped = _is_zipped(path)
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch finds odd, it also refuses
            # Old checkpoints are no zip archives; those can't be memory-mapped.
            whole = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except FullconvError:
        raise
    except Exception as error:  # of nearly any kind, if the file is damaged
        raise FullconvError(
            f"{path}: not a whole file of plain tensors as torch.save writes it ({_reason(error)})"
        ) from error
    state = whole.get(STATE, whole) if isinstance(whole, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise FullconvError(f"{path}: holds a {type(whole).__name__}, not a net's state dict")
    return state


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


def _blob(value: Any, name: str, path: Path) -> Blob:
    if not isinstance(value, Tensor):
        raise FullconvError(f"{path}: {name[:80]!a} is a {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or value.dtype not in NUMPY_DTYPES or value.is_meta:
        raise FullconvError(f"{path}: {name[:80]!a} is not a plain tensor of floats")
    return Blob(value.detach().numpy())


def _numpy_scalars() -> list[Any]:
    """Return what unpickling numpy's numbers takes: trainers keep their best mean IU as one."""
    scalar = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2, and since
    return [
        np.dtype,
        type(np.dtype(np.float64)),
        *((scalar, f"{module}.scalar") for module in modules),
    ]
