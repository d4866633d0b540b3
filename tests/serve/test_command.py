"""The command in processes of its own, and what it refuses."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from service import PATIENCE, encoded

from fullconv.serve.run import listener


def command(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "fullconv", "serve", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def asked(address, token, body):
    request = urllib.request.Request(f"{address}/v1/segment", body)
    request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_a_process_serves_and_ends_well(random_model):
    words = [random_model, "--port", 0, "--engine", "torch", "--precision", "fp32"]
    process = command(*words, FULLCONV_TOKEN="s3cret")
    try:
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        assert "torch fp32" in line
        assert [asked(address, token, encoded()) for token in ("s3cret", "guess-1")] == [200, 401]
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out == "" and "s3cret" not in line + said and "guess-1" not in said


def test_a_port_in_use_is_told_before_the_model_is_loaded(command_line, capsys):
    with listener("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert command_line("serve", "no-such-model", "--port", port) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"127.0.0.1:{port}: can't be had (Address already in use)" in said


def test_a_missing_package_is_told_in_a_line(command_line, capsys, monkeypatch):
    monkeypatch.setattr("fullconv.serve.run.PACKAGES", ("no_such_package",))
    assert command_line("serve", "no-such-model") == 2
    assert "pip install 'fullconv[serve]'" in capsys.readouterr().err


def test_an_unknown_model_is_told(command_line, capsys):
    assert command_line("serve", "./no-such-model", "--port", 0) == 2
    assert "no-such-model" in capsys.readouterr().err


def test_addresses_are_ours():
    with listener("::1", 0) as taken:
        assert taken.getsockname()[0] == "::1"
