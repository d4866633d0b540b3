import os
from pathlib import Path

import numpy as np
import pytest

from fullconv.base.errors import FullconvError
from fullconv.base.files import files_below, replacing, write_json, write_text


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


def test_json_takes_numpys_numbers_and_tells_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"mean_iu": np.float32(0.5), "count": [np.int64(3)], "good": np.True_})
    assert path.read_text() == '{"mean_iu": 0.5, "count": [3], "good": true}\n'
    with pytest.raises(ValueError, match=r"metrics\.json: is no JSON: ndarray is neither"):
        write_json(path, {"iu": np.zeros(2)})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"mean_iu": np.float32("nan")})
    with pytest.raises(ValueError, match="keys"):
        write_json(path, {np.int64(1): 0.5})


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"mean_iu": float("nan")})
    assert not list(tmp_path.iterdir())


def test_folders_are_walked_once_each_whatever_leads_to_them(tmp_path: Path) -> None:
    """By device and inode: links to the folder itself, in circles, and to one that comes later."""
    root, aside = tmp_path / "root", tmp_path / "aside"
    for path in ("root/b/x.png", "root/y.png", "aside/z.png", "root/.hidden/h.png", "root/.h.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (root / "a").symlink_to(root / "b")  # a real folder goes before its links
    (root / "itself").symlink_to(".")
    (root / "b" / "up").symlink_to(root)
    (root / "c").symlink_to(aside)  # followed: it was nowhere else
    (aside / "back").symlink_to(root)
    (root / "no.png").symlink_to("nowhere")
    (root / "ring").symlink_to("ring")
    again: list[Path] = []
    found = [path.relative_to(root).as_posix() for path in files_below(root, again)]
    assert sorted(found) == ["b/x.png", "c/z.png", "no.png", "ring", "y.png"]
    shown = sorted(path.relative_to(root).as_posix() for path in again)
    assert shown == ["a", "b/up", "c/back", "itself"]
    assert list(files_below(tmp_path / "none")) == []


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()

    def refused(_: Path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(FullconvError, match=r"in: can't be searched \(Permission denied\)"):
        list(files_below(tmp_path / "in"))
