"""last.pt: the whole state of a training in one file, which loads without unpickling code."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fullconv.base.errors import FullconvError, WorkFailedError
from fullconv.base.files import replacing
from fullconv.base.portions import bits_of

DIGEST = "digest"  # of all the rest of a state; those of old have none


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path`, whole or not at all."""
    state = {**state, DIGEST: digest(state)}
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
    state = peek(path, mapped=False)
    noted = state.pop(DIGEST, None)
    if noted not in (None, digest(state)):
        raise FullconvError(
            f"{path}: is damaged (its contents are not what was saved); put back a copy of it, or "
            "remove it to train this net from its start"
        )
    return state


def digest(value: Any) -> str:
    """Return the SHA-256 of nested plain values and tensors: of their types, order and bits."""
    found = hashlib.sha256()
    _update(found, value)
    return found.hexdigest()


def _update(found: hashlib._Hash, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        for some in bits_of(value):
            found.update(some)
    elif isinstance(value, Mapping):
        found.update(f"{{{len(value)}".encode())
        for key, each in value.items():
            _update(found, key)
            _update(found, each)
    elif isinstance(value, list | tuple):
        found.update(f"[{len(value)}".encode())
        for each in value:
            _update(found, each)
    else:
        found.update(f"{type(value).__name__} {value!r} ".encode())


def peek(path: Path, *, mapped: bool = True) -> dict[str, Any]:
    """Read what `save` wrote without checking it; tensors stay in the file until they are used.

    Raises:
        FullconvError: the file is damaged so that it can't be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
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
