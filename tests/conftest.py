"""Fixtures that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


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
