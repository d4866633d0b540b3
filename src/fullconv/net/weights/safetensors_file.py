"""Weight files: safetensors, whose metadata tell what the weights are of."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from fullconv.base.errors import FullconvError


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors by name, and its metadata.

    Raises:
        FullconvError: no such file, or no whole safetensors file.
    """
    if not path.is_file():
        raise FullconvError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        reason = str(error).split("\n")[0]
        raise FullconvError(
            f"{path}: not a whole safetensors file ({reason}); other formats must be "
            "converted to safetensors first"
        ) from error
