"""docs/findings.md names every finding, as its script tells it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("docs_findings", ROOT / "docs/findings.py")
FINDINGS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(FINDINGS)


def test_every_finding_is_listed() -> None:
    page = FINDINGS.PAGE.read_text(encoding="utf-8")
    assert FINDINGS.with_list(page) == page, "python docs/findings.py writes it anew"
    for script in (ROOT / "findings").glob("*.sh"):
        assert page.count(script.name) >= 1
