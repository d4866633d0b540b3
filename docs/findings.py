"""Write the list of findings/*.sh into docs/findings.md: ``python docs/findings.py``."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from filling import filled

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/findings.md"


def told(script: Path) -> str:
    """Return the first paragraph of what a script says of itself."""
    lines = script.read_text(encoding="utf-8").splitlines()[1:]
    return " ".join(line.removeprefix("# ") for line in takewhile(lambda line: line != "#", lines))


def with_list(page: str) -> str:
    """Return the page with the list as the scripts have it."""
    parts = [
        f"- **[{script.stem}](../findings/{script.name})** {told(script)}\n"
        for script in sorted((ROOT / "findings").glob("*.sh"))
    ]
    return filled(page, "findings", "".join(parts))


if __name__ == "__main__":
    PAGE.write_text(with_list(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
