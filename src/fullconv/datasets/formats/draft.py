"""What a net drafts of an image, for people to correct in an annotation tool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from fullconv.base.fill import Ring


class DraftedRegion(NamedTuple):
    """A region of a class.

    Attributes:
        name: of the class.
        rim: its outer ring, in pixels.
        holes: the inner ones, each of which is the rim of other regions.
        confidence: the mean probability of its pixels' class, 0..1; None where it isn't known.
    """

    name: str
    rim: Ring
    holes: tuple[Ring, ...]
    confidence: float | None


class Draft(NamedTuple):
    """An image and its regions, those with larger rims first: drawn so, holes show their contents.

    Attributes:
        name: of its results, relative, without suffix.
        path: the image.
        size: height and width.
        regions: without gaps or overlaps, but for what is to be ignored.
    """

    name: str
    path: Path
    size: tuple[int, int]
    regions: Sequence[DraftedRegion]


class DraftWriter(Protocol):
    """Writes drafts, one at a time, into a folder, in the order of label ids `classes`."""

    def __call__(self, drafts: Iterable[Draft], classes: Sequence[str], folder: Path) -> None:
        """Write what the tool opens."""


def rounded(ring: Ring) -> list[list[float]]:
    """Return a ring's points as numbers for a file: pixels to the hundredth."""
    return [[round(x, 2), round(y, 2)] for x, y in ring.tolist()]
