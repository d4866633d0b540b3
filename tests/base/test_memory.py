"""What is freed stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from fullconv.base.runtime import keep_freed_memory

PROGRAM = """
import resource, sys
from fullconv.base.runtime import keep_freed_memory
size, how = int(sys.argv[1]), sys.argv[2]
if how != "given anew":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = bytearray(size)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.slow  # four processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not the GNU C library")
def test_blocks_are_not_given_anew():
    def faults(size, how):
        command = [sys.executable, "-c", PROGRAM, str(size), how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    large, medium = 100_000_000, 30_000_000
    assert faults(large, "kept") * 10 < faults(large, "given anew")
    assert faults(medium, "kept") * 10 < faults(large, "given anew")


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert keep_freed_memory() is False
