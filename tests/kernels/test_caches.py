"""Compiled kernels without a place for a cache, or with a damaged one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import fullconv

LABEL = """
import sys
sys.path.insert(0, {package!r})
import os
os.environ.update(HOME="/proc/none", XDG_CACHE_HOME="/proc/none")
from fullconv.kernels import argmax_cpu, upsample_argmax
assert argmax_cpu.__file__.startswith({package!r})
import torch
scores = torch.randn(1, 3, 5, 6, generator=torch.Generator().manual_seed(0))
labels = upsample_argmax(scores, 2, (10, 12))
plain = torch.nn.functional.interpolate(scores.double(), scale_factor=2, mode="bilinear")
assert labels.equal(plain.argmax(1).byte())
"""


@pytest.fixture
def package(tmp_path):
    """Copy fullconv to a folder of its own, without compiled files."""
    source = Path(fullconv.__file__).parent
    shutil.copytree(
        source, tmp_path / "fullconv", ignore=lambda _, names: {"__pycache__"} & set(names)
    )
    return tmp_path


def label(package):
    return subprocess.run(
        [sys.executable, "-c", LABEL.format(package=str(package))],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_read_only_installation_without_a_home_labels(package):
    """numba: "cannot cache function '_best': no locator available"; even root can't write here."""
    kernels = package / "fullconv/kernels"
    (kernels / "__pycache__").write_text("no folder")
    done = label(package)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.slow
def test_damaged_caches_are_as_good_as_none(package):
    assert label(package).returncode == 0
    kept = sorted((package / "fullconv/kernels/__pycache__").glob("argmax_cpu.*.nb*"))
    assert kept
    for path in kept:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
        path.write_bytes(path.read_bytes()[:-9] if path.suffix == ".nbc" else b"\0")
    done = label(package)
    assert done.returncode == 0, done.stderr


def test_a_cache_that_cant_be_written_is_done_without(monkeypatch):
    compiling = pytest.importorskip("fullconv.kernels.compiling")

    def full(*_):
        raise OSError(28, "No space left on device")

    def twice(number):
        return 2 * number

    monkeypatch.setattr("numba.core.caching.FunctionCache.save_overload", full)
    assert compiling.compiled(twice)(4) == 8
