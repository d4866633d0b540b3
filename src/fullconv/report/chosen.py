"""The page of images to label next: one self-contained file, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.base.files import write_text
from fullconv.base.palette import Colour
from fullconv.net.certainty import UNSURE
from fullconv.report.figures import highlighted, labels_uri, photo_uri
from fullconv.report.page import environment

MOST_PIXELS = 12_000_000
"""All pictures together, which are a fourth of a byte each."""
PIXELS = 130_000
"""Of a picture, at most."""
NO_CLASS = 255


class ChosenHead(NamedTuple):
    """One labelling of the images: its name, its classes and their colours."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]


class ChosenImage(NamedTuple):
    """An image, and why it is to be labelled.

    Attributes:
        name: for people.
        unsure: the share of its labels that are, 0..1.
        rarest: the rarest class that is predicted.
        rarest_share: of it, 0..1.
        distance: from the nearest image that is labelled or chosen before.
        image: uint8 RGB (H, W, 3).
        labels: uint8 class ids (H, W) as they would be drafted, by head.
        is_unsure: bool (H, W), by head.
    """

    name: str
    unsure: float
    rarest: str
    rarest_share: float
    distance: float
    image: NDArray[np.uint8]
    labels: Mapping[str, NDArray[np.uint8]]
    is_unsure: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Chosen:
    """All that the page shows.

    Attributes:
        heads: what is labelled; one as a rule.
        seen: how many images there were to choose from.
        labelled: how many are labelled already.
        count: how many were chosen.
        images: those, made one at a time.
    """

    heads: tuple[ChosenHead, ...]
    seen: int
    labelled: int
    count: int
    images: Iterable[ChosenImage]


def write_chosen(path: Path, chosen: Chosen) -> None:
    """Write the page to `path`, whole or not at all; one image is in memory at a time.

    Raises:
        OSError: the file cannot be written.
    """
    template = environment().get_template("chosen.html.j2")
    page = template.render(
        chosen=chosen, several=len(chosen.heads) > 1, entries=_entries(chosen), sure=UNSURE
    )
    write_text(path, page)


def _entries(chosen: Chosen) -> Iterator[tuple[ChosenImage, list[tuple[str, str]]]]:
    """Yield each image, and its pictures as (title, data URI)."""
    pictures = 1 + 2 * len(chosen.heads)
    pixels = min(PIXELS, MOST_PIXELS // max(1, chosen.count * pictures))
    for each in chosen.images:
        shown = [("photo", photo_uri(each.image, pixels))]
        for head in chosen.heads:
            of = f" of {head.name}" if len(chosen.heads) > 1 else ""
            labels = labels_uri(each.labels[head.name], head.palette, NO_CLASS, pixels)
            unsure = photo_uri(highlighted(each.image, each.is_unsure[head.name]), pixels)
            shown += [(f"drafted labels{of}", labels), (f"unsure{of}", unsure)]
        yield each, shown
