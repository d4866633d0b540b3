"""How much memory there is: of the machine, and of control groups of both versions."""

from __future__ import annotations

import pytest

from fullconv.base.memory import available_memory

GIB = 1 << 30


@pytest.fixture
def system(tmp_path):
    """Give a function that writes files below a root; the machine has 8 GiB available."""

    def write(files):
        for name, text in {
            "proc/meminfo": f"MemFree: 1 kB\nMemAvailable: {8 << 20} kB\n",
            **files,
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return available_memory(tmp_path)

    return write


def group(folder, most, used, cached=0, names=("memory.max", "memory.current", "inactive_file")):
    return {
        f"{folder}/{names[0]}": f"{most}\n",
        f"{folder}/{names[1]}": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\n{names[2]} {cached}\n",
    }


FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_without_groups_it_is_the_machine_s(system):
    assert system({}) == 8 * GIB


def test_a_container_of_version_2(system):
    files = group("sys/fs/cgroup", 4 * GIB, 3 * GIB, GIB // 2)
    assert system({"proc/self/cgroup": "0::/\n", **files}) == 1.5 * GIB


def test_the_tightest_of_nested_groups_counts(system):
    files = {
        **group("sys/fs/cgroup/batch", 2 * GIB, GIB),
        **group("sys/fs/cgroup/batch/job", "max", GIB),
    }
    assert system({"proc/self/cgroup": "0::/batch/job\n", **files}) == GIB


def test_version_1(system):
    own = "4:cpu,cpuacct:/x\n3:memory:/docker/abc\n1:name=systemd:/\n"
    files = group("sys/fs/cgroup/memory", 4 * GIB, GIB, GIB, FIRST)  # as a container sees it
    assert system({"proc/self/cgroup": own, **files}) == 4 * GIB
    files |= group("sys/fs/cgroup/memory/docker/abc", 2 * GIB, GIB, 0, FIRST)
    assert system({"proc/self/cgroup": own, **files}) == GIB


def test_a_group_that_is_full_leaves_nothing(system):
    files = group("sys/fs/cgroup", GIB, 2 * GIB)
    assert system({"proc/self/cgroup": "0::/\n", **files}) == 0


def test_unlimited_and_unreadable_groups_are_passed_over(system):
    odd = {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "?"}
    assert system({"proc/self/cgroup": "0::/\n", **odd}) == 8 * GIB


def test_elsewhere_it_is_half_of_all(tmp_path):
    assert (available_memory(tmp_path) or GIB) > 0


def test_this_machine_tells():
    assert (available_memory() or GIB) > 1 << 20
