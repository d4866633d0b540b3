"""The site holds what it shows: every page of its contents is there, and no other host is asked."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("docs_site", ROOT / "docs/inside.py")
SITE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(SITE)
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(nav: object) -> Iterator[str]:
    """Yield the pages of the contents."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from pages(list(nav.values()))
    else:
        for part in nav:
            yield from pages(part)


def test_every_page_of_the_contents_is_there() -> None:
    named = list(pages(SETTINGS["nav"]))
    assert named
    assert len(set(named)) == len(named)
    assert not [page for page in named if not (ROOT / "docs" / page).is_file()]


def test_what_the_api_page_shows_is_there() -> None:
    shown = re.findall("^::: (.+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert shown
    for name in shown:
        module, _, own = name.rpartition(".")
        assert getattr(importlib.import_module(module), own).__doc__


def test_links_out_of_docs_become_text() -> None:
    page = "see [the rows](../benchmarks/results) and [accuracy](accuracy.md#x)"
    assert SITE.on_page_markdown(page) == "see the rows and [accuracy](accuracy.md#x)"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="needs the extra: docs")
def test_the_site_asks_no_other_host(tmp_path: Path) -> None:
    words = ["build", "--strict", "--site-dir", str(tmp_path / "site")]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run([sys.executable, "-m", "mkdocs", *words], cwd=ROOT, env=settings, check=True)
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img)[^>]*https?://[^>]*>", page.read_text())
        assert not [each for each in fetched if 'rel="canonical"' not in each], page.name
