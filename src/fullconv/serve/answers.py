"""Labels in the form that a client asks for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.base.shapes import polygons, run_lengths
from fullconv.net.described import DescribedHead
from fullconv.predict.pictures import write_label_image, write_overlay


@dataclass(frozen=True)
class Labelled:
    """A photo and its labels.

    Attributes:
        name: of the head.
        head: what it labels.
        labels: uint8 H x W.
        photo: uint8 RGB, H x W x 3.
        ignore_index: an id that is no class.
    """

    name: str
    head: DescribedHead
    labels: NDArray[np.uint8]
    photo: NDArray[np.uint8]
    ignore_index: int = 255

    @property
    def present(self) -> Iterator[tuple[int, str, NDArray[np.bool_]]]:
        """Id, name and mask of each class that is there."""
        for label in np.flatnonzero(Image.fromarray(self.labels).histogram()).tolist():
            known = label < len(self.head.classes)
            yield label, self.head.classes[label] if known else "", self.labels == label


def png(labelled: Labelled) -> bytes:
    """Write what `predict` writes: an 8-bit palette PNG of label ids, byte by byte the same."""
    file = io.BytesIO()
    write_label_image(file, labelled.labels, labelled.head.palette, labelled.ignore_index)
    return file.getvalue()


def jpeg(labelled: Labelled) -> bytes:
    """Write what `predict` writes beside that: the photo, tinted by class."""
    file = io.BytesIO()
    palette, ignore_index = labelled.head.palette, labelled.ignore_index
    write_overlay(file, labelled.photo, labelled.labels, palette, ignore_index)
    return file.getvalue()


def runs(labelled: Labelled) -> bytes:
    """Write each class's share and run lengths, as COCO has them without compression."""
    height, width = labelled.labels.shape
    classes = [
        {
            "id": label,
            "name": name,
            "pixels": int(mask.sum()),
            "share": round(float(mask.mean()), 6),
            "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
        }
        for label, name, mask in labelled.present
    ]
    return _json(
        {"width": width, "height": height, "head": labelled.name, "classes": classes},
    )


def geojson(labelled: Labelled) -> bytes:
    """Write each region as a polygon, in pixels: x to the right and y down, on pixels' corners."""
    features = [
        {
            "type": "Feature",
            "properties": {"id": label, "class": name, "pixels": _area(rings)},
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
        }
        for label, name, mask in labelled.present
        for region in polygons(mask)
        for rings in [[ring.tolist() for ring in (region.rim, *region.holes)]]
    ]
    height, width = labelled.labels.shape
    box = [0, 0, width, height]
    return _json({"type": "FeatureCollection", "bbox": box, "features": features})


class Kind(NamedTuple):
    """A form that answers have.

    Attributes:
        media: its type.
        told: what it is, for people.
        write: makes the body.
    """

    media: str
    told: str
    write: Callable[[Labelled], bytes]


KINDS = (
    Kind("image/png", "8-bit palette PNG of label ids, as predict writes it", png),
    Kind("image/jpeg", "the photo, tinted by class", jpeg),
    Kind("application/json", "shares and run lengths (COCO's, uncompressed) by class", runs),
    Kind("application/geo+json", "regions as polygons on the pixels' corners", geojson),
)


def negotiated(accept: str) -> Kind | None:
    """Return the form that an Accept header wants most, of several the first of `KINDS`.

    The most specific range that fits a form says how much it is wanted. None: it wants none.
    """
    ranges = [_range(each) for each in accept.split(",") if each.strip()] or [("*/*", 1.0)]
    wanted = {kind: _weight(kind.media, ranges) for kind in KINDS}
    best = max(KINDS, key=lambda kind: wanted[kind])
    return best if wanted[best] > 0 else None


def _range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = min(max(float(value), 0.0), 1.0)
            except ValueError:
                weight = 0.0
    return media, weight


def _weight(media: str, ranges: list[tuple[str, float]]) -> float:
    for fitting in (media, f"{media.partition('/')[0]}/*", "*/*"):
        found = [weight for each, weight in ranges if each == fitting]
        if found:
            return max(found)
    return 0.0


def _area(rings: list[list[list[int]]]) -> int:
    """Return how many pixels lie within a rim and outside of its holes, by the shoelace."""
    double = 0
    for ring in rings:
        for (x, y), (then_x, then_y) in zip(ring, ring[1:] + ring[:1], strict=True):
            double += x * then_y - then_x * y
    return double // 2


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
