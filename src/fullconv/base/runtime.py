"""How this process computes: on which device, how precisely, with memory kept or given back."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.base.errors import FullconvError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

DEVICES = ("auto", "cpu", "cuda", "mps")
# <malloc.h> of the GNU C library
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1
YOUNG = 20_000  # objects


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; "auto" is the first of CUDA, MPS and CPU that is there.

    Raises:
        FullconvError: `name` is none of auto, cpu, cuda (or cuda:N) and mps, or isn't there.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and (kind != "cuda" or not index.isdecimal())):
        raise FullconvError(
            f"device {name!r} is none of {', '.join(DEVICES)}{nearest(kind, DEVICES)}"
        )
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if kind == "auto":
        return torch.device(next(each for each, here in present.items() if here))
    if not present[kind] or (index and int(index) >= torch.cuda.device_count()):
        there = ", ".join(each for each, here in present.items() if here)
        raise FullconvError(f"no {name} device found (present: {there}); use --device auto")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16, rather than only stores it.

    A CPU without such instructions takes up to hundreds of times as long for a convolution in
    bfloat16 as in float32.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(there and "bf16" in each for each, there in able.items())


def has_narrow_vectors() -> bool:
    """Tell whether torch computes by AVX2, on x86 processors without AVX-512.

    For these, oneDNN has fewer kernels, and its older ones are slow for some convolutions.
    """
    import torch

    return torch.backends.cpu.get_cpu_capability() == "AVX2"


class _Float32:
    """Counts who wants all 24 bits: of several threads, the last one gives the settings back."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, list[tuple[Any, str]]()

    def take(self) -> None:
        from torch import backends

        cudnn: Any = backends.cudnn
        with self._lock:
            if not self._users:
                kinds = (cudnn.conv, cudnn.rnn, backends.cuda.matmul)
                self._before = [(kind, kind.fp32_precision) for kind in kinds]
                for kind in kinds:
                    kind.fp32_precision = "ieee"
            self._users += 1

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                for kind, precision in self._before:
                    kind.fp32_precision = precision


_float32 = _Float32()  # as the settings that it guards, one a process


@contextmanager
def full_float32(*, enabled: bool = True) -> Iterator[None]:
    """Let NVIDIA GPUs compute float32 in the body with all its 24 bits.

    Left alone, torch lets cuDNN convolve float32 as TF32, which keeps 11 bits. The settings are
    the process's own; they are put back as they were when the last body ends, whichever thread it
    is of. Elsewhere than on these GPUs nothing changes.

    Args:
        enabled: False leaves everything as it is.
    """
    if not enabled:
        yield
        return
    _float32.take()
    try:
        yield
    finally:
        _float32.give_back()


@contextmanager
def inference(kind: str = "cpu", *, bf16: bool = False) -> Iterator[None]:
    """Compute without gradients in the body, in bfloat16 or true float32.

    Args:
        kind: of device: "cpu", "cuda" or "mps".
        bf16: whether convolutions are worked out in bfloat16.
    """
    import torch

    with (
        torch.inference_mode(),
        full_float32(enabled=not bf16),
        torch.autocast(kind, torch.bfloat16, enabled=bf16),
    ):
        yield


def thread_count() -> int:
    """Return how many threads compute side by side: as many as torch has, or would have.

    That are as many as it was told to, by OMP_NUM_THREADS too, or as many as this process has
    cores. Torch isn't imported for it.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(asked) if asked.isdecimal() and int(asked) else _cores()


def _cores() -> int:
    """Return how many cores this process may use; threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    numbers, cores = os.sched_getaffinity(0), set[str]()
    for number in numbers:
        siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        with suppress(OSError):
            cores.add(siblings.read_text())
    return len(cores) or len(numbers)


@contextmanager
def one_thread_each(*, enabled: bool = True) -> Iterator[None]:
    """Let torch compute by one thread in this thread, and in each that is started in the body.

    Where torch isn't there, nothing computes by it.

    Args:
        enabled: False leaves everything as it is.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not enabled:
        yield
        return
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, and each of its parts back as it was afterwards.

    Parts may differ: a frozen normalisation stays in evaluation mode inside a training net.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed for the next allocation; for the whole process.

    By default the GNU C library returns large blocks to the system when they are freed, so that
    each layer's activations are given anew, zeroed page by page: a large part of the time of a
    training step on a CPU. Programs call this at their start; libraries shouldn't.

    Returns:
        Whether this C library takes the wish (it does on most Linux systems).
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_MMAP_MAX, 0)]
    return all(taken)


def seek_cycles_rarely() -> None:
    """Let Python look for cycles of garbage after `YOUNG` new objects; for the whole process.

    By default it does so after 700 (Python 3.11), and time and again in all that was imported: a
    tenth of the time of a command that imports torch. Nothing large hangs in a cycle here. Programs
    call this at their start; libraries shouldn't.
    """
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


def release_freed_memory() -> None:
    """Return to the system what is freed but kept (see `keep_freed_memory`), where that is known.

    Blocks of other sizes would find no place there, and take as much again.
    """
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
