"""benchmarks/speed/gpu.py in its smallest form, on a CPU: every section tells something."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from benchmarks.speed import gpu

CPU = torch.device("cpu")


def ticking(step: float = 0.001) -> Iterator[float]:
    return (step * tick for tick in count())


@pytest.mark.slow
def test_every_section_measures_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    rows = list(gpu.measure(CPU, gpu.SMALLEST, 60.0, ticking().__next__))
    assert not [row for row in rows if row["error"]]
    assert [row["section"] for row in rows] == [
        *("exactness", "kernel", "kernel") * 2,
        "peak",
        *("forward", "training") * 2,
        "predict",
    ]
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        if row["section"] in {"forward", "training"}:
            assert float(row["ms"]) > 0 and float(row["share_of_peak"]) > 0


def test_what_fails_or_comes_too_late_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(scores: torch.Tensor, _: int, size: tuple[int, int]) -> torch.Tensor:
        return torch.zeros(len(scores), *size, dtype=torch.uint8)

    monkeypatch.setattr(gpu, "upsample_argmax", other)
    clock = ticking(1.0)
    rows = list(gpu.measure(CPU, gpu.SMALLEST, 20.0, clock.__next__))
    first, last = rows[0], rows[-1]
    assert first["section"] == "exactness" and "labels differ" in first["error"]
    assert last["section"] == "predict" and last["error"] == "not reached in time"


def test_settings_of_a_precision_are_put_back() -> None:
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [kind.fp32_precision for kind in kinds]
    with gpu.computing("tf32", CPU):
        assert [kind.fp32_precision for kind in kinds] == ["tf32", "tf32"]
    assert [kind.fp32_precision for kind in kinds] == before
