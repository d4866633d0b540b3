"""Links within the documents lead to pages and headings that are there; others are listed here."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
ELSEWHERE = {  # hosts; nothing asks them here
    "arxiv.org",
    "github.com",
}


@cache
def text_of(page: Path) -> str:
    """Return a page without its blocks, in which nothing links."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as MkDocs and GitHub make them."""
    return {slug(each) for each in re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)}


def slug(heading: str) -> str:
    """Return the anchor of a heading."""
    plain = re.sub(r"`|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for _, target in LINK.findall(text_of(page)):
        if re.match(r"\w+:", target):
            assert re.match(r"https?://([^/]+)", target)[1] in ELSEWHERE, target
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_every_page_is_in_the_contents_and_linked_from_home() -> None:
    contents = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = set(re.findall(r"[\w-]+\.md", str(yaml.safe_load(contents)["nav"])))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert named == pages
    home = {target for _, target in LINK.findall(text_of(ROOT / "docs/index.md"))}
    assert pages - {"index.md"} <= home


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_say_what_they_show(page: Path) -> None:
    for alternative in re.findall(r"!\[([^\]]*)\]", text_of(page)):
        assert len(alternative) > 10
