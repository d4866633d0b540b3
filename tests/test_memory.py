"""What is freed stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from fullconv.memory import keep_freed_memory

PROGRAM = """
import resource, sys
from fullconv.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = bytearray(100_000_000)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not the GNU C library")
def test_large_blocks_are_not_given_anew():
    def faults(how):
        command = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") * 10 < faults("given anew")


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert keep_freed_memory() is False
