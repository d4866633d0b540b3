"""The page of the web export, with the net on this server."""

from __future__ import annotations

import json
from pathlib import PurePath

from fastapi import FastAPI, HTTPException, Response

from fullconv.export.metadata import ExportMetadata
from fullconv.export.web import DESCRIPTION, WORKER, description, page_files

ENDPOINT = "v1/segment"
MEDIA = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
# A browser asks anew each time whether a file has changed: one address may serve other models.
HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}


def add_page(app: FastAPI, about: ExportMetadata) -> None:
    """Serve the page at /, of a model that says this of itself.

    The worker that keeps the site for times without network is left out: there is no net without.
    """
    files = {name: body for name, body in page_files().items() if name != WORKER}
    told = description(about, backend="server", endpoint=ENDPOINT)
    files[DESCRIPTION] = json.dumps(told, ensure_ascii=False).encode()

    @app.get("/", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    async def page(name: str = "index.html") -> Response:
        if name not in files:
            raise HTTPException(404, "no such page")
        media = MEDIA.get(PurePath(name).suffix, "application/octet-stream")
        return Response(files[name], media_type=media, headers=HEADERS)
