"""What benchmarks share: rows that a later run goes on with; and that each tells what it does."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest

from benchmarks import frame

BENCHMARKS = Path(frame.__file__).parent
SCRIPTS = sorted(
    f"{path.parent.name}.{path.stem}"
    for path in BENCHMARKS.glob("*/*.py")
    if "def main()" in path.read_text(encoding="utf-8")
)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frame, "RESULTS", tmp_path)
    monkeypatch.setattr(frame, "machine", lambda: {"cores": "2"})
    return tmp_path


def test_a_later_run_goes_on(results: Path) -> None:
    first = frame.Results("made")
    assert first.lacks({"net": "a"})
    first.add({"net": "a"}, {"iu": "0.1"})
    first.add({"net": "b"}, {"iu": "0.2"})
    again = frame.Results("made")
    assert not again.lacks({"net": "a"}) and again.lacks({"net": "c"})
    again.add({"net": "a"}, {"iu": "0.3"}, order=lambda row: -float(row["iu"]))
    rows = list(csv.DictReader((results / "made.csv").open()))
    assert rows == [{"net": "a", "iu": "0.3"}, {"net": "b", "iu": "0.2"}]
    assert (results / "made-machine.json").read_text() == '{\n  "cores": "2"\n}\n'


@pytest.mark.usefixtures("results")
def test_rows_of_another_time_are_replaced() -> None:
    frame.Results("made").add({"net": "a"}, {"iu": "0.1"})
    frame.Results("made").replace([{"size": "2"}])
    assert frame.Results("made").rows == [{"size": "2"}]


def test_a_process_of_its_own_returns_its_last_line() -> None:
    assert frame.in_own_process("this").startswith("Namespaces")  # the end of the Zen of Python


def test_turns_are_medians_an_image() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in ("a", "b")}
    assert set(frame.in_turns(runs, 4, 3)) == {"a", "b"}
    assert calls == ["a", "b"] * 4


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_tells_what_it_does(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{script}")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python -m benchmarks.{script}" in told


def test_what_the_steps_are_timed_without_is_there() -> None:
    """It is patched away by its name, which a move would leave behind."""
    training = importlib.import_module("benchmarks.speed.training")
    for name in filter(None, training.WITHOUT.values()):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
