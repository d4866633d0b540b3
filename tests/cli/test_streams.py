"""Success stays success wherever the output goes: no such character, no stream, no reader."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fullconv.base.progress import Reporter

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def photo(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "é.png"
    Image.fromarray(random.integers(0, 256, (70, 90, 3), np.uint8)).save(path)
    return path


def predict(random_model, photo, redirection="", **environment):
    """Label a photo by the command line, in a process of its own, from a shell."""
    words = [sys.executable, "-m", "fullconv", "predict", random_model, photo, "--engine", "torch"]
    command = '"$@"' + redirection
    out = photo.parent / "out"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "bash", *map(str, words), "--out", str(out)],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    assert (out / photo.name).is_file()
    return done


@pytest.mark.slow
def test_a_stream_without_the_characters_gets_escapes(random_model, photo):
    """`LC_ALL=C` ended with "unexpected UnicodeEncodeError", all results being written."""
    done = predict(random_model, photo, **C_LOCALE)
    assert done.returncode == 0, done.stderr
    assert b"share of pixels" in done.stdout
    assert done.stdout.isascii() and b"Unicode" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_other_encodings(random_model, photo, encoding):
    done = predict(random_model, photo, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "share of pixels" in done.stdout.decode(encoding)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
def test_closed_streams_are_done_without(random_model, photo, closed):
    """`2>&-` ended with AttributeError: 'NoneType' object has no attribute 'isatty'."""
    done = predict(random_model, photo, f" {closed}")
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("pipe", [" | true", " | head -1", " 2>&1 >/dev/null | true"])
def test_a_reader_that_leaves_changes_nothing(random_model, photo, pipe):
    """A closed pipe ended with "Broken pipe", and what came after the table was left out."""
    done = predict(random_model, photo, pipe)
    assert done.returncode == 0, done.stderr
    assert b"Broken" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_disk_that_is_full_is_told(random_model, photo):
    done = predict(random_model, photo, " >/dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "fullconv: No space left on device"


def test_a_program_without_streams_reports_nothing(monkeypatch):
    """As of pythonw; not on standard output either, where `print(file=None)` would go."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    reporter = Reporter()
    reporter.warn("lost")
    with reporter.bar(1, "work") as bar:
        bar.advance()
        bar.say("lost")


def test_progress_that_can_t_be_shown_fails_nothing(monkeypatch):
    with open("/dev/null", encoding="utf-8") as unwritable:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", unwritable)
        Reporter().warn("lost")
        with Reporter().bar(1, "work") as bar:
            bar.advance()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_is_there_when_it_was_printed(tmp_path, unbuffered):
    said = tmp_path / "said"
    program = (
        "import sys; from fullconv.cli.streams import settle_streams; settle_streams();"
        f"print('now', file=sys.stderr); print(open({str(said)!r}).read())"
    )
    with said.open("w") as file:
        process = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=file,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=True,
        )
    assert process.stdout.split() == [b"now"]
