"""A step of AdamW on CPUs whose moments are in bfloat16, rounded at random.

The second moment changes by a thousandth a step, and a bfloat16 tells apart what differs by 4 to 8
thousandths: rounded to the nearest it would stand still. A value is rounded up with the probability
that its distance from the lower bfloat16 tells, so that on average nothing is lost (stochastic
rounding; Gupta et al., Deep Learning with Limited Numerical Precision, ICML 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray
from torch import Tensor

from fullconv.kernels.compiling import Callback, carray, inlined, intrinsic
from fullconv.kernels.features_cpu import wide
from fullconv.kernels.torch_threads import ARGUMENTS, on_torch_threads, pointer, share

COUNT, SEED, WEIGHTS, GRADIENT, FIRST, SECOND, TERMS = range(ARGUMENTS, ARGUMENTS + 7)
# Of the terms: what weights are multiplied by; how much the first moment takes of the gradient; how
# much the second keeps and takes of its square; the learning rate, as the first moment calls for
# it; the square root of how much of the second there is by now; and what is added to its root.
KEPT, TAKEN, KEPT_SECOND, TAKEN_SECOND, RATE, GROWN, EPS = range(7)


@dataclass(frozen=True)
class Settings:
    """What `torch.optim.AdamW` calls lr, betas, eps and weight_decay."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float

    def terms(self, step: int) -> NDArray[np.float32]:
        """Return what step number `step`, from 1 on, multiplies and adds."""
        first, second = self.betas
        grown = 1 - first**step, (1 - second**step) ** 0.5
        kept, rate = 1 - self.lr * self.weight_decay, self.lr / grown[0]
        terms = kept, 1 - first, second, 1 - second, rate, grown[1], self.eps
        return np.array(terms, np.float32)


def adamw_step(
    weights: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    settings: Settings,
    step: int,
    seed: int,
) -> None:
    """Change weights and moments in place.

    Args:
        weights: float32, of any shape, dense in memory.
        gradient: to them, float32, which lies in memory as they do.
        moments: the first and the second, bfloat16, which lie so, too.
        settings: of the optimizer.
        step: the number of this step, from 1 on.
        seed: determines what is drawn at random, 32 bits.
    """
    all_of_them = weights, gradient, *moments
    lie = {(each.shape, each.stride(), each.device.type) for each in all_of_them}
    assert len(lie) == 1, lie
    kinds = [each.dtype for each in all_of_them]
    assert kinds == [torch.float32] * 2 + [torch.bfloat16] * 2, kinds
    given = weights.numel(), seed, weights, gradient, *moments, settings.terms(step)
    on_torch_threads(_step, *given)


@inlined
def _drawn(place: Any, seed: Any) -> Any:
    """Return 32 bits at random, by C. Wellons's integer hash "lowbias32"."""
    bits = np.uint32(np.uint32(place) ^ seed)
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@intrinsic  # type: ignore[untyped-decorator]
def _rounded(_: Any, value: Any, drawn: Any) -> Any:  # noqa: ARG001 (their types)
    """Return a finite float32 as a bfloat16 below or above it, by a uint16 drawn at random."""

    def generate(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        from llvmlite import ir

        word, half = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(arguments[0], word)
        bits = builder.add(bits, builder.zext(arguments[1], word))
        return builder.trunc(builder.lshr(bits, word(16)), half)

    return types.uint16(types.float32, types.uint16), generate


@inlined
def _own(values: Any, place: int, like: Any) -> Any:
    """Return this thread's part of what an argument is the address of, and where that begins."""
    count = values[COUNT]
    _, begin, beyond = share(values, count)
    return carray(pointer(values[place], like), (count,))[begin:beyond], begin


@inlined
def _step_of(values: Any) -> None:
    weights, begin = _own(values, WEIGHTS, np.float32(0))
    gradient, _ = _own(values, GRADIENT, np.float32(0))
    firsts, _ = _own(values, FIRST, np.uint16(0))
    seconds, _ = _own(values, SECOND, np.uint16(0))
    terms = carray(pointer(values[TERMS], np.float32(0)), (EPS + 1,))
    # What a loop writes may lie, for all it knows, where it reads: so all this is read before.
    kept, to_first = terms[KEPT], terms[TAKEN]
    of_second, to_second = terms[KEPT_SECOND], terms[TAKEN_SECOND]
    rate, grown, eps, seed = terms[RATE], terms[GROWN], terms[EPS], np.uint32(values[SEED])
    for place in range(len(weights)):
        slope, first, second = gradient[place], wide(firsts[place]), wide(seconds[place])
        first += (slope - first) * to_first
        second = second * of_second + slope * slope * to_second
        weights[place] = weights[place] * kept - rate * first / (np.sqrt(second) / grown + eps)
        drawn = _drawn(begin + place, seed)
        firsts[place] = _rounded(first, np.uint16(drawn))
        seconds[place] = _rounded(second, np.uint16(drawn >> np.uint32(16)))


def _step_entry(address: Any) -> None:
    _step_of(carray(address, (TERMS + 1,), np.int64))


_step = Callback(_step_entry)
