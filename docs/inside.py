"""A hook of MkDocs: the site shows no links to files of the repository that it doesn't hold."""

from __future__ import annotations

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page whose links out of docs/ are their text alone."""
    return OUTSIDE.sub(r"\1", markdown)
