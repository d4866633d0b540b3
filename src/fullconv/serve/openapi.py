"""What OpenAPI tells of labelling a photo: what is sent, what comes back, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fullconv.serve.answers import KINDS

if TYPE_CHECKING:
    from fullconv.serve.service import Service

BINARY = {"type": "string", "format": "binary"}
REFUSED = {
    401: "The token is missing or wrong.",
    406: "Accept names nothing that there is.",
    408: "The image took too long to arrive.",
    413: "The image file has too many bytes.",
    422: "It can't be read as an image, has too many pixels, or there is no such head.",
    503: "All slots are taken, or there was no time: try again after Retry-After seconds.",
}


def request_body(service: Service) -> dict[str, Any]:
    """Return what OpenAPI tells of the body of a request."""
    kinds = ("jpeg", "png", "webp", "bmp", "tiff")
    return {
        "requestBody": {
            "required": True,
            "description": f"The image file, of at most {service.limits.max_bytes:,} bytes and "
            f"{service.reader.max_pixels:,} pixels; its own bytes tell its format.",
            "content": {f"image/{kind}": {"schema": BINARY} for kind in kinds},
        }
    }


def responses(service: Service) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI tells of the answers, by status."""
    name, head = next(iter(service.model.about.heads.items()))
    examples = _examples(name, head.classes[0])
    content = {
        kind.media: {"example": examples[kind.media], "schema": {"type": "object"}}
        if kind.media in examples
        else {"schema": BINARY}
        for kind in KINDS
    }
    told = "; ".join(f"{kind.media}: {kind.told}" for kind in KINDS)
    error = {"application/json": {"example": {"detail": "the image: is empty (0 bytes)"}}}
    return {
        200: {"description": f"The labels. {told}.", "content": content},
        **{code: {"description": why, "content": error} for code, why in REFUSED.items()},
    }


def _examples(head: str, class_name: str) -> dict[str, Any]:
    """Return the answers in JSON to a photo of 3 x 2 pixels of one class, by media type."""
    about = {"id": 0, "name": class_name, "pixels": 6, "share": 1.0}
    run_lengths = {"size": [2, 3], "counts": [0, 6]}
    rim = [[0, 0], [3, 0], [3, 2], [0, 2], [0, 0]]
    feature = {
        "type": "Feature",
        "properties": {"id": 0, "class": class_name, "pixels": 6},
        "geometry": {"type": "Polygon", "coordinates": [rim]},
    }
    return {
        "application/json": {
            "width": 3,
            "height": 2,
            "head": head,
            "classes": [{**about, "segmentation": run_lengths}],
        },
        "application/geo+json": {
            "type": "FeatureCollection",
            "bbox": [0, 0, 3, 2],
            "features": [feature],
        },
    }
