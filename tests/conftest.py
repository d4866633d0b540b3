"""Fixtures that several tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

STATM = Path("/proc/self/statm")
GROWN = 150 << 20  # bytes; a few large nets


class Memory:
    """What this process holds, and held when it was last cleared."""

    def __init__(self) -> None:
        self.last = self.held

    @property
    def held(self) -> int:
        """Resident bytes; 0 where the system does not tell."""
        return (
            int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if STATM.exists() else 0
        )

    def clear(self) -> None:
        """Free what refers to itself, if there is much more than before.

        Nets do (torch.fx's graphs); Python waits for many objects, however large they are.
        """
        if self.held > self.last + GROWN:
            gc.collect()
        self.last = min(self.held, self.last + GROWN)


def pytest_configure() -> None:
    """Look for no garbage among what is imported: there is none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what all tests import out of collections of garbage: it is most of what they read."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let them go with the process: bindings complain of what is still there."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def memory() -> Memory:
    """Of this process."""
    return Memory()


@pytest.fixture(autouse=True)
def large_nets_are_freed(memory: Memory) -> Iterator[None]:
    """The nets of a test don't wait in memory for those of the tests after it."""
    yield
    memory.clear()


@pytest.fixture(scope="session", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """Commands and trainings keep what is freed for their own speed: many would keep the most."""
    with pytest.MonkeyPatch.context() as patch:
        for user in ("fullconv.cli", "fullconv.predict.actor", "fullconv.train.step"):
            patch.setattr(f"{user}.keep_freed_memory", lambda: False)
        patch.setattr("fullconv.cli.seek_cycles_rarely", lambda: None)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tests run side by side; threads that wait for each other's cores would slow them down."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Give a function that runs the command line in this process and returns its exit code."""
    from fullconv.cli import main

    def run(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["fullconv", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    return run


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an FCN-16s of the classes red, green and [blue], with random scores."""
    import torch

    import fullconv

    torch.manual_seed(0)
    net = fullconv.FCN("squeezenet1_1", 16, 3, classes=["red", "green", "[blue]"])
    for score in net.scores.values():
        torch.nn.init.normal_(score.weight)
    folder = tmp_path_factory.mktemp("model")
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def two_headed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a net of color and depth whose heads, sem and geo, have random scores."""
    import torch

    import fullconv

    torch.manual_seed(0)
    net = fullconv.FCN(
        "squeezenet1_1",
        16,
        heads={"sem": ("red", "green", "blue"), "geo": ("near", "far")},
        inputs={"color": 3, "depth": 1},
        preprocessing=fullconv.Preprocessing(
            scale=1.0, mean=(120.0,) * 3 + (6.0,), std=(60.0,) * 3 + (1.0,), logarithmic=(3,)
        ),
    )
    for _, head in net.heads.items():
        for score in head.scores.values():
            torch.nn.init.normal_(score.weight)
    folder = tmp_path_factory.mktemp("two-headed")
    net.save_pretrained(folder)
    return folder
