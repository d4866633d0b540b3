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
from fullconv.serve.openapi import request_body, responses
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
        responses=responses(service),
        openapi_extra=request_body(service),
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
