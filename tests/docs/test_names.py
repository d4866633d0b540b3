"""Documents name nothing that is not there: files of the repository, modules, names in them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FOLDERS = "src|tests|benchmarks|docs"
PLACES = ("src/fullconv", ".")


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_paths(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w/.])((?:{FOLDERS})/[\w./*-]*\w)", text)
    linked = [
        link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if not re.match(r"\w+:", link)
    ]
    lost = [path for path in named if not any(ROOT.glob(path))]
    lost += [link for link in linked if not (page.parent / link).exists()]
    assert not lost


def test_modules_and_what_is_in_them(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w/.-])((?:fullconv|benchmarks)(?:\.[A-Za-z_]\w*)+)", text)
    for name in dict.fromkeys(found):
        if not name.endswith((".py", ".md")):
            assert resolved(name), f"{page.name} names {name}"


def test_modules_of_rooms() -> None:
    """CONTRIBUTING.md leaves out src/fullconv/ where it names a module of a room."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/[\w/]+\.py)`", text)
    assert named
    assert not [
        name for name in named if not any((ROOT / place / name).exists() for place in PLACES)
    ]


def resolved(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def test_rooms_are_all_described() -> None:
    """CONTRIBUTING.md has a row for each room, and for no other."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in ROOT.glob("src/fullconv/*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) == rooms
