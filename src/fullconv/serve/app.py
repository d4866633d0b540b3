"""The application: which path answers what, and what OpenAPI tells of it."""

# Annotations are evaluated here: FastAPI would not find the names of a function in their text.

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from fullconv.base.errors import nearest
from fullconv.serve.access import guard
from fullconv.serve.answers import KINDS, negotiated
from fullconv.serve.metrics import Counting
from fullconv.serve.page import add_page
from fullconv.serve.reference import reference
from fullconv.serve.service import Service

LEFT = 499  # what others tell of a client that left; nobody hears it
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
ABOUT = """Labels every pixel of a photo. Send the bytes of an image file (JPEG, PNG, BMP, WebP or
TIFF) as the body of `POST /v1/segment`, and say by `Accept` what is to come back."""


def application(service: Service, token: str | None = None, cors: Sequence[str] = ()) -> FastAPI:
    """Return the application of a service; its life begins and ends with the application's.

    Args:
        service: answers.
        token: what clients must know to be answered; None: nothing.
        cors: origins whose pages may ask.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="fullconv",
        version=version("fullconv"),
        description=ABOUT,
        lifespan=life,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
    )
    known = [Depends(guard(token))]
    _add_labelling(app, service, known)
    _add_health(app, service)
    _add_metrics(app, service, known)
    app.add_api_route("/docs", lambda: reference(app.openapi()), include_in_schema=False)
    add_page(app, service.model.about)
    if cors:
        headers = ["Authorization", "Content-Type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=cors, allow_methods=["GET", "POST"], allow_headers=headers
        )
    app.add_middleware(Counting, metrics=service.metrics)
    return app


def _add_labelling(app: FastAPI, service: Service, known: Sequence[Any]) -> None:
    heads = list(service.model.about.heads)

    @app.post(
        "/v1/segment",
        summary="Label a photo",
        response_class=Response,
        responses=_answers(service),
        openapi_extra=_body(service),
        dependencies=known,
    )
    async def segment(
        request: Request,
        head: Annotated[
            str, Query(description=f"Which labels, of a net that has several: {', '.join(heads)}")
        ] = heads[0],
        accept: Annotated[
            str, Header(description=", ".join(kind.media for kind in KINDS))
        ] = "image/png",
    ) -> Response:
        """Label every pixel of the image file in the body.

        PNG and JPEG are byte by byte what `fullconv predict` writes with this engine. Label ids
        are those of `GET /v1/model`.
        """
        if head not in heads:
            told = f"the model has no head {head!r}{nearest(head, heads)}; it has"
            raise HTTPException(422, f"{told} {', '.join(heads)}")
        kind = negotiated(accept)
        if kind is None:
            told = ", ".join(each.media for each in KINDS)
            raise HTTPException(406, f"Accept: {accept}: there is {told}")
        try:
            answer = await service.answer(request, head, kind)
        except ClientDisconnect:
            return Response(status_code=LEFT)
        return Response(answer.body, media_type=kind.media, headers={"Vary": "Accept"})

    @app.get("/v1/model", summary="What is served", dependencies=known)
    def model() -> dict[str, Any]:
        """Tell classes, colours, engine and limits."""
        return _model(service)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", summary="Whether the process works")
    async def live() -> dict[str, str]:
        """Answer."""
        return {"status": "live"}

    @app.get(
        "/health/ready",
        summary="Whether photos are taken",
        responses={503: {"description": "It shuts down."}},
    )
    async def ready() -> dict[str, str]:
        """Answer 200, or 503 from SIGTERM on."""
        if not service.is_ready:
            raise HTTPException(503, "shutting down")
        return {"status": "ready"}


def _add_metrics(app: FastAPI, service: Service, known: Sequence[Any]) -> None:
    @app.get(
        "/metrics",
        summary="Counts for Prometheus",
        response_class=Response,
        responses={200: {"content": {PROMETHEUS: {}}}},
        dependencies=known,
    )
    async def metrics() -> Response:
        """Count requests, seconds, pixels, batches, and photos in hand."""
        return Response(service.metrics.text(), media_type=PROMETHEUS)


def _model(service: Service) -> dict[str, Any]:
    about, limits = service.model.about, service.limits
    return {
        "version": version("fullconv"),
        "stride": about.stride,
        "engine": service.model.engine,
        "inputs": dict(about.inputs),
        "heads": {
            name: {
                "classes": list(head.classes),
                "palette": [list(colour) for colour in head.palette],
                "ignore_index": head.ignore_index,
            }
            for name, head in about.heads.items()
        },
        "limits": {
            "bytes": limits.max_bytes,
            "pixels": service.reader.max_pixels,
            "seconds": limits.timeout,
            "in_hand": limits.queue,
        },
    }


def _body(service: Service) -> dict[str, Any]:
    kinds = ("jpeg", "png", "webp", "bmp", "tiff")
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "requestBody": {
            "required": True,
            "description": f"The image file, of at most {service.limits.max_bytes:,} bytes and "
            f"{service.reader.max_pixels:,} pixels; its own bytes tell its format.",
            "content": {f"image/{kind}": binary for kind in kinds},
        }
    }


def _answers(service: Service) -> dict[int | str, dict[str, Any]]:
    head = next(iter(service.model.about.heads.values()))
    one = {"id": 0, "name": head.classes[0], "pixels": 6, "share": 1.0}
    whole = {"size": [2, 3], "counts": [0, 6]}
    rim = [[0, 0], [3, 0], [3, 2], [0, 2], [0, 0]]
    feature = {
        "type": "Feature",
        "properties": {"id": 0, "class": head.classes[0], "pixels": 6},
        "geometry": {"type": "Polygon", "coordinates": [rim]},
    }
    examples: dict[str, Any] = {
        "application/json": {
            "width": 3,
            "height": 2,
            "head": next(iter(service.model.about.heads)),
            "classes": [{**one, "segmentation": whole}],
        },
        "application/geo+json": {
            "type": "FeatureCollection",
            "bbox": [0, 0, 3, 2],
            "features": [feature],
        },
    }
    binary = {"type": "string", "format": "binary"}
    content = {
        kind.media: {"example": examples[kind.media], "schema": {"type": "object"}}
        if kind.media in examples
        else {"schema": binary}
        for kind in KINDS
    }
    told = "; ".join(f"{kind.media}: {kind.told}" for kind in KINDS)
    refused = {
        401: "The token is missing or wrong.",
        406: "Accept names nothing that there is.",
        408: "The image took too long to arrive.",
        413: "The image file has too many bytes.",
        422: "It can't be read as an image, has too many pixels, or there is no such head.",
        503: "All slots are taken, or there was no time: try again after Retry-After seconds.",
    }
    error = {"application/json": {"example": {"detail": "the image: is empty (0 bytes)"}}}
    return {
        200: {"description": f"The labels. {told}.", "content": content},
        **{code: {"description": why, "content": error} for code, why in refused.items()},
    }
