"""last.pt: the whole state of a training in one file, which loads without unpickling code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.files import replacing


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`, whole or not at all."""
    # Through a Python file, because torch's own hides the reason of a failure (a full disk, say).
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what torch makes of the reason when it closes its archive
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU.

    Raises:
        FullconvError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch reports damage as any of half a dozen types
        raise FullconvError(
            f"{path}: not a training state ({type(error).__name__}); remove it to train this net "
            "from its start"
        ) from error
    return state


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators, from which dropout draws."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Put torch's generators back where `random_state` found them."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def saving_in(folder: Path) -> Iterator[None]:
    """Turn a failure to write in the body into one line that says what is safe and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        raise WorkFailedError(
            f"{folder}: cannot save: {reason}; what was saved before is intact: make room, then "
            "continue with --resume"
        ) from error
