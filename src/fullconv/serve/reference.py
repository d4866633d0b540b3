"""What OpenAPI tells of the service, as a plain page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment

CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
PAGE = Path(__file__).with_name("reference.html")


def reference(openapi: Mapping[str, Any]) -> HTMLResponse:
    """Return the page."""
    template = Environment(autoescape=True).from_string(PAGE.read_text("utf-8"))
    schemes = openapi.get("components", {}).get("securitySchemes")
    text = template.render(info=openapi["info"], paths=openapi["paths"], schemes=schemes)
    return HTMLResponse(text, headers={"Content-Security-Policy": CSP})
