"""Tables on standard output are whole, whatever the width of the terminal or pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from fullconv.cli.tables import show

NUMBERS = [f"{10**9 + column:,}" for column in range(8)]


def numbers() -> Table:
    table = Table("one name of three words", *(["number"] * 8), title="and a title")
    table.add_row("a layer of a net", *NUMBERS)
    return table


@pytest.mark.parametrize("columns", ["20", "80", "400"])
def test_into_a_pipe(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    show(numbers())
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "a layer of a net" in line)
    assert [number for number in NUMBERS if number in row] == NUMBERS
    assert "…" not in shown


def test_into_a_narrow_terminal() -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    code = "from test_tables import numbers, show; show(numbers())"
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=Path(__file__).parent,
        env=environment,
        stdout=theirs,
    )
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "…" not in shown and all(number in shown for number in NUMBERS)
