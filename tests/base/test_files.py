import os
from pathlib import Path

import pytest

from fullconv.base.files import replacing, write_json, write_text


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "before")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.bin"
    before = os.umask(0o022)
    try:
        with replacing(path) as temporary:
            temporary.unlink()  # as a library that makes a private file of its own
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"mean_iu": float("nan")})
    assert not list(tmp_path.iterdir())
