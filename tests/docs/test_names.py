"""Documents name nothing that is not there: files of the repository, modules, names in them."""

from __future__ import annotations

import importlib
import re
import tomllib
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


def test_walks_never_climb() -> None:
    """The rooms of each walk come in the order of the floors, as the contract has them."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = contract["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = {
        room.strip("() ").rpartition(".")[2]: floor
        for floor, layer in enumerate(layers)
        for room in re.split(r"[|:]", layer)
    }
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walks = re.findall(r"^## A \w+ through .*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert len(walks) == 2
    for walk in walks:
        rooms = re.findall(r"^\d+\. `(\w+)[/.]", walk, re.MULTILINE)
        assert len(rooms) == 10
        assert [floors[room] for room in rooms] == sorted(floors[room] for room in rooms)


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
