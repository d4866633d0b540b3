import subprocess
import sys

import pytest

from fullconv.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fullconv", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nope"], "No such command 'nope'"),
        (["train"], "Missing option '--out'. (fullconv train --help)"),
        (["describe"], "Missing argument"),
        (["data", "chek"], "No such command 'chek'"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("fullconv: ")
    assert told in error
    assert error.count("\n") == 1


def test_no_arguments_is_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch)
    shown = capsys.readouterr().err
    assert shown.startswith("Usage: ")
    for verb in ("train", "evaluate", "predict", "describe", "demo", "data"):
        assert f"\n  {verb} " in shown


def test_defects_are_told_and_traced_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("fullconv.net.description.describe", broken)
    assert run(monkeypatch, "describe", "squeezenet1_0", "--model", "fcn16s") == 1
    assert (
        capsys.readouterr().err == "fullconv: unexpected KeyError: 'lost' (--debug shows where)\n"
    )
    assert run(monkeypatch, "describe", "squeezenet1_0", "--model", "fcn16s", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_import_needs_no_torch() -> None:
    code = (
        "import sys, fullconv, fullconv.cli; "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_resolve() -> None:
    import fullconv

    for name in fullconv.__all__:
        assert getattr(fullconv, name) is not None
    with pytest.raises(AttributeError, match="nope"):
        _ = fullconv.nope
