from __future__ import annotations

import socket
import sys

import pytest
from prediction import picture

from fullconv.cli.options import with_address


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("m a --ray", "local"),
        ("m a --ray --out o", "local"),
        ("m --ray photos --out o", "local"),
        ("m --ray s3://bucket/photos --out o", "local"),
        ("m a --ray auto --out o", "auto"),
        ("m a --ray 10.0.0.1:6379", "10.0.0.1:6379"),
        ("m a --ray head.example.org:6379", "head.example.org:6379"),
    ],
)
def test_ray_may_go_without_an_address(typed, address):
    words = with_address(typed.split())
    at = words.index("--ray")
    assert words[at + 1] == address
    rest = [word for word in words if word != address or word in typed.split()]
    assert rest == typed.split()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "s3://b/o"], "--out s3://b/o: results go elsewhere with --ray alone"),
        (["--actors", 2], "--actors is for --ray"),
        (["--ray", "--format", "tif"], "--format tif: not with --ray"),
        (["--ray", "--input", "depth=d"], "--input: not with --ray"),
    ],
)
def test_what_does_not_go_together_is_said(
    tmp_path, capsys, command_line, random_model, words, told
):
    (tmp_path / "a.png").touch()
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    assert command_line("predict", random_model, tmp_path / "a.png", *words, *out) == 2
    assert told in capsys.readouterr().err


def test_a_missing_ray_is_named_with_its_extra(
    tmp_path, capsys, command_line, random_model, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["predict", random_model, tmp_path, "--out", tmp_path / "out", "--ray"]
    assert command_line(*words) == 2
    assert "pip install 'fullconv[ray]'" in capsys.readouterr().err


def test_where_nothing_answers_is_said_at_once(tmp_path, capsys, command_line, random_model):
    pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    picture(tmp_path / "a.png")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = ["predict", random_model, tmp_path / "a.png", "--out", tmp_path / "out"]
    assert command_line(*words, "--ray", f"127.0.0.1:{port}") == 2
    assert f"--ray 127.0.0.1:{port}: nothing answers there" in capsys.readouterr().err
