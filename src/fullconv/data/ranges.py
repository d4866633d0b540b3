"""Which values the files of an input hold, where they have more than 8 bits to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.stored import ValueRange

RAREST = 0.001  # share of values at either end that may be outliers
FAR_OUT = 4.0  # times as far as all others reach: two bits are lost to outliers then
VALUES_KEPT = 1 << 20  # of all images together, to tell outliers by
_FEWEST_KEPT, _MOST_KEPT = 16, 4096  # of an image


class Extent(NamedTuple):
    """The values of one file: the least, the greatest, and some in between."""

    least: float
    most: float
    some: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any], files: int) -> Extent | None:
        """Measure one of so many files; None if it has 8 bits alone, or no value is a number."""
        flat = values.reshape(-1)
        if flat.dtype.itemsize == 1:
            return None
        if flat.dtype.kind == "f":
            flat = flat[np.isfinite(flat)]
        if not flat.size:
            return None
        kept = min(max(VALUES_KEPT // max(files, 1), _FEWEST_KEPT), _MOST_KEPT)
        some = flat[:: -(-flat.size // kept)].astype(np.float64)
        return cls(float(flat.min()), float(flat.max()), some)


@dataclass(frozen=True)
class Spread:
    """How the values of each band are distributed, those that are numbers.

    Attributes:
        count: of them, int64 a band.
        total: their sum, float64 a band.
        squares: the sum of their squares, likewise.
    """

    count: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        """Measure H x W x bands."""
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        known = np.isfinite(flat)
        flat = np.where(known, flat, 0)
        return cls(known.sum(0), flat.sum(0), np.square(flat).sum(0))

    def __add__(self, other: Spread) -> Spread:
        """Return that of both."""
        return Spread(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each band; 0 where no value is a number."""
        return tuple((self.total / np.maximum(self.count, 1)).tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """Of each band, the standard deviation; 1 where all values are the same."""
        count = np.maximum(self.count, 1)
        mean = self.total / count
        found = np.sqrt(np.maximum(self.squares / count - mean**2, 0))
        flat = found <= 1e-7 * np.abs(mean)
        return tuple(np.where(flat, 1, found).tolist())


@dataclass(frozen=True)
class Range:
    """The values of an input whose files have more than 8 bits.

    Attributes:
        bits: of a value in the files, the most there are.
        least: of all values measured.
        most: likewise.
        low: the least but for outliers, which are far off and at most a thousandth of all.
        high: the greatest, likewise.
    """

    bits: int
    least: float
    most: float
    low: float
    high: float

    @classmethod
    def of(cls, extents: Iterable[Extent], bits: int) -> Range | None:
        """Join what files of so many bits hold; None if there is none."""
        found = list(extents)
        if not found:
            return None
        least, most = min(each.least for each in found), max(each.most for each in found)
        low, high = np.quantile(np.concatenate([each.some for each in found]), (RAREST, 1 - RAREST))
        if not 0 < FAR_OUT * (high - low) < most - least:
            low, high = least, most
        return cls(bits, least, most, float(low), float(high))

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of `span`."""
        return self.span.low, self.span.high

    @property
    def span(self) -> ValueRange:
        """Which values a net is to see as 0 and 255: from 0, unless all are far from it."""
        low = 0.0 if 0 <= self.low <= self.high / 2 else self.low
        return ValueRange(low, max(self.high, low + 1e-6 + abs(low) * 1e-6))

    def __str__(self) -> str:
        outliers = (self.low, self.high) != (self.least, self.most)
        but = f", most of them {self.low:g}..{self.high:g}" if outliers else ""
        return f"{self.least:g}..{self.most:g} of {self.bits} bits{but}"


def joined(extents: Mapping[str, Iterable[Extent]], bits: Mapping[str, int]) -> dict[str, Range]:
    """Return the range of each input that has any, of files of so many bits."""
    ranges = {name: Range.of(each, bits[name]) for name, each in extents.items()}
    return {name: each for name, each in ranges.items() if each is not None}
